//! The front door: a daemon's default bridge network, from opening it to removing it.
//!
//! ```text
//! open ──▶ restore ──▶ attach ⇄ detach … ──▶ (the daemon ends: everything stays) ──▶ open …
//!                                        └──▶ remove_all
//! ```
//!
//! **Where the time of an attachment goes** (two busy cores, an unoptimised build; medians in microseconds): the namespace
//! 620, opening it and its settings 130, `lo` 120, all three off the path thanks to the reserve in `namespace`; the
//! veth pair with its bridge port 500, the inner addresses and routes 80, switching on 145, published ports 60
//! for the table and 40 for `route_localnet`. That makes 1.2 ms, and 0.1 ms without a bridge. Removing a pair waits for
//! RCU grace periods and therefore happens on a thread of its own.
//!
//! Locks are taken in the order `state`, `firewall`, `links`, each for a few system calls at most; the making of a
//! namespace, the longest step of an attachment, needs none.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palan_linux::netlink::conntrack::{self, Flow};
use palan_linux::netlink::link::{self, Filter, Target};
use palan_linux::netlink::{Batch, Protocol, Socket, route};
use palan_stdx::error_chain::Chain;
use rustix::io::Errno;

use crate::bridge::{self, Bridge};
use crate::endpoint::{self, Plan};
use crate::error::netlink;
use crate::firewall::table::{self, Publication};
use crate::firewall::watch::Watch;
use crate::firewall::{Table, foreign, watch};
use crate::ipam::Leases;
use crate::namespace::{Namespace, Namespaces};
use crate::publish::Ports;
use crate::record::{
    self, BridgeEndpoint, EndpointId, EndpointRecord, MacAddress, Mode, PortBinding, PublishedPort,
};
use crate::{AttachError, FirewallIntegration, KernelError, NetworkConfig, NetworkError, STACK, Subnet};

/// The default bridge network of one daemon. Methods may be called from several threads at once.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    bridge: Bridge,
    table: Table,
    state: Mutex<State>,
    /// nftables and conntrack. One socket for all changes, as the watch knows ours by its port.
    firewall: Mutex<Socket>,
    /// Interfaces, addresses, routes.
    links: Mutex<Socket>,
    namespaces: Namespaces,
    /// Names of interfaces that a thread removes: the kernel takes its time for it.
    removals: Sender<String>,
    /// Ends its thread with the network.
    _watch: Mutex<Option<Watch>>,
}

/// What changes while containers come and go.
#[derive(Debug)]
struct State {
    leases: Leases,
    ports: Ports,
    endpoints: HashMap<EndpointId, Endpoint>,
    /// Whether [`Network::restore`] has written the table; before that it is the previous daemon's.
    restored: bool,
    other_bridges: Vec<String>,
}

#[derive(Debug)]
struct Endpoint {
    address: Ipv4Addr,
    ports: Vec<PublishedPort>,
}

/// What a container wants of the network.
#[derive(Debug, Clone)]
pub struct AttachRequest<'a> {
    /// How to connect it.
    pub mode: Mode,
    /// The container's id, kept in the record for messages.
    pub container_id: &'a str,
    /// Its name without a slash, for Docker's error text.
    pub container_name: &'a str,
    /// A fresh id; `EndpointId::from(<32 random bytes>)`.
    pub endpoint_id: EndpointId,
    /// A given address instead of the next free one.
    pub address: Option<Ipv4Addr>,
    /// A given Ethernet address instead of the one derived from the address.
    pub mac: Option<MacAddress>,
    /// The ports to publish; only in [`Mode::Bridge`] (elsewhere they are ignored, as Docker does).
    pub ports: &'a [PortBinding],
}

/// An attached container.
#[derive(Debug)]
pub struct Attachment {
    /// The namespace that the container's first process must join; `None` in [`Mode::Host`]. The namespace lives as long
    /// as this descriptor or a process inside it.
    pub netns: Option<OwnedFd>,
    /// To be stored; it holds the address, gateway, MAC, interface name and resolved ports.
    pub record: EndpointRecord,
}

