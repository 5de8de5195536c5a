//! The front door: all networks of a daemon, from opening the host's firewall to removing everything.
//!
//! ```text
//! open ──▶ create (each network) ──▶ restore ──▶ create ⇄ remove, attach ⇄ detach, connect ⇄ disconnect …
//!                                                  └──▶ (the daemon ends: everything stays) ──▶ open …
//!                                                  └──▶ remove_all
//! ```
//!
//! A *network* is a bridge (or an interface of the host) with subnets; a *sandbox* is the network namespace of a container;
//! an *endpoint* joins one to the other. A container has one sandbox and any number of endpoints.
//!
//! **Invariants.**
//! - What must survive the daemon are the resolved [`NetworkConfig`]s and the [`EndpointRecord`]s, which the caller stores
//!   and gives back; everything else is read back from the kernel, or made again: after a loss of all links (a reboot)
//!   [`Manager::create`] makes the bridges anew.
//! - Nothing is left behind on an error.
//! - Locks are taken in the order `state`, `firewall`, `links`, each for a few system calls at most; the making of a
//!   namespace, the longest step of an attachment, needs none.
//!
//! **Where the time of an attachment goes** (two busy cores, an unoptimised build; medians in microseconds): the namespace
//! 620, opening it and its settings 130, `lo` 120, all three off the path thanks to the reserve in `namespace`; the
//! veth pair with its bridge port 500, the inner addresses and routes 80, switching on 145, published ports 60
//! for the table and 40 for `route_localnet`. That makes 1.2 ms, and 0.1 ms without a bridge. Removing a pair waits for
//! RCU grace periods and therefore happens on a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palan_linux::netlink::link::{self, Filter, Target};
use palan_linux::netlink::{Protocol, Socket};
use palan_stdx::error_chain::Chain;

use crate::bridge;
use crate::config::{AddressPlan, Driver, NetworkConfig};
use crate::endpoint::{self, Below};
use crate::error::netlink;
use crate::firewall::table::{self, Publication};
use crate::firewall::watch::Watch;
use crate::firewall::{Table, foreign, watch};
use crate::namespace::Namespaces;
use crate::publish::Ports;
use crate::record::{EndpointId, EndpointRecord, PublishedPort};
use crate::removals::{Removals, remove_links};
use crate::state::{Endpoint, Network, State};
use crate::{FirewallIntegration, HostConfig, KernelError, NetworkError, Subnet, parent, pools};

/// The networks of one daemon. Methods may be called from several threads at once.
#[derive(Debug)]
pub struct Manager {
    pub(crate) config: HostConfig,
    pub(crate) table: Table,
    pub(crate) state: Mutex<State>,
    /// nftables and conntrack. One socket for all changes, as the watch knows ours by its port.
    pub(crate) firewall: Mutex<Socket>,
    /// Interfaces, addresses, routes.
    pub(crate) links: Mutex<Socket>,
    pub(crate) namespaces: Namespaces,
    pub(crate) removals: Removals,
    /// Whether the previous daemon's guard against packets to the host's loopback was in force at the start.
    was_guarded: bool,
    /// Ends its thread with the manager.
    _watch: Mutex<Option<Watch>>,
}

/// What the kernel had when a manager began.
#[derive(Debug, Default)]
pub struct Survey {
    /// Interfaces on the bridges, by network.
    ports: HashMap<String, Vec<String>>,
}

/// What [`Manager::restore`] found.
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

impl Manager {
    /// Reads what the kernel has, and starts to watch the ruleset. The nftables table isn't touched before
    /// [`Manager::restore`], so that published ports of running containers keep working meanwhile.
    pub fn open(config: HostConfig) -> Result<Arc<Self>, NetworkError> {
        check_table_name(&config.table)?;
        let mut links = open_socket(Protocol::Route)?;
        let mut firewall = open_socket(Protocol::Netfilter)?;
        let unreadable = || netlink(format!("read the nftables table ip {}", config.table));
        if let Some(owner) = table::other_owner(&mut firewall, &config).map_err(unreadable())?
            && exists(&mut links, &owner)?
        {
            return Err(NetworkError::TableInUse { table: config.table, bridge: owner });
        }
        let table = Table::new(&config);
        let was_guarded = table.has_guard(&mut firewall).map_err(unreadable())?;
        let own_port = firewall.port();
        let state = State {
            networks: HashMap::new(),
            ports: Ports::new()?,
            endpoints: HashMap::new(),
            restored: false,
            other_bridges: Vec::new(),
        };
        let manager = Arc::new(Self {
            config,
            table,
            state: Mutex::new(state),
            firewall: Mutex::new(firewall),
            links: Mutex::new(links),
            namespaces: Namespaces::default(),
            removals: Removals::start()?,
            was_guarded,
            _watch: Mutex::new(None),
        });
        let weak = Arc::downgrade(&manager);
        let watch =
            watch::start(own_port, move || weak.upgrade().is_some_and(|manager| manager.look_again()))?;
        *lock(&manager._watch) = Some(watch);
        Ok(manager)
    }

