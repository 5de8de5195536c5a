//! Ports of the host that the kernel can't translate to the container: `[::1]`, since no answer is routed back to it, and every
//! IPv6 address where the container has IPv4 only. What comes in there is passed on by this process.
//!
//! ```text
//! TCP  port ──accept──▶ Connection: client ◀─splice, by a pipe─▶ container     ends when both have ended, or one has failed
//! UDP  port ──a datagram of a new client──▶ Flow: socket of its own to the container     ends after a time of silence
//! ```
//!
//! The container sees the host's address on its network (the gateway's) as the client. Bytes of a TCP connection do not pass
//! through this program's memory; a connection that rests is two descriptors and no pipe.
//!
//! All descriptors are in an epoll instance of the relay's own, which is one entry of the loop's; TCP ports are in a further one
//! inside of it, which is muted while no connection more can be had: clients wait in the kernel's queues then.
//!
//! **Invariant:** the number of connections and flows is bounded, and leaves most descriptors to the container's own needs.

mod datagrams;
mod streams;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::event::{Epoll, Interest, Ready};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use self::datagrams::Datagrams;
use self::streams::Streams;
use crate::protocol::{RelayProtocol, RelayedPort};
use crate::watch::{Token, Watched};

/// How many clients or datagrams are taken before others get their turn.
const AT_ONCE: usize = 32;
/// How long nothing is accepted for lack of descriptors or memory.
const REST: Duration = Duration::from_millis(250);

/// Relays the ports of one container.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The loop's.
    outer: Rc<Epoll>,
    epoll: Rc<Epoll>,
    /// The TCP ports alone, by their numbers.
    accepting: Rc<Epoll>,
    is_muted: bool,
    rests_until: Option<Instant>,
    /// In the order of their numbers.
    ports: Vec<Port>,
    next_number: u32,
    streams: Streams,
    datagrams: Datagrams,
    ready: Vec<Ready>,
}

/// A port of the host.
#[derive(Debug)]
struct Port {
    number: u32,
    protocol: RelayProtocol,
    host: SocketAddr,
    target: SocketAddr,
    socket: Watched,
}

/// What is ready in the relay's own epoll instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Some TCP port.
    Accepting,
    /// A UDP port.
    Port(u32),
    /// One of the two sockets of a connection.
    Connection(u32),
    /// The socket of a flow.
    Flow(u32),
}

impl Place {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Accepting => (0, 0),
            Self::Port(number) => (1, number),
            Self::Connection(number) => (2, number),
            Self::Flow(number) => (3, number),
        };
        kind << 32 | u64::from(number)
    }

    fn decode(token: u64) -> Option<Self> {
        let number = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        Some(match token >> 32 {
            0 => Self::Accepting,
            1 => Self::Port(number),
            2 => Self::Connection(number),
            3 => Self::Flow(number),
            _ => return None,
        })
    }
}

impl Relay {
    /// Relays nothing yet.
    pub(crate) fn new(outer: &Rc<Epoll>) -> rustix::io::Result<Self> {
        let (epoll, accepting) = (Rc::new(Epoll::new()?), Rc::new(Epoll::new()?));
        epoll.add(&*accepting, Place::Accepting.encode(), Interest::READ)?;
        outer.add(&*epoll, Token::Relay.encode(), Interest::READ)?;
        Ok(Self {
            outer: Rc::clone(outer),
            epoll,
            accepting,
            is_muted: false,
            rests_until: None,
            ports: Vec::new(),
            next_number: 0,
            streams: Streams::new(),
            datagrams: Datagrams::default(),
            ready: Vec::new(),
        })
    }

