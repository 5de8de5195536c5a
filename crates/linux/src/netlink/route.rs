//! Addresses, routes and neighbours of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Batch, Parsed, attribute};
use super::socket::{NetlinkError, Socket};

/// In the width they have on the wire.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// The lengths of `struct ifaddrmsg`, `struct rtmsg`.
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
}

/// A unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The destination; unspecified for the default route.
    pub destination: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// The next hop, if any.
    pub gateway: Option<IpAddr>,
    /// The interface it leaves by, unless it has several next hops.
    pub index: Option<u32>,
    /// Its rank among routes to the same destination: the smallest wins.
    pub metric: u32,
    /// The routing table; 254 is the main one.
    pub table: u32,
}

/// `IFA_F_NODAD` in the width of `struct ifaddrmsg`.
const IFA_F_NODAD: u8 = 2;

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address as an attribute holds it; the length tells the family.
fn ip(content: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(content) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(content).ok().map(IpAddr::from)
}

/// Adds a message that gives an interface an address, with the broadcast address that belongs to it.
pub fn add_address(batch: &mut Batch, address: Address) {
    change_address(batch, libc::RTM_NEWADDR, CREATE, address);
}

/// Adds a message that takes an address from an interface.
pub fn delete_address(batch: &mut Batch, address: Address) {
    change_address(batch, libc::RTM_DELADDR, 0, address);
}

fn change_address(batch: &mut Batch, kind: u16, flags: i32, address: Address) {
    let octets = octets(address.address);
    // An IPv6 address is used at once: whoever gives it knows that nobody else has it.
    let no_detection = if address.address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut fixed =
        [family(address.address), address.prefix, no_detection, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&address.index.to_ne_bytes());
    batch.push(kind, flags, &fixed, |attributes| {
        attributes.bytes(libc::IFA_LOCAL, &octets).bytes(libc::IFA_ADDRESS, &octets);
        if let IpAddr::V4(ipv4) = address.address
            && address.prefix < 31
        {
            let host_bits = u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0);
            attributes.be32(libc::IFA_BROADCAST, ipv4.to_bits() | host_bits);
        }
    });
}

/// Adds the default route of the gateway's family through it on the interface `index`, in place of any other.
pub fn set_default_route(batch: &mut Batch, gateway: IpAddr, index: u32) {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    batch.push(libc::RTM_NEWROUTE, flags, &default_route(family(gateway)), |attributes| {
        attributes.bytes(libc::RTA_GATEWAY, &octets(gateway)).u32(libc::RTA_OIF, index);
    });
}

/// Adds a default route of the gateway's family that is no more than an interface: everything is a neighbour there.
pub fn set_default_device(batch: &mut Batch, ipv6: bool, index: u32) {
    let mut fixed = default_route(if ipv6 { AF_INET6 } else { AF_INET });
    fixed[6] = libc::RT_SCOPE_LINK;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    batch.push(libc::RTM_NEWROUTE, flags, &fixed, |attributes| {
        attributes.u32(libc::RTA_OIF, index);
    });
}

/// Adds the removal of a default route.
pub fn delete_default_route(batch: &mut Batch, ipv6: bool) {
    let mut fixed = default_route(if ipv6 { AF_INET6 } else { AF_INET });
    fixed[6] = libc::RT_SCOPE_NOWHERE;
    batch.push(libc::RTM_DELROUTE, 0, &fixed, |_| ());
}

/// `struct rtmsg` of the default route in the main table.
fn default_route(family: u8) -> [u8; ROUTE] {
    let mut fixed = [0; ROUTE];
    fixed[..8].copy_from_slice(&[
        family,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ]);
    fixed
}

/// Adds a permanent entry to the neighbour table: nobody has to ask for the address, and the entry doesn't count
/// against the table's limit.
pub fn add_neighbour(batch: &mut Batch, index: u32, address: IpAddr, mac: [u8; 6]) {
    batch.push(
        libc::RTM_NEWNEIGH,
        libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        &neighbour(address, index, libc::NUD_PERMANENT),
        |attributes| {
            attributes.bytes(libc::NDA_DST, &octets(address)).bytes(libc::NDA_LLADDR, &mac);
        },
    );
}

