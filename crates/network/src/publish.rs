//! Host ports: who has which, and the sockets that keep other processes off them.
//!
//! Traffic to a published port is rewritten by the firewall before any socket sees it. The reservation only makes
//! sure that no process of the host listens there in vain, and that a port which is in use is an error at once.
//! A TCP reservation is bound and never listens, so that a connection that slips past the firewall is refused.
//!
//! Some ports can't be translated ([`Relaying`]). Their sockets do listen, and are for the container's supervisor, which passes
//! on what comes; the daemon gives them away, and the port is taken as long as the supervisor has them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::holder;
use crate::record::{PortBinding, Protocol, PublishedPort};
use crate::{PublishError, sysctl};

/// A host port taken for an endpoint.
#[derive(Debug)]
struct Reservation {
    address: IpAddr,
    /// The container's name, for the error of whoever wants it, too.
    holder: String,
    /// `None` if, after a restart of the daemon, another process was found on the port; if the kernel lacks the
    /// protocol; or if the supervisor has it.
    socket: Option<OwnedFd>,
}

/// The host ports taken by all endpoints.
#[derive(Debug)]
pub(crate) struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<Reservation>>,
    ephemeral: (u16, u16),
    next_ephemeral: u16,
}

/// Who wants ports, and what its network says about them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publisher<'a> {
    /// The container's name.
    pub(crate) name: &'a str,
    /// The host address of a binding that names none; `None` without IPv4 on the network.
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) relaying: Relaying,
}

/// The host addresses whose ports the kernel can't translate to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relaying {
    /// None: nothing is translated, or everything.
    Nothing,
    /// `::1`, of an endpoint with IPv6: answers are never routed back to it.
    Loopback,
    /// Those of IPv6, of an endpoint without.
    Ipv6,
}

impl Relaying {
    /// Whether what comes in at this address must be relayed, or some of it.
    pub(crate) fn covers(self, protocol: Protocol, address: IpAddr) -> bool {
        address.is_ipv6()
            && protocol != Protocol::Sctp
            && match self {
                Self::Nothing => false,
                Self::Loopback => address.is_unspecified() || address.is_loopback(),
                Self::Ipv6 => true,
            }
    }
}

