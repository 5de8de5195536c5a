//! Networks: what is known about one ([`Network`]), all of them in memory ([`Networks`]), and what a list shows.
//!
//! ```text
//!            (bridge, host, none are always there)
//! create ──▶ Network ──connect──▶ … containers … ──disconnect──▶ Network ──remove, prune──▶ gone
//! ```
//!
//! The row in the database is the intent: a daemon that starts makes each network anew, or takes it over, with the subnets
//! that the row holds. Order: the host's part (`palan_network`) first, then the row with its event; when the row can't
//! be written, the host's part goes again. At a removal the host's part goes first, since only there it shows whether
//! anything still uses it.
//!
//! The steps stand in `create`, `remove`, `connect`; `endpoints` says what a container asks of its networks, `ports` what it
//! publishes, `names` writes the files that its resolver answers from, `relay` hands ports over that its supervisor relays.

mod connect;
mod create;
pub(crate) mod endpoints;
pub(crate) mod names;
pub(crate) mod ports;
pub(crate) mod relay;
mod remove;
mod template;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use connect::{Connection, Disconnection, sandbox_of};
pub use create::NetworkSpec;

use crate::container::Details;
use crate::engine::Engine;
use crate::events::{Event, ObjectKind};
use crate::spec::Filters;
use crate::{Class, Error, Result};

/// By this text clients know that there is no swarm.
pub const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                                 connect this node to swarm and try again.";
/// The name of the network that containers get which ask for none.
pub(crate) const BRIDGE: &str = "bridge";
const PREDEFINED: [&str; 3] = [BRIDGE, "host", "none"];

/// One network as the database stores it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Version of this stored form.
    pub version: u32,
    /// Name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// When it was made; for the predefined ones, when the data root was first used.
    pub created: Timestamp,
    /// `bridge`, `host`, `null`, `macvlan` or `ipvlan`.
    pub driver: String,
    /// It is nothing but a configuration for others.
    pub config_only: bool,
    /// The network whose configuration it has; empty: its own.
    pub config_from: String,
    /// Whether it has IPv4 addresses.
    pub enable_ipv4: bool,
    /// Whether it has IPv6 addresses.
    pub enable_ipv6: bool,
    /// Nothing in, nothing out.
    pub internal: bool,
    /// As asked; every network of this version is.
    pub attachable: bool,
    /// The subnets, first that of IPv4.
    pub ipam: Vec<IpamConfig>,
    /// Whether the subnets were named by the user: only then can a container ask for an address.
    pub has_own_subnets: bool,
    /// Options of the driver, with Docker's keys.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One subnet of a network, as text like everything that users write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// In CIDR form.
    pub subnet: String,
    /// Where containers' addresses are chosen from; empty: the whole subnet.
    pub range: String,
    /// Gateway; empty when there is none.
    pub gateway: String,
    /// Addresses that others have, by name.
    pub auxiliary: BTreeMap<String, String>,
}

/// One network as `inspect` shows it.
#[derive(Debug, Clone)]
pub struct NetworkDetails {
    /// The network.
    pub network: Arc<Network>,
    /// Endpoints by container id.
    pub containers: BTreeMap<String, NetworkMember>,
    /// How many addresses are given out; not in lists.
    pub usage: Vec<palan_network::Usage>,
}

/// One endpoint of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkMember {
    /// Name of the container.
    pub name: String,
    /// Id of the endpoint.
    pub endpoint_id: String,
    /// MAC address.
    pub mac_address: String,
    /// Address in CIDR form.
    pub ipv4_address: String,
    /// Address in CIDR form.
    pub ipv6_address: String,
}

impl Network {
    /// Whether it always exists.
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.contains(&self.name.as_str())
    }

    /// Whether its containers find each other by name.
    pub(crate) fn has_names(&self) -> bool {
        !self.is_predefined()
    }

    /// An event about it.
    pub(crate) fn event(&self, action: &str) -> Event {
        let attributes = [("name", self.name.as_str()), ("type", self.driver.as_str())];
        Event {
            time: Timestamp::now(),
            kind: ObjectKind::Network,
            action: action.into(),
            actor: self.id.clone(),
            attributes: attributes.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        }
    }

    /// An event about a container on it.
    pub(crate) fn container_event(&self, action: &str, container: &str) -> Event {
        let mut event = self.event(action);
        event.attributes.insert("container".into(), container.into());
        event
    }
}

/// The id of a predefined network: made from the identity of the data root, so that it is the same after every restart.
pub(crate) fn id_of(daemon_id: &str, name: &str) -> String {
    palan_oci::Digest::of(format!("{daemon_id}/{name}").as_bytes()).hex().to_string()
}

/// All networks in memory; the database has the same, apart from the predefined ones.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    by_id: RwLock<BTreeMap<String, Arc<Network>>>,
    /// One is made or removed at a time, so that a name is given once.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// One file with names is written at a time, so that the last one written is the newest.
    pub(crate) writing_names: std::sync::Mutex<()>,
}

impl Networks {
    pub(crate) fn insert(&self, network: Network) -> Arc<Network> {
        let network = Arc::new(network);
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.insert(network.id.clone(), network.clone());
        network
    }

