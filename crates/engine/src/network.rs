//! The three networks that always exist: `bridge`, `host` and `none`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use palan_network::PortBinding;

use crate::container::{Details, validate};
use crate::engine::Engine;
use crate::spec::Filters;
use crate::{Error, Result};

/// One network as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDetails {
    /// Name.
    pub name: String,
    /// 64 hexadecimal digits, the same after every restart of the daemon.
    pub id: String,
    /// When the data root was first used.
    pub created: Timestamp,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Subnet of the bridge in CIDR form; empty otherwise.
    pub subnet: String,
    /// Gateway; empty otherwise.
    pub gateway: String,
    /// Options of the driver, with Docker's keys.
    pub options: BTreeMap<String, String>,
    /// Endpoints by container id.
    pub containers: BTreeMap<String, NetworkMember>,
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
}

const NAMES: [&str; 3] = ["bridge", "host", "none"];

/// The name of the network of a mode.
pub(crate) fn name_of(mode: palan_network::Mode) -> &'static str {
    match mode {
        palan_network::Mode::Bridge => "bridge",
        palan_network::Mode::Host => "host",
        palan_network::Mode::None => "none",
    }
}

/// The driver of a network, in Docker's word.
pub(crate) fn driver_of(name: &str) -> &'static str {
    match name {
        "host" => "host",
        "none" => "null",
        _ => "bridge",
    }
}

/// The id of a default network: made from the identity of the data root, so that it is the same after every restart.
pub(crate) fn id_of(daemon_id: &str, name: &str) -> String {
    palan_oci::Digest::of(format!("{daemon_id}/{name}").as_bytes()).hex().to_string()
}

/// What is to be published, checked; with `-P` all declared ports that are not bound by hand.
pub(crate) fn port_bindings(details: &Details) -> Result<Vec<PortBinding>> {
    let mut bindings = Vec::new();
    for (port, asked) in &details.host.port_bindings {
        let (container_port, protocol) = validate::exposed_port(port)?;
        let protocol = protocol.parse().map_err(|source: palan_network::record::UnsupportedProtocol| {
            Error::invalid(format!("invalid port specification: \"{port}\"")).with_source(source)
        })?;
        for binding in asked {
            let (host_port, host_port_last) = host_ports(&binding.host_port)?;
            let host_address = binding.host_ip.clone();
            bindings.push(PortBinding { container_port, protocol, host_address, host_port, host_port_last });
        }
    }
    if details.host.publish_all_ports {
        for port in &details.config.exposed_ports {
            if details.host.port_bindings.contains_key(port) {
                continue;
            }
            let (container_port, protocol) = validate::exposed_port(port)?;
            let Ok(protocol) = protocol.parse() else { continue };
            let host_address = String::new();
            bindings.push(PortBinding {
                container_port,
                protocol,
                host_address,
                host_port: 0,
                host_port_last: None,
            });
        }
    }
    Ok(bindings)
}

