//! The daemon's side of a supervisor: spawn one, connect to one that runs, send requests, receive messages.
//!
//! Nothing here blocks but [`Connection::receive_timeout`]; the daemon waits for the connection to become readable (and,
//! while [`Connection::wants_write`], writable) by whatever means it has, and then calls [`Connection::flush`] and
//! [`Connection::try_receive`] until that returns `None`.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_linux::mount::Attributes;
use palan_linux::process::{Program, Spawn};
use palan_linux::{memfd, memory, mount, process, socket};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::journal::{self, Entry};
use crate::protocol::frame::{FrameError, Frames};
use crate::protocol::{Config, Message, Request, RequestFrame, RequestId, SOCKET_NAME};

/// The name of the file in the run directory that takes what a supervisor has to complain about.
pub const LOG_NAME: &str = "supervisor.log";

/// The program that supervisors are executed from; one for the life of the daemon.
#[derive(Debug)]
pub struct SupervisorProgram {
    file: OwnedFd,
}

impl SupervisorProgram {
    /// An ELF file that is embedded in this program: written to a sealed memfd, so that nothing can change it.
    pub fn embedded(elf: &[u8]) -> io::Result<Self> {
        let file = memfd::sealed_program("palan-supervisor", elf)?;
        // It is executed from the copy from now on.
        memory::page_out(elf);
        Ok(Self { file })
    }

    /// This very program, which must understand `supervisor` as its first argument.
    pub fn current_executable() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/exe"))
    }

    /// A program file.
    ///
    /// It is executed by way of a read-only mount of its own, so that a container that gets hold of its supervisor's (or
    /// of the runtime's) `/proc/<pid>/exe` can't write to the file even after the process has ended (CVE-2019-5736). A
    /// daemon that may not mount executes the file as it is.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OwnedFd::from(File::open(path)?);
        Ok(Self { file: read_only(&file).unwrap_or(file) })
    }
}

fn read_only(file: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = mount::clone_of(file, false)?;
    mount::change(&copy, &mount::Change { set: Attributes::MOUNT_ATTR_RDONLY, ..Default::default() }, false)?;
    Ok(copy)
}

/// What [`spawn`] needs.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// What to execute.
    pub program: &'a SupervisorProgram,
    /// The container's run directory (`<run root>/containers/<id>`); made with mode 0700 if it does not exist.
    pub run_dir: &'a Path,
    /// The cgroup for supervisors, below the root of each hierarchy: `/palan/supervisors`. A supervisor that can't make or
    /// enter it stays where its daemon is.
    pub cgroup: Option<&'a str>,
}

/// A supervisor that has been spawned.
#[derive(Debug)]
pub struct Spawned {
    /// The connection to say `Hello` and `Start` on.
    pub connection: Connection,
    /// To be polled for readability and then reaped (`waitid` with `P_PIDFD`): the supervisor is a child of the caller.
    pub pidfd: OwnedFd,
    /// Its process id.
    pub pid: i32,
}

/// Spawns a supervisor: own session, `/` as working directory, umask 0, an environment with nothing in it.
pub fn spawn(request: &SpawnRequest<'_>) -> Result<Spawned, ClientError> {
    let failed = |source: io::Error| ClientError::Spawn { run_dir: request.run_dir.to_owned(), source };
    palan_stdx::fs::create_dir(request.run_dir, 0o700).map_err(|error| failed(error.source))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(request.run_dir.join(LOG_NAME))
        .map_err(failed)?;
    let (ours, theirs) = socket::pair().map_err(|errno| failed(errno.into()))?;
    let mut arguments = vec![c"palan".to_owned(), c"supervisor".to_owned(), c"--run-dir".to_owned()];
    arguments
        .push(CString::new(request.run_dir.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?);
    if let Some(cgroup) = request.cgroup {
        arguments.push(c"--cgroup".to_owned());
        arguments.push(CString::new(cgroup).map_err(|error| failed(error.into()))?);
    }
    let child = process::spawn(&Spawn {
        program: Program::Fd(request.program.file.as_fd()),
        arguments,
        environment: Vec::new(),
        descriptors: vec![null.as_fd(), null.as_fd(), log.as_fd(), theirs.as_fd()],
        directory: c"/",
        new_session: true,
        cgroup_procs: None,
        umask: 0,
        bound: false,
    })
    .map_err(failed)?;
    Ok(Spawned {
        connection: Connection::new(ours).map_err(failed)?,
        pidfd: child.pidfd,
        pid: child.pid.as_raw_nonzero().get(),
    })
}

/// Connects to the supervisor that serves `run_dir`. `ConnectionRefused` or `NotFound` in the error mean that none does.
pub fn connect(run_dir: &Path) -> Result<Connection, ClientError> {
    let failed = |source: io::Error| ClientError::Connect { run_dir: run_dir.to_owned(), source };
    let directory = File::open(run_dir).map_err(failed)?;
    let socket = socket::connect_at(&directory, SOCKET_NAME).map_err(|errno| failed(errno.into()))?;
    Connection::new(socket).map_err(failed)
}

/// What the journal says of the supervisor that writes it, without waking that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nobody writes it. Its last supervisor may still serve clients.
    Absent,
    /// A supervisor writes it, which has noted nothing new.
    Quiet,
    /// A supervisor writes it, and there are newer entries.
    Telling,
}

