//! The types that name an endpoint and what it has; those the caller stores carry a version.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The identity of an endpoint: 64 lower-case hexadecimal digits. The host side's interface is named after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointId(String);

/// Why a text is no [`EndpointId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no endpoint id: 64 lower-case hexadecimal digits are expected")]
pub struct InvalidEndpointId(String);

impl EndpointId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<[u8; 32]> for EndpointId {
    /// An id from 32 random bytes.
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl TryFrom<String> for EndpointId {
    type Error = InvalidEndpointId;

    fn try_from(text: String) -> Result<Self, InvalidEndpointId> {
        let valid = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Self(text)) } else { Err(InvalidEndpointId(text)) }
    }
}

impl From<EndpointId> for String {
    fn from(id: EndpointId) -> Self {
        id.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address, written `02:42:ac:11:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is no usable [`MacAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid MAC address \"{0}\": six hexadecimal pairs of a unicast address are expected, like 02:42:ac:11:00:02"
)]
pub struct InvalidMacAddress(String);

impl MacAddress {
    /// The address Docker derives from an IPv4 address: `02:42:` and its four bytes. Peers' neighbour tables stay
    /// valid when an address passes on to another container.
    #[must_use]
    pub fn from_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, InvalidMacAddress> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut parts = text.split([':', '-']);
            for byte in &mut bytes {
                let part = parts.next().filter(|part| part.len() == 2)?;
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            let unicast = bytes[0] & 1 == 0 && bytes != [0; 6];
            (parts.next().is_none() && unicast).then_some(Self(bytes))
        };
        parse().ok_or_else(|| InvalidMacAddress(text.to_owned()))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidMacAddress;

    fn try_from(text: String) -> Result<Self, InvalidMacAddress> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The transport protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Why a text is no [`Protocol`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ports of protocol \"{0}\" can't be published, only tcp, udp and sctp")]
pub struct UnsupportedProtocol(String);

impl FromStr for Protocol {
    type Err = UnsupportedProtocol;

    fn from_str(text: &str) -> Result<Self, UnsupportedProtocol> {
        match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(UnsupportedProtocol(text.to_owned())),
        }
    }
}

/// A port to publish, as asked: one container port, and where on the host it should be reachable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The port inside the container.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host address as written; empty is the network's default, usually every address of each family it has.
    pub host_address: String,
    /// The host's port; 0 takes a free one of the ephemeral range.
    pub host_port: u16,
    /// The last port of a range to choose from (`-p 8000-8010:80`); `None` leaves no choice.
    pub host_port_last: Option<u16>,
}

/// A port that is published: what [`PortBinding`] became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port inside the container.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host address, 0.0.0.0 or :: for all of a family.
    pub host_address: IpAddr,
    /// The host's port, never 0.
    pub host_port: u16,
}

/// What the caller stores about an attached endpoint, and gives back to detach it or after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// The version of this type's form, [`EndpointRecord::VERSION`] when written by this release.
    pub version: u32,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The network it is on.
    pub network_id: String,
    /// The container it belongs to, for messages.
    pub container_id: String,
    /// The interface on the host that leads to it; empty where there is none (macvlan).
    pub host_interface: String,
    /// The interface inside of the container.
    pub interface: String,
    /// The IPv4 side.
    pub ipv4: Option<EndpointAddress>,
    /// The IPv6 side.
    pub ipv6: Option<EndpointAddress>,
    /// The container's Ethernet address; an ipvlan interface has its parent's.
    pub mac: Option<MacAddress>,
    /// The ports published for it.
    pub ports: Vec<PublishedPort>,
    /// Among several endpoints the one of the highest priority leads outside.
    pub gateway_priority: i64,
}

/// One family's side of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddress {
    /// The container's address.
    pub address: IpAddr,
    /// The prefix length that goes with it.
    pub prefix: u8,
    /// The way out; `None` on a network that has none.
    pub gateway: Option<IpAddr>,
    /// The way out is the interface itself (ipvlan above layer 2).
    #[serde(default)]
    pub on_link: bool,
}

impl EndpointRecord {
    /// The newest form of the record; older ones are still read.
    pub const VERSION: u32 = 2;

    /// Its addresses of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.iter().chain(&self.ipv6).map(|side| side.address)
    }

    /// The side of a family.
    #[must_use]
    pub fn side(&self, ipv6: bool) -> Option<&EndpointAddress> {
        if ipv6 { self.ipv6.as_ref() } else { self.ipv4.as_ref() }
    }
}
