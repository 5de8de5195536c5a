//! Making a network: what was asked is checked and completed, then made on the host, then recorded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use palan_network::config::{GatewayMode, IpvlanFlag, IpvlanMode, MacvlanMode};
use palan_network::{AddressPlan, Driver, NetworkConfig, Subnet};

use crate::config::EngineConfig;
use crate::container::validate::unsupported;
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::network::{BRIDGE, IpamConfig, Network, id_of, network_error, template};
use crate::{Class, Error, Result, identifier};

/// Version of [`Network`] as stored.
const NETWORK_VERSION: u32 = 1;
/// What the keys of the bridge driver begin with.
const KEY: &str = "com.docker.network.bridge.";
const MTU: &str = "com.docker.network.driver.mtu";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";

/// A request for a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Name.
    pub name: String,
    /// Driver; empty means `bridge`.
    pub driver: String,
    /// Driver for addresses; empty or `default`.
    pub ipam_driver: String,
    /// Options of the driver for addresses (there are none).
    pub ipam_options: BTreeMap<String, String>,
    /// Subnets.
    pub ipam: Vec<IpamConfig>,
    /// IPv4 addresses; the default is yes.
    pub enable_ipv4: Option<bool>,
    /// IPv6 addresses; the default is no, unless a subnet says so.
    pub enable_ipv6: Option<bool>,
    /// Nothing in, nothing out.
    pub internal: bool,
    /// Kept for `inspect`: every network can be joined.
    pub attachable: bool,
    /// Nothing but a configuration for others.
    pub config_only: bool,
    /// The network whose configuration it shall have; empty: its own.
    pub config_from: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// Makes a network.
    pub async fn create_network(&self, mut spec: NetworkSpec) -> Result<Arc<Network>> {
        let _changing = self.networks.changing.lock().await;
        template::apply(&mut spec, &self.networks)?;
        let network = network_of(spec)?;
        if self.networks.all().iter().any(|other| other.name == network.name) {
            return Err(Error::conflict(format!("network with name {} already exists", network.name)));
        }
        if network.config_only {
            let change = Change::new().put_network(network.clone()).event(network.event("create"));
            self.db.commit(change).await?;
            return Ok(self.networks.insert(network));
        }
        let config = config_of(&network)?;
        let engine = self.shared();
        let made = blocking(move || {
            engine.network.create(config).map_err(|error| network_error(error, "cannot make the network"))
        });
        let mut network = network;
        complete(&mut network, &made.await?);
        let change = Change::new().put_network(network.clone()).event(network.event("create"));
        if let Err(error) = self.db.commit(change).await {
            let (engine, id) = (self.shared(), network.id);
            let undone = blocking(move || {
                engine.network.remove(&id).map_err(|error| network_error(error, "cannot remove the network"))
            });
            if let Err(error) = undone.await {
                tracing::warn!(error = error.report(), "an unfinished network was not cleaned up");
            }
            return Err(error);
        }
        Ok(self.networks.insert(network))
    }

    /// The networks that always exist, and those that the database has; makes them on the host. Blocking.
    pub(crate) fn restore_networks(&self, stored: Vec<Network>) -> Result<()> {
        let what = "cannot set up the default network";
        let wanted = default_bridge(&self.config, &self.daemon_id)?;
        let made = self.network.create(wanted).map_err(|error| network_error(error, what))?;
        let mut bridge = Network {
            version: NETWORK_VERSION,
            name: BRIDGE.into(),
            id: made.id.clone(),
            created: self.first_start,
            driver: "bridge".into(),
            enable_ipv4: true,
            options: bridge_options(&made),
            ..Network::default()
        };
        complete(&mut bridge, &made);
        self.networks.insert(bridge);
        for (name, driver) in [("host", "host"), ("none", "null")] {
            self.networks.insert(Network {
                version: NETWORK_VERSION,
                name: name.into(),
                id: id_of(&self.daemon_id, name),
                created: self.first_start,
                driver: driver.into(),
                enable_ipv4: true,
                ..Network::default()
            });
        }
        for network in stored {
            if network.config_only {
                self.networks.insert(network);
                continue;
            }
            let made = config_of(&network).and_then(|config| {
                self.network.create(config).map_err(|error| network_error(error, "cannot make the network"))
            });
            if let Err(error) = made {
                // One that can't be made now (its parent interface is gone, say) must not keep the others from working.
                tracing::error!(network = network.name, error = error.report(), "a network can't be set up");
            }
            self.networks.insert(network);
        }
        Ok(())
    }
}

