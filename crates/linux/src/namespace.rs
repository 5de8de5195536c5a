//! Namespaces: their kinds, opening those of a process, joining them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

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

/// A process pinned by its directory in /proc: when it ends, everything fails, whoever gets its number then.
#[derive(Debug)]
pub struct PinnedProcess(OwnedFd);

impl PinnedProcess {
    /// The process that has the number `pid` now. Whether it is the one that is meant is for the caller to find out
    /// afterwards, say by its [`Self::cgroups`].
    pub fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?))
    }

    /// The text of `/proc/<pid>/cgroup`.
    pub fn cgroups(&self) -> io::Result<String> {
        let file = rustix::fs::openat(&self.0, "cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(std::fs::File::from(file))
    }

    /// Its namespace of a kind.
    pub fn namespace(&self, kind: Kind) -> io::Result<OwnedFd> {
        let path = format!("ns/{}", kind.file_name());
        Ok(rustix::fs::openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// Opens the namespace of `kind` that the calling thread lives in.
pub fn open_of_thread(kind: Kind) -> io::Result<OwnedFd> {
    let path = format!("/proc/thread-self/ns/{}", kind.file_name());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What a path that should name a namespace names.
#[derive(Debug)]
pub enum Named {
    /// A namespace, of the kind that was asked for, ready to be joined.
    Namespace(OwnedFd),
    /// A namespace of another kind, as its `CLONE_NEW*` bit.
    OtherKind(Kinds),
    /// A file of any other sort.
    NoNamespace,
}

/// Opens the file at `path` if it is a namespace of `kind`. Any other file is looked at and not opened: that would block at a
/// fifo until somebody writes, and a device may take it as an order.
pub fn open_path(path: &str, kind: Kind) -> io::Result<Named> {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !u64::try_from(rustix::fs::fstatfs(&file)?.f_type).is_ok_and(|magic| magic == NSFS_MAGIC) {
        return Ok(Named::NoNamespace);
    }
    // The very file that was looked at, whatever the path leads to by now.
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    let namespace = rustix::fs::open(same, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let found = kind_of(&namespace)?;
    Ok(if found == kind.bit() { Named::Namespace(namespace) } else { Named::OtherKind(found) })
}

/// The `CLONE_NEW*` bit of a namespace (ioctl_ns(2), Linux 4.11).
fn kind_of(namespace: impl AsFd) -> io::Result<Kinds> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this request takes no argument and returns a number; the descriptor is open for the time of the call.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    u32::try_from(result).map(Kinds::from_bits_retain).map_err(|_| io::Error::last_os_error())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_process_is_never_another() {
        #[expect(clippy::disallowed_methods, reason = "any process will do")]
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pinned = PinnedProcess::open(child.id()).unwrap();
        let own = identity(open(0, Kind::Uts).unwrap()).unwrap();
        assert_eq!(identity(pinned.namespace(Kind::Uts).unwrap()).unwrap(), own);
        assert!(pinned.cgroups().unwrap().contains(':'));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pinned.namespace(Kind::Uts).is_err() && pinned.cgroups().is_err());
    }

    #[test]
    fn only_namespaces_are_opened() {
        assert!(matches!(open_path("/proc/self/ns/uts", Kind::Uts).unwrap(), Named::Namespace(_)));
        let other = open_path("/proc/self/ns/ipc", Kind::Uts).unwrap();
        assert!(matches!(other, Named::OtherKind(found) if found == Kind::Ipc.bit()), "{other:?}");
        let fifo = std::env::temp_dir().join(format!("palan-namespace-{}", std::process::id()));
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Opened for reading it would wait here for a writer.
        let found = open_path(fifo.to_str().unwrap(), Kind::Uts);
        std::fs::remove_file(&fifo).unwrap();
        assert!(matches!(found.unwrap(), Named::NoNamespace));
        assert!(matches!(open_path("/dev/null", Kind::Uts).unwrap(), Named::NoNamespace));
        assert!(open_path("/nosuch", Kind::Uts).is_err());
    }
}
