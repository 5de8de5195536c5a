//! What a container asks of its networks, as the network crate wants it, and what came of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use palan_network::{EndpointId, EndpointRecord, EndpointRequest, Manager};

use crate::container::validate::{sysctl_of_interface, unsupported};
use crate::container::{Details, Endpoint, EndpointNote, PublishedPorts};
use crate::engine::Engine;
use crate::network::{BRIDGE, Network, ports};
use crate::spec::{EndpointSettings, HostConfig, PortBinding};
use crate::{Class, Error, Result};

const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
const INTERFACE: &str = "com.docker.network.endpoint.ifname";

/// The container whose network a container shares.
pub(crate) fn shared_with(host: &HostConfig) -> Option<&str> {
    host.network_mode.strip_prefix("container:")
}

/// Whether the container's network is no network of ours: the host's, another container's, or none.
pub(crate) fn has_endpoints(details: &Details) -> bool {
    let mode = details.host.network_mode.as_str();
    !matches!(mode, "host" | "none") && !mode.starts_with("container:") && !details.config.network_disabled
}

/// Whether the container asks a resolver of its own: on a network that has names.
pub(crate) fn has_resolver(engine: &Engine, details: &Details) -> bool {
    let mut networks =
        details.endpoints.values().filter_map(|endpoint| engine.networks.by_id(&endpoint.network_id));
    has_endpoints(details) && networks.any(|network| network.has_names())
}

/// The endpoints of a new container, by the networks' own names. `asked` is as the caller names them.
pub(crate) fn of_new_container(
    engine: &Engine,
    host: &mut HostConfig,
    asked: &BTreeMap<String, EndpointSettings>,
) -> Result<BTreeMap<String, Endpoint>> {
    if shared_with(host).is_some() {
        return Ok(BTreeMap::new());
    }
    let mut wanted: Vec<(String, EndpointSettings)> =
        asked.iter().map(|(name, settings)| (name.clone(), settings.clone())).collect();
    let main = engine.networks.find(&host.network_mode)?;
    let is_main = |name: &str| {
        name == "default" || engine.networks.find(name).is_ok_and(|network| network.id == main.id)
    };
    if !wanted.iter().any(|(name, _)| is_main(name)) {
        wanted.push((main.name.clone(), EndpointSettings::default()));
    }
    let mut endpoints = BTreeMap::new();
    for (name, settings) in wanted {
        let network = if name == "default" { main.clone() } else { engine.networks.find(&name)? };
        check(&network, &settings)?;
        let excludes_others = |network: &Network| matches!(network.name.as_str(), "host" | "none");
        if network.id != main.id && (excludes_others(&main) || excludes_others(&network)) {
            return Err(Error::invalid(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            ));
        }
        endpoints.insert(
            network.name.clone(),
            Endpoint { settings, network_id: network.id.clone(), ..Endpoint::default() },
        );
    }
    host.network_mode.clone_from(&main.name);
    Ok(endpoints)
}

/// What a caller asks of one network, as far as it can be judged before the container starts. Docker's texts.
pub(crate) fn check(network: &Network, settings: &EndpointSettings) -> Result<()> {
    let invalid = |text: &str| {
        Error::invalid(format!(
            "invalid config for network {}: invalid endpoint settings:\n{text}",
            network.name
        ))
    };
    if network.config_only {
        return Err(Error::new(Class::Forbidden, "cannot create endpoint on configuration-only network"));
    }
    let texts = [(&settings.ipv4_address, false), (&settings.ipv6_address, true)];
    for (text, ipv6) in texts.iter().filter(|(text, _)| !text.is_empty()) {
        let family = if *ipv6 { "IPv6" } else { "IPv4" };
        let address = text.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == *ipv6);
        let address = address.ok_or_else(|| invalid(&format!("invalid {family} address: {text}")))?;
        if network.is_predefined() {
            return Err(invalid("user specified IP address is supported on user defined networks only"));
        }
        if !network.has_own_subnets {
            return Err(invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets",
            ));
        }
        let mut subnets =
            network.ipam.iter().filter_map(|config| config.subnet.parse::<palan_network::Subnet>().ok());
        if !subnets.any(|subnet| subnet.contains(address)) {
            return Err(invalid(&format!(
                "no configured subnet or ip-range contain the IP address {address}"
            )));
        }
    }
    if network.is_predefined() && !settings.aliases.is_empty() {
        return Err(invalid("network-scoped aliases are only supported for user-defined networks"));
    }
    if !settings.mac_address.is_empty() {
        settings
            .mac_address
            .parse::<palan_network::MacAddress>()
            .map_err(|error| invalid(&error.to_string()))?;
    }
    for address in &settings.link_local_ips {
        address
            .parse::<IpAddr>()
            .map_err(|_| invalid(&format!("invalid link-local IP address: {address}")))?;
    }
    for name in settings.driver_options.keys() {
        // What is of another vendor than Docker means nothing to its drivers either: it is kept and shown, like a label.
        if name.starts_with("com.docker.") && !matches!(name.as_str(), SYSCTLS | INTERFACE) {
            return Err(unsupported(format!("the driver option \"{name}\" of an endpoint")));
        }
    }
    sysctls(settings, "eth0").map(|_| ())
}

