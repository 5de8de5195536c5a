//! Sandboxes and endpoints: how a container comes to its network and leaves it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use palan_linux::netlink::conntrack::{self, Flow};
use palan_linux::netlink::link::{self, Target};
use palan_linux::netlink::{Batch, route};
use rustix::io::Errno;

use crate::endpoint::{self, Below, FIRST_INDEX, Plan};
use crate::error::netlink;
use crate::ipam::Usage;
use crate::manager::{Manager, lock};
use crate::namespace::Sandbox;
use crate::record::{
    EndpointAddress, EndpointId, EndpointRecord, MacAddress, PortBinding, Protocol, PublishedPort,
};
use crate::state::{Endpoint, Network, State, Wish};
use crate::{AttachError, KernelError, NetworkError, PublishError, parent};

/// Who is attached.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// The container's id, kept in the record for messages.
    pub id: &'a str,
    /// Its name without a slash, for Docker's error text.
    pub name: &'a str,
}

/// What is wanted on one network.
#[derive(Debug, Clone)]
pub struct EndpointRequest {
    /// The network's id.
    pub network_id: String,
    /// A fresh id; `EndpointId::from(<32 random bytes>)`.
    pub endpoint_id: EndpointId,
    /// Given addresses, IPv4 and IPv6, instead of the next free ones.
    pub addresses: [Option<IpAddr>; 2],
    /// The addresses that the container had before it was stopped.
    pub preferred: [Option<IpAddr>; 2],
    /// Further addresses, such as link-local ones, that nobody gives out.
    pub more_addresses: Vec<IpAddr>,
    /// A given Ethernet address instead of the one derived from the address.
    pub mac: Option<MacAddress>,
    /// What the interface shall be called; `None` takes the first free number.
    pub interface: Option<String>,
    /// Among several endpoints the one of the highest priority leads outside.
    pub gateway_priority: i64,
    /// Kernel settings of the interface: paths below `/proc/sys` and values.
    pub sysctls: Vec<(String, String)>,
    /// The ports to publish; ignored where none can be (internal networks, macvlan), as Docker does.
    pub ports: Vec<PortBinding>,
}

impl EndpointRequest {
    /// An endpoint without wishes.
    #[must_use]
    pub fn new(network_id: &str, endpoint_id: EndpointId) -> Self {
        Self {
            network_id: network_id.to_owned(),
            endpoint_id,
            addresses: [None, None],
            preferred: [None, None],
            more_addresses: Vec::new(),
            mac: None,
            interface: None,
            gateway_priority: 0,
            sysctls: Vec::new(),
            ports: Vec::new(),
        }
    }
}

/// A container's namespace with its endpoints.
#[derive(Debug)]
pub struct Attachment {
    /// The namespace that the container's first process must join. It lives as long as this or a process inside it.
    pub sandbox: Sandbox,
    /// To be stored, in the order of the requests.
    pub records: Vec<EndpointRecord>,
}

impl Attachment {
    /// The namespace alone.
    #[must_use]
    pub fn into_descriptor(self) -> OwnedFd {
        self.sandbox.into_descriptor()
    }
}

/// The counters of a container's interface, as the container sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it: received and sent, as in Docker's stats")]
pub struct Statistics {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// A port that the kernel can't translate to an endpoint.
#[derive(Debug)]
pub struct Relay {
    /// The port.
    pub port: PublishedPort,
    /// Where the container is reached from the host.
    pub target: SocketAddr,
    /// Listens on the port (TCP), or is bound to it (UDP); non-blocking. `None`: the supervisor has it already.
    pub socket: Option<OwnedFd>,
}

/// Whether the addresses of an endpoint that goes are kept for its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The container is stopped and will want them again.
    Resting,
    /// For anybody.
    Free,
}

/// What was taken for an endpoint before its interface is made.
struct Leased {
    sides: [Option<EndpointAddress>; 2],
    ports: Vec<PublishedPort>,
    below: Below,
    prefix: String,
}

