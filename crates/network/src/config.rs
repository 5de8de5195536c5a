//! What the daemon's settings say about the network: names, address pools, MTU and the firewall.

use std::net::Ipv4Addr;

use crate::Subnet;

/// The settings of the default bridge network. [`Default`] is what a daemon without a configuration file uses.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The bridge's interface name, at most 15 bytes. Two daemons on one host must differ in it.
    pub bridge: String,
    /// The name of our nftables table (family `ip`). Two daemons on one host must differ in it, too:
    /// [`NetworkConfig::for_bridge`] sees to that.
    pub table: String,
    /// The bridge's own address and subnet (`bip`); `None` takes the first free subnet of `pools`.
    pub address: Option<Subnet>,
    /// Where subnets are taken from when `address` is `None` (`default-address-pools`).
    pub pools: Vec<AddressPool>,
    /// The MTU of the bridge and of the containers' interfaces; `None` follows the link of the default route.
    pub mtu: Option<u32>,
    /// Whether containers on the bridge may talk to each other directly (`icc`).
    pub inter_container: bool,
    /// Whether traffic leaving the bridge's subnet gets the host's address (`ip-masq`).
    pub masquerade: bool,
    /// The host address of a published port that names none (`ip`).
    pub host_address: Ipv4Addr,
    /// Whether and how other firewalls on the host are told to let our traffic pass.
    pub firewall_integration: FirewallIntegration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: "palan0".into(),
            table: "palan".into(),
            address: None,
            pools: AddressPool::docker(),
            mtu: None,
            inter_container: true,
            masquerade: true,
            host_address: Ipv4Addr::UNSPECIFIED,
            firewall_integration: FirewallIntegration::Automatic,
        }
    }
}

impl NetworkConfig {
    /// The defaults on the bridge of this name, with the table named after it unless it is the usual one.
    #[must_use]
    pub fn for_bridge(bridge: &str) -> Self {
        let default = Self::default();
        let table = if bridge == default.bridge { default.table.clone() } else { format!("palan-{bridge}") };
        Self { bridge: bridge.to_owned(), table, ..default }
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
}

/// What is done about the rules of other firewalls, since an `accept` in our table never overrides their `drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirewallIntegration {
    /// Tagged accept rules for our bridge in the chain `DOCKER-USER`, or else in an iptables-nft `FORWARD` whose policy
    /// is to drop; put back when the ruleset changes, removed with the network.
    #[default]
    Automatic,
    /// Other tables are left alone.
    None,
}