/// Before a start: a network that was removed and made again under its name is the one that is meant; and the host's network or
/// none has an endpoint, too, which consists of nothing but its id.
pub(crate) fn refresh(engine: &Engine, details: &mut Details) -> Result<()> {
    let has_endpoints = has_endpoints(details);
    for (name, endpoint) in &mut details.endpoints {
        if engine.networks.by_id(&endpoint.network_id).is_none() {
            endpoint.network_id.clone_from(&engine.networks.find(name)?.id);
            endpoint.lease.clear();
        }
        if !has_endpoints {
            endpoint.endpoint_id = EndpointId::from(crate::identifier::random_bytes()).as_str().to_owned();
        }
    }
    Ok(())
}

/// The networks of a container in the order in which they get their interfaces: the one it was made with, then by name.
pub(crate) fn in_order(details: &Details) -> Vec<(&String, &Endpoint)> {
    let mut endpoints: Vec<(&String, &Endpoint)> = details.endpoints.iter().collect();
    endpoints.sort_by_key(|(name, _)| **name != details.host.network_mode);
    endpoints
}

/// The requests for all of a container's endpoints, with their networks' names. The one that leads outside publishes the
/// ports.
pub(crate) fn requests(engine: &Engine, details: &Details) -> Result<Vec<(String, EndpointRequest)>> {
    let bindings = ports::port_bindings(details)?;
    let mut requests = Vec::new();
    for (name, endpoint) in in_order(details) {
        requests.push((name.clone(), request(name, endpoint)?));
    }
    let can_publish = |request: &EndpointRequest| {
        let network = engine.networks.by_id(&request.network_id);
        network.is_some_and(|network| !network.internal && network.driver == "bridge")
    };
    let publishing = requests
        .iter_mut()
        .filter(|(_, request)| can_publish(request))
        .rev()
        .max_by_key(|(_, request)| request.gateway_priority);
    if let Some((_, request)) = publishing {
        request.ports = bindings;
    }
    Ok(requests)
}