/// What the settings say about the default bridge.
fn default_bridge(config: &EngineConfig, daemon_id: &str) -> Result<NetworkConfig> {
    let mut bridge = NetworkConfig::bridge(&id_of(daemon_id, BRIDGE), BRIDGE, &config.bridge);
    bridge.adopt = true;
    bridge.mtu = Some(config.mtu).filter(|mtu| *mtu > 0);
    if let Some(bip) = &config.bip {
        let subnet: Subnet = bip
            .parse()
            .map_err(|source| Error::invalid("an address setting can't be used").with_source(source))?;
        let gateway = Some(subnet.address());
        bridge.ipv4 = Some(AddressPlan { gateway, ..AddressPlan::new(subnet.network()) });
    }
    Ok(bridge)
}

fn bridge_options(made: &NetworkConfig) -> BTreeMap<String, String> {
    [
        (format!("{KEY}default_bridge"), "true".to_owned()),
        (format!("{KEY}enable_icc"), made.inter_container.to_string()),
        (format!("{KEY}enable_ip_masquerade"), made.masquerade.to_string()),
        (format!("{KEY}host_binding_ipv4"), made.host_address.to_string()),
        (format!("{KEY}name"), made.bridge.clone()),
        (MTU.to_owned(), made.mtu.unwrap_or_default().to_string()),
    ]
    .into()
}

/// Puts what was chosen into the record.
fn complete(network: &mut Network, made: &NetworkConfig) {
    let config = |plan: &AddressPlan| IpamConfig {
        subnet: plan.subnet.to_string(),
        range: plan.range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: plan.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        auxiliary: plan.auxiliary.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
    };
    network.ipam = made.ipv4.iter().chain(&made.ipv6).map(config).collect();
}

/// What was asked, checked as far as that goes without the host.
fn network_of(spec: NetworkSpec) -> Result<Network> {
    if spec.name.is_empty() {
        return Err(Error::invalid("invalid network config:\nnetwork name cannot be empty"));
    }
    if matches!(spec.name.as_str(), "bridge" | "host" | "none" | "default") {
        let text = format!("operation is not permitted on predefined {} network", spec.name);
        return Err(Error::new(Class::Forbidden, text));
    }
    if spec.name.trim().is_empty() || spec.name.contains(|c: char| c.is_control()) {
        return Err(Error::invalid(format!(
            "invalid network config:\ninvalid network name ({:?}): it must not be blank, and control characters are not allowed",
            spec.name
        )));
    }
    if spec.config_only {
        template::check(&spec)?;
    }
    let driver = match spec.driver.as_str() {
        _ if spec.config_only => template::DRIVER,
        "" => "bridge",
        driver => driver,
    };
    match driver {
        _ if spec.config_only => {}
        "bridge" | "macvlan" | "ipvlan" => {}
        "host" | "null" => {
            let text = format!("only one instance of \"{driver}\" network is allowed");
            return Err(Error::new(Class::Forbidden, text));
        }
        // Docker has it in every engine, of use in a swarm alone.
        "overlay" => return Err(Error::new(Class::Unavailable, super::NOT_A_MANAGER)),
        other => return Err(Error::not_found(format!("plugin \"{other}\" not found"))),
    }
    if !matches!(spec.ipam_driver.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "the IPAM driver \"{}\" is not supported, only \"default\" is",
            spec.ipam_driver
        )));
    }
    if let Some(option) = spec.ipam_options.keys().next() {
        return Err(unsupported(format!("the IPAM option \"{option}\"")));
    }
    let has_ipv6_subnet = spec.ipam.iter().any(|config| config.subnet.contains(':'));
    let network = Network {
        version: NETWORK_VERSION,
        name: spec.name,
        id: identifier::new_id(),
        created: Timestamp::now(),
        driver: driver.to_owned(),
        config_only: spec.config_only,
        config_from: spec.config_from,
        enable_ipv4: spec.enable_ipv4.unwrap_or(true),
        enable_ipv6: spec.enable_ipv6.unwrap_or(has_ipv6_subnet),
        internal: spec.internal,
        attachable: spec.attachable,
        has_own_subnets: spec.ipam.iter().any(|config| !config.subnet.is_empty()),
        ipam: spec.ipam,
        options: spec.options,
        labels: spec.labels,
    };
    if !network.enable_ipv4 && !network.enable_ipv6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    Ok(network)
}

