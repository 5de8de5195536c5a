//! The terminal that a runtime makes in the container, received by way of its `--console-socket`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use palan_linux::tty::{self, WindowSize};
use palan_linux::{event::Epoll, event::Interest, socket};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::protocol::{Failure, FailureKind};

const NAME: &str = "console.sock";

/// How long after the runtime's end its message may still be on its way: it sits in the socket already.
const PATIENCE: Duration = Duration::from_secs(2);

/// A listening socket in the bundle. Dropped, its file is gone.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    directory: OwnedFd,
    listener: OwnedFd,
}

impl ConsoleSocket {
    /// Listens in `directory`, where only root comes.
    pub(super) fn listen(directory: &OwnedFd) -> Result<Self, Failure> {
        let failed = |errno: Errno| Failure::cannot("listen for the terminal", &std::io::Error::from(errno));
        let listener = socket::listen_at(directory, NAME, 0o600).map_err(failed)?;
        let directory = rustix::io::fcntl_dupfd_cloexec(directory, 3).map_err(failed)?;
        Ok(Self { directory, listener })
    }

    /// A path to it that fits into an address (108 bytes), wherever the run root is.
    pub(super) fn path(&self) -> PathBuf {
        let pid = std::process::id();
        PathBuf::from(format!("/proc/{pid}/fd/{}/{NAME}", self.directory.as_raw_fd()))
    }

    /// Takes the terminal's master, which the runtime has sent before its end.
    pub(super) fn receive(self, size: Option<WindowSize>) -> Result<OwnedFd, Failure> {
        let failed = |error: std::io::Error| Failure::cannot("receive the terminal from the runtime", &error);
        let connection = ready(&self.listener, || socket::accept(&self.listener)).map_err(failed)?;
        let mut descriptors = Vec::new();
        ready(&connection, || {
            // The bytes that come along are a name for people.
            socket::receive_with_descriptors(&connection, &mut [0; 4096], &mut descriptors)
        })
        .map_err(failed)?;
        let master = descriptors.pop().filter(|master| tty::is_terminal(master));
        let master =
            master.ok_or_else(|| Failure::new(FailureKind::Other, "the runtime sent no terminal"))?;
        if let Some(size) = size {
            tty::set_window_size(&master, size).map_err(failed)?;
        }
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // The next one unlinks what stands in its place.
        let _ = rustix::fs::unlinkat(&self.directory, NAME, AtFlags::empty());
    }
}

/// Tries `take` until it has something, for [`PATIENCE`].
fn ready<T>(source: impl AsFd, mut take: impl FnMut() -> rustix::io::Result<T>) -> std::io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let epoll = Epoll::new()?;
    epoll.add(source, 0, Interest::READ)?;
    loop {
        match take() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        epoll.wait(&mut Vec::new(), Some(left))?;
    }
}
