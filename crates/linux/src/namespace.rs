//! Namespaces: their kinds, opening those of a process, joining them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

/// A set of namespace kinds, as `CLONE_NEW*` bits.
pub use rustix::thread::ThreadNameSpaceType as Kinds;

/// One kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Kind {
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Cgroup, Self::Ipc, Self::Uts, Self::Network, Self::Pid, Self::Time, Self::Mount];

    /// The file below `/proc/<pid>/ns`.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// The `CLONE_NEW*` bit.
    pub fn bit(self) -> Kinds {
        match self {
            Self::Mount => ThreadNameSpaceType::MOUNT,
            Self::Pid => ThreadNameSpaceType::PROCESS_ID,
            Self::Network => ThreadNameSpaceType::NETWORK,
            Self::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            Self::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
            Self::User => ThreadNameSpaceType::USER,
            Self::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
            Self::Time => ThreadNameSpaceType::TIME,
        }
    }

    fn link_type(self) -> LinkNameSpaceType {
        match self {
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Network => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::User => LinkNameSpaceType::User,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
            Self::Time => LinkNameSpaceType::Time,
        }
    }
}

/// Opens the namespace of `kind` that process `pid` lives in (0: this process).
pub fn open(pid: u32, kind: Kind) -> io::Result<OwnedFd> {
    let name = kind.file_name();
    let path = if pid == 0 { format!("/proc/self/ns/{name}") } else { format!("/proc/{pid}/ns/{name}") };
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Joins the namespace behind `fd`, which must be of `kind`. A PID namespace holds for future children only.
pub fn join(fd: impl AsFd, kind: Kind) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind.link_type()))?)
}

/// Joins the namespaces `kinds` of the process behind `pidfd` (Linux 5.8).
pub fn join_process(pidfd: impl AsFd, kinds: Kinds) -> io::Result<()> {
    Ok(rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), kinds)?)
}

/// Moves the calling thread into new namespaces of `kinds`.
pub fn unshare(kinds: Kinds) -> io::Result<()> {
    // SAFETY: the flags are CLONE_NEW* bits only, none of which unshares the table of file descriptors.
    Ok(unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::from_bits_retain(kinds.bits()))
    }?)
}

/// Identity of a namespace file: two descriptors are the same namespace exactly if this is equal.
pub fn identity(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}
