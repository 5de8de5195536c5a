//! What changes while networks and containers come and go: networks, endpoints, leases, ports.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::{AddressPlan, Driver, GatewayMode, NetworkConfig};
use crate::endpoint::Below;
use crate::firewall::table::{Publication, TableNetwork};
use crate::ipam::{Leases, Usage};
use crate::publish::{Ports, Publisher, Relaying};
use crate::record::{EndpointAddress, EndpointId, EndpointRecord, PublishedPort};
use crate::{AddressError, Subnet};

/// All of it, under the manager's lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) networks: HashMap<String, Network>,
    pub(crate) ports: Ports,
    pub(crate) endpoints: HashMap<EndpointId, Endpoint>,
    /// Whether the table was written since the start; before that it is the previous daemon's.
    pub(crate) restored: bool,
    pub(crate) other_bridges: Vec<String>,
}

/// A network that is set up.
#[derive(Debug)]
pub(crate) struct Network {
    /// With the subnets that were chosen.
    pub(crate) config: NetworkConfig,
    pub(crate) below: Below,
    ipv4: Option<Leases>,
    ipv6: Option<Leases>,
}

/// An endpoint that is connected, or just being.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) network_id: String,
    pub(crate) ipv4: Option<IpAddr>,
    pub(crate) ipv6: Option<IpAddr>,
    pub(crate) ports: Vec<PublishedPort>,
}

/// The addresses of an endpoint, both families.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) wanted: [Option<IpAddr>; 2],
    pub(crate) preferred: [Option<IpAddr>; 2],
}

impl Network {
    pub(crate) fn new(config: NetworkConfig, below: Below) -> Self {
        let leases = |plan: &AddressPlan| Leases::new(&config.label(), plan);
        let (ipv4, ipv6) = (config.ipv4.as_ref().map(leases), config.ipv6.as_ref().map(leases));
        Self { config, below, ipv4, ipv6 }
    }

    pub(crate) fn leases(&mut self, ipv6: bool) -> Option<&mut Leases> {
        if ipv6 { self.ipv6.as_mut() } else { self.ipv4.as_mut() }
    }

    pub(crate) fn usage(&self) -> Vec<Usage> {
        self.ipv4.iter().chain(&self.ipv6).map(Leases::usage).collect()
    }

    pub(crate) fn subnets(&self) -> impl Iterator<Item = Subnet> {
        self.ipv4.iter().chain(&self.ipv6).map(|leases| leases.subnet().network())
    }

    /// Gives addresses to an endpoint: one of each family that the network has.
    pub(crate) fn lease(&mut self, wish: &Wish) -> Result<[Option<EndpointAddress>; 2], AddressError> {
        let label = self.config.label();
        let mut sides = [None, None];
        for (index, ipv6) in [false, true].into_iter().enumerate() {
            let (wanted, preferred) = (wish.wanted[index], wish.preferred[index]);
            let Some(leases) = self.leases(ipv6) else {
                if let Some(address) = wanted {
                    self.give_back(&sides.map(|side: Option<EndpointAddress>| side.map(|side| side.address)));
                    let family = if ipv6 { "IPv6" } else { "IPv4" };
                    return Err(AddressError::NoSubnet { family, network: label, address });
                }
                continue;
            };
            match leases.take(wanted, preferred) {
                Ok(address) => sides[index] = Some(self.side(address)),
                Err(error) => {
                    self.give_back(&sides.map(|side: Option<EndpointAddress>| side.map(|side| side.address)));
                    return Err(error);
                }
            }
        }
        Ok(sides)
    }

    /// Frees the addresses of an endpoint.
    pub(crate) fn give_back(&mut self, addresses: &[Option<IpAddr>]) {
        for address in addresses.iter().flatten() {
            if let Some(leases) = self.leases(address.is_ipv6()) {
                leases.release(*address);
            }
        }
    }

    fn side(&self, address: IpAddr) -> EndpointAddress {
        let config = &self.config;
        let plan = if address.is_ipv6() { &config.ipv6 } else { &config.ipv4 };
        let plan_gateway = plan.as_ref().and_then(|plan| plan.gateway);
        let prefix = plan.as_ref().map_or(0, |plan| plan.subnet.prefix());
        let above_layer_2 = matches!(
            config.driver,
            Driver::Ipvlan { mode: crate::config::IpvlanMode::L3 | crate::config::IpvlanMode::L3s, .. }
        );
        let has_gateway =
            !config.internal && !above_layer_2 && config.mode(address.is_ipv6()) != GatewayMode::Isolated;
        EndpointAddress {
            address,
            prefix,
            gateway: plan_gateway.filter(|_| has_gateway),
            on_link: above_layer_2 && !config.internal,
        }
    }