    /// Relays a port; one that is relayed already gets a new target.
    pub(crate) fn open(&mut self, wanted: &RelayedPort, socket: Option<OwnedFd>) -> rustix::io::Result<()> {
        let Some(socket) = socket else {
            let port = self.ports.iter_mut().find(|port| port.is(wanted)).ok_or(Errno::NOENT)?;
            port.target = wanted.target;
            self.datagrams.forget(port.number);
            return Ok(());
        };
        self.close(wanted);
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        let mut socket = match wanted.protocol {
            RelayProtocol::Tcp => Watched::with_token(&self.accepting, socket, number.into()),
            RelayProtocol::Udp => {
                palan_linux::datagram::tell_destinations(&socket)?;
                Watched::with_token(&self.epoll, socket, Place::Port(number).encode())
            }
        };
        socket.set(Some(Interest::READ))?;
        let RelayedPort { protocol, host, target, .. } = *wanted;
        self.ports.push(Port { number, protocol, host, target, socket });
        Ok(())
    }

    /// Ends the relaying of a port, if it is relayed. TCP connections that came by it go on.
    pub(crate) fn close(&mut self, unwanted: &RelayedPort) {
        if let Some(index) = self.ports.iter().position(|port| port.is(unwanted)) {
            let port = self.ports.remove(index);
            self.datagrams.forget(port.number);
        }
    }

    /// Whether there is neither a port nor a connection.
    pub(crate) fn is_unused(&self) -> bool {
        self.ports.is_empty() && self.streams.is_empty()
    }

    /// Something has come.
    pub(crate) fn ready(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        // Nothing would come of a failure but that the loop tries again.
        let _ = self.epoll.wait(&mut ready, Some(Duration::ZERO));
        let now = Instant::now();
        for event in ready.drain(..) {
            match Place::decode(event.token) {
                Some(Place::Accepting) => self.accept(now),
                Some(Place::Port(number)) => {
                    if let Some(port) = port(&self.ports, number) {
                        self.datagrams.take(&self.epoll, port, now);
                    }
                }
                Some(Place::Connection(number)) => self.streams.ready(number),
                Some(Place::Flow(number)) => self.datagrams.answer(&self.ports, number, now),
                None => {}
            }
        }
        self.ready = ready;
    }

    /// Gives up on what has taken too long, and accepts again where that is possible.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.streams.expire(now);
        self.datagrams.expire(now);
        if self.rests_until.is_some_and(|until| until <= now) {
            self.rests_until = None;
        }
        let mute = self.rests_until.is_some() || self.streams.is_full();
        if mute != self.is_muted {
            let token = Place::Accepting.encode();
            let changed = if mute {
                self.epoll.mute(&*self.accepting, token)
            } else {
                self.epoll.modify(&*self.accepting, token, Interest::READ)
            };
            if changed.is_ok() {
                self.is_muted = mute;
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let streams = self.streams.deadline();
        streams.into_iter().chain(self.datagrams.deadline()).chain(self.rests_until).min()
    }

    /// Keeps nothing that is not needed.
    pub(crate) fn release_memory(&mut self) {
        self.streams.release_memory();
        self.datagrams.release_memory();
        self.ports.shrink_to_fit();
        self.ready = Vec::new();
    }

    fn accept(&mut self, now: Instant) {
        let mut ready = Vec::new();
        let _ = self.accepting.wait(&mut ready, Some(Duration::ZERO));
        for event in ready {
            let port = u32::try_from(event.token).ok().and_then(|number| port(&self.ports, number));
            let Some(port) = port else { continue };
            for _ in 0..AT_ONCE {
                if self.streams.is_full() {
                    return;
                }
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                match rustix::net::accept_with(&port.socket, flags) {
                    Ok(client) => self.streams.connect(&self.epoll, client, port.target, now),
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                        self.rests_until = Some(now + REST);
                        return;
                    }
                    Err(_) => break,
                }
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A process that is just being made may hold copies of both.
        let _ = self.outer.remove(&*self.epoll);
        let _ = self.epoll.remove(&*self.accepting);
    }
}

impl Port {
    fn is(&self, other: &RelayedPort) -> bool {
        self.protocol == other.protocol && self.host == other.host
    }
}

fn port(ports: &[Port], number: u32) -> Option<&Port> {
    ports.binary_search_by_key(&number, |port| port.number).ok().and_then(|index| ports.get(index))
}

#[cfg(test)]
mod tests;