/// What [`Network::restore`] found.
#[derive(Debug, Default)]
pub struct Restored {
    /// Endpoints whose interface is gone (their container ended meanwhile) or whose address or ports can't be kept, with
    /// the reason in words. Their leases are free again.
    pub lost: Vec<(EndpointId, String)>,
    /// Interfaces of ours that belonged to no record and were removed.
    pub orphans: Vec<String>,
    /// What an administrator should know about endpoints that were kept, in sentences.
    pub warnings: Vec<String>,
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

impl Network {
    /// Makes sure that the bridge is there and up, reads what the kernel has, and starts to watch the ruleset. The
    /// nftables table isn't touched before [`Network::restore`], so that published ports of running containers keep
    /// working meanwhile.
    pub fn open(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        check_table_name(&config.table)?;
        let mut links = open_socket(Protocol::Route)?;
        let mut firewall = open_socket(Protocol::Netfilter)?;
        let unreadable = || netlink(format!("read the nftables table ip {}", config.table));
        if let Some(owner) = table::other_owner(&mut firewall, &config).map_err(unreadable())?
            && exists(&mut links, &owner)?
        {
            return Err(NetworkError::TableInUse { table: config.table, bridge: owner });
        }
        let bridge = bridge::ensure(&mut links, &config)?;
        let table = Table::new(&config, bridge.gateway);
        let own_port = firewall.port();
        if !table.is_intact(&mut firewall).map_err(unreadable())? {
            bridge::set_route_localnet(&bridge.name, false)?;
        }
        let state = State {
            leases: Leases::new(bridge.gateway),
            ports: Ports::new(config.host_address)?,
            endpoints: HashMap::new(),
            restored: false,
            other_bridges: Vec::new(),
        };
        let network = Arc::new(Self {
            config,
            bridge,
            table,
            state: Mutex::new(state),
            firewall: Mutex::new(firewall),
            links: Mutex::new(links),
            namespaces: Namespaces::default(),
            removals: start_remover()?,
            _watch: Mutex::new(None),
        });
        let weak = Arc::downgrade(&network);
        let watch =
            watch::start(own_port, move || weak.upgrade().is_some_and(|network| network.look_again()))?;
        *lock(&network._watch) = Some(watch);
        Ok(network)
    }

    /// Takes back the endpoints of containers that still run: reserves their addresses and ports again, drops interfaces
    /// of ours that belong to no record, and writes the whole table in one transaction. Working endpoints are not
    /// disturbed. Call it once after [`Network::open`], with an empty slice if nothing runs.
    pub fn restore(&self, live: &[EndpointRecord]) -> Result<Restored, NetworkError> {
        let mut restored = Restored::default();
        let present = self.own_interfaces()?;
        let mut state = lock(&self.state);
        for record in live {
            let Some(endpoint) = &record.bridge else { continue };
            if state.endpoints.contains_key(&record.endpoint_id) {
                continue;
            }
            match self.readopt(&mut state, record, endpoint, &present) {
                Ok(unreserved) => restored.warnings.extend(unreserved.iter().map(|port| {
                    format!(
                        "port {}:{}/{} of container {} is also used by another process on the host",
                        port.host_address, port.host_port, port.protocol, record.container_id
                    )
                })),
                Err(reason) => restored.lost.push((record.endpoint_id.clone(), reason)),
            }
        }
        for (id, name) in present {
            if !EndpointId::try_from(id).is_ok_and(|id| state.endpoints.contains_key(&id)) {
                self.remove_interface(&name);
                restored.orphans.push(name);
            }
        }
        state.restored = true;
        self.write_firewall(&mut state)?;
        self.namespaces.fill();
        Ok(restored)
    }

