//! The `criu` program: finding it, starting it, and talking with it.
//!
//! Each request has a process of its own, `criu swrk FD`, whose other end of a packet socket we hold:
//!
//! 1. we → criu: one request.
//! 2. criu → we: any number of notifications, each of which waits for our answer; some bring a descriptor.
//! 3. criu → we: the answer to the request.
//! 4. We close; criu ends.

use std::ffi::{CStr, CString, OsStr};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use palan_linux::process::{self, Child, ExitStatus, Program, Spawn};
use palan_linux::signal::Signal;
use palan_linux::socket;
use rustix::fs::{Access, CWD, Mode, OFlags};

use super::rpc::{Features, Kind, MAX_SIZE, Malformed, Notification, Request, Response};

/// Why CRIU did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// There is no such program.
    #[error(
        "checkpoints need CRIU (package criu), but there is no program {0:?} in PATH; --criu can name another"
    )]
    Missing(String),
    /// The program could not be started.
    #[error("cannot start {program:?}")]
    Start {
        /// Its path.
        program: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The program has not the least version for something.
    #[error("{what} needs CRIU {wanted}, this one is {found}")]
    TooOld {
        /// The thing, as the user asked for it.
        what: &'static str,
        /// The least version.
        wanted: Version,
        /// The version of this one.
        found: Version,
    },
    /// The kernel, or CRIU on this kernel, can't do something.
    #[error("{0} is not possible with this kernel and this CRIU: `criu check --feature` says no")]
    Unsupported(&'static str),
    /// It could not be talked with.
    #[error("cannot talk with criu")]
    Talk(#[source] std::io::Error),
    /// It said something that is no message.
    #[error("criu's answer can't be understood")]
    Malformed(#[from] Malformed),
    /// It answered another question.
    #[error("criu did not answer the request {0}")]
    Unexpected(&'static str),
    /// It ended without an answer.
    #[error("criu ended before it was done ({0})")]
    Ended(String),
    /// It says that it failed.
    #[error("criu failed: type {kind} errno {errno}{details}; its log is {}", log.display())]
    Failed {
        /// CRIU's name of what it was asked for.
        kind: &'static str,
        /// The error number that it gave, 0 if it has none.
        errno: i32,
        /// What it and its log say, each after a colon.
        details: String,
        /// Its log.
        log: PathBuf,
    },
}

/// A version of CRIU as one number: 3.17.1 is 31701.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 / 10_000, self.0 / 100 % 100)?;
        match self.0 % 100 {
            0 => Ok(()),
            sublevel => write!(f, ".{sublevel}"),
        }
    }
}

/// The first that tells its version when asked.
const OLDEST: Version = Version(30_000);

/// Where programs of the system are.
const SYSTEM_PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A CRIU that can be used.
#[derive(Debug)]
pub struct Criu {
    program: CString,
    version: Version,
}

impl Criu {
    /// Finds `name` (a path, or a program in the directories of `PATH`) and asks for its version.
    pub fn find(name: &str) -> Result<Self, CriuError> {
        let missing = || CriuError::Missing(name.to_owned());
        let path = if name.contains('/') {
            std::path::absolute(name).ok().filter(|path| is_executable(path))
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .map(|directory| directory.join(name))
                .find(|path| is_executable(path))
        };
        let program = path.ok_or_else(missing)?.into_os_string().into_vec();
        let mut criu = Self { program: CString::new(program).map_err(|_| missing())?, version: Version(0) };
        let response = criu.ask(&Request::Version)?;
        criu.version = Version(response.version.unwrap_or(0));
        criu.require(OLDEST, "a checkpoint")?;
        Ok(criu)
    }

    /// One that was found before, by another process say.
    pub fn known(program: &Path, version: Version) -> Result<Self, CriuError> {
        let name = || program.to_string_lossy().into_owned();
        let path = CString::new(program.as_os_str().as_bytes()).map_err(|_| CriuError::Missing(name()))?;
        Ok(Self { program: path, version })
    }

    /// Its path.
    pub fn program(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.program.as_bytes()))
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it is of this version or a later one.
    pub(super) fn has(&self, wanted: Version) -> bool {
        self.version >= wanted
    }

    /// Fails with the name of the thing that needs a later version.
    pub(super) fn require(&self, wanted: Version, what: &'static str) -> Result<(), CriuError> {
        if self.has(wanted) { Ok(()) } else { Err(CriuError::TooOld { what, wanted, found: self.version }) }
    }

    /// What it can do on this kernel, of `wanted`.
    pub(super) fn features(&self, wanted: Features) -> Result<Features, CriuError> {
        Ok(self.ask(&Request::Features(wanted))?.features)
    }

    /// Asks a question that has nothing but an answer.
    fn ask(&self, request: &Request<'_>) -> Result<Response, CriuError> {
        let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| CriuError::Talk(errno.into()))?;
        let worker = self.start([null.as_fd(); 3], &[])?;
        worker.send(request)?;
        let response = worker.receive()?.0;
        if response.kind != Some(request.kind()) {
            return Err(CriuError::Unexpected(request.kind().name()));
        }
        Ok(response)
    }

    /// Starts a worker. It has `streams` as its descriptors 0 to 2, its socket as 3, and `others` from 4 on.
    pub(super) fn start(
        &self,
        streams: [BorrowedFd<'_>; 3],
        others: &[BorrowedFd<'_>],
    ) -> Result<Worker, CriuError> {
        let (ours, theirs) = socket::pair_of_packets().map_err(|errno| CriuError::Talk(errno.into()))?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        });
        // It runs tar, ip and others; who has no environment still has these.
        let path = std::env::var_os("PATH").is_none().then(|| SYSTEM_PATH.to_owned());
        let mut descriptors = streams.to_vec();
        descriptors.push(theirs.as_fd());
        descriptors.extend(others);
        let child = process::spawn(&Spawn {
            program: Program::Path(&self.program),
            arguments: vec![c"criu".to_owned(), c"swrk".to_owned(), c"3".to_owned()],
            environment: environment.chain(path).collect(),
            descriptors,
            directory: c".",
            new_session: false,
            cgroup_procs: None,
            umask: 0o022,
            bound: false,
        })
        .map_err(|source| CriuError::Start {
            program: self.program.to_string_lossy().into_owned(),
            source,
        })?;
        Ok(Worker { child, socket: Some(ours) })
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// A running `criu swrk`. Dropped, it is left without a partner, undoes what it has begun, and is waited for.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    socket: Option<OwnedFd>,
}

/// What a worker says.
#[derive(Debug)]
pub(super) enum Said {
    /// It waits until it is told to go on.
    Notification(Notification, Vec<OwnedFd>),
    /// The request is done.
    Done,
}

impl Worker {
    pub(super) fn pid(&self) -> i32 {
        self.child.pid.as_raw_nonzero().get()
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn kill(&self) {
        // It may have ended by itself.
        let _ = process::send_signal(&self.child.pidfd, Signal::KILL);
    }

    pub(super) fn send(&self, request: &Request<'_>) -> Result<(), CriuError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        socket::send_with_descriptors(socket, &request.encode(), &[])
            .map(drop)
            .map_err(|errno| CriuError::Talk(errno.into()))
    }

    /// Waits for the next word about the request `kind`. `log` is where CRIU tells what went wrong, if it did.
    pub(super) fn next(&self, kind: Kind, log: &Path) -> Result<Said, CriuError> {
        let (response, descriptors) = self.receive()?;
        if !response.success {
            return Err(CriuError::Failed {
                kind: response.kind.unwrap_or(kind).name(),
                errno: response.errno,
                details: details(&response, log),
                log: log.to_owned(),
            });
        }
        match (response.kind, response.notification) {
            (Some(Kind::Notify), Some(notification)) => Ok(Said::Notification(notification, descriptors)),
            (Some(answered), _) if answered == kind => Ok(Said::Done),
            _ => Err(CriuError::Unexpected(kind.name())),
        }
    }

    fn receive(&self) -> Result<(Response, Vec<OwnedFd>), CriuError> {
        let Some(socket) = &self.socket else { return Err(CriuError::Ended("no partner".to_owned())) };
        let mut buffer = vec![0; MAX_SIZE + 1];
        let mut descriptors = Vec::new();
        let length = loop {
            match socket::receive_with_descriptors(socket, &mut buffer, &mut descriptors) {
                Ok(length) => break length,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(CriuError::Talk(errno.into())),
            }
        };
        if length == 0 {
            let status = process::wait(&self.child.pidfd).map_err(CriuError::Talk)?;
            return Err(CriuError::Ended(describe(status)));
        }
        Ok((Response::decode(&buffer[..length])?, descriptors))
    }

    /// Lets it end and tells how it did.
    pub(super) fn finish(mut self) -> Result<ExitStatus, CriuError> {
        self.socket = None;
        process::wait(&self.child.pidfd).map_err(CriuError::Talk)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.socket = None;
        // It may have been waited for already.
        let _ = process::wait(&self.child.pidfd);
    }
}

pub(super) fn describe(status: ExitStatus) -> String {
    match status {
        ExitStatus::Exited(code) => format!("exit code {code}"),
        ExitStatus::Signaled { signal, .. } => format!("killed by {signal}"),
    }
}

/// What CRIU says about a failure: the last errors in its log, or else the first one, which is in its answer.
fn details(response: &Response, log: &Path) -> String {
    let mut lines = errors(log);
    if lines.is_empty() && !response.error_message.is_empty() {
        lines.push(response.error_message.clone());
    }
    lines.iter().map(|line| format!(": {line}")).collect()
}

/// The last lines of a log that report errors. A log that can't be read has none.
fn errors(log: &Path) -> Vec<String> {
    const LINES: usize = 5;
    const TAIL: u64 = 1 << 20;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let found: Vec<_> =
        text.lines().filter_map(|line| line.split_once("Error ").map(|(_, rest)| rest)).collect();
    let last = &found[found.len().saturating_sub(LINES)..];
    // Names that a container has chosen stand in it.
    last.iter().map(|line| line.replace(char::is_control, "?")).collect()
}

/// The name below which `path` is a C string for CRIU.
pub(super) fn text(path: impl AsRef<OsStr>) -> Result<String, crate::error::Error> {
    path.as_ref().to_str().map(str::to_owned).ok_or_else(|| {
        crate::error::Error::Invalid(format!(
            "the path {:?} is not UTF-8, which CRIU's messages must be",
            path.as_ref()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_criu_writes_them() {
        for (number, text) in [(31_701, "3.17.1"), (40_200, "4.2"), (30_000, "3.0"), (0, "0.0")] {
            assert_eq!(Version(number).to_string(), text);
        }
    }

    #[test]
    fn errors_of_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("dump.log");
        assert!(errors(&log).is_empty());
        std::fs::write(
            &log,
            "(00.1) fine\n(00.2) Error (a.c:1): no\x1b[m\n(00.3) x\n(00.4) Error (b.c:2): why\n",
        )
        .unwrap();
        assert_eq!(errors(&log), ["(a.c:1): no?[m", "(b.c:2): why"]);
    }

    #[test]
    fn a_program_that_is_missing_is_said() {
        for name in ["palan-no-such-criu", "/nonexistent/criu", "/etc"] {
            assert!(matches!(Criu::find(name), Err(CriuError::Missing(_))), "{name}");
        }
    }

    #[test]
    fn a_program_that_is_no_criu_ends() {
        assert!(matches!(Criu::find("/bin/true"), Err(CriuError::Ended(_) | CriuError::Talk(_))));
    }
}
