//! Host ports: who has which, and the sockets that keep other processes off them.
//!
//! Traffic to a published port is rewritten by the firewall before any socket sees it. The reservation only makes
//! sure that no process of the host listens there in vain, and that a port which is in use is an error at once.
//! A TCP reservation is bound and never listens, so that a connection that slips past the firewall is refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::record::{PortBinding, Protocol, PublishedPort};
use crate::{PublishError, sysctl};

/// A host port taken for an endpoint.
#[derive(Debug)]
struct Reservation {
    address: Ipv4Addr,
    /// `None` if, after a restart of the daemon, another process was found on the port.
    _socket: Option<OwnedFd>,
}

/// The host ports taken by all endpoints.
#[derive(Debug)]
pub(crate) struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<Reservation>>,
    default_address: Ipv4Addr,
    ephemeral: (u16, u16),
    next_ephemeral: u16,
}

impl Ports {
    /// Nothing taken. `default_address` is for bindings that name none.
    pub(crate) fn new(default_address: Ipv4Addr) -> Result<Self, crate::KernelError> {
        let setting = sysctl::read(sysctl::EPHEMERAL_PORTS)?.unwrap_or_default();
        let mut numbers = setting.split_whitespace().map(str::parse);
        let ephemeral = match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last))) if 0 < first && first <= last => (first, last),
            _ => (32768, 60999),
        };
        Ok(Self { taken: BTreeMap::new(), default_address, ephemeral, next_ephemeral: ephemeral.0 })
    }

    /// Takes a host port for each binding, or none at all.
    pub(crate) fn reserve(&mut self, bindings: &[PortBinding]) -> Result<Vec<PublishedPort>, PublishError> {
        let mut ports = Vec::with_capacity(bindings.len());
        for binding in bindings {
            match self.reserve_one(binding) {
                Ok(port) => ports.push(port),
                Err(error) => {
                    self.release(&ports);
                    return Err(error);
                }
            }
        }
        Ok(ports)
    }

    /// Takes back ports that are in use since before the daemon's start. Those that another process has meanwhile are
    /// kept without a reservation and returned: the container was first, and its rules win.
    pub(crate) fn readopt(&mut self, ports: &[PublishedPort]) -> Vec<PublishedPort> {
        let mut unreserved = Vec::new();
        for port in ports {
            let socket = bind(port.protocol, port.host_address, port.host_port);
            if socket.is_err() {
                unreserved.push(*port);
            }
            self.insert(port.protocol, port.host_address, port.host_port, socket.ok());
        }
        unreserved
    }

    /// Gives ports back.
    pub(crate) fn release(&mut self, ports: &[PublishedPort]) {
        for port in ports {
            let key = (port.protocol, port.host_port);
            if let Some(reservations) = self.taken.get_mut(&key) {
                reservations.retain(|reservation| reservation.address != port.host_address);
                if reservations.is_empty() {
                    self.taken.remove(&key);
                }
            }
        }
    }

    fn reserve_one(&mut self, binding: &PortBinding) -> Result<PublishedPort, PublishError> {
        if binding.container_port == 0 {
            return Err(PublishError::InvalidContainerPort);
        }
        let address = self.host_address(&binding.host_address)?;
        let host_port = match (binding.host_port, binding.host_port_last) {
            (0, _) => self.reserve_ephemeral(binding.protocol, address)?,
            (first, Some(last)) if first > last => return Err(PublishError::InvalidRange { first, last }),
            (first, Some(last)) if first < last => self.reserve_of(binding.protocol, address, first, last)?,
            (port, _) => self.reserve_exactly(binding.protocol, address, port)?,
        };
        Ok(PublishedPort {
            container_port: binding.container_port,
            protocol: binding.protocol,
            host_address: address,
            host_port,
        })
    }

    fn host_address(&self, text: &str) -> Result<Ipv4Addr, PublishError> {
        if text.is_empty() {
            return Ok(self.default_address);
        }
        match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(IpAddr::V4(address)) => Ok(address),
            Ok(IpAddr::V6(_)) => Err(PublishError::Ipv6Unsupported { address: text.to_owned() }),
            Err(_) => Err(PublishError::InvalidAddress { address: text.to_owned() }),
        }
    }

    fn reserve_exactly(
        &mut self,
        protocol: Protocol,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<u16, PublishError> {
        if self.is_taken(protocol, address, port) {
            return Err(PublishError::Allocated { address, port });
        }
        let socket = bind(protocol, address, port).map_err(|errno| PublishError::Bind {
            protocol,
            address,
            port,
            reason: reason(errno),
        })?;
        self.insert(protocol, address, port, Some(socket));
        Ok(port)
    }

    /// The first free port of a range. Only "in use" leads on to the next one: other failures are the same for all.
    fn reserve_of(
        &mut self,
        protocol: Protocol,
        address: Ipv4Addr,
        first: u16,
        last: u16,
    ) -> Result<u16, PublishError> {
        for port in first..=last {
            if self.is_taken(protocol, address, port) {
                continue;
            }
            match bind(protocol, address, port) {
                Ok(socket) => {
                    self.insert(protocol, address, port, Some(socket));
                    return Ok(port);
                }
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => {
                    return Err(PublishError::Bind { protocol, address, port, reason: reason(errno) });
                }
            }
        }
        Err(PublishError::RangeAllocated { address, first, last })
    }

    /// Ephemeral ports are given in turn, as addresses are.
    fn reserve_ephemeral(&mut self, protocol: Protocol, address: Ipv4Addr) -> Result<u16, PublishError> {
        let (first, last) = self.ephemeral;
        let from = self.next_ephemeral;
        let port = match self.reserve_of(protocol, address, from, last) {
            Err(PublishError::RangeAllocated { .. }) if from > first => {
                self.reserve_of(protocol, address, first, from - 1)
            }
            other => other,
        };
        let port = port.map_err(|error| match error {
            PublishError::RangeAllocated { address, .. } => {
                PublishError::RangeAllocated { address, first, last }
            }
            other => other,
        })?;
        self.next_ephemeral = if port == last { first } else { port + 1 };
        Ok(port)
    }

    fn is_taken(&self, protocol: Protocol, address: Ipv4Addr, port: u16) -> bool {
        self.taken.get(&(protocol, port)).is_some_and(|reservations| {
            reservations.iter().any(|other| {
                other.address == address || other.address.is_unspecified() || address.is_unspecified()
            })
        })
    }

    fn insert(&mut self, protocol: Protocol, address: Ipv4Addr, port: u16, socket: Option<OwnedFd>) {
        self.taken.entry((protocol, port)).or_default().push(Reservation { address, _socket: socket });
    }
}

/// Binds a socket that keeps the port.
///
/// `SO_REUSEADDR` is what a server sets so that old connections in TIME_WAIT don't count as "in use". Set on our socket, which
/// never listens, it would let any other server onto the port. So a plain bind is tried first; if it fails, one with
/// the option tells TIME_WAIT from a real user, and the option is taken off again at once.
fn bind(protocol: Protocol, address: Ipv4Addr, port: u16) -> Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrV4::new(address, port);
    match (rustix::net::bind(&socket, &address), protocol) {
        (Err(Errno::ADDRINUSE), Protocol::Tcp) => {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        (Ok(()), Protocol::Udp) => {
            // Datagrams that slip past the firewall would wait in the queue for ever: keep it as short as possible.
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 0)?;
        }
        (result, _) => result?,
    }
    Ok(socket)
}

/// The words of Go's runtime, which clients match on.
fn reason(errno: Errno) -> String {
    match errno {
        Errno::ADDRINUSE => "address already in use".into(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".into(),
        Errno::ACCESS => "permission denied".into(),
        other => std::io::Error::from(other).to_string(),
    }
}