    /// Connects a container: makes its network namespace, and on the bridge its interface, address, routes and ports.
    /// Nothing is left behind on an error.
    pub fn attach(&self, request: &AttachRequest<'_>) -> Result<Attachment, AttachError> {
        let (netns, bridge) = match request.mode {
            Mode::Host => (None, None),
            Mode::None => (Some(self.namespaces.start()?.finish()?.fd), None),
            Mode::Bridge => {
                let (namespace, endpoint) = self.attach_to_bridge(request)?;
                (Some(namespace.fd), Some(endpoint))
            }
        };
        let record = EndpointRecord {
            version: EndpointRecord::VERSION,
            mode: request.mode,
            endpoint_id: request.endpoint_id.clone(),
            container_id: request.container_id.to_owned(),
            bridge,
        };
        Ok(Attachment { netns, record })
    }

    /// Undoes [`Network::attach`]; doing it twice or for a container that is gone is no error. The address and the ports are
    /// free when it returns; the interface is removed in the background.
    pub fn detach(&self, record: &EndpointRecord) -> Result<(), NetworkError> {
        let Some(endpoint) = &record.bridge else { return Ok(()) };
        self.release(&record.endpoint_id)?;
        self.remove_interface(&endpoint.host_interface);
        Ok(())
    }

    /// Removes everything: interfaces, rules in our and in other tables, the bridge. For tests and for uninstalling.
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        state.restored = false;
        self.namespaces.clear();
        bridge::set_route_localnet(&self.bridge.name, false)?;
        {
            let mut socket = lock(&self.firewall);
            foreign::reconcile(&mut socket, &self.bridge.name, false)
                .map_err(netlink("remove our rules from other nftables tables"))?;
            self.table
                .remove(&mut socket)
                .map_err(netlink(format!("remove the nftables table ip {}", self.table.name())))?;
        }
        for endpoint in std::mem::take(&mut state.endpoints).into_values() {
            state.ports.release(&endpoint.ports);
            state.leases.release(endpoint.address);
        }
        let interfaces: Vec<String> = self.own_interfaces()?.into_values().collect();
        let mut links = lock(&self.links);
        remove_links(&mut links, &interfaces)?;
        bridge::remove(&mut links, &self.bridge)
    }