/// The host's part of a network.
fn config_of(network: &Network) -> Result<NetworkConfig> {
    let bridge = format!("br-{}", &network.id[..12.min(network.id.len())]);
    let mut config = NetworkConfig::bridge(&network.id, &network.name, &bridge);
    config.internal = network.internal;
    match network.driver.as_str() {
        "bridge" => bridge_settings(&mut config, &network.options)?,
        driver => stacked_settings(&mut config, driver, &network.options)?,
    }
    let [ipv4, ipv6] = plans(&network.ipam)?;
    let enabled = [(network.enable_ipv4, ipv4, false), (network.enable_ipv6, ipv6, true)];
    let [ipv4, ipv6] = enabled.map(|(is_enabled, plan, ipv6)| {
        is_enabled.then(|| plan.unwrap_or_else(|| AddressPlan::automatic(ipv6)))
    });
    (config.ipv4, config.ipv6) = (ipv4, ipv6);
    for ipv6 in [false, true] {
        if config.mode(ipv6) == GatewayMode::Isolated && !config.internal {
            return Err(Error::invalid("gateway mode 'isolated' can only be used for an internal network"));
        }
    }
    Ok(config)
}

/// One plan for each family.
fn plans(ipam: &[IpamConfig]) -> Result<[Option<AddressPlan>; 2]> {
    let invalid = |text: String| Error::invalid(format!("invalid network config:\n{text}"));
    let mut plans = [None, None];
    for config in ipam {
        if config.subnet.is_empty() {
            if !config.range.is_empty() || !config.gateway.is_empty() || !config.auxiliary.is_empty() {
                return Err(invalid(
                    "subnet must be specified with a range, a gateway or auxiliary addresses".into(),
                ));
            }
            continue;
        }
        let subnet: Subnet = config
            .subnet
            .parse()
            .map_err(|_| invalid(format!("invalid subnet {}: invalid CIDR block notation", config.subnet)))?;
        if subnet.network() != subnet {
            return Err(invalid(format!("invalid subnet {subnet}: it should be {}", subnet.network())));
        }
        let address = |what: &str, text: &str| -> Result<IpAddr> {
            let address: IpAddr =
                text.parse().map_err(|_| invalid(format!("invalid {what} {text}: invalid address")))?;
            let is_inside = subnet.contains(address) || subnet.address().is_unspecified();
            if is_inside {
                Ok(address)
            } else {
                Err(invalid(format!(
                    "invalid {what} {text}: parent subnet {subnet} doesn't contain this address"
                )))
            }
        };
        let mut plan = AddressPlan::new(subnet);
        if !config.gateway.is_empty() {
            plan.gateway = Some(address("gateway address", &config.gateway)?);
        }
        if !config.range.is_empty() {
            let text = &config.range;
            let range: Subnet = text
                .parse()
                .map_err(|_| invalid(format!("invalid ip-range {text}: invalid CIDR block notation")))?;
            let range = range.network();
            if !subnet.contains(range.address()) || range.prefix() < subnet.prefix() {
                return Err(invalid(format!(
                    "invalid ip-range {text}: parent subnet {subnet} doesn't contain it"
                )));
            }
            plan.range = Some(range);
        }
        for (name, text) in &config.auxiliary {
            plan.auxiliary.insert(name.clone(), address("auxiliary address", text)?);
        }
        let place = &mut plans[usize::from(subnet.is_ipv6())];
        if place.is_some() {
            return Err(unsupported("more than one subnet of a family on a network"));
        }
        *place = Some(plan);
    }
    Ok(plans)
}

