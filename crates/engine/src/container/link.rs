//! The connection to a container's supervisor, driven by the reactor.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use palan_supervisor::client::{self, ClientError, Connection, Spawned};
use palan_supervisor::protocol::{self, Message, Request, RequestId};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::reactor::register;

/// A live connection.
#[derive(Debug)]
pub(crate) struct Link {
    connection: AsyncFd<Connection>,
    /// The supervisor's, when this daemon spawned it and must reap it.
    pidfd: Option<OwnedFd>,
}

impl Link {
    /// Connects to the supervisor that serves a run directory, which then tells what it has noted after `after_seq`. Waits for nobody:
    /// the kernel takes a connection without the other side's doing.
    pub(crate) fn find(run_dir: &Path, after_seq: u64) -> Result<Self, ClientError> {
        let connection = client::connect(run_dir)?;
        let connection = register(connection, Interest::READABLE | Interest::WRITABLE)
            .map_err(|source| ClientError::Io { source })?;
        let mut link = Self { connection, pidfd: None };
        link.send(Request::Hello { version: protocol::VERSION, after_seq }, Vec::new())?;
        Ok(link)
    }

    /// Of a supervisor that was spawned.
    pub(crate) fn spawned(spawned: Spawned) -> std::io::Result<Self> {
        Ok(Self {
            connection: register(spawned.connection, Interest::READABLE | Interest::WRITABLE)?,
            pidfd: Some(spawned.pidfd),
        })
    }

    /// Queues a request; what the socket does not take at once is sent by [`Self::receive`].
    pub(crate) fn send(
        &mut self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<RequestId, ClientError> {
        self.connection.get_mut().send(request, descriptors)
    }

    /// The next message. Cancel-safe: nothing that was received is lost when the future is dropped.
    pub(crate) async fn receive(&mut self) -> Result<Message, ClientError> {
        let io = |source| ClientError::Io { source };
        loop {
            if let Some(message) = self.connection.get_mut().try_receive()? {
                return Ok(message);
            }
            let writes = self.connection.get_ref().wants_write();
            let interest = if writes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let mut guard = self.connection.ready_mut(interest).await.map_err(io)?;
            let connection = guard.get_inner_mut();
            if writes {
                connection.flush()?;
            }
            if let Some(message) = connection.try_receive()? {
                return Ok(message);
            }
            guard.clear_ready();
        }
    }

    /// Waits in the background until the supervisor has ended, so that it is reaped and is not disturbed in its last work.
    pub(crate) fn linger(mut self) {
        tokio::spawn(async move {
            self.drain().await;
        });
    }

    /// Ends a supervisor that has not started its container, or does not answer: with it the kernel ends what it made.
    pub(crate) fn abandon(self) {
        let Self { connection, pidfd } = self;
        drop(connection);
        if let Some(pidfd) = pidfd {
            if let Err(error) = palan_linux::process::send_signal(&pidfd, palan_linux::signal::Signal::KILL) {
                tracing::debug!(%error, "an unused supervisor has ended already");
            }
            tokio::spawn(reap(pidfd));
        }
    }

    /// Reads on until the supervisor has ended, and reaps it.
    pub(crate) async fn drain(&mut self) {
        while self.receive().await.is_ok() {}
        if let Some(pidfd) = self.pidfd.take() {
            reap(pidfd).await;
        }
    }
}

async fn reap(pidfd: OwnedFd) {
    let Ok(pidfd) = register(pidfd, Interest::READABLE) else { return };
    // The socket closes a moment before the process is gone. One that never goes is left to init.
    const PATIENCE: Duration = Duration::from_secs(60);
    if tokio::time::timeout(PATIENCE, pidfd.readable()).await.is_ok()
        && let Err(error) = palan_linux::process::try_wait(pidfd.get_ref())
    {
        tracing::warn!(%error, "a supervisor could not be reaped");
    }
}
