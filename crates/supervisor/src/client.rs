//! The daemon's side of a supervisor: spawn one, connect to one that runs, send requests, receive messages.
//!
//! Nothing here blocks but [`Connection::receive_timeout`]; the daemon waits for the connection to become readable (and,
//! while [`Connection::wants_write`], writable) by whatever means it has, and then calls [`Connection::flush`] and
//! [`Connection::try_receive`] until that returns `None`.

#![allow(clippy::todo, unused_variables, reason = "the bodies follow")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::journal::Entry;
use crate::protocol::{Config, Message, Request, RequestId};

/// The program that supervisors are executed from; one for the life of the daemon.
#[derive(Debug)]
pub struct SupervisorProgram {
    file: OwnedFd,
}

impl SupervisorProgram {
    /// An ELF file that is embedded in this program: written to a sealed memfd, so that nothing can change it.
    pub fn embedded(elf: &[u8]) -> io::Result<Self> {
        todo!()
    }

    /// This very program, which must understand `supervisor` as its first argument.
    pub fn current_executable() -> io::Result<Self> {
        todo!()
    }

    /// A program file; for tests.
    pub fn open(path: &Path) -> io::Result<Self> {
        todo!()
    }
}

/// What [`spawn`] needs.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// What to execute.
    pub program: &'a SupervisorProgram,
    /// The container's run directory (`<run root>/containers/<id>`); made with mode 0700 if it does not exist.
    pub run_dir: &'a Path,
    /// Try to move the supervisor to this cgroup (a path below the hierarchy's root such as `/palan/supervisors`).
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
    todo!()
}

/// Connects to the supervisor that serves `run_dir`. `ConnectionRefused` or `NotFound` in the error mean that none does.
pub fn connect(run_dir: &Path) -> Result<Connection, ClientError> {
    todo!()
}

/// Reads the journal's entries after `after_seq`; none if there is no journal.
pub fn read_journal(run_dir: &Path, after_seq: u64) -> Result<Vec<Entry>, ClientError> {
    todo!()
}

/// Writes a configuration to a memfd, as [`Request::Start`] wants it.
pub fn config_file(config: &Config) -> io::Result<OwnedFd> {
    todo!()
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Queues a request and its descriptors, sends as much as the socket takes, and returns the request's id.
    pub fn send(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<RequestId, ClientError> {
        todo!()
    }

    /// Whether something is queued that the socket did not take yet.
    pub fn wants_write(&self) -> bool {
        todo!()
    }

    /// Sends what is queued, as much as the socket takes.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        todo!()
    }

    /// Takes the next message; `None`: there is none now. [`ClientError::Closed`]: there will be none.
    pub fn try_receive(&mut self) -> Result<Option<Message>, ClientError> {
        todo!()
    }

    /// Waits for the next message, flushing meanwhile; `None`: it did not come in time. For callers without an event loop.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, ClientError> {
        todo!()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
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