impl Ports {
    /// Nothing taken.
    pub(crate) fn new() -> Result<Self, crate::KernelError> {
        let setting = sysctl::read(sysctl::EPHEMERAL_PORTS)?.unwrap_or_default();
        let mut numbers = setting.split_whitespace().map(str::parse);
        let ephemeral = match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last))) if 0 < first && first <= last => (first, last),
            _ => (32768, 60999),
        };
        Ok(Self { taken: BTreeMap::new(), ephemeral, next_ephemeral: ephemeral.0 })
    }

    /// Takes a host port for each binding, or none at all. The supervisor of the container has the ports of `held` already.
    pub(crate) fn reserve(
        &mut self,
        publisher: Publisher<'_>,
        bindings: &[PortBinding],
        held: &[PublishedPort],
    ) -> Result<Vec<PublishedPort>, PublishError> {
        let mut ports = Vec::with_capacity(bindings.len());
        let has_ipv6 = publisher.relaying == Relaying::Ipv6 && host_has_ipv6();
        for binding in bindings {
            match self.reserve_one(publisher, binding, held, has_ipv6) {
                Ok(taken) => ports.extend(taken),
                Err(error) => {
                    self.release(&ports);
                    return Err(error);
                }
            }
        }
        Ok(ports)
    }

    /// Takes back ports that are in use since before the daemon's start. Those that another process has meanwhile are
    /// kept without a reservation and returned: the container was first, and its rules win. What is relayed its supervisor has;
    /// if not, the last daemon had no time to give it away.
    pub(crate) fn readopt(
        &mut self,
        holder: &str,
        ports: &[PublishedPort],
        relaying: Relaying,
    ) -> Vec<PublishedPort> {
        let mut unreserved = Vec::new();
        for port in ports {
            let is_relayed = relaying.covers(port.protocol, port.host_address);
            let socket = bind(port.protocol, port.host_address, port.host_port, is_relayed);
            if socket.is_err() && !is_relayed {
                unreserved.push(*port);
            }
            self.insert(port.protocol, port.host_address, port.host_port, holder, socket.ok().flatten());
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

    /// Hands out the socket of a port that is relayed; `None` if the supervisor has it.
    pub(crate) fn take_socket(&mut self, port: &PublishedPort) -> Option<OwnedFd> {
        let reservations = self.taken.get_mut(&(port.protocol, port.host_port))?;
        let found = reservations.iter_mut().find(|reservation| reservation.address == port.host_address)?;
        found.socket.take()
    }

    /// A binding that names no address is for every family of the network, with one port.
    fn reserve_one(
        &mut self,
        publisher: Publisher<'_>,
        binding: &PortBinding,
        held: &[PublishedPort],
        host_has_ipv6: bool,
    ) -> Result<Vec<PublishedPort>, PublishError> {
        if binding.container_port == 0 {
            return Err(PublishError::InvalidContainerPort);
        }
        let addresses = host_addresses(publisher, binding, host_has_ipv6)?;
        let (protocol, relaying) = (binding.protocol, publisher.relaying);
        let want = Want { protocol, addresses: &addresses, holder: publisher.name, relaying, held };
        let host_port = match (binding.host_port, binding.host_port_last) {
            (0, _) => self.reserve_ephemeral(&want)?,
            (first, Some(last)) if first > last => return Err(PublishError::InvalidRange { first, last }),
            (first, Some(last)) if first < last => self.reserve_of(&want, first, last)?,
            (port, _) => self.reserve_exactly(&want, port)?,
        };
        let published = |host_address: &IpAddr| PublishedPort {
            container_port: binding.container_port,
            protocol: binding.protocol,
            host_address: *host_address,
            host_port,
        };
        Ok(addresses.iter().map(published).collect())
    }

    fn reserve_exactly(&mut self, want: &Want<'_>, port: u16) -> Result<u16, PublishError> {
        for address in want.addresses {
            if let Some(holder) = self.holder(want.protocol, *address, port) {
                return Err(PublishError::Allocated { address: *address, port, holder: holder.to_owned() });
            }
        }
        self.bind_all(want, port)
            .map_err(|(address, errno)| bind_error(want.protocol, address, port, errno))?;
        Ok(port)
    }

    /// The first free port of a range. Only "in use" leads on to the next one: other failures are the same for all.
    fn reserve_of(&mut self, want: &Want<'_>, first: u16, last: u16) -> Result<u16, PublishError> {
        for port in first..=last {
            if want.addresses.iter().any(|address| self.holder(want.protocol, *address, port).is_some()) {
                continue;
            }
            match self.bind_all(want, port) {
                Ok(()) => return Ok(port),
                Err((_, Errno::ADDRINUSE)) => {}
                Err((address, errno)) => return Err(bind_error(want.protocol, address, port, errno)),
            }
        }
        let address = want.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Err(PublishError::RangeAllocated { address, first, last })
    }

    /// Ephemeral ports are given in turn, as addresses are.
    fn reserve_ephemeral(&mut self, want: &Want<'_>) -> Result<u16, PublishError> {
        let (first, last) = self.ephemeral;
        let from = self.next_ephemeral;
        let port = match self.reserve_of(want, from, last) {
            Err(PublishError::RangeAllocated { .. }) if from > first => {
                self.reserve_of(want, first, from - 1)
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

    /// Binds the port on every address, or on none.
    fn bind_all(&mut self, want: &Want<'_>, port: u16) -> Result<(), (IpAddr, Errno)> {
        let mut sockets = Vec::with_capacity(want.addresses.len());
        for address in want.addresses {
            let socket = if want.is_held(*address, port) {
                None
            } else {
                let is_relayed = want.relaying.covers(want.protocol, *address);
                bind(want.protocol, *address, port, is_relayed).map_err(|errno| (*address, errno))?
            };
            sockets.push(socket);
        }
        for (address, socket) in want.addresses.iter().zip(sockets) {
            self.insert(want.protocol, *address, port, want.holder, socket);
        }
        Ok(())
    }

    /// The container that has the port on this address, or on every address of the family.
    fn holder(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<&str> {
        let collides = |other: IpAddr| {
            other.is_ipv4() == address.is_ipv4()
                && (other == address || other.is_unspecified() || address.is_unspecified())
        };
        let reservations = self.taken.get(&(protocol, port))?;
        let found = reservations.iter().find(|reservation| collides(reservation.address))?;
        Some(&found.holder)
    }

    fn insert(
        &mut self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        holder: &str,
        socket: Option<OwnedFd>,
    ) {
        let reservation = Reservation { address, holder: holder.to_owned(), socket };
        self.taken.entry((protocol, port)).or_default().push(reservation);
    }
}

/// One port, wanted on several addresses.
struct Want<'a> {
    protocol: Protocol,
    addresses: &'a [IpAddr],
    holder: &'a str,
    relaying: Relaying,
    held: &'a [PublishedPort],
}

impl Want<'_> {
    /// Whether the container's supervisor relays this very port already.
    fn is_held(&self, address: IpAddr, port: u16) -> bool {
        self.relaying.covers(self.protocol, address)
            && self.held.iter().any(|held| {
                held.protocol == self.protocol && held.host_address == address && held.host_port == port
            })
    }
}

/// Where a binding is to be reached. One without an address is on all that its network says; if that is every address of IPv4,
/// then on those of IPv6, too, as far as the host has them.
fn host_addresses(
    publisher: Publisher<'_>,
    binding: &PortBinding,
    host_has_ipv6: bool,
) -> Result<Vec<IpAddr>, PublishError> {
    let text = binding.host_address.as_str();
    let any_ipv6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let relays_ipv6 = publisher.relaying == Relaying::Ipv6 && binding.protocol != Protocol::Sctp;
    if text.is_empty() {
        let translated = publisher.ipv4.map(IpAddr::V4).into_iter().chain(publisher.ipv6.map(IpAddr::V6));
        let everywhere = publisher.ipv4 == Some(Ipv4Addr::UNSPECIFIED);
        let relayed = (relays_ipv6 && everywhere && host_has_ipv6).then_some(any_ipv6);
        return Ok(translated.chain(relayed).collect());
    }
    let address: IpAddr = text
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .map_err(|_| PublishError::InvalidAddress { address: text.to_owned() })?;
    let families = [publisher.ipv4.is_some(), publisher.ipv6.is_some() || relays_ipv6];
    if !families[usize::from(address.is_ipv6())] {
        return Err(PublishError::OtherFamily { address });
    }
    Ok(vec![address])
}

/// Whether anybody could reach the host by IPv6, and be it itself.
fn host_has_ipv6() -> bool {
    let any_port = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0);
    rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::bind(&socket, &any_port))
        .is_ok()
}

fn bind_error(protocol: Protocol, address: IpAddr, port: u16, errno: Errno) -> PublishError {
    let holder = if errno == Errno::ADDRINUSE { holder::find(protocol, port) } else { None };
    PublishError::Bind { protocol, address: SocketAddr::new(address, port), reason: reason(errno), holder }
}

/// Binds a socket that keeps the port, or one that a supervisor can relay it by.
///
/// `SO_REUSEADDR` is what a server sets so that old connections in TIME_WAIT don't count as "in use". Set on our socket, which
/// never listens, it would let any other server onto the port. So a plain bind is tried first; if it fails, one with
/// the option tells TIME_WAIT from a real user, and the option is taken off again at once.
fn bind(protocol: Protocol, address: IpAddr, port: u16, is_relayed: bool) -> Result<Option<OwnedFd>, Errno> {
    /// The kernel has a limit of its own, `net.core.somaxconn`.
    const QUEUE: i32 = 4096;
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(rustix::net::ipproto::SCTP)),
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, is_relayed);
    let socket = match rustix::net::socket_with(family, kind, flags, number) {
        // A kernel without SCTP has no process that could listen there.
        Err(Errno::PROTONOSUPPORT) if protocol == Protocol::Sctp => return Ok(None),
        other => other?,
    };
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    let address = SocketAddr::new(address, port);
    match (rustix::net::bind(&socket, &address), protocol) {
        (Err(Errno::ADDRINUSE), Protocol::Tcp) => {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        (Ok(()), Protocol::Udp) if !is_relayed => {
            // Datagrams that slip past the firewall would wait in the queue for ever: keep it as short as possible.
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 0)?;
        }
        (result, _) => result?,
    }
    if is_relayed && protocol == Protocol::Tcp {
        rustix::net::listen(&socket, QUEUE)?;
    }
    Ok(Some(socket))
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