impl Manager {
    /// Makes the network namespace of a container with its endpoints, of which the first gets the first interface. The
    /// namespace is made while addresses, ports and rules are prepared. Nothing is left behind on an error.
    pub fn attach(
        &self,
        container: Container<'_>,
        requests: &[EndpointRequest],
    ) -> Result<Attachment, AttachError> {
        let pending = self.namespaces.start()?;
        let mut leases: Vec<Leased> = Vec::with_capacity(requests.len());
        for request in requests {
            match self.lease(container, request) {
                Ok(leased) => leases.push(leased),
                Err(error) => {
                    self.undo(&requests[..leases.len()]);
                    return Err(error);
                }
            }
        }
        let connected = pending.finish().map_err(AttachError::from).and_then(|mut sandbox| {
            let records = self.connect_all(&mut sandbox, container, requests, leases)?;
            Ok(Attachment { sandbox, records })
        });
        if connected.is_err() {
            self.undo(requests);
        }
        connected
    }

    /// Adds an endpoint to a sandbox that others may have endpoints in, too. Its interface leads nowhere outside before
    /// [`Manager::set_gateways`].
    pub fn connect(
        &self,
        sandbox: &mut Sandbox,
        container: Container<'_>,
        request: &EndpointRequest,
    ) -> Result<EndpointRecord, AttachError> {
        let leased = self.lease(container, request)?;
        let connected = self.connect_one(sandbox, container, request, leased, 0, [false, false]);
        if connected.is_err() {
            self.undo(std::slice::from_ref(request));
        }
        connected
    }

    /// Lets the endpoints of the highest priority lead outside; of equals the first.
    pub fn set_gateways(sandbox: &mut Sandbox, records: &[&EndpointRecord]) -> Result<(), KernelError> {
        endpoint::set_gateways(sandbox, records)
    }

