//! Networks in CIDR notation, and the addresses that only the machine itself may ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Parses CIDR notation; `None` for everything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= widest).then_some(Self { address, prefix })
    }

    /// Whether `address` is inside.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                let head = |value: Ipv4Addr| u32::from(value).checked_shr(shift).unwrap_or(0);
                head(network) == head(address)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                let head = |value: Ipv6Addr| u128::from(value).checked_shr(shift).unwrap_or(0);
                head(network) == head(address)
            }
            _ => false,
        }
    }
}

/// Whether `address` belongs to the link or to a cloud's metadata service, which hand out a machine's credentials to
/// whoever asks from that machine. Registries may not send us there (CVE-2026-33990 was that).
pub(crate) fn is_metadata_or_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_forbidden_v4(address),
        IpAddr::V6(address) => is_forbidden_v6(address),
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    // The last two are Alibaba's metadata service and Azure's agent service.
    address.is_link_local()
        || address.octets()[0] == 0
        || address.is_broadcast()
        || address.is_multicast()
        || address == Ipv4Addr::new(100, 100, 100, 200)
        || address == Ipv4Addr::new(168, 63, 129, 16)
}

fn is_forbidden_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // fd00:ec2::254 is Amazon's, fd20:ce::254 Google's.
    let metadata = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    address.is_unicast_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || metadata.contains(&address)
        || embedded_v4(&segments).is_some_and(is_forbidden_v4)
}

/// The IPv4 address inside a NAT64 (64:ff9b::/96), 6to4 (2002::/16) or IPv4-compatible (::/96) address.
fn embedded_v4(segments: &[u16; 8]) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(*high, *low)),
        [0x2002, high, low, ..] => Some(join(*high, *low)),
        [0, 0, 0, 0, 0, 0, high, low] if *high != 0 => Some(join(*high, *low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).is_some_and(|network| network.contains(address.parse().unwrap()))
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "8.8.8.8") && contains("::/0", "fe80::1"));
        assert!(contains("192.168.1.5/32", "192.168.1.5") && !contains("192.168.1.5/32", "192.168.1.6"));
        assert!(!contains("::/0", "1.2.3.4"));
        assert_eq!(Network::parse("10.0.0.0/33"), None);
        assert_eq!(Network::parse("10.0.0.0"), None);
    }

    #[test]
    fn metadata_services_are_recognised_in_every_disguise() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
        ] {
            assert!(is_metadata_or_link_local(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "8.8.8.8", "::1", "2001:db8::1", "fd00::1"] {
            assert!(!is_metadata_or_link_local(address.parse().unwrap()), "{address}");
        }
    }
}