    /// Puts our table and our rules in other tables back where somebody removed them. The watching thread does this
    /// when the ruleset's generation changes; callers only need it to be certain of the moment.
    pub fn on_ruleset_change(&self) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        if !state.restored {
            return Ok(());
        }
        let intact = self
            .table
            .is_intact(&mut lock(&self.firewall))
            .map_err(netlink(format!("read the nftables table ip {}", self.table.name())))?;
        if intact && state.other_bridges == self.find_other_bridges()? {
            return self.reconcile_foreign();
        }
        if !intact {
            // First of all: without the guard chain this setting would open the host's loopback to containers.
            bridge::set_route_localnet(&self.bridge.name, false)?;
        }
        self.write_firewall(&mut state)
    }

    /// The counters of a container's interface; `None` without an interface on the bridge.
    pub fn statistics(&self, record: &EndpointRecord) -> Result<Option<Statistics>, NetworkError> {
        let Some(endpoint) = &record.bridge else { return Ok(None) };
        let name = &endpoint.host_interface;
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

    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge.name
    }

    /// The bridge's own address, with the prefix length of the subnet.
    #[must_use]
    pub fn gateway(&self) -> Subnet {
        self.bridge.gateway
    }

    /// The MTU of the bridge and of new containers' interfaces.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.bridge.mtu
    }

    /// What an administrator should know, in sentences: a firewall that would drop our traffic and can't be told not to.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if self.config.firewall_integration == FirewallIntegration::None {
            return Vec::new();
        }
        let found = foreign::warnings(&mut lock(&self.firewall), self.table.name(), &self.bridge.name);
        found.unwrap_or_else(|error| {
            vec![format!(
                "the nftables ruleset can't be read, so that nothing is known about other firewalls: {error}"
            )]
        })
    }

    /// The steps on the bridge; the namespace is made while the address, the ports and the rules are prepared.
    fn attach_to_bridge(
        &self,
        request: &AttachRequest<'_>,
    ) -> Result<(Namespace, BridgeEndpoint), AttachError> {
        let namespace = self.namespaces.start()?;
        let (address, ports) = self.lease(request)?;
        let mac = request.mac.unwrap_or_else(|| MacAddress::from_ipv4(address));
        let plan = Plan {
            id: &request.endpoint_id,
            bridge: &self.bridge,
            address,
            mac,
            inter_container: self.config.inter_container,
        };
        let connected = namespace.finish().map_err(AttachError::from).and_then(|mut namespace| {
            let host_interface = endpoint::connect(&mut lock(&self.links), &mut namespace, &plan)?;
            Ok((namespace, host_interface))
        });
        let (namespace, host_interface) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                if let Err(error) = self.release(&request.endpoint_id) {
                    tracing::warn!(%error, "cannot undo a failed attachment");
                }
                return Err(error);
            }
        };
        self.forget_udp_flows(&ports, address);
        let gateway = self.bridge.gateway;
        let endpoint = BridgeEndpoint {
            host_interface,
            address,
            prefix: gateway.prefix(),
            gateway: gateway.address(),
            mac,
            ports,
        };
        Ok((namespace, endpoint))
    }

    /// Takes an address and ports for an endpoint, and lets the ports' traffic through.
    fn lease(&self, request: &AttachRequest<'_>) -> Result<(Ipv4Addr, Vec<PublishedPort>), AttachError> {
        let publish_error = |source| AttachError::Publish {
            container_name: request.container_name.to_owned(),
            endpoint_id: request.endpoint_id.clone(),
            source,
        };
        let mut state = lock(&self.state);
        let address = state.leases.take(request.address).map_err(|source| AttachError::Address { source })?;
        let ports = match state.ports.reserve(request.ports) {
            Ok(ports) => ports,
            Err(source) => {
                state.leases.release(address);
                return Err(publish_error(source));
            }
        };
        let endpoint = Endpoint { address, ports: ports.clone() };
        state.endpoints.insert(request.endpoint_id.clone(), endpoint);
        let opened = self.publish(&mut state, &ports, address);
        if let Err(error) = opened {
            state.endpoints.remove(&request.endpoint_id);
            state.ports.release(&ports);
            state.leases.release(address);
            return Err(publish_error(error.into()));
        }
        Ok((address, ports))
    }

    fn publish(
        &self,
        state: &mut State,
        ports: &[PublishedPort],
        address: Ipv4Addr,
    ) -> Result<(), KernelError> {
        if !state.restored {
            state.restored = true;
            return self.write_table(state);
        }
        if ports.is_empty() {
            return Ok(());
        }
        let added = self.table.publish(&mut lock(&self.firewall), &publications(ports, address));
        match added {
            Ok(()) => self.set_route_localnet(state),
            // Somebody removed the table, and the watch hasn't come to it yet.
            Err(error) if error.errno() == Some(Errno::NOENT) => self.write_table(state),
            Err(error) => Err(netlink("publish ports by nftables")(error)),
        }
    }

    /// Frees what [`Network::lease`] took.
    fn release(&self, id: &EndpointId) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        let Some(endpoint) = state.endpoints.remove(id) else { return Ok(()) };
        let mut neighbour = Batch::new();
        route::delete_neighbour(&mut neighbour, self.bridge.index, endpoint.address);
        // It isn't there if the attachment failed half-way.
        let _ = lock(&self.links).execute(&mut neighbour);
        let closed = self.withdraw(&mut state, &endpoint);
        state.ports.release(&endpoint.ports);
        state.leases.release(endpoint.address);
        drop(state);
        self.forget_udp_flows(&endpoint.ports, endpoint.address);
        Ok(closed?)
    }

    fn withdraw(&self, state: &mut State, endpoint: &Endpoint) -> Result<(), KernelError> {
        if endpoint.ports.is_empty() || !state.restored {
            return Ok(());
        }
        self.set_route_localnet(state)?;
        let published = publications(&endpoint.ports, endpoint.address);
        let removed = self.table.withdraw(&mut lock(&self.firewall), &published);
        match removed {
            Ok(()) => Ok(()),
            Err(error) if error.errno() == Some(Errno::NOENT) => self.write_table(state),
            Err(error) => Err(netlink("withdraw published ports by nftables")(error)),
        }
    }

    /// Takes an endpoint back after a restart. Returns ports that couldn't be reserved, or why it is lost.
    fn readopt(
        &self,
        state: &mut State,
        record: &EndpointRecord,
        endpoint: &BridgeEndpoint,
        present: &HashMap<String, String>,
    ) -> Result<Vec<PublishedPort>, String> {
        if record.version > EndpointRecord::VERSION {
            return Err(format!(
                "its record has the version {}, which is newer than this program",
                record.version
            ));
        }
        if present.get(record.endpoint_id.as_str()) != Some(&endpoint.host_interface) {
            return Err(format!("the interface {} is gone", endpoint.host_interface));
        }
        if endpoint.gateway != self.bridge.gateway.address() {
            return Err(format!(
                "it uses the gateway {}, but the bridge {} now has the address {}",
                endpoint.gateway, self.bridge.name, self.bridge.gateway
            ));
        }
        state.leases.take(Some(endpoint.address)).map_err(|error| error.to_string())?;
        let unreserved = state.ports.readopt(&endpoint.ports);
        let known = Endpoint { address: endpoint.address, ports: endpoint.ports.clone() };
        state.endpoints.insert(record.endpoint_id.clone(), known);
        Ok(unreserved)
    }

    /// Our interfaces on the bridge: endpoint ids and interface names.
    fn own_interfaces(&self) -> Result<HashMap<String, String>, KernelError> {
        let ports = link::list(&mut lock(&self.links), Filter::Master(self.bridge.index))
            .map_err(netlink("list the bridge's ports"))?;
        let prefix = endpoint::alias(&self.bridge.name, "");
        let own = ports.into_iter();
        Ok(own.filter_map(|link| Some((link.alias.strip_prefix(&prefix)?.to_owned(), link.name))).collect())
    }

    /// The table and our rules in other tables.
    fn write_firewall(&self, state: &mut State) -> Result<(), NetworkError> {
        self.write_table(state)?;
        self.reconcile_foreign()
    }

    /// The whole table, and then the kernel setting that depends on it.
    fn write_table(&self, state: &mut State) -> Result<(), KernelError> {
        state.other_bridges = self.find_other_bridges()?;
        let published: Vec<Publication> = state
            .endpoints
            .values()
            .flat_map(|endpoint| publications(&endpoint.ports, endpoint.address))
            .collect();
        self.table
            .write(&mut lock(&self.firewall), &published, &state.other_bridges)
            .map_err(netlink(format!("write the nftables table ip {}", self.table.name())))?;
        self.set_route_localnet(state)
    }

    fn reconcile_foreign(&self) -> Result<(), NetworkError> {
        if self.config.firewall_integration == FirewallIntegration::None {
            return Ok(());
        }
        let changed = foreign::reconcile(&mut lock(&self.firewall), &self.bridge.name, true);
        Ok(changed.map_err(netlink("add accept rules for the bridge to the host's nftables tables"))?)
    }

    fn find_other_bridges(&self) -> Result<Vec<String>, KernelError> {
        let bridges = link::list(&mut lock(&self.links), Filter::Kind("bridge"))
            .map_err(netlink("list the host's bridges"))?;
        let others = bridges.iter().filter(|link| link.index != self.bridge.index);
        Ok(foreign::docker_bridges(others.map(|link| link.name.as_str())))
    }

    /// On exactly while a port is published on a loopback address; called with the table in force.
    fn set_route_localnet(&self, state: &State) -> Result<(), KernelError> {
        let mut ports = state.endpoints.values().flat_map(|endpoint| &endpoint.ports);
        let wanted = ports.any(|port| port.host_address.is_unspecified() || port.host_address.is_loopback());
        bridge::set_route_localnet(&self.bridge.name, wanted)
    }

    /// The kernel would go on sending datagrams of known flows to where they went before the ports changed.
    fn forget_udp_flows(&self, ports: &[PublishedPort], container: Ipv4Addr) {
        let udp: Vec<&PublishedPort> =
            ports.iter().filter(|port| port.protocol == record::Protocol::Udp).collect();
        if udp.is_empty() {
            return;
        }
        let mut socket = lock(&self.firewall);
        let is_stale =
            |flow: &Flow| flow.responder == container || udp.iter().any(|port| port.host_port == flow.port);
        let forgotten = conntrack::udp_flows(&mut socket).and_then(|mut flows| {
            flows.retain(is_stale);
            flows.iter().try_for_each(|flow| conntrack::delete(&mut socket, flow))
        });
        if let Err(error) = forgotten {
            // Not worth failing for: the flows end by themselves after 30 seconds of silence.
            tracing::warn!(%error, "cannot forget the UDP flows of changed ports");
        }
    }

    fn remove_interface(&self, name: &str) {
        // The receiver lives as long as this sender.
        let _ = self.removals.send(name.to_owned());
    }

    /// The watch's call; false ends the watch.
    fn look_again(&self) -> bool {
        if let Err(error) = self.on_ruleset_change() {
            tracing::error!(error = %Chain(&error), "cannot restore the firewall rules");
        }
        true
    }
}