    /// The endpoint that leads outside, IPv4 first: the one that publishes ports.
    #[must_use]
    pub fn gateway_of<'a>(records: &[&'a EndpointRecord]) -> Option<&'a EndpointRecord> {
        endpoint::best_gateway(records, false).or_else(|| endpoint::best_gateway(records, true))
    }

    /// Undoes [`Manager::attach`] of one endpoint whose container has ended; doing it twice is no error. The address and
    /// the ports are free when it returns; the interface is removed in the background.
    pub fn detach(&self, record: &EndpointRecord, leave: Leave) -> Result<(), NetworkError> {
        let released = self.release(&record.endpoint_id, leave);
        self.removals.add(&record.host_interface);
        Ok(released?)
    }

    /// Takes an endpoint away from a sandbox that goes on.
    pub fn disconnect(&self, sandbox: &mut Sandbox, record: &EndpointRecord) -> Result<(), NetworkError> {
        let removed = endpoint::delete_inside(sandbox, &record.interface);
        self.detach(record, Leave::Free)?;
        Ok(removed?)
    }

    /// Publishes ports of an endpoint that is connected, which published none before. Those of `held` the container's supervisor
    /// relays already, to another endpoint.
    pub fn publish(
        &self,
        container: Container<'_>,
        record: &mut EndpointRecord,
        bindings: &[PortBinding],
        held: &[PublishedPort],
    ) -> Result<(), AttachError> {
        let mut state = lock(&self.state);
        let Some(network) = state.networks.get(&record.network_id) else {
            return Err(AttachError::UnknownNetwork { id: record.network_id.clone() });
        };
        let Some(publisher) = network.publisher(container.name) else { return Ok(()) };
        let failed = |source: PublishError| AttachError::Publish {
            container_name: container.name.to_owned(),
            endpoint_id: record.endpoint_id.clone(),
            source: Box::new(source),
        };
        let ports = state.ports.reserve(publisher, bindings, held).map_err(failed)?;
        let Some(endpoint) = state.endpoints.get_mut(&record.endpoint_id) else {
            state.ports.release(&ports);
            return Err(AttachError::UnknownNetwork { id: record.network_id.clone() });
        };
        endpoint.ports.clone_from(&ports);
        let endpoint = endpoint.clone();
        if let Err(error) = self.open_ports(&mut state, &endpoint) {
            state.ports.release(&ports);
            if let Some(endpoint) = state.endpoints.get_mut(&record.endpoint_id) {
                endpoint.ports.clear();
            }
            return Err(failed(error.into()));
        }
        record.ports = ports;
        Ok(())
    }

    /// Takes the ports of an endpoint back.
    pub fn unpublish(&self, record: &mut EndpointRecord) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        let Some(endpoint) = state.endpoints.get_mut(&record.endpoint_id) else { return Ok(()) };
        let before = endpoint.clone();
        endpoint.ports.clear();
        record.ports.clear();
        let closed = self.close_ports(&mut state, &before);
        state.ports.release(&before.ports);
        Ok(closed?)
    }

    /// The ports of an endpoint that its container's supervisor has to relay. Their sockets are given away, once.
    pub fn relays(&self, record: &EndpointRecord) -> Vec<Relay> {
        let mut state = lock(&self.state);
        let endpoint = Endpoint::of(record);
        let relay = |port: &PublishedPort| {
            let target = state.relay_target(&endpoint, port)?;
            Some(Relay { port: *port, target, socket: state.ports.take_socket(port) })
        };
        record.ports.iter().filter_map(relay).collect()
    }

    /// How many addresses of a network are given out, of each family that it has.
    pub fn usage(&self, network_id: &str) -> Vec<Usage> {
        lock(&self.state).networks.get(network_id).map(Network::usage).unwrap_or_default()
    }

    /// The addresses of a stopped container, which shall not be given to others while there is room.
    pub fn rest(&self, network_id: &str, addresses: &[IpAddr]) {
        if let Some(network) = lock(&self.state).networks.get_mut(network_id) {
            for address in addresses {
                if let Some(leases) = network.leases(address.is_ipv6()) {
                    leases.rest(*address);
                }
            }
        }
    }

    /// The container that had these addresses is gone.
    pub fn forget(&self, network_id: &str, addresses: &[IpAddr]) {
        if let Some(network) = lock(&self.state).networks.get_mut(network_id) {
            for address in addresses {
                if let Some(leases) = network.leases(address.is_ipv6()) {
                    leases.forget(*address);
                }
            }
        }
    }

    /// The counters of a container's interface; `None` where the host has no end of it.
    pub fn statistics(&self, record: &EndpointRecord) -> Result<Option<Statistics>, NetworkError> {
        let name = &record.host_interface;
        if name.is_empty() {
            return Ok(None);
        }
        let host = link::statistics(&mut lock(&self.links), Target::Name(name))
            .map_err(netlink(format!("read the counters of the interface {name}")))?;
        // What the host's end received, the container sent.
        Ok(host.map(|host| Statistics {
            rx_bytes: host.tx_bytes,
            rx_packets: host.tx_packets,
            rx_errors: host.tx_errors,
            rx_dropped: host.tx_dropped,
            tx_bytes: host.rx_bytes,
            tx_packets: host.rx_packets,
            tx_errors: host.rx_errors,
            tx_dropped: host.rx_dropped,
        }))
    }

    fn connect_all(
        &self,
        sandbox: &mut Sandbox,
        container: Container<'_>,
        requests: &[EndpointRequest],
        leases: Vec<Leased>,
    ) -> Result<Vec<EndpointRecord>, AttachError> {
        let mut records = Vec::with_capacity(requests.len());
        // Mostly there is one endpoint, whose routes then come with its addresses.
        let is_only = requests.len() == 1;
        for (index, (request, leased)) in (FIRST_INDEX..).zip(requests.iter().zip(leases)) {
            let record = self.connect_one(sandbox, container, request, leased, index, [is_only, is_only])?;
            records.push(record);
        }
        if !is_only && !records.is_empty() {
            let all: Vec<&EndpointRecord> = records.iter().collect();
            endpoint::set_gateways(sandbox, &all)?;
        }
        Ok(records)
    }

    fn connect_one(
        &self,
        sandbox: &mut Sandbox,
        container: Container<'_>,
        request: &EndpointRequest,
        leased: Leased,
        index: u32,
        default_route: [bool; 2],
    ) -> Result<EndpointRecord, AttachError> {
        let Leased { sides, ports, below, prefix } = leased;
        let interface = match &request.interface {
            Some(name) => name.clone(),
            None if index > 0 => format!("{prefix}{}", index - FIRST_INDEX),
            None => free_name(sandbox, &prefix)?,
        };
        let mac = match &below {
            Below::Parent { kind: "ipvlan", .. } => None,
            _ => Some(request.mac.unwrap_or_else(|| match sides[0].map(|side| side.address) {
                Some(IpAddr::V4(address)) => MacAddress::from_ipv4(address),
                _ => MacAddress::from_text(request.endpoint_id.as_str()),
            })),
        };
        let plan = Plan {
            id: &request.endpoint_id,
            below: &below,
            interface: &interface,
            index,
            ipv4: sides[0],
            ipv6: sides[1],
            mac,
            more_addresses: &request.more_addresses,
            default_route,
            sysctls: &request.sysctls,
        };
        let host_interface = endpoint::connect(&mut lock(&self.links), sandbox, &plan)?;
        let record = EndpointRecord {
            version: EndpointRecord::VERSION,
            endpoint_id: request.endpoint_id.clone(),
            network_id: request.network_id.clone(),
            container_id: container.id.to_owned(),
            host_interface,
            interface,
            ipv4: sides[0],
            ipv6: sides[1],
            mac,
            ports,
            gateway_priority: request.gateway_priority,
        };
        self.forget_udp_flows(&Endpoint::of(&record));
        Ok(record)
    }

    /// Takes addresses and ports for an endpoint, and lets the ports' traffic through.
    fn lease(&self, container: Container<'_>, request: &EndpointRequest) -> Result<Leased, AttachError> {
        let publish_error = |source: PublishError| AttachError::Publish {
            container_name: container.name.to_owned(),
            endpoint_id: request.endpoint_id.clone(),
            source: Box::new(source),
        };
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(network) = state.networks.get_mut(&request.network_id) else {
            return Err(AttachError::UnknownNetwork { id: request.network_id.clone() });
        };
        if let Below::Parent { .. } = network.below {
            let found = parent::look_up(&mut lock(&self.links), &network.config)?;
            let missing = || AttachError::NoParent { name: network.config.name.clone() };
            network.below = found.ok_or_else(missing)?;
        }
        let wish = Wish { wanted: request.addresses, preferred: request.preferred };
        let sides = network.lease(&wish).map_err(|source| AttachError::Address { source })?;
        let addresses = sides.map(|side| side.map(|side| side.address));
        let (below, prefix) = (network.below.clone(), network.config.interface_prefix.clone());
        let ports = match network.publisher(container.name).filter(|_| !request.ports.is_empty()) {
            Some(publisher) => state.ports.reserve(publisher, &request.ports, &[]),
            None => Ok(Vec::new()),
        };
        let ports = match ports {
            Ok(ports) => ports,
            Err(source) => {
                network.give_back(&addresses);
                return Err(publish_error(source));
            }
        };
        let endpoint = Endpoint {
            network_id: request.network_id.clone(),
            ipv4: addresses[0],
            ipv6: addresses[1],
            ports: ports.clone(),
        };
        state.endpoints.insert(request.endpoint_id.clone(), endpoint.clone());
        if let Err(error) = self.open_ports(state, &endpoint) {
            state.endpoints.remove(&request.endpoint_id);
            state.ports.release(&ports);
            if let Some(network) = state.networks.get_mut(&request.network_id) {
                network.give_back(&addresses);
            }
            return Err(publish_error(PublishError::from(error)));
        }
        Ok(Leased { sides, ports, below, prefix })
    }

    fn open_ports(&self, state: &mut State, endpoint: &Endpoint) -> Result<(), KernelError> {
        if !state.restored {
            state.restored = true;
            return self.write_table(state);
        }
        if endpoint.ports.is_empty() {
            return Ok(());
        }
        let published = state.publications(endpoint);
        let added = self.table.publish(&mut lock(&self.firewall), &published);
        match added {
            Ok(()) => self.set_route_localnet(state),
            // Somebody removed the table, and the watch hasn't come to it yet.
            Err(error) if error.errno() == Some(Errno::NOENT) => self.write_table(state),
            Err(error) => Err(netlink("publish ports by nftables")(error)),
        }
    }

    fn close_ports(&self, state: &mut State, endpoint: &Endpoint) -> Result<(), KernelError> {
        if endpoint.ports.is_empty() || !state.restored {
            return Ok(());
        }
        self.set_route_localnet(state)?;
        let published = state.publications(endpoint);
        let removed = self.table.withdraw(&mut lock(&self.firewall), &published);
        match removed {
            Ok(()) => Ok(()),
            Err(error) if error.errno() == Some(Errno::NOENT) => self.write_table(state),
            Err(error) => Err(netlink("withdraw published ports by nftables")(error)),
        }
    }

    fn undo(&self, requests: &[EndpointRequest]) {
        for request in requests {
            if let Err(error) = self.release(&request.endpoint_id, Leave::Free) {
                tracing::warn!(%error, "cannot undo a failed attachment");
            }
        }
    }

    /// Frees what [`Manager::lease`] took.
    fn release(&self, id: &EndpointId, leave: Leave) -> Result<(), KernelError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(endpoint) = state.endpoints.remove(id) else { return Ok(()) };
        let addresses = endpoint.addresses();
        if let Some(network) = state.networks.get_mut(&endpoint.network_id) {
            if let Below::Bridge { bridge, .. } = &network.below {
                for address in addresses.into_iter().flatten() {
                    let mut neighbour = Batch::new();
                    route::delete_neighbour(&mut neighbour, bridge.index, address);
                    // It isn't there if the attachment failed half-way.
                    let _ = lock(&self.links).execute(&mut neighbour);
                }
            }
            network.give_back(&addresses);
            if leave == Leave::Resting {
                for address in addresses.into_iter().flatten() {
                    if let Some(leases) = network.leases(address.is_ipv6()) {
                        leases.rest(address);
                    }
                }
            }
        }
        let closed = self.close_ports(state, &endpoint);
        state.ports.release(&endpoint.ports);
        drop(guard);
        self.forget_udp_flows(&endpoint);
        closed
    }

    /// The kernel would go on sending datagrams of known flows to where they went before the ports changed.
    fn forget_udp_flows(&self, endpoint: &Endpoint) {
        let udp: Vec<&PublishedPort> =
            endpoint.ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
        for ipv6 in [false, true] {
            if !udp.iter().any(|port| port.host_address.is_ipv6() == ipv6) {
                continue;
            }
            let container = if ipv6 { endpoint.ipv6 } else { endpoint.ipv4 };
            let mut socket = lock(&self.firewall);
            let is_stale = |flow: &Flow| {
                Some(flow.responder) == container || udp.iter().any(|port| port.host_port == flow.port)
            };
            let forgotten = conntrack::udp_flows(&mut socket, ipv6).and_then(|mut flows| {
                flows.retain(is_stale);
                flows.iter().try_for_each(|flow| conntrack::delete(&mut socket, flow))
            });
            if let Err(error) = forgotten {
                // Not worth failing for: the flows end by themselves after 30 seconds of silence.
                tracing::warn!(%error, "cannot forget the UDP flows of changed ports");
            }
        }
    }
}

/// The first name with this prefix that no interface inside has.
fn free_name(sandbox: &mut Sandbox, prefix: &str) -> Result<String, KernelError> {
    let links = link::list(&mut sandbox.socket, link::Filter::All)
        .map_err(netlink("list the container's interfaces"))?;
    let is_free = |name: &String| !links.iter().any(|link| link.name == *name);
    let mut names = (0_u32..).map(|number| format!("{prefix}{number}"));
    Ok(names.find(is_free).unwrap_or_else(|| prefix.to_owned()))
}