fn bridge_settings(config: &mut NetworkConfig, options: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in options {
        let bad =
            |what: &str| Error::invalid(format!("invalid value \"{value}\" of the option {name}: {what}"));
        let truth = || match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(bad("true or false is expected")),
        };
        let mode = || match value.as_str() {
            "" | "nat" => Ok(GatewayMode::Nat),
            "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
            "routed" => Ok(GatewayMode::Routed),
            "isolated" => Ok(GatewayMode::Isolated),
            _ => Err(bad("nat, nat-unprotected, routed or isolated is expected")),
        };
        match name.strip_prefix(KEY).unwrap_or(name) {
            "name" => value.clone_into(&mut config.bridge),
            "enable_icc" => config.inter_container = truth()?,
            "enable_ip_masquerade" => config.masquerade = truth()?,
            "host_binding_ipv4" => {
                config.host_address = value.parse().map_err(|_| bad("an IPv4 address is expected"))?;
            }
            "gateway_mode_ipv4" => config.gateway_mode = mode()?,
            "gateway_mode_ipv6" => config.gateway_mode_ipv6 = mode()?,
            _ => common_setting(config, name, value)?,
        }
    }
    Ok(())
}

fn stacked_settings(
    config: &mut NetworkConfig,
    driver: &str,
    options: &BTreeMap<String, String>,
) -> Result<()> {
    let mut parent = None;
    let (mut macvlan, mut ipvlan, mut flag) = (MacvlanMode::Bridge, IpvlanMode::L2, IpvlanFlag::Bridge);
    for (name, value) in options {
        let bad = || Error::invalid(format!("invalid value \"{value}\" of the option {name}"));
        match (driver, name.as_str()) {
            (_, "parent") => parent = Some(value.clone()).filter(|parent| !parent.is_empty()),
            ("macvlan", "macvlan_mode") => {
                macvlan = match value.as_str() {
                    "" | "bridge" => MacvlanMode::Bridge,
                    "private" => MacvlanMode::Private,
                    "vepa" => MacvlanMode::Vepa,
                    "passthru" => MacvlanMode::Passthru,
                    _ => return Err(bad()),
                }
            }
            ("ipvlan", "ipvlan_mode") => {
                ipvlan = match value.as_str() {
                    "" | "l2" => IpvlanMode::L2,
                    "l3" => IpvlanMode::L3,
                    "l3s" => IpvlanMode::L3s,
                    _ => return Err(bad()),
                }
            }
            ("ipvlan", "ipvlan_flag") => {
                flag = match value.as_str() {
                    "" | "bridge" => IpvlanFlag::Bridge,
                    "private" => IpvlanFlag::Private,
                    "vepa" => IpvlanFlag::Vepa,
                    _ => return Err(bad()),
                }
            }
            _ => common_setting(config, name, value)?,
        }
    }
    config.driver = match driver {
        "macvlan" => Driver::Macvlan { parent, mode: macvlan },
        _ => Driver::Ipvlan { parent, mode: ipvlan, flag },
    };
    Ok(())
}