    /// Makes a network, or takes it over from the previous daemon. Returns the settings with what was chosen: subnets,
    /// gateways, the MTU. The caller stores them and gives them back after a restart.
    pub fn create(&self, config: NetworkConfig) -> Result<NetworkConfig, NetworkError> {
        let mut state = lock(&self.state);
        let (config, below) = match config.driver {
            Driver::Bridge => self.create_bridge(&state, config)?,
            Driver::Macvlan { .. } | Driver::Ipvlan { .. } => {
                let (config, _) = self.with_addresses(&state, config, &[])?;
                let below = parent::ensure(&mut lock(&self.links), &config)?;
                (config, below)
            }
        };
        let network = Network::new(config.clone(), below);
        state.networks.insert(config.id.clone(), network);
        if state.restored
            && config.driver == Driver::Bridge
            && let Err(error) = self.write_firewall(&mut state)
        {
            state.networks.remove(&config.id);
            self.remove_interfaces_of(&config);
            return Err(error);
        }
        Ok(config)
    }

    /// Removes a network without endpoints.
    pub fn remove(&self, id: &str) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        let Some(network) = state.networks.get(id) else {
            return Err(NetworkError::Unknown { id: id.to_owned() });
        };
        if state.endpoints.values().any(|endpoint| endpoint.network_id == id) {
            return Err(NetworkError::Busy { name: network.config.name.clone() });
        }
        let config = network.config.clone();
        state.networks.remove(id);
        if config.driver == Driver::Bridge {
            if self.config.firewall_integration == FirewallIntegration::Automatic {
                foreign::reconcile(&mut lock(&self.firewall), &[&config.bridge], false)
                    .map_err(netlink("remove our rules from other nftables tables"))?;
            }
            self.write_firewall(&mut state)?;
        }
        self.remove_interfaces_of(&config);
        Ok(())
    }

    /// What [`Manager::restore`] will want to know of the kernel. Call it when all networks were created; nothing is attached or detached
    /// before the restoration.
    pub fn survey(&self) -> Result<Survey, NetworkError> {
        let state = lock(&self.state);
        let mut links = lock(&self.links);
        let mut ports = HashMap::new();
        for (id, network) in &state.networks {
            let Below::Bridge { bridge, .. } = &network.below else { continue };
            let names = link::port_names(&mut links, bridge.index);
            ports.insert(id.clone(), names.map_err(netlink("list the bridge's ports"))?);
        }
        Ok(Survey { ports })
    }

    /// Takes back the endpoints of containers that still run: reserves their addresses and ports again, drops interfaces
    /// of ours that belong to no record, and writes the whole table in one transaction. Working endpoints are not
    /// disturbed. Call it once after all networks were created, with an empty slice if nothing runs.
    pub fn restore(&self, live: &[EndpointRecord], survey: Survey) -> Result<Restored, NetworkError> {
        let mut restored = Restored::default();
        let mut state = lock(&self.state);
        let present = self.own_interfaces(&state, live, survey)?;
        for record in live {
            if state.endpoints.contains_key(&record.endpoint_id) {
                continue;
            }
            match readopt(&mut state, record, &present) {
                Ok(unreserved) => restored.warnings.extend(unreserved.iter().map(|port| {
                    let address = std::net::SocketAddr::new(port.host_address, port.host_port);
                    format!(
                        "port {address}/{} of container {} is also used by another process on the host",
                        port.protocol, record.container_id
                    )
                })),
                Err(reason) => restored.lost.push((record.endpoint_id.clone(), reason)),
            }
        }
        for (id, name) in present {
            if !EndpointId::try_from(id).is_ok_and(|id| state.endpoints.contains_key(&id)) {
                self.removals.add(&name);
                restored.orphans.push(name);
            }
        }
        restored.orphans.extend(self.remove_orphaned_bridges(&state)?);
        state.restored = true;
        self.write_firewall(&mut state)?;
        self.namespaces.fill();
        Ok(restored)
    }

    /// Removes everything: interfaces, rules in our and in other tables, the bridges. For tests and for uninstalling.
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        let survey = self.survey()?;
        let mut state = lock(&self.state);
        state.restored = false;
        self.namespaces.clear();
        let bridges = state.bridges();
        for bridge in &bridges {
            bridge::set_route_localnet(bridge, false)?;
        }
        let interfaces: Vec<String> = self.own_interfaces(&state, &[], survey)?.into_values().collect();
        {
            let mut socket = lock(&self.firewall);
            let names: Vec<&str> = bridges.iter().map(String::as_str).collect();
            foreign::reconcile(&mut socket, &names, false)
                .map_err(netlink("remove our rules from other nftables tables"))?;
            self.table
                .remove(&mut socket)
                .map_err(netlink(format!("remove the nftables table ip {}", self.table.name())))?;
        }
        for endpoint in std::mem::take(&mut state.endpoints).into_values() {
            state.ports.release(&endpoint.ports);
            if let Some(network) = state.networks.get_mut(&endpoint.network_id) {
                network.give_back(&endpoint.addresses());
            }
        }
        remove_links(&mut lock(&self.links), &interfaces)?;
        for network in state.networks.values() {
            self.remove_interfaces_of(&network.config);
        }
        Ok(())
    }

    /// Puts our tables and our rules in other tables back where somebody removed them. The watching thread does this
    /// when the ruleset's generation changes; callers only need it to be certain of the moment.
    pub fn on_ruleset_change(&self) -> Result<(), NetworkError> {
        let mut state = lock(&self.state);
        if !state.restored {
            return Ok(());
        }
        let intact = self
            .table
            .is_intact(&mut lock(&self.firewall), &state.table_networks())
            .map_err(netlink(format!("read the nftables table ip {}", self.table.name())))?;
        if intact && state.other_bridges == self.find_other_bridges(&state)? {
            return self.reconcile_foreign(&state);
        }
        if !intact {
            // First of all: without the guard chain this setting would open the host's loopback to containers.
            for bridge in state.bridges() {
                bridge::set_route_localnet(&bridge, false)?;
            }
        }
        self.write_firewall(&mut state)
    }

    /// What an administrator should know, in sentences: a firewall that would drop our traffic and can't be told not to.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if self.config.firewall_integration == FirewallIntegration::None {
            return Vec::new();
        }
        let bridges = lock(&self.state).bridges();
        let bridges: Vec<&str> = bridges.iter().map(String::as_str).collect();
        let found = foreign::warnings(&mut lock(&self.firewall), self.table.name(), &bridges);
        found.unwrap_or_else(|error| {
            vec![format!(
                "the nftables ruleset can't be read, so that nothing is known about other firewalls: {error}"
            )]
        })
    }

    /// Chooses what the settings leave open about addresses, and refuses what other networks have. True if the IPv4 subnet
    /// was chosen here; `avoided` are subnets that it must not be.
    fn with_addresses(
        &self,
        state: &State,
        mut config: NetworkConfig,
        avoided: &[Subnet],
    ) -> Result<(NetworkConfig, bool), NetworkError> {
        if config.adopt {
            let wanted = config.ipv4.as_ref().and_then(|plan| Some(gateway_in(plan.subnet, plan.gateway?)));
            let present = bridge::present_address(&mut lock(&self.links), &config.bridge, wanted)?;
            if let (Some(present), None) = (present, wanted) {
                let gateway = Some(present.address());
                config.ipv4 = Some(AddressPlan { gateway, ..AddressPlan::new(present.network()) });
            }
            config.ipv4.get_or_insert_with(|| AddressPlan::automatic(false));
        }
        let is_chosen = config.ipv4.as_ref().is_some_and(AddressPlan::is_automatic);
        let mut taken = bridge::taken(&mut lock(&self.links), &config.bridge)?;
        let others = || state.networks.values().filter(|network| network.config.id != config.id);
        taken.extend(others().flat_map(Network::subnets).chain(avoided.iter().copied()));
        let check = |subnet: Subnet| -> Result<(), NetworkError> {
            let overlapping = |other: &Network| other.subnets().find(|other| other.overlaps(subnet));
            match others().find_map(|other| Some((overlapping(other)?, other.config.name.clone()))) {
                Some((other, network)) => Err(NetworkError::Overlap { subnet, other, network }),
                None => Ok(()),
            }
        };
        let mut plans = [config.ipv4.clone(), config.ipv6.clone()];
        for plan in plans.iter_mut().flatten() {
            if plan.is_automatic() {
                plan.subnet = self.choose(plan.subnet, &taken)?;
            } else {
                check(plan.subnet)?;
            }
            let first = plan.subnet.number(crate::ipam::hosts(plan.subnet).0);
            plan.gateway.get_or_insert(first);
        }
        [config.ipv4, config.ipv6] = plans;
        Ok((config, is_chosen))
    }

    fn choose(&self, wanted: Subnet, taken: &[Subnet]) -> Result<Subnet, NetworkError> {
        let size = Some(wanted.prefix()).filter(|prefix| *prefix > 0);
        if wanted.is_ipv6() {
            pools::first_free(&[self.config.unique_local], size, taken)
        } else {
            pools::first_free(&self.config.pools, size, taken)
        }
    }

    /// Another daemon may take the same subnet at the same moment. Both look again afterwards, and the one whose bridge is
    /// younger moves on.
    fn create_bridge(
        &self,
        state: &State,
        wanted: NetworkConfig,
    ) -> Result<(NetworkConfig, Below), NetworkError> {
        let same =
            |network: &Network| network.config.bridge == wanted.bridge && network.config.id != wanted.id;
        if state.networks.values().any(same) {
            return Err(NetworkError::InterfaceInUse { name: wanted.bridge });
        }
        if !self.was_guarded && exists(&mut lock(&self.links), &wanted.bridge)? {
            bridge::set_route_localnet(&wanted.bridge, false)?;
        }
        let mut avoided = Vec::new();
        loop {
            let (mut config, is_chosen) = self.with_addresses(state, wanted.clone(), &avoided)?;
            let mut links = lock(&self.links);
            let bridge = bridge::ensure(&mut links, &config, &self.config.owner)?;
            if let Some(AddressPlan { subnet, gateway: Some(gateway), .. }) = &config.ipv4
                && is_chosen
                && let Some(rival) = bridge::rival(&mut links, bridge.index, *subnet)?
            {
                avoided.push(rival);
                bridge::remove_address(&mut links, bridge.index, gateway_in(*subnet, *gateway))?;
                continue;
            }
            config.mtu = Some(bridge.mtu);
            let inter_container = config.inter_container;
            return Ok((config, Below::Bridge { bridge, inter_container }));
        }
    }

    fn remove_interfaces_of(&self, config: &NetworkConfig) {
        let removed = match config.driver {
            Driver::Bridge => bridge::remove(&mut lock(&self.links), &config.bridge),
            Driver::Macvlan { .. } | Driver::Ipvlan { .. } => parent::remove(&mut lock(&self.links), config),
        };
        if let Err(error) = removed {
            tracing::warn!(error = %Chain(&error), network = config.name, "an interface of a network stays behind");
        }
    }

    /// Our interfaces on the bridges: endpoint ids and interface names. Those with the names of live endpoints are theirs, the others are
    /// known by their texts.
    fn own_interfaces(
        &self,
        state: &State,
        live: &[EndpointRecord],
        mut survey: Survey,
    ) -> Result<HashMap<String, String>, KernelError> {
        let known: HashMap<(&str, &str), &EndpointId> = live
            .iter()
            .map(|record| ((&*record.network_id, &*record.host_interface), &record.endpoint_id))
            .collect();
        let mut links = lock(&self.links);
        let mut own = HashMap::new();
        for (id, network) in &state.networks {
            let Below::Bridge { bridge, .. } = &network.below else { continue };
            let prefix = endpoint::alias(&bridge.name, "");
            for name in survey.ports.remove(id).unwrap_or_default() {
                if let Some(endpoint) = known.get(&(id, &name)) {
                    own.insert(endpoint.as_str().to_owned(), name);
                    continue;
                }
                let found = link::get(&mut links, Target::Name(&name));
                let found = found.map_err(netlink(format!("look at the interface {name}")))?;
                if let Some(id) = found.and_then(|link| Some(link.alias.strip_prefix(&prefix)?.to_owned())) {
                    own.insert(id, name);
                }
            }
        }
        Ok(own)
    }

    /// Bridges of networks that nobody knows any more: the daemon ended after it made one and before it was recorded.
    fn remove_orphaned_bridges(&self, state: &State) -> Result<Vec<String>, KernelError> {
        let mut links = lock(&self.links);
        let bridges =
            link::list(&mut links, Filter::Kind("bridge")).map_err(netlink("list the host's bridges"))?;
        let (alias, known) = (bridge::alias_of(&self.config.owner), state.bridges());
        let mut orphans = Vec::new();
        for link in bridges {
            if link.alias == alias && !known.contains(&link.name) {
                bridge::remove(&mut links, &link.name)?;
                orphans.push(link.name);
            }
        }
        Ok(orphans)
    }

    /// The table and our rules in other tables.
    fn write_firewall(&self, state: &mut State) -> Result<(), NetworkError> {
        self.write_table(state)?;
        self.reconcile_foreign(state)
    }

    /// The whole table, and then the kernel setting that depends on it.
    pub(crate) fn write_table(&self, state: &mut State) -> Result<(), KernelError> {
        state.other_bridges = self.find_other_bridges(state)?;
        let published: Vec<Publication> =
            state.endpoints.values().flat_map(|endpoint| state.publications(endpoint)).collect();
        self.table
            .write(&mut lock(&self.firewall), &state.table_networks(), &published, &state.other_bridges)
            .map_err(netlink(format!("write the nftables table ip {}", self.table.name())))?;
        self.set_route_localnet(state)
    }

    fn reconcile_foreign(&self, state: &State) -> Result<(), NetworkError> {
        if self.config.firewall_integration == FirewallIntegration::None {
            return Ok(());
        }
        let bridges = state.bridges();
        let bridges: Vec<&str> = bridges.iter().map(String::as_str).collect();
        let changed = foreign::reconcile(&mut lock(&self.firewall), &bridges, true);
        Ok(changed.map_err(netlink("add accept rules for the bridges to the host's nftables tables"))?)
    }

    fn find_other_bridges(&self, state: &State) -> Result<Vec<String>, KernelError> {
        let bridges = link::list(&mut lock(&self.links), Filter::Kind("bridge"))
            .map_err(netlink("list the host's bridges"))?;
        let own = state.bridges();
        let others = bridges.iter().filter(|link| !own.contains(&link.name));
        Ok(foreign::docker_bridges(others.map(|link| link.name.as_str())))
    }

    /// On exactly while a port is published on a loopback address; called with the table in force.
    pub(crate) fn set_route_localnet(&self, state: &State) -> Result<(), KernelError> {
        for (id, network) in &state.networks {
            if let Below::Bridge { bridge, .. } = &network.below {
                bridge::set_route_localnet(&bridge.name, state.publishes_on_loopback(id))?;
            }
        }
        Ok(())
    }

    /// The watch's call; false ends the watch.
    fn look_again(&self) -> bool {
        if let Err(error) = self.on_ruleset_change() {
            tracing::error!(error = %Chain(&error), "cannot restore the firewall rules");
        }
        true
    }
}

