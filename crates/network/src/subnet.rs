//! An address of either family with its prefix length, as `172.17.0.1/16` or `fd00:1::1/64` is written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and the length of its network prefix; the address may be a host's (`bip`) or the network's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no subnet: write it like 172.17.0.1/16 or fd00:1::/64")]
pub struct SubnetParseError {
    text: String,
}

impl Subnet {
    /// `address/prefix`; a prefix over the family's longest counts as that.
    #[must_use]
    pub fn new(address: impl Into<IpAddr>, prefix: u8) -> Self {
        let address = address.into();
        Self { address, prefix: prefix.min(width(address)) }
    }

    /// The same for constants, where the prefix is known to be right.
    pub(crate) const fn constant(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix }
    }

    /// The address as it was given, host bits included.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv6.
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The same subnet written with its first address.
    #[must_use]
    pub fn network(self) -> Self {
        Self { address: self.number(self.first()), prefix: self.prefix }
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(self) -> IpAddr {
        self.number(self.last())
    }

    /// The netmask.
    #[must_use]
    pub fn mask(self) -> IpAddr {
        self.number(self.mask_bits())
    }

    /// Whether `address` lies in the subnet.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6() && bits(address) & self.mask_bits() == self.first()
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// The first address as a number.
    pub(crate) fn first(self) -> u128 {
        bits(self.address) & self.mask_bits()
    }

    /// The last address as a number.
    pub(crate) fn last(self) -> u128 {
        self.first() | (self.all_bits() & !self.mask_bits())
    }

    /// The address of this family with a number.
    pub(crate) fn number(self, number: u128) -> IpAddr {
        match self.address {
            // The upper bits are none of an IPv4 address, as every number here comes from one.
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }

    fn all_bits(self) -> u128 {
        u128::MAX >> (128 - u32::from(width(self.address)))
    }

    fn mask_bits(self) -> u128 {
        let host = u32::from(width(self.address) - self.prefix);
        self.all_bits() & u128::MAX.checked_shl(host).unwrap_or(0)
    }
}

/// An address as a number.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The longest prefix of the address's family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
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
            let address: IpAddr = address.parse().ok()?;
            let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix: u8 = prefix.parse().ok().filter(|prefix| digits && *prefix <= width(address))?;
            Some(Self { address, prefix })
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

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        assert_eq!(subnet("172.17.0.1/16").to_string(), "172.17.0.1/16");
        assert_eq!(subnet("172.17.0.1/16").network().to_string(), "172.17.0.0/16");
        assert_eq!(subnet("10.1.2.3/20").broadcast(), address("10.1.15.255"));
        assert_eq!(subnet("10.1.2.3/20").mask(), address("255.255.240.0"));
        assert_eq!(subnet("fd00:1::5/64").network().to_string(), "fd00:1::/64");
        assert_eq!(subnet("fd00:1::5/64").broadcast(), address("fd00:1::ffff:ffff:ffff:ffff"));
        for bad in
            ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.256/8", "fd00::1/129", "10.0.0.1/-1", "10.0.0.1/+8"]
        {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_extremes_of_the_prefix() {
        assert!(subnet("0.0.0.0/0").contains(address("255.255.255.255")));
        assert!(subnet("::/0").contains(address("ff::1")));
        assert!(subnet("1.2.3.4/32").contains(address("1.2.3.4")));
        assert!(!subnet("1.2.3.4/32").contains(address("1.2.3.5")));
        assert!(subnet("fd00::1/128").contains(address("fd00::1")));
        assert!(!subnet("::/0").contains(address("1.2.3.4")), "another family");
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in [
            ("172.17.0.0/16", "172.17.5.1/24", true),
            ("172.17.0.0/16", "172.18.0.0/16", false),
            ("172.16.0.0/12", "172.31.0.0/16", true),
            ("fd00::/48", "fd00:0:0:5::/64", true),
            ("::/0", "10.0.0.0/8", false),
        ] {
            assert_eq!(subnet(a).overlaps(subnet(b)), expected, "{a} {b}");
            assert_eq!(subnet(b).overlaps(subnet(a)), expected, "{b} {a}");
        }
    }
}