/// Whether a supervisor writes the journal (which it holds locked as long as it does), and whether entries come after `after_seq`. With a
/// thousand containers, this takes a hundredth of the time in which a thousand supervisors wake up for a connection.
pub fn presence(run_dir: &Path, after_seq: u64) -> Presence {
    use rustix::fs::FlockOperation::NonBlockingLockShared;
    let Ok(mut file) = File::open(run_dir.join(journal::FILE_NAME)) else { return Presence::Absent };
    if rustix::fs::flock(&file, NonBlockingLockShared) != Err(rustix::io::Errno::WOULDBLOCK) {
        return Presence::Absent;
    }
    let mut text = Vec::new();
    match io::Read::read_to_end(&mut file, &mut text) {
        Ok(_) if journal::last_seq(&text).is_some_and(|last| last <= after_seq) => Presence::Quiet,
        _ => Presence::Telling,
    }
}

/// Reads the journal's entries after `after_seq`; none if there is no journal.
pub fn read_journal(run_dir: &Path, after_seq: u64) -> Result<Vec<Entry>, ClientError> {
    match std::fs::read(run_dir.join(journal::FILE_NAME)) {
        Ok(text) => Ok(journal::parse(&text, after_seq)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ClientError::Journal { run_dir: run_dir.to_owned(), source }),
    }
}

/// Writes a configuration to a memfd, as [`Request::Start`] wants it.
pub fn config_file(config: &Config) -> io::Result<OwnedFd> {
    memfd::sealed("palan-config", &serde_json::to_vec(config)?)
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Connection {
    frames: Frames,
    next_id: RequestId,
}

impl Connection {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { frames: Frames::new(socket)?, next_id: 1 })
    }

    /// Queues a request and its descriptors, sends as much as the socket takes, and returns the request's id.
    ///
    /// [`Request::Hello`] is answered by [`Message::Welcome`] and by no reply.
    pub fn send(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<RequestId, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let body = serde_json::to_vec(&RequestFrame { id, request })
            .map_err(|error| ClientError::Malformed { reason: error.to_string() })?;
        self.frames.queue(&body, descriptors)?;
        self.flush()?;
        Ok(id)
    }

    /// Whether something is queued that the socket did not take yet.
    pub fn wants_write(&self) -> bool {
        self.frames.wants_write()
    }

    /// Sends what is queued, as much as the socket takes.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        Ok(self.frames.flush()?)
    }

    /// Takes the next message; `None`: there is none now. [`ClientError::Closed`]: there will be none.
    pub fn try_receive(&mut self) -> Result<Option<Message>, ClientError> {
        match self.frames.next()? {
            None => Ok(None),
            Some(frame) => Message::from_json(&frame.body)
                .map(Some)
                .map_err(|error| ClientError::Malformed { reason: error.to_string() }),
        }
    }

    /// Waits for the next message, flushing meanwhile; `None`: it did not come in time. For callers without an event loop.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(Some(message));
            }
            self.flush()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, self.wants_write());
            let wait = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut [PollFd::new(&self.frames, flags)], Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ClientError::Io { source: errno.into() }),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.frames.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.frames.as_fd().as_raw_fd()
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed => Self::Closed,
            FrameError::Io(errno) => Self::Io { source: errno.into() },
            FrameError::Malformed(reason) => Self::Malformed { reason: reason.to_owned() },
        }
    }
}

/// What can go wrong on the daemon's side.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The supervisor could not be executed.
    #[error("cannot start a supervisor for {}", run_dir.display())]
    Spawn {
        /// The container's run directory.
        run_dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no supervisor to talk to.
    #[error("cannot connect to the supervisor in {}", run_dir.display())]
    Connect {
        /// The container's run directory.
        run_dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal can't be read.
    #[error("cannot read the journal in {}", run_dir.display())]
    Journal {
        /// The container's run directory.
        run_dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor has closed the connection, or is gone.
    #[error("the supervisor has closed the connection")]
    Closed,
    /// The connection failed.
    #[error("the connection to the supervisor failed")]
    Io {
        /// Why.
        source: io::Error,
    },
    /// The supervisor sent what is not a message, or a request is too large to be sent.
    #[error("a malformed message on the connection to the supervisor: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}
