//! TCP connections that are relayed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::event::{Epoll, Interest};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::Place;
use crate::watch::Watched;

/// The most connections of a container.
const MOST: usize = 1000;
/// How many of this process's descriptors there must be for each connection, of which itself has two to six.
const DESCRIPTORS_EACH: u64 = 8;
/// How long the container has to take a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How much is moved at a time: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// How often that is done before others get their turn.
const ROUNDS: usize = 16;

/// All connections.
#[derive(Debug)]
pub(super) struct Streams {
    connections: BTreeMap<u32, Box<Connection>>,
    next_number: u32,
    most: usize,
    /// An empty pipe for whoever needs one next.
    spare: Option<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A client's connection and the container's that belongs to it.
#[derive(Debug)]
struct Connection {
    client: Watched,
    container: Watched,
    /// The container has not taken its connection yet.
    connecting_until: Option<Instant>,
    to_container: Flow,
    to_client: Flow,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    /// Only while there is something in it.
    pipe: Option<Pipe>,
    /// How much that is.
    held: usize,
    /// The source has said all.
    is_ended: bool,
    /// The other side has been told so.
    is_finished: bool,
}

impl Streams {
    pub(super) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = limit.and_then(|limit| usize::try_from(limit / DESCRIPTORS_EACH).ok());
        Self {
            connections: BTreeMap::new(),
            next_number: 0,
            most: most.unwrap_or(MOST).clamp(1, MOST),
            spare: None,
        }
    }

    #[cfg(test)]
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections.len() >= self.most
    }

    /// Begins to relay a client's connection to `target`.
    pub(super) fn connect(&mut self, epoll: &Rc<Epoll>, client: OwnedFd, target: SocketAddr, now: Instant) {
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        match Connection::begin(epoll, &client, target, number) {
            Ok(container) => {
                let client = Watched::with_token(epoll, client, Place::Connection(number).encode());
                let connection = Connection {
                    client,
                    container,
                    connecting_until: Some(now + CONNECT_PATIENCE),
                    to_container: Flow::default(),
                    to_client: Flow::default(),
                };
                self.connections.insert(number, Box::new(connection));
            }
            Err(_) => reset(&client),
        }
    }

    /// A socket of a connection is ready.
    pub(super) fn ready(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.advance(&mut self.spare) {
            Ok(true) => {}
            Ok(false) => drop(self.connections.remove(&number)),
            Err(_) => {
                connection.reset();
                self.connections.remove(&number);
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.connections.retain(|_, connection| {
            let is_late = connection.connecting_until.is_some_and(|until| until <= now);
            if is_late {
                connection.reset();
            }
            !is_late
        });
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.connections.values().filter_map(|connection| connection.connecting_until).min()
    }

    pub(super) fn release_memory(&mut self) {
        self.spare = None;
    }
}

impl Connection {
    /// The container's side, on its way.
    fn begin(
        epoll: &Rc<Epoll>,
        client: &OwnedFd,
        target: SocketAddr,
        number: u32,
    ) -> rustix::io::Result<Watched> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let container = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        for socket in [client, &container] {
            // What comes is passed on at once; whoever has vanished is noticed at last.
            sockopt::set_tcp_nodelay(socket, true)?;
            sockopt::set_socket_keepalive(socket, true)?;
        }
        match rustix::net::connect(&container, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let mut container = Watched::with_token(epoll, container, Place::Connection(number).encode());
        container.set(Some(Interest::WRITE))?;
        Ok(container)
    }

    /// Does what is possible. `false`: both sides have ended.
    fn advance(&mut self, spare: &mut Option<Pipe>) -> rustix::io::Result<bool> {
        if self.connecting_until.is_some() {
            sockopt::socket_error(&self.container)??;
            if rustix::net::getpeername(&self.container).is_err() {
                // It was the client that is ready.
                return Ok(true);
            }
            self.connecting_until = None;
        }
        self.to_container.pump(&self.client, &self.container, spare)?;
        self.to_client.pump(&self.container, &self.client, spare)?;
        self.client.set(interest(&self.to_container, &self.to_client))?;
        self.container.set(interest(&self.to_client, &self.to_container))?;
        Ok(!(self.to_container.is_finished && self.to_client.is_finished))
    }

    /// Lets both sides see that the connection has failed, and not just ended.
    fn reset(&self) {
        reset(&self.client);
        reset(&self.container);
    }
}

impl Flow {
    /// Moves what can be moved.
    fn pump(&mut self, from: &Watched, to: &Watched, spare: &mut Option<Pipe>) -> rustix::io::Result<()> {
        for _ in 0..ROUNDS {
            let moved = if self.held > 0 { self.empty(to) } else { self.fill(from, spare) };
            match moved {
                Ok(true) | Err(Errno::INTR) => {}
                Ok(false) | Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        if self.held == 0 {
            if let Some(pipe) = self.pipe.take() {
                *spare = Some(pipe);
            }
            if self.is_ended && !self.is_finished {
                self.is_finished = true;
                rustix::net::shutdown(to, Shutdown::Write)?;
            }
        }
        Ok(())
    }

    /// From the source into the pipe. `false`: there will be no more.
    fn fill(&mut self, from: &Watched, spare: &mut Option<Pipe>) -> rustix::io::Result<bool> {
        if self.is_ended {
            return Ok(false);
        }
        let pipe = match self.pipe.take().or_else(|| spare.take()) {
            Some(pipe) => pipe,
            None => Pipe::new()?,
        };
        let pipe = self.pipe.insert(pipe);
        self.held = rustix::pipe::splice(from, None, &pipe.writer, None, CHUNK, FLAGS)?;
        self.is_ended = self.held == 0;
        Ok(!self.is_ended)
    }

    /// From the pipe to the other side.
    fn empty(&mut self, to: &Watched) -> rustix::io::Result<bool> {
        let Some(pipe) = &self.pipe else { return Ok(false) };
        self.held -= rustix::pipe::splice(&pipe.reader, None, to, None, self.held, FLAGS)?;
        Ok(true)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Pipe {
    fn new() -> rustix::io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer })
    }
}

/// What a side is watched for that is the source of one flow and the aim of another. With nothing to do it is muted: a hang-up
/// alone would wake us again and again.
fn interest(from: &Flow, to: &Flow) -> Option<Interest> {
    let interest = Interest { read: from.held == 0 && !from.is_ended, write: to.held > 0 };
    (interest != Interest::NONE).then_some(interest)
}

/// The end of the socket will be a reset.
fn reset(socket: impl std::os::fd::AsFd) {
    // It only says how the end looks.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