    pub(crate) fn remove(&self, id: &str) {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Network>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Network>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Finds by full id, then by name, then by the beginning of an id.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Network>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(network) = by_id.get(reference) {
            return Ok(network.clone());
        }
        if let Some(network) = by_id.values().find(|network| network.name == reference) {
            return Ok(network.clone());
        }
        let mut fitting =
            by_id.values().filter(|network| !reference.is_empty() && network.id.starts_with(reference));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {reference} is ambiguous ({} matches found based on ID prefix)",
                2 + fitting.count()
            ))),
            _ => Err(Error::not_found(format!("network {reference} not found"))),
        }
    }
}

/// Networks.
impl Engine {
    /// The networks. Filters: `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`.
    pub async fn list_networks(&self, filters: Filters) -> Result<Vec<NetworkDetails>> {
        filters.check(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = filters.boolean("dangling")?;
        if let Some(wrong) = filters.values("type").find(|kind| !matches!(*kind, "builtin" | "custom")) {
            return Err(Error::invalid(format!("invalid filter: 'type'='{wrong}'")));
        }
        let fits = |network: &Network| {
            let part = |key: &str, actual: &str| {
                !filters.has(key) || filters.values(key).any(|part| actual.contains(part))
            };
            let kind = if network.is_predefined() { "builtin" } else { "custom" };
            part("name", &network.name)
                && (!filters.has("id") || filters.values("id").any(|prefix| network.id.starts_with(prefix)))
                && filters.exact("driver", &network.driver)
                && filters.exact("scope", "local")
                && filters.exact("type", kind)
                && filters.labels("label", &network.labels)
                && dangling
                    .is_none_or(|dangling| dangling == (!network.is_predefined() && !self.is_in_use(network)))
        };
        let networks = self.networks.all().into_iter().filter(|network| fits(network));
        Ok(networks
            .map(|network| NetworkDetails { network, containers: BTreeMap::new(), usage: Vec::new() })
            .collect())
    }

    /// One network by name or id.
    pub async fn inspect_network(&self, reference: &str) -> Result<NetworkDetails> {
        let network = self.networks.find(reference)?;
        let containers = self.members(&network);
        let usage = self.network.usage(&network.id);
        Ok(NetworkDetails { network, containers, usage })
    }

    /// The endpoints of running containers.
    pub(crate) fn members(&self, network: &Network) -> BTreeMap<String, NetworkMember> {
        let mut members = BTreeMap::new();
        for handle in self.index.all() {
            let details = handle.details();
            let on_it = |endpoint: &&crate::container::Endpoint| {
                endpoint.network_id == network.id && !endpoint.endpoint_id.is_empty()
            };
            let Some(endpoint) = details.endpoints.values().find(on_it) else { continue };
            let with_prefix = |address: &str, length: u8| match address {
                "" => String::new(),
                address => format!("{address}/{length}"),
            };
            let member = NetworkMember {
                name: details.name.clone(),
                endpoint_id: endpoint.endpoint_id.clone(),
                mac_address: endpoint.mac_address.clone(),
                ipv4_address: with_prefix(&endpoint.ip_address, endpoint.ip_prefix_len),
                ipv6_address: with_prefix(&endpoint.ipv6_address, endpoint.ipv6_prefix_len),
            };
            members.insert(details.id.clone(), member);
        }
        members
    }

    /// Whether a container is on it or will be when it starts.
    fn is_in_use(&self, network: &Network) -> bool {
        let uses =
            |details: &Details| details.endpoints.values().any(|endpoint| endpoint.network_id == network.id);
        self.index.all().iter().any(|handle| uses(&handle.details()))
    }
}

/// A failure of the network as the engine's error, with the class that Docker's have.
pub(crate) fn network_error(error: palan_network::NetworkError, what: &str) -> Error {
    use palan_network::NetworkError as Cause;
    let class = match &error {
        Cause::Overlap { .. } | Cause::Busy { .. } | Cause::InterfaceInUse { .. } => Class::Forbidden,
        Cause::NoFreeSubnet | Cause::Setting { .. } | Cause::NoParent { .. } | Cause::NotABridge { .. } => {
            Class::InvalidParameter
        }
        Cause::Unknown { .. } => Class::NotFound,
        _ => return Error::system(what).with_source(error),
    };
    Error::new(class, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable() {
        assert_eq!(id_of("x", "bridge"), id_of("x", "bridge"));
        assert_ne!(id_of("x", "bridge"), id_of("x", "host"));
        assert_eq!(id_of("x", "bridge").len(), 64);
    }

    #[test]
    fn finding() {
        let networks = Networks::default();
        for (id, name) in [("abc1", "front"), ("abd2", "abc1"), ("ffff", "back")] {
            networks.insert(Network { id: id.into(), name: name.into(), ..Network::default() });
        }
        let found = |text: &str| networks.find(text).map(|network| network.name.clone());
        let found = |text: &str| found(text).map_err(|error| error.to_string());
        assert_eq!(found("abc1").as_deref(), Ok("front"), "an id wins over a name");
        assert_eq!(found("back").as_deref(), Ok("back"));
        assert_eq!(found("ff").as_deref(), Ok("back"));
        assert_eq!(found("ab").unwrap_err(), "network ab is ambiguous (2 matches found based on ID prefix)");
        assert_eq!(found("x").unwrap_err(), "network x not found");
        assert_eq!(found("").unwrap_err(), "network  not found");
    }
}
