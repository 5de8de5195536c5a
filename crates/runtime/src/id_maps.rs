//! Writing the maps of a user namespace, from outside of it (user_namespaces(7)).
//!
//! Root writes them itself. Anybody else may map only themselves, and for more asks newuidmap(1) and newgidmap(1),
//! which know what `/etc/subuid` and `/etc/subgid` allow.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use palan_linux::capability::{self, CapabilitySet};
use palan_linux::namespace::{self, Kind, Kinds};
use palan_linux::process::{self, ExitStatus, ForkOptions, Forked, Program, Spawn};
use palan_linux::signal::Signal;
use palan_oci::runtime_spec::IdMapping;
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context, Error};

/// Where the two helpers are looked for: never where the caller's environment says.
const HELPER_DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];

/// What the numbers of a user namespace mean outside.
#[derive(Debug, Clone)]
pub(crate) struct Mappings {
    pub(crate) users: Vec<IdMapping>,
    pub(crate) groups: Vec<IdMapping>,
}

/// The maps' text: one line for each range.
fn lines(mappings: &[IdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, mapping| {
        // A string takes everything.
        let _ = writeln!(text, "{} {} {}", mapping.container_id, mapping.host_id, mapping.size);
        text
    })
}

fn write(pid: i32, file: &str, text: &str) -> std::io::Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let fd = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes a map in one write.
    let written = std::fs::File::from(fd).write(text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

impl Mappings {
    /// Writes the maps of the user namespace that process `pid`, a child of this one, has just made.
    pub(crate) fn write(&self, pid: i32) -> Result<(), Error> {
        let own = capability::current().context(|| "read this process's capabilities".to_owned())?;
        let may = |capability| own.effective.contains(capability);
        self.write_users(pid, may(CapabilitySet::SETUID))?;
        self.write_groups(pid, may(CapabilitySet::SETGID))
    }

    fn write_users(&self, pid: i32, privileged: bool) -> Result<(), Error> {
        if privileged || is_only(&self.users, rustix::process::geteuid().as_raw()) {
            return write(pid, "uid_map", &lines(&self.users))
                .context(|| format!("map the users {}", lines(&self.users).trim().replace('\n', ", ")));
        }
        ask_helper("newuidmap", pid, &self.users)
    }

    fn write_groups(&self, pid: i32, privileged: bool) -> Result<(), Error> {
        let failed = || format!("map the groups {}", lines(&self.groups).trim().replace('\n', ", "));
        if privileged {
            return write(pid, "gid_map", &lines(&self.groups)).context(failed);
        }
        if is_only(&self.groups, rustix::process::getegid().as_raw()) {
            // Who may map only themselves must not leave groups that deny them something (CVE-2014-8989).
            return write(pid, "setgroups", "deny")
                .and_then(|()| write(pid, "gid_map", &lines(&self.groups)))
                .context(failed);
        }
        ask_helper("newgidmap", pid, &self.groups)
    }

    /// Whether these are the maps of this process's user namespace. `proc`: the host's procfs.
    pub(crate) fn check_own(&self, proc: impl AsFd) -> Result<(), Error> {
        for (file, field, wanted) in
            [("uid_map", "linux.uidMappings", &self.users), ("gid_map", "linux.gidMappings", &self.groups)]
        {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let text = rustix::fs::openat(&proc, format!("self/{file}"), flags, Mode::empty())
                .map_err(std::io::Error::from)
                .and_then(|file| std::io::read_to_string(std::fs::File::from(file)))
                .context(|| format!("read the {file} of the user namespace"))?;
            let numbers = |text: &str| -> Vec<Vec<u32>> {
                let line =
                    |line: &str| line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
                let mut lines: Vec<_> = text.lines().map(line).collect();
                lines.sort_unstable();
                lines
            };
            if numbers(&text) != numbers(&lines(wanted)) {
                return Err(Error::Invalid(format!(
                    "{field} must be those of the user namespace that is joined, or none: it has {}",
                    text.lines()
                        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                        .collect::<Vec<_>>()
                        .join(", ")
                )));
            }
        }
        Ok(())
    }

    /// A user namespace with these maps and no process in it, for a mount.
    pub(crate) fn make_namespace(&self) -> Result<OwnedFd, Error> {
        let options = ForkOptions { namespaces: Some(Kinds::USER), ..ForkOptions::default() };
        let Forked::Parent(child) = process::fork(&options)? else {
            // Stays until the namespace is held by a descriptor.
            loop {
                rustix::event::pause();
            }
        };
        let pid = child.pid.as_raw_nonzero().get();
        let namespace = self.write(pid).and_then(|()| {
            namespace::open(pid.unsigned_abs(), Kind::User).context(|| "open a user namespace".to_owned())
        });
        // It waits for nothing else.
        let _ = process::send_signal(&child.pidfd, Signal::KILL);
        process::wait(&child.pidfd).context(|| "wait for a process".to_owned())?;
        namespace
    }
}

/// Whether the map is the one number that everybody may map: their own.
fn is_only(mappings: &[IdMapping], own: u32) -> bool {
    matches!(mappings, [mapping] if mapping.size == 1 && mapping.host_id == own)
}

/// Lets `program` write a map.
fn ask_helper(program: &str, pid: i32, mappings: &[IdMapping]) -> Result<(), Error> {
    let path = HELPER_DIRECTORIES
        .iter()
        .map(|directory| format!("{directory}/{program}"))
        .find(|path| std::path::Path::new(path).exists())
        .ok_or_else(|| {
            Error::Invalid(format!(
                "{program} is needed to map more than this process's own number, and is not installed (Debian: uidmap)"
            ))
        })?;
    let numbers = mappings.iter().flat_map(|mapping| [mapping.container_id, mapping.host_id, mapping.size]);
    let words = std::iter::once(program.to_owned())
        .chain([pid.to_string()])
        .chain(numbers.map(|number| number.to_string()));
    // Numbers and fixed names hold no NUL.
    let arguments = words.filter_map(|word| CString::new(word).ok()).collect();
    let failed = || format!("execute {path}");
    let executable = CString::new(path.as_str()).map_err(std::io::Error::other).context(failed)?;
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev/null".to_owned())?;
    let stderr = rustix::stdio::stderr();
    let child = process::spawn(&Spawn {
        program: Program::Path(&executable),
        arguments,
        environment: Vec::new(),
        descriptors: vec![null.as_fd(), null.as_fd(), stderr],
        directory: c"/",
        new_session: false,
        cgroup_procs: None,
        umask: 0o022,
        bound: false,
    })
    .context(failed)?;
    match process::wait(&child.pidfd).context(|| format!("wait for {program}"))? {
        ExitStatus::Exited(0) => Ok(()),
        _ => Err(Error::Invalid(format!(
            "{program} refused to map {}; do /etc/subuid and /etc/subgid allow it?",
            lines(mappings).trim().replace('\n', ", ")
        ))),
    }
}