/// Takes an endpoint back after a restart. Returns ports that couldn't be reserved, or why it is lost.
fn readopt(
    state: &mut State,
    record: &EndpointRecord,
    present: &HashMap<String, String>,
) -> Result<Vec<PublishedPort>, String> {
    if record.version > EndpointRecord::VERSION {
        let version = record.version;
        return Err(format!("its record has the version {version}, which is newer than this program"));
    }
    let Some(network) = state.networks.get_mut(&record.network_id) else {
        return Err(format!("its network {} is gone", record.network_id));
    };
    let has_link = matches!(network.below, Below::Bridge { .. });
    if has_link && present.get(record.endpoint_id.as_str()) != Some(&record.host_interface) {
        return Err(format!("the interface {} is gone", record.host_interface));
    }
    for side in record.ipv4.iter().chain(&record.ipv6) {
        let plan = if side.address.is_ipv6() { &network.config.ipv6 } else { &network.config.ipv4 };
        let gateway = plan.as_ref().and_then(|plan| plan.gateway);
        if side.gateway.is_some() && side.gateway != gateway {
            return Err(format!("the network {} has another gateway now", network.config.name));
        }
    }
    let sides = record.ipv4.iter().chain(&record.ipv6);
    for side in sides {
        if let Some(leases) = network.leases(side.address.is_ipv6()) {
            leases.take(Some(side.address), None).map_err(|error| error.to_string())?;
        }
    }
    let relaying = network.relaying();
    let unreserved = state.ports.readopt(&record.container_id, &record.ports, relaying);
    state.endpoints.insert(record.endpoint_id.clone(), Endpoint::of(record));
    Ok(unreserved)
}

/// A subnet written with the gateway's address, as `bip` is.
fn gateway_in(subnet: Subnet, gateway: std::net::IpAddr) -> Subnet {
    Subnet::new(gateway, subnet.prefix())
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

fn open_socket(protocol: Protocol) -> Result<Socket, KernelError> {
    Socket::open(protocol).map_err(netlink("open a netlink socket"))
}

/// A poisoned lock is taken anyway: what it guards is changed in steps that leave it usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