fn common_setting(config: &mut NetworkConfig, name: &str, value: &str) -> Result<()> {
    let bad = |what: &str| Error::invalid(format!("invalid value \"{value}\" of the option {name}: {what}"));
    match name {
        MTU => {
            let mtu: u32 = value.parse().map_err(|_| bad("a number of bytes is expected"))?;
            let smallest = if config.ipv6.is_some() { 1280 } else { 68 };
            if mtu != 0 && !(smallest..=65535).contains(&mtu) {
                return Err(bad("68 to 65535 bytes are possible"));
            }
            config.mtu = Some(mtu).filter(|mtu| *mtu > 0);
        }
        INTERFACE_PREFIX => {
            if value.is_empty() || value.len() > 12 || !value.bytes().all(|byte| byte.is_ascii_alphanumeric())
            {
                return Err(bad("1 to 12 letters and digits are possible"));
            }
            value.clone_into(&mut config.interface_prefix);
        }
        _ => return Err(unsupported(format!("the option \"{name}\" of the network driver"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subnet: &str) -> NetworkSpec {
        let ipam = IpamConfig { subnet: subnet.into(), ..IpamConfig::default() };
        NetworkSpec {
            name: "front".into(),
            driver: String::new(),
            ipam_driver: "default".into(),
            ipam_options: BTreeMap::new(),
            ipam: if subnet.is_empty() { Vec::new() } else { vec![ipam] },
            enable_ipv4: None,
            enable_ipv6: None,
            internal: false,
            attachable: false,
            config_only: false,
            config_from: String::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    fn outcome(spec: NetworkSpec) -> Result<NetworkConfig, String> {
        network_of(spec).and_then(|network| config_of(&network)).map_err(|error| error.report())
    }

    #[test]
    fn what_is_not_said_is_chosen() {
        let config = outcome(spec("")).unwrap();
        assert!(config.ipv4.unwrap().is_automatic() && config.ipv6.is_none());
        let config = outcome(spec("10.5.0.0/16")).unwrap();
        assert_eq!(config.ipv4.unwrap().subnet.to_string(), "10.5.0.0/16");
        let config = outcome(spec("fd00:5::/64")).unwrap();
        assert!(config.ipv4.unwrap().is_automatic() && !config.ipv6.unwrap().is_automatic());
    }

    #[test]
    fn nonsense_is_refused_in_docker_s_words() {
        let refused = |change: &dyn Fn(&mut NetworkSpec), expected: &str| {
            let mut asked = spec("10.5.0.0/16");
            change(&mut asked);
            let error = outcome(asked).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        refused(
            &|spec| spec.name = "bridge".into(),
            "operation is not permitted on predefined bridge network",
        );
        refused(&|spec| spec.name = " ".into(), "invalid network name (\" \")");
        refused(&|spec| spec.name = "a\nb".into(), "invalid network name (\"a\\nb\")");
        refused(&|spec| spec.driver = "overlay".into(), "This node is not a swarm manager.");
        refused(&|spec| spec.driver = "weave".into(), "plugin \"weave\" not found");
        refused(&|spec| spec.driver = "host".into(), "only one instance of \"host\" network is allowed");
        refused(&|spec| spec.ipam[0].subnet = "10.5.0.0/33".into(), "invalid CIDR block notation");
        refused(&|spec| spec.ipam[0].subnet = "10.5.0.1/16".into(), "it should be 10.5.0.0/16");
        refused(&|spec| spec.ipam[0].gateway = "10.6.0.1".into(), "doesn't contain this address");
        refused(&|spec| spec.ipam[0].range = "10.6.0.0/24".into(), "doesn't contain it");
        refused(&|spec| spec.ipam.push(spec.ipam[0].clone()), "more than one subnet of a family");
        refused(&|spec| spec.enable_ipv4 = Some(false), "IPv4 or IPv6 must be enabled");
        let option = |name: &str, value: &str| {
            let (name, value) = (name.to_owned(), value.to_owned());
            move |spec: &mut NetworkSpec| drop(spec.options.insert(name.clone(), value.clone()))
        };
        refused(&option("com.docker.network.bridge.enable_icc", "maybe"), "true or false is expected");
        refused(&option("com.docker.network.driver.mtu", "x"), "a number of bytes is expected");
        refused(&option("nonsense", "x"), "the option \"nonsense\" of the network driver");
        refused(
            &option("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
            "only be used for an internal",
        );
    }
}