    /// Whether ports can be published on it, and where by default.
    pub(crate) fn publisher<'a>(&self, container: &'a str) -> Option<Publisher<'a>> {
        let config = &self.config;
        let publishes = config.driver == Driver::Bridge && !config.internal;
        publishes.then(|| Publisher {
            name: container,
            ipv4: config.ipv4.as_ref().map(|_| config.host_address),
            ipv6: config.ipv6.as_ref().map(|_| config.host_address_ipv6),
            relaying: self.relaying(),
        })
    }

    /// What can't be translated to its endpoints.
    pub(crate) fn relaying(&self) -> Relaying {
        let config = &self.config;
        let is_translated =
            |ipv6| matches!(config.mode(ipv6), GatewayMode::Nat | GatewayMode::NatUnprotected);
        match (&config.ipv4, &config.ipv6) {
            (_, Some(_)) if is_translated(true) => Relaying::Loopback,
            (Some(_), None) if is_translated(false) => Relaying::Ipv6,
            _ => Relaying::Nothing,
        }
    }
}

impl Endpoint {
    pub(crate) fn of(record: &EndpointRecord) -> Self {
        Self {
            network_id: record.network_id.clone(),
            ipv4: record.ipv4.map(|side| side.address),
            ipv6: record.ipv6.map(|side| side.address),
            ports: record.ports.clone(),
        }
    }

    pub(crate) fn addresses(&self) -> [Option<IpAddr>; 2] {
        [self.ipv4, self.ipv6]
    }
}

impl State {
    /// The bridges, as the firewall has to know them, in the order of their names.
    pub(crate) fn table_networks(&self) -> Vec<TableNetwork> {
        let mut networks: Vec<TableNetwork> =
            self.networks.values().filter_map(|network| TableNetwork::new(&network.config)).collect();
        networks.sort_by(|a, b| a.bridge().cmp(b.bridge()));
        networks
    }

    /// What an endpoint publishes by translation: each port leads to the address of its own family.
    pub(crate) fn publications(&self, endpoint: &Endpoint) -> Vec<Publication> {
        let Some(network) = self.networks.get(&endpoint.network_id) else { return Vec::new() };
        let of = |port: &PublishedPort| {
            let ipv6 = port.host_address.is_ipv6();
            if ipv6 && port.host_address.is_loopback() {
                return None;
            }
            let container = if ipv6 { endpoint.ipv6 } else { endpoint.ipv4 }?;
            let routed = network.config.mode(ipv6) == GatewayMode::Routed;
            Some(Publication { port: *port, container, routed })
        };
        endpoint.ports.iter().filter_map(of).collect()
    }

    /// Where a port of an endpoint is relayed to; `None` if it isn't.
    pub(crate) fn relay_target(&self, endpoint: &Endpoint, port: &PublishedPort) -> Option<SocketAddr> {
        let relaying = self.networks.get(&endpoint.network_id)?.relaying();
        let container = match relaying {
            Relaying::Nothing => None,
            Relaying::Loopback => endpoint.ipv6,
            Relaying::Ipv6 => endpoint.ipv4,
        }?;
        let target = SocketAddr::new(container, port.container_port);
        relaying.covers(port.protocol, port.host_address).then_some(target)
    }

    /// The names of all bridges.
    pub(crate) fn bridges(&self) -> Vec<String> {
        let bridges = self.networks.values().filter_map(|network| match &network.below {
            Below::Bridge { bridge, .. } => Some(bridge.name.clone()),
            Below::Parent { .. } => None,
        });
        bridges.collect()
    }

    /// Whether a port of an IPv4 endpoint of this network is published on a loopback address.
    pub(crate) fn publishes_on_loopback(&self, network_id: &str) -> bool {
        let mut endpoints = self.endpoints.values().filter(|endpoint| endpoint.network_id == network_id);
        endpoints.any(|endpoint| {
            endpoint.ports.iter().any(|port| {
                let address = port.host_address;
                address.is_ipv4() && (address.is_unspecified() || address.is_loopback())
            })
        })
    }
}
