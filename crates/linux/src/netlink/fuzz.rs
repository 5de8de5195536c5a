//! What the fuzz targets see of netlink (feature `fuzz`; docs/fuzzing.md).

use super::message::Parsed;
use super::{conntrack, link, nftables, route, socket};

/// Reads bytes as a datagram of the kernel's, and as the payload of every kind of answer.
pub fn answers(bytes: &[u8]) {
    socket::read_datagram(bytes);
    link::parse(bytes);
    link::parse_statistics(bytes);
    route::parse_address(bytes);
    route::parse_route(bytes);
    conntrack::parse(bytes);
    nftables::parse_chain(bytes);
    nftables::parse_rule(Parsed(bytes));
    nftables::decides_everything(Parsed(bytes));
}
