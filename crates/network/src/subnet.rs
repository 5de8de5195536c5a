//! An IPv4 address with its prefix length, as `172.17.0.1/16` is written.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 address and the length of its network prefix; the address may be a host's (`bip`) or the network's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no IPv4 subnet: write it like 172.17.0.1/16")]
pub struct SubnetParseError {
    text: String,
}

impl Subnet {
    /// `address/prefix`; a prefix over 32 counts as 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix: prefix.min(32) }
    }

    /// The same for constants, where the prefix is known to be right.
    pub(crate) const fn constant(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix }
    }

    /// The address as it was given, host bits included.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The same subnet written with its first address.
    #[must_use]
    pub fn network(self) -> Self {
        Self::new(Ipv4Addr::from_bits(self.first()), self.prefix)
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.last())
    }

    /// The netmask.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask_bits())
    }

    /// Whether `address` lies in the subnet.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask_bits() == self.first()
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    pub(crate) fn first(self) -> u32 {
        self.address.to_bits() & self.mask_bits()
    }

    pub(crate) fn last(self) -> u32 {
        self.first() | !self.mask_bits()
    }

    fn mask_bits(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = SubnetParseError;

    fn from_str(text: &str) -> Result<Self, SubnetParseError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Self { address: address.parse().ok()?, prefix })
        };
        parse().ok_or_else(|| SubnetParseError { text: text.to_owned() })
    }
}

impl serde::Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        assert_eq!(subnet("172.17.0.1/16").to_string(), "172.17.0.1/16");
        assert_eq!(subnet("172.17.0.1/16").network().to_string(), "172.17.0.0/16");
        assert_eq!(subnet("10.1.2.3/20").broadcast(), Ipv4Addr::new(10, 1, 15, 255));
        assert_eq!(subnet("10.1.2.3/20").mask(), Ipv4Addr::new(255, 255, 240, 0));
        for bad in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.256/8", "fd00::1/64", "10.0.0.1/-1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_extremes_of_the_prefix() {
        assert!(subnet("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
        assert!(subnet("1.2.3.4/32").contains(Ipv4Addr::new(1, 2, 3, 4)));
        assert!(!subnet("1.2.3.4/32").contains(Ipv4Addr::new(1, 2, 3, 5)));
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in [
            ("172.17.0.0/16", "172.17.5.1/24", true),
            ("172.17.0.0/16", "172.18.0.0/16", false),
            ("172.16.0.0/12", "172.31.0.0/16", true),
        ] {
            assert_eq!(subnet(a).overlaps(subnet(b)), expected);
            assert_eq!(subnet(b).overlaps(subnet(a)), expected);
        }
    }
}
