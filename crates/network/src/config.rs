//! What is asked of this crate: the settings of the whole host, and those of each network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::Subnet;

/// The settings that all networks of a daemon share.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The name of our nftables tables (families `ip` and `ip6`). Two daemons on one host must differ in it.
    pub table: String,
    /// The default bridge's name, by which the tables' owner is known.
    pub owner: String,
    /// Where IPv4 subnets are taken from (`default-address-pools`).
    pub pools: Vec<AddressPool>,
    /// Where IPv6 subnets are taken from: unique local addresses (RFC 4193) of this daemon's own.
    pub unique_local: AddressPool,
    /// Whether and how other firewalls on the host are told to let our traffic pass.
    pub firewall_integration: FirewallIntegration,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            table: "palan".into(),
            owner: "palan0".into(),
            pools: AddressPool::docker(),
            unique_local: AddressPool::unique_local([0; 5]),
            firewall_integration: FirewallIntegration::Automatic,
        }
    }
}

impl HostConfig {
    /// The defaults of the daemon whose default bridge has this name, with the table named after it unless it is the
    /// usual one.
    #[must_use]
    pub fn for_bridge(bridge: &str) -> Self {
        let default = Self::default();
        let table = if bridge == default.owner { default.table.clone() } else { format!("palan-{bridge}") };
        Self { owner: bridge.to_owned(), table, ..default }
    }
}

/// How a network is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge on the host, NAT to the outside.
    Bridge,
    /// Interfaces with Ethernet addresses of their own on top of one of the host's.
    Macvlan {
        /// The host's interface, or `name.tag` for a VLAN on top of one; without, containers reach each other only.
        parent: Option<String>,
        /// How they share it.
        mode: MacvlanMode,
    },
    /// Interfaces with the Ethernet address of one of the host's.
    Ipvlan {
        /// The host's interface, or `name.tag` for a VLAN on top of one.
        parent: Option<String>,
        /// What they share.
        mode: IpvlanMode,
        /// Whom they reach.
        flag: IpvlanFlag,
    },
}

/// `macvlan_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum MacvlanMode {
    Private = 1,
    Vepa = 2,
    Bridge = 4,
    Passthru = 8,
}

/// `ipvlan_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum IpvlanMode {
    L2 = 0,
    L3 = 1,
    L3s = 2,
}

/// `ipvlan_flag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum IpvlanFlag {
    Bridge = 0,
    Private = 1,
    Vepa = 2,
}

/// How a bridge's containers are reached from outside, and what they show there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// The host's address going out, published ports coming in.
    #[default]
    Nat,
    /// As [`GatewayMode::Nat`], but every port of the containers is open to whoever routes to them.
    NatUnprotected,
    /// Their own addresses; published ports are open on those.
    Routed,
    /// The host has no address on the bridge. Only for internal networks.
    Isolated,
}

/// The addresses of one family on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPlan {
    /// All of them.
    pub subnet: Subnet,
    /// Where endpoints' addresses are chosen from; `None`: the whole subnet.
    pub range: Option<Subnet>,
    /// The way out; on a bridge it is the host's own address.
    pub gateway: Option<IpAddr>,
    /// Addresses that others on the network have.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl AddressPlan {
    /// A whole subnet without a gateway yet.
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, range: None, gateway: None, auxiliary: BTreeMap::new() }
    }

    /// Some subnet of the daemon's pools.
    #[must_use]
    pub fn automatic(ipv6: bool) -> Self {
        let unspecified: IpAddr =
            if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Self::new(Subnet::new(unspecified, 0))
    }

    /// Whether the subnet is still to be chosen: its address says nothing, a prefix asks for a size.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.subnet.address().is_unspecified()
    }
}

/// The settings of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Its identity, never used again.
    pub id: String,
    /// Its name, for messages.
    pub name: String,
    /// How it is made.
    pub driver: Driver,
    /// The bridge's interface name, at most 15 bytes.
    pub bridge: String,
    /// The IPv4 addresses; `None` where it has none, or where a bridge that is there already decides.
    pub ipv4: Option<AddressPlan>,
    /// The IPv6 addresses.
    pub ipv6: Option<AddressPlan>,
    /// Take over the address of a bridge that is there, or the first free subnet, if `ipv4` says nothing: for the default
    /// bridge, whose subnet nobody stores.
    pub adopt: bool,
    /// The MTU; `None` follows the link of the default route.
    pub mtu: Option<u32>,
    /// Nothing in, nothing out.
    pub internal: bool,
    /// Whether containers on the bridge may talk to each other directly (`icc`).
    pub inter_container: bool,
    /// Whether IPv4 and IPv6 traffic leaving the bridge gets the host's address (`ip-masq`).
    pub masquerade: bool,
    /// The IPv4 host address of a published port that names none (`ip`).
    pub host_address: Ipv4Addr,
    /// The IPv6 one.
    pub host_address_ipv6: Ipv6Addr,
    /// How the IPv4 side is reached.
    pub gateway_mode: GatewayMode,
    /// How the IPv6 side is reached.
    pub gateway_mode_ipv6: GatewayMode,
    /// What containers' interfaces are called, with a number after it.
    pub interface_prefix: String,
}

impl NetworkConfig {
    /// The defaults of a bridge network.
    #[must_use]
    pub fn bridge(id: &str, name: &str, bridge: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            driver: Driver::Bridge,
            bridge: bridge.to_owned(),
            ipv4: None,
            ipv6: None,
            adopt: false,
            mtu: None,
            internal: false,
            inter_container: true,
            masquerade: true,
            host_address: Ipv4Addr::UNSPECIFIED,
            host_address_ipv6: Ipv6Addr::UNSPECIFIED,
            gateway_mode: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            interface_prefix: "eth".to_owned(),
        }
    }

    /// The mode of a family.
    #[must_use]
    pub fn mode(&self, ipv6: bool) -> GatewayMode {
        if ipv6 { self.gateway_mode_ipv6 } else { self.gateway_mode }
    }

    /// The name and the short id, as Docker's messages name a network.
    pub(crate) fn label(&self) -> String {
        format!("{} ({})", self.name, self.id)
    }
}

/// A range that is cut into subnets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// The whole range.
    pub base: Subnet,
    /// The prefix length of each subnet taken from it.
    pub size: u8,
}

impl AddressPool {
    /// Docker's pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in pieces of /20.
    #[must_use]
    pub fn docker() -> Vec<Self> {
        let pool = |a, b, prefix, size| Self { base: Subnet::new(Ipv4Addr::new(a, b, 0, 0), prefix), size };
        let mut pools: Vec<Self> = (17..32).map(|second| pool(172, second, 16, 16)).collect();
        pools.push(pool(192, 168, 16, 20));
        pools
    }

    /// Subnets of unique local addresses, with the 40 random bits of RFC 4193.
    #[must_use]
    pub fn unique_local(random: [u8; 5]) -> Self {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&random);
        Self { base: Subnet::new(Ipv6Addr::from(octets), 48), size: 64 }
    }
}

/// What is done about the rules of other firewalls, since an `accept` in our table never overrides their `drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirewallIntegration {
    /// Tagged accept rules for our bridges in the chain `DOCKER-USER`, or else in an iptables-nft `FORWARD` whose policy
    /// is to drop; put back when the ruleset changes, removed with the network.
    #[default]
    Automatic,
    /// Other tables are left alone.
    None,
}
