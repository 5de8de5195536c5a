//! IPv4 addresses, routes and neighbours.

use std::net::Ipv4Addr;

use super::message::{Batch, Parsed, attribute};
use super::socket::{NetlinkError, Socket};

/// In the width it has on the wire.
const AF_INET: u8 = 2;
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
    pub address: Ipv4Addr,
    /// The length of its prefix.
    pub prefix: u8,
}

/// A unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The destination; unspecified for the default route.
    pub destination: Ipv4Addr,
    /// The length of its prefix.
    pub prefix: u8,
    /// The next hop, if any.
    pub gateway: Option<Ipv4Addr>,
    /// The interface it leaves by, unless it has several next hops.
    pub index: Option<u32>,
    /// Its rank among routes to the same destination: the smallest wins.
    pub metric: u32,
    /// The routing table; 254 is the main one.
    pub table: u32,
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
    let octets = address.address.octets();
    let mut fixed = [AF_INET, address.prefix, 0, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&address.index.to_ne_bytes());
    batch.push(kind, flags, &fixed, |attributes| {
        attributes.bytes(libc::IFA_LOCAL, &octets).bytes(libc::IFA_ADDRESS, &octets);
        if address.prefix < 31 {
            let host_bits = u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0);
            attributes.be32(libc::IFA_BROADCAST, address.address.to_bits() | host_bits);
        }
    });
}

/// Adds a default route through `gateway` on the interface `index`.
pub fn add_default_route(batch: &mut Batch, gateway: Ipv4Addr, index: u32) {
    let mut fixed = [0; ROUTE];
    fixed[..8].copy_from_slice(&[
        AF_INET,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ]);
    batch.push(libc::RTM_NEWROUTE, CREATE, &fixed, |attributes| {
        attributes.bytes(libc::RTA_GATEWAY, &gateway.octets()).u32(libc::RTA_OIF, index);
    });
}

/// Adds a permanent entry to the neighbour table: nobody has to ask for the address, and the entry doesn't count
/// against the table's limit.
pub fn add_neighbour(batch: &mut Batch, index: u32, address: Ipv4Addr, mac: [u8; 6]) {
    batch.push(
        libc::RTM_NEWNEIGH,
        libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        &neighbour(index, libc::NUD_PERMANENT),
        |attributes| {
            attributes.bytes(libc::NDA_DST, &address.octets()).bytes(libc::NDA_LLADDR, &mac);
        },
    );
}

/// Adds the removal of an entry of the neighbour table.
pub fn delete_neighbour(batch: &mut Batch, index: u32, address: Ipv4Addr) {
    batch.push(libc::RTM_DELNEIGH, 0, &neighbour(index, 0), |attributes| {
        attributes.bytes(libc::NDA_DST, &address.octets());
    });
}

/// `struct ndmsg`.
fn neighbour(index: u32, state: u16) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = AF_INET;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed
}

/// All IPv4 addresses of the namespace.
pub fn addresses(socket: &mut Socket) -> Result<Vec<Address>, NetlinkError> {
    let mut fixed = [0; ADDRESS];
    fixed[0] = AF_INET;
    let request = |batch: &mut Batch| {
        batch.push(libc::RTM_GETADDR, libc::NLM_F_DUMP, &fixed, |_| ());
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

/// All IPv4 unicast routes of the namespace, in every table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut fixed = [0; ROUTE];
    fixed[0] = AF_INET;
    let request = |batch: &mut Batch| {
        batch.push(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &fixed, |_| ());
    };
    socket.dump(request, |routes: &mut Vec<Route>, _, payload| routes.extend(parse_route(payload)))
}

pub(super) fn parse_address(payload: &[u8]) -> Option<Address> {
    let index = payload.get(4..8).and_then(attribute::u32)?;
    let attributes = Parsed(payload.get(ADDRESS..)?);
    let address = attributes.find(libc::IFA_LOCAL).or_else(|| attributes.find(libc::IFA_ADDRESS))?;
    (payload[0] == AF_INET).then_some(())?;
    Some(Address { index, address: attribute::ipv4(address)?, prefix: payload[1] })
}

pub(super) fn parse_route(payload: &[u8]) -> Option<Route> {
    let attributes = Parsed(payload.get(ROUTE..)?);
    if payload[0] != AF_INET || payload[7] != libc::RTN_UNICAST {
        return None;
    }
    let number = |kind| attributes.find(kind).and_then(attribute::u32);
    let address = |kind| attributes.find(kind).and_then(attribute::ipv4);
    Some(Route {
        destination: address(libc::RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED),
        prefix: payload[1],
        gateway: address(libc::RTA_GATEWAY),
        index: number(libc::RTA_OIF),
        metric: number(libc::RTA_PRIORITY).unwrap_or(0),
        table: number(libc::RTA_TABLE).unwrap_or(payload[4].into()),
    })
}
