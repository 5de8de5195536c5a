//! UDP flows that are relayed: what one client and the container say to each other by one port.

use std::net::{SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::datagram::{self, Arrival, Local};
use palan_linux::event::{Epoll, Interest};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{AT_ONCE, Place, Port, port};
use crate::watch::Watched;

/// The most flows of a container. The one that was silent for longest makes room for a new one.
const MOST: usize = 256;
/// How long a flow lasts in silence; Docker's relay has the same.
const IDLE: Duration = Duration::from_secs(90);
/// The largest datagram.
const LARGEST: usize = 64 * 1024;

/// All flows.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    flows: Vec<Flow>,
    next_number: u32,
    /// Datagrams pass through here; empty while there are none.
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Flow {
    number: u32,
    /// The port's number.
    port: u32,
    client: SocketAddrV6,
    /// The address that the client has asked, and is answered from.
    local: Local,
    /// Connected to the container.
    socket: Watched,
    last_heard: Instant,
}

impl Datagrams {
    /// Datagrams have come by a port.
    pub(super) fn take(&mut self, epoll: &Rc<Epoll>, port: &Port, now: Instant) {
        self.buffer.resize(LARGEST, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..AT_ONCE {
            match datagram::receive(&port.socket, &mut buffer) {
                Ok(arrival) => {
                    let Some(flow) = self.flow(epoll, port, &arrival, now) else { continue };
                    let bytes = buffer.get(..arrival.length).unwrap_or_default();
                    // A datagram that can't be sent is lost, as any may be.
                    let _ = rustix::net::send(&flow.socket, bytes, SendFlags::DONTWAIT);
                }
                Err(Errno::INTR) => {}
                // Also an error that an earlier datagram has met: it is told once.
                Err(_) => break,
            }
        }
        self.buffer = buffer;
    }

    /// The container has answered.
    pub(super) fn answer(&mut self, ports: &[Port], number: u32, now: Instant) {
        let Some(flow) = self.flows.iter_mut().find(|flow| flow.number == number) else { return };
        let Some(port) = port(ports, flow.port) else { return };
        self.buffer.resize(LARGEST, 0);
        for _ in 0..AT_ONCE {
            match rustix::net::recv(&flow.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    flow.last_heard = now;
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    let _ = datagram::send(&port.socket, bytes, flow.client, flow.local);
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Ends the flows of a port.
    pub(super) fn forget(&mut self, port: u32) {
        self.flows.retain(|flow| flow.port != port);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.flows.retain(|flow| flow.last_heard + IDLE > now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.flows.iter().map(|flow| flow.last_heard + IDLE).min()
    }

    pub(super) fn release_memory(&mut self) {
        self.buffer = Vec::new();
        self.flows.shrink_to_fit();
    }

    /// The flow of a datagram's sender, which may be new.
    fn flow(&mut self, epoll: &Rc<Epoll>, port: &Port, arrival: &Arrival, now: Instant) -> Option<&Flow> {
        let is_it = |flow: &Flow| flow.port == port.number && flow.client == arrival.from;
        let index = match self.flows.iter().position(is_it) {
            Some(index) => index,
            None => {
                if self.flows.len() >= MOST {
                    let oldest = (0..self.flows.len()).min_by_key(|index| self.flows[*index].last_heard)?;
                    self.flows.swap_remove(oldest);
                }
                self.next_number = self.next_number.wrapping_add(1);
                let number = self.next_number;
                // For lack of descriptors, say: the datagram is lost.
                let socket = connected(epoll, port.target, number).ok()?;
                let (client, local) = (arrival.from, arrival.to);
                self.flows.push(Flow { number, port: port.number, client, local, socket, last_heard: now });
                self.flows.len() - 1
            }
        };
        let flow = self.flows.get_mut(index)?;
        flow.last_heard = now;
        flow.local = arrival.to;
        Some(flow)
    }
}

fn connected(epoll: &Rc<Epoll>, target: SocketAddr, number: u32) -> rustix::io::Result<Watched> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &target)?;
    let mut socket = Watched::with_token(epoll, socket, Place::Flow(number).encode());
    socket.set(Some(Interest::READ))?;
    Ok(socket)
}