/// `8080`, `8000-8010` or nothing.
fn host_ports(text: &str) -> Result<(u16, Option<u16>)> {
    let invalid = || Error::invalid(format!("invalid port specification: \"{text}\""));
    if text.is_empty() {
        return Ok((0, None));
    }
    match text.split_once('-') {
        None => Ok((text.parse().map_err(|_| invalid())?, None)),
        Some((first, last)) => {
            let (first, last): (u16, u16) =
                (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
            if first == 0 || first > last { Err(invalid()) } else { Ok((first, Some(last))) }
        }
    }
}

/// Networks.
impl Engine {
    /// The networks. Filters: `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`.
    pub async fn list_networks(&self, filters: Filters) -> Result<Vec<NetworkDetails>> {
        filters.check(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = filters.boolean("dangling")?;
        let fits = |network: &NetworkDetails| {
            let part = |key: &str, actual: &str| {
                !filters.has(key) || filters.values(key).any(|part| actual.contains(part))
            };
            part("name", &network.name)
                && (!filters.has("id") || filters.values("id").any(|prefix| network.id.starts_with(prefix)))
                && filters.exact("driver", &network.driver)
                && filters.exact("scope", "local")
                && filters.exact("type", "builtin")
                && !filters.has("label")
                // The default networks never dangle.
                && dangling != Some(true)
        };
        Ok(NAMES.iter().map(|name| self.network_details(name)).filter(fits).collect())
    }

    /// One network by name or id.
    pub async fn inspect_network(&self, name: &str) -> Result<NetworkDetails> {
        let all = || NAMES.iter().map(|known| self.network_details(known));
        if let Some(network) = all().find(|network| network.name == name || network.id == name) {
            return Ok(network);
        }
        let mut fitting = all().filter(|network| !name.is_empty() && network.id.starts_with(name));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {name} is ambiguous (2 matches found based on ID prefix)"
            ))),
            _ => Err(Error::not_found(format!("network {name} not found"))),
        }
    }

    fn network_details(&self, name: &str) -> NetworkDetails {
        let mut network = NetworkDetails {
            name: name.into(),
            id: id_of(&self.daemon_id, name),
            created: self.first_start,
            driver: driver_of(name).into(),
            ..NetworkDetails::default()
        };
        if name == "bridge" {
            let gateway = self.network.gateway();
            network.subnet = gateway.network().to_string();
            network.gateway = gateway.address().to_string();
            let prefix = "com.docker.network";
            network.options = [
                (format!("{prefix}.bridge.default_bridge"), "true".to_owned()),
                (format!("{prefix}.bridge.enable_icc"), "true".to_owned()),
                (format!("{prefix}.bridge.enable_ip_masquerade"), "true".to_owned()),
                (format!("{prefix}.bridge.host_binding_ipv4"), "0.0.0.0".to_owned()),
                (format!("{prefix}.bridge.name"), self.network.bridge().to_owned()),
                (format!("{prefix}.driver.mtu"), self.network.mtu().to_string()),
            ]
            .into();
        }
        for handle in self.index.all() {
            let details = handle.details();
            let Some(endpoint) =
                details.endpoints.get(name).filter(|endpoint| !endpoint.endpoint_id.is_empty())
            else {
                continue;
            };
            let address = match endpoint.ip_address.as_str() {
                "" => String::new(),
                address => format!("{address}/{}", endpoint.ip_prefix_len),
            };
            let member = NetworkMember {
                name: details.name.clone(),
                endpoint_id: endpoint.endpoint_id.clone(),
                mac_address: endpoint.mac_address.clone(),
                ipv4_address: address,
            };
            network.containers.insert(details.id.clone(), member);
        }
        network
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(port: &str, host_port: &str) -> Result<Vec<PortBinding>> {
        let mut details = Details::default();
        let binding = crate::spec::PortBinding { host_ip: String::new(), host_port: host_port.into() };
        details.host.port_bindings.insert(port.into(), vec![binding]);
        port_bindings(&details)
    }

    #[test]
    fn ports() {
        let one = bindings("80/tcp", "8080").expect("fine");
        assert_eq!((one[0].container_port, one[0].host_port, one[0].host_port_last), (80, 8080, None));
        let range = bindings("53/udp", "5300-5310").expect("fine");
        assert_eq!((range[0].host_port, range[0].host_port_last), (5300, Some(5310)));
        assert_eq!(bindings("80", "").expect("fine")[0].host_port, 0);
        bindings("80/tcp", "99999").expect_err("too large");
        bindings("80/sctp", "80").expect_err("unsupported");
        bindings("80/tcp", "9-8").expect_err("backwards");
    }

    #[test]
    fn all_declared_ports() {
        let mut details = Details::default();
        details.config.exposed_ports = ["80/tcp".to_owned(), "53/udp".to_owned()].into();
        details.host.publish_all_ports = true;
        assert_eq!(port_bindings(&details).expect("fine").len(), 2);
    }

    #[test]
    fn ids_are_stable() {
        assert_eq!(id_of("x", "bridge"), id_of("x", "bridge"));
        assert_ne!(id_of("x", "bridge"), id_of("x", "host"));
        assert_eq!(id_of("x", "bridge").len(), 64);
    }
}
