//! Connecting clients to a container's streams, and to those of exec sessions.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use palan_supervisor::protocol;

use crate::container::driver::Action;
use crate::container::exec::Session;
use crate::container::index::{Handle, Promise};
use crate::container::stop::is_restarting;
use crate::container::{
    AttachOptions, ClientStream, ExecStartOptions, Framing, LogOptions, Status, logs, validate,
};
use crate::engine::{Engine, waiting_for_client};
use crate::error::Context;
use crate::{Error, Result};

const DEFAULT_DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Checked permission to attach: the container exists and can be attached to. The front door now sends its response head
/// and delivers the connection.
#[derive(Debug)]
pub struct AttachTicket {
    /// The container has a terminal: bytes are raw.
    pub tty: bool,
    /// How bytes towards the client are framed.
    pub framing: Framing,
    engine: Arc<Engine>,
    handle: Arc<Handle>,
    options: AttachOptions,
    detach_keys: Vec<u8>,
    /// Holds a start back until the connection has been delivered.
    promise: Promise,
}

/// Checked permission to start an exec session with a client attached.
#[derive(Debug)]
pub struct ExecTicket {
    /// The session has a terminal: bytes are raw.
    pub tty: bool,
    /// How bytes towards the client are framed.
    pub framing: Framing,
    handle: Arc<Handle>,
    session: Arc<Session>,
    detach_keys: Vec<u8>,
}

impl Engine {
    /// Checks that a client can attach.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<AttachTicket> {
        let detach_keys =
            validate::detach_keys(options.detach_keys.as_deref().unwrap_or(DEFAULT_DETACH_KEYS))?;
        let handle = self.index.find(name)?;
        let details = handle.details();
        if details.state.status == Status::Paused {
            return Err(Error::conflict(format!(
                "container {name} is paused, unpause the container before attach"
            )));
        }
        if details.state.status == Status::Restarting {
            return Err(is_restarting(&details.id));
        }
        let tty = details.config.tty;
        let framing = if tty || options.raw { Framing::Raw } else { Framing::Multiplexed };
        let promise = handle.promise();
        Ok(AttachTicket { tty, framing, engine: self.shared(), handle, options, detach_keys, promise })
    }

    /// Checks that an exec session can be started with a client attached.
    pub async fn exec_attach(&self, id: &str, options: ExecStartOptions) -> Result<ExecTicket> {
        let (handle, session) = self.begin_exec(id, &options)?;
        let spec = session.details().spec;
        let keys = spec.detach_keys.as_deref().unwrap_or(DEFAULT_DETACH_KEYS);
        let detach_keys = validate::detach_keys(keys)?;
        // As in Docker, what the client says at the start decides, not whether the session has a terminal.
        let framing = if options.tty { Framing::Raw } else { Framing::Multiplexed };
        Ok(ExecTicket { tty: spec.tty, framing, handle, session, detach_keys })
    }

    /// Starts an exec session without a client.
    pub async fn exec_start_detached(&self, id: &str, options: ExecStartOptions) -> Result<()> {
        let (handle, session) = self.begin_exec(id, &options)?;
        handle.ask(|reply| Action::ExecStart { session, client: None, reply }).await
    }

    fn begin_exec(&self, id: &str, options: &ExecStartOptions) -> Result<(Arc<Handle>, Arc<Session>)> {
        let session = self.sessions.find(id)?;
        let handle = self.index.find(&session.details().container_id)?;
        match handle.details().state.status {
            Status::Running => {}
            Status::Paused => return Err(crate::container::exec::paused(&handle.id)),
            Status::Restarting => return Err(is_restarting(&handle.id)),
            _ => return Err(crate::container::driver::not_running(&handle.id)),
        }
        session.begin()?;
        if options.console_size.is_some() {
            session.set_console_size(options.console_size);
        }
        Ok((handle, session))
    }
}

impl AttachTicket {
    /// Hands the connection over. From here on the supervisor speaks on it.
    pub async fn deliver(self, stream: ClientStream) -> Result<()> {
        if self.options.logs {
            self.replay_log(&stream).await?;
        }
        if !self.options.stream {
            // The log was all that was asked for: dropping the socket ends the connection.
            return Ok(());
        }
        let options = protocol::AttachOptions {
            stdin: self.options.stdin,
            stdout: self.options.stdout,
            stderr: self.options.stderr,
            framing: framing(self.framing),
            detach_keys: protocol::Bytes(self.detach_keys),
            buffered: protocol::Bytes(stream.buffered),
        };
        let socket = stream.socket;
        let delivered = self.handle.ask(|reply| Action::Attach { options, socket, reply }).await;
        drop(self.promise);
        delivered
    }

    async fn replay_log(&self, stream: &ClientStream) -> Result<()> {
        let AttachOptions { stdout, stderr, raw, .. } = self.options;
        let options = LogOptions { stdout, stderr, raw, ..LogOptions::default() };
        let mut log = logs::open(&self.engine, &self.handle, options).await?;
        while let Some(chunk) = log.chunks.next().await {
            let (chunk, socket) = (chunk?.bytes, duplicate(&stream.socket)?);
            waiting_for_client(move || write_all(&socket, &chunk)).await?;
        }
        Ok(())
    }
}

impl ExecTicket {
    /// Starts the process on the connection. A failure is written to the connection as Docker does, and returned.
    pub async fn deliver(self, stream: ClientStream) -> Result<()> {
        let spec = self.session.details().spec;
        let options = protocol::AttachOptions {
            stdin: spec.attach_stdin,
            stdout: spec.attach_stdout,
            stderr: spec.attach_stderr,
            framing: framing(self.framing),
            detach_keys: protocol::Bytes(self.detach_keys),
            buffered: protocol::Bytes(stream.buffered),
        };
        let own = duplicate(&stream.socket)?;
        let (session, client) = (self.session, Some((options, stream.socket)));
        let outcome = self.handle.ask(|reply| Action::ExecStart { session, client, reply }).await;
        if let Err(error) = &outcome {
            let text = format!("{}\r\n", error.report());
            let message = match self.framing {
                Framing::Raw => text.into_bytes(),
                Framing::Multiplexed => logs::frame(1, text.as_bytes()),
            };
            // The client may have gone, then nobody reads it.
            let _ = waiting_for_client(move || write_all(&own, &message)).await;
        }
        outcome
    }
}

fn framing(framing: Framing) -> protocol::Framing {
    match framing {
        Framing::Raw => protocol::Framing::Raw,
        Framing::Multiplexed => protocol::Framing::Multiplexed,
    }
}

fn duplicate(socket: &OwnedFd) -> Result<OwnedFd> {
    socket.try_clone().context(|| "cannot duplicate a connection".into())
}

/// Writes to a socket that may be non-blocking; a client that takes nothing for a while is given up.
fn write_all(socket: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
    let failed = |error: rustix::io::Errno| {
        Error::system("the client's connection failed").with_source(std::io::Error::from(error))
    };
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::AGAIN) => {
                let ready =
                    poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&PATIENCE)).map_err(failed)?;
                if ready == 0 {
                    return Err(failed(rustix::io::Errno::TIMEDOUT));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