/// Tables of these names belong to iptables-nft, which could no longer list them.
fn check_table_name(name: &str) -> Result<(), NetworkError> {
    let reason = match name {
        "filter" | "nat" | "mangle" | "raw" | "security" => "iptables uses a table of this name",
        "" => "the name is empty",
        _ if name.len() > 100 => "the name has more than 100 bytes",
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) => {
            "only letters, digits, dashes, dots and underscores are possible"
        }
        _ => return Ok(()),
    };
    Err(NetworkError::Setting { setting: "table", value: name.to_owned(), reason })
}

fn exists(links: &mut Socket, name: &str) -> Result<bool, KernelError> {
    let link = link::get(links, Target::Name(name));
    link.map(|link| link.is_some()).map_err(netlink(format!("look the interface {name} up")))
}

fn publications(ports: &[PublishedPort], container: Ipv4Addr) -> Vec<Publication> {
    ports.iter().map(|port| (*port, container)).collect()
}

fn open_socket(protocol: Protocol) -> Result<Socket, KernelError> {
    Socket::open(protocol).map_err(netlink("open a netlink socket"))
}

/// A poisoned lock is taken anyway: what it guards is changed in steps that leave it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that removes interfaces; it ends with the sender.
///
/// Mostly it finds nothing to do: an interface goes with the namespace of its peer, when a container has ended. So it
/// waits a little, and then removes together what is left.
fn start_remover() -> Result<Sender<String>, KernelError> {
    const THREAD: &str = "palan-links";
    const GRACE: Duration = Duration::from_millis(200);
    let mut socket = open_socket(Protocol::Route)?;
    let (sender, receiver) = mpsc::channel::<String>();
    std::thread::Builder::new()
        .name(THREAD.into())
        .stack_size(STACK)
        .spawn(move || {
            while let Ok(first) = receiver.recv() {
                std::thread::sleep(GRACE);
                let names: Vec<String> = std::iter::once(first).chain(receiver.try_iter()).collect();
                if let Err(error) = remove_links(&mut socket, &names) {
                    tracing::warn!(error = %Chain(&error), "interfaces stay behind until the next start");
                }
            }
        })
        .map_err(|source| KernelError::Thread { name: THREAD, source })?;
    Ok(sender)
}

/// Removes interfaces; those that are gone already are no error.
fn remove_links(socket: &mut Socket, names: &[String]) -> Result<(), KernelError> {
    // What is sent at once must fit in the socket's buffer.
    const AT_ONCE: usize = 512;
    for names in names.chunks(AT_ONCE) {
        let mut batch = Batch::new();
        link::delete_all(&mut batch, names.iter().map(String::as_str));
        match socket.execute(&mut batch) {
            Err(error) if error.errno() != Some(Errno::NODEV) => {
                return Err(netlink(format!("remove the interfaces {}", names.join(", ")))(error));
            }
            _ => {}
        }
    }
    Ok(())
}