/// Adds the removal of an entry of the neighbour table.
pub fn delete_neighbour(batch: &mut Batch, index: u32, address: IpAddr) {
    batch.push(libc::RTM_DELNEIGH, 0, &neighbour(address, index, 0), |attributes| {
        attributes.bytes(libc::NDA_DST, &octets(address));
    });
}

/// `struct ndmsg`.
fn neighbour(address: IpAddr, index: u32, state: u16) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = family(address);
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed
}

/// All addresses of the namespace.
pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>, NetlinkError> {
    let request = |batch: &mut Batch| {
        batch.push(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS], |_| ());
    };
    socket.dump(request, |addresses: &mut Vec<Address>, _, payload| addresses.extend(parse_address(payload)))
}

/// A global address of either family, as the kernel describes it: to be given to the same interface again, after it
/// has moved to another namespace and lost it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAddress {
    /// The interface.
    pub index: u32,
    family: u8,
    prefix: u8,
    /// Kinds and contents of the attributes that make it.
    attributes: Vec<(u16, Vec<u8>)>,
}

/// All global addresses of the namespace, of both families.
pub fn global_addresses(socket: &mut Socket) -> Result<Vec<KeptAddress>, NetlinkError> {
    let request = |batch: &mut Batch| {
        batch.push(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS], |_| ());
    };
    socket.dump(request, |kept: &mut Vec<KeptAddress>, _, payload| kept.extend(parse_kept(payload)))
}

fn parse_kept(payload: &[u8]) -> Option<KeptAddress> {
    let index = payload.get(4..8).and_then(attribute::u32)?;
    let found = Parsed(payload.get(ADDRESS..)?);
    let attributes = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_BROADCAST]
        .into_iter()
        .filter_map(|kind| Some((kind, found.find(kind)?.to_vec())))
        .collect();
    let is_global = payload[3] == libc::RT_SCOPE_UNIVERSE;
    is_global.then_some(KeptAddress { index, family: payload[0], prefix: payload[1], attributes })
}

/// Adds a message that gives an interface an address that was kept.
pub fn restore_address(batch: &mut Batch, address: &KeptAddress) {
    let mut fixed = [address.family, address.prefix, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&address.index.to_ne_bytes());
    batch.push(libc::RTM_NEWADDR, CREATE, &fixed, |attributes| {
        for (kind, content) in &address.attributes {
            attributes.bytes(*kind, content);
        }
    });
}

/// All unicast routes of the namespace, in every table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let request = |batch: &mut Batch| {
        batch.push(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &[0; ROUTE], |_| ());
    };
    socket.dump(request, |routes: &mut Vec<Route>, _, payload| routes.extend(parse_route(payload)))
}

pub(super) fn parse_address(payload: &[u8]) -> Option<Address> {
    let index = payload.get(4..8).and_then(attribute::u32)?;
    let attributes = Parsed(payload.get(ADDRESS..)?);
    let address = attributes.find(libc::IFA_LOCAL).or_else(|| attributes.find(libc::IFA_ADDRESS))?;
    Some(Address { index, address: ip(address)?, prefix: payload[1] })
}

pub(super) fn parse_route(payload: &[u8]) -> Option<Route> {
    let attributes = Parsed(payload.get(ROUTE..)?);
    let unspecified = match payload[0] {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if payload[7] != libc::RTN_UNICAST {
        return None;
    }
    let number = |kind| attributes.find(kind).and_then(attribute::u32);
    let address = |kind| attributes.find(kind).and_then(ip);
    Some(Route {
        destination: address(libc::RTA_DST).unwrap_or(unspecified),
        prefix: payload[1],
        gateway: address(libc::RTA_GATEWAY),
        index: number(libc::RTA_OIF),
        metric: number(libc::RTA_PRIORITY).unwrap_or(0),
        table: number(libc::RTA_TABLE).unwrap_or(payload[4].into()),
    })
}
