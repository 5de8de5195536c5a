//! The sockets of a container's resolver, and the rules that lead its queries there.
//!
//! Queries go to 127.0.0.11, port 53. The sockets are on random ports of that address, with a NAT rule in the container's
//! namespace that leads from one to the other: so a container may have a server of its own on port 53 of every address.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use palan_linux::netlink::nftables::{
    Comparison, Family, Header, Hook, HookPoint, Meta, Position, Register, Rule, Transaction,
};
use palan_linux::netlink::{Protocol, Socket};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::KernelError;
use crate::error::netlink;
use crate::namespace::Sandbox;

/// Where containers ask; Docker's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
const TABLE: &str = "palan-resolver";
const CHAIN: &str = "output";
const QUEUE: i32 = 64;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The sockets inside of a container's namespace, ready to be answered on.
#[derive(Debug)]
pub struct ResolverSockets {
    /// Bound.
    pub udp: OwnedFd,
    /// Listening.
    pub tcp: OwnedFd,
}

impl Sandbox {
    /// Makes the sockets of the container's resolver, and leads its queries there. A second call replaces the first.
    pub fn resolver(&self) -> Result<ResolverSockets, KernelError> {
        self.run(|| {
            let failed = |errno: rustix::io::Errno| KernelError::Resolver { source: errno.into() };
            let (udp, udp_port) = bind(SocketType::DGRAM).map_err(failed)?;
            let (tcp, tcp_port) = bind(SocketType::STREAM).map_err(failed)?;
            rustix::net::listen(&tcp, QUEUE).map_err(failed)?;
            let mut socket = Socket::open(Protocol::Netfilter).map_err(netlink("open a netlink socket"))?;
            let ports = [(UDP, udp_port), (TCP, tcp_port)];
            let mut made = rules(ports, false).commit(&mut socket);
            if made.as_ref().is_err_and(|error| error.errno() == Some(rustix::io::Errno::EXIST)) {
                made = rules(ports, true).commit(&mut socket);
            }
            made.map_err(netlink("lead the container's DNS queries to its resolver"))?;
            Ok(ResolverSockets { udp, tcp })
        })
    }
}

/// The table, which is new unless another is to be replaced: in a new namespace there is none, and a removal would be waited for.
fn rules(ports: [(u8, u16); 2], replace: bool) -> Transaction {
    let mut change = Transaction::new(Family::Ipv4);
    if replace {
        change.delete_table(TABLE);
    }
    change.create_table(TABLE);
    let hook = Hook { kind: "nat", point: HookPoint::Output, priority: -100 };
    change.add_chain(TABLE, CHAIN, Some(hook));
    for (protocol, port) in ports {
        change.add_rule(TABLE, CHAIN, Position::End, &lead_to(protocol, port));
    }
    change
}

fn bind(kind: SocketType) -> rustix::io::Result<(OwnedFd, u16)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(ADDRESS, 0))?;
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, address.port()))
}

fn lead_to(protocol: u8, port: u16) -> Rule {
    let (first, second) = (Register(0), Register(1));
    let [high, low] = port.to_be_bytes();
    Rule::new()
        .payload(Header::Network, 16, 4, first)
        .compare(first, Comparison::Equal, &ADDRESS.octets())
        .meta(Meta::TransportProtocol, first)
        .compare(first, Comparison::Equal, &[protocol])
        .payload(Header::Transport, 2, 2, first)
        .compare(first, Comparison::Equal, &PORT.to_be_bytes())
        .constant(&ADDRESS.octets(), first)
        .constant(&[high, low], second)
        .destination_nat(Family::Ipv4, first, second)
}