/// The request for one endpoint, without ports.
pub(crate) fn request(name: &str, endpoint: &Endpoint) -> Result<EndpointRequest> {
    let settings = &endpoint.settings;
    let id = EndpointId::from(crate::identifier::random_bytes());
    let mut request = EndpointRequest::new(&endpoint.network_id, id);
    let parse = |text: &String| text.parse::<IpAddr>().ok();
    request.addresses = [parse(&settings.ipv4_address), parse(&settings.ipv6_address)];
    for address in &endpoint.lease {
        request.preferred[usize::from(address.is_ipv6())] = Some(*address);
    }
    request.more_addresses = settings.link_local_ips.iter().filter_map(parse).collect();
    if !settings.mac_address.is_empty() {
        let parsed = settings.mac_address.parse();
        request.mac = Some(parsed.map_err(|source: palan_network::record::InvalidMacAddress| {
            Error::invalid(format!("invalid endpoint settings on network {name}")).with_source(source)
        })?);
    }
    request.interface = settings.driver_options.get(INTERFACE).cloned();
    request.gateway_priority = settings.gateway_priority;
    request.sysctls = sysctls(settings, request.interface.as_deref().unwrap_or("IFNAME"))?;
    Ok(request)
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…` as paths and values.
fn sysctls(settings: &EndpointSettings, interface: &str) -> Result<Vec<(String, String)>> {
    let Some(text) = settings.driver_options.get(SYSCTLS) else { return Ok(Vec::new()) };
    let one = |part: &str| sysctl_of_interface(part, interface);
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
}

/// Puts what the network gave into the details.
pub(crate) fn note(details: &mut Details, name: &str, record: &EndpointRecord) {
    let endpoint: &mut Endpoint = details.endpoints.entry(name.to_owned()).or_default();
    endpoint.network_id.clone_from(&record.network_id);
    endpoint.endpoint_id = record.endpoint_id.as_str().into();
    if let Some(side) = &record.ipv4 {
        endpoint.ip_address = side.address.to_string();
        endpoint.ip_prefix_len = side.prefix;
        endpoint.gateway = side.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    }
    if let Some(side) = &record.ipv6 {
        endpoint.ipv6_address = side.address.to_string();
        endpoint.ipv6_prefix_len = side.prefix;
        endpoint.ipv6_gateway = side.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    }
    endpoint.mac_address = record.mac.map(|mac| mac.to_string()).unwrap_or_default();
    endpoint.lease = record.addresses().collect();
    endpoint.record = EndpointNote::new(record);
    note_ports(details);
}

/// The ports as published by all endpoints together.
pub(crate) fn note_ports(details: &mut Details) {
    let mut published = PublishedPorts::new();
    for record in records(details) {
        for port in &record.ports {
            let key = format!("{}/{}", port.container_port, port.protocol);
            let binding =
                PortBinding { host_ip: port.host_address.to_string(), host_port: port.host_port.to_string() };
            published.entry(key).or_default().get_or_insert_default().push(binding);
        }
    }
    if has_endpoints(details) {
        for port in &details.config.exposed_ports {
            published.entry(port.clone()).or_default();
        }
    }
    details.ports = published;
}

/// What the network gave, in the order of the interfaces.
pub(crate) fn records(details: &Details) -> Vec<EndpointRecord> {
    let notes = in_order(details).into_iter().filter_map(|(_, endpoint)| endpoint.record.as_ref());
    notes.filter_map(EndpointNote::read).collect()
}

/// Takes out what only a running container has.
pub(crate) fn forget(details: &mut Details) {
    details.is_attached = false;
    details.ports.clear();
    for endpoint in details.endpoints.values_mut() {
        *endpoint = Endpoint {
            settings: std::mem::take(&mut endpoint.settings),
            network_id: std::mem::take(&mut endpoint.network_id),
            lease: std::mem::take(&mut endpoint.lease),
            ..Endpoint::default()
        };
    }
}

/// The addresses in a container's hosts file, with its names.
pub(crate) fn own_hosts(details: &Details) -> Vec<(IpAddr, Vec<String>)> {
    let config = &details.config;
    let full = format!("{}.{}", config.hostname, config.domainname);
    let names = if config.domainname.is_empty() {
        vec![config.hostname.clone()]
    } else {
        vec![full, config.hostname.clone()]
    };
    let addresses =
        records(details).iter().flat_map(|record| record.addresses().collect::<Vec<_>>()).collect::<Vec<_>>();
    addresses.into_iter().map(|address| (address, names.clone())).collect()
}

/// Lines of the hosts file for `--link` on the default bridge, where no resolver knows names.
pub(crate) fn linked_hosts(engine: &Engine, details: &Details) -> Result<Vec<(IpAddr, Vec<String>)>> {
    let Some(own) = details.endpoints.get(BRIDGE).filter(|_| details.host.network_mode == BRIDGE) else {
        return Ok(Vec::new());
    };
    let mut lines = Vec::new();
    for link in details.host.links.iter().chain(&own.settings.links) {
        let (target, alias) = crate::network::names::split_link(link);
        let handle = engine.index.find(target)?;
        let other = handle.details();
        if !other.state.status.is_live() {
            let text = format!(
                "Cannot link to a non running container: /{} AS /{}/{alias}",
                other.name, details.name
            );
            return Err(Error::conflict(text));
        }
        let address = other.endpoints.get(BRIDGE).and_then(|endpoint| endpoint.ip_address.parse().ok());
        let Some(address) = address else {
            let text =
                format!("Cannot link to /{}, as it does not belong to the default network", other.name);
            return Err(Error::conflict(text));
        };
        let mut names = vec![alias.to_owned()];
        for name in [crate::container::driver::short(&other.id).to_owned(), other.name.clone()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        lines.push((address, names));
    }
    Ok(lines)
}

/// The networks' ids of a container.
pub(crate) fn network_ids(details: &Details) -> Vec<String> {
    details.endpoints.values().map(|endpoint| endpoint.network_id.clone()).collect()
}

/// Gives back all endpoints of a run that has ended; failures are reported, and the next start of the daemon cleans up.
pub(crate) fn release(engine: &Arc<Engine>, details: &Details) {
    for record in records(details) {
        if let Err(error) = engine.network.detach(&record, palan_network::Leave::Resting) {
            let error = palan_stdx::error_chain::to_string(&error);
            tracing::warn!(
                error,
                endpoint = record.endpoint_id.as_str(),
                "a network endpoint was not released"
            );
        }
    }
}

/// The record of the endpoint that leads outside.
pub(crate) fn gateway_of(records: &[EndpointRecord]) -> Option<&EndpointRecord> {
    Manager::gateway_of(&records.iter().collect::<Vec<_>>())
}
