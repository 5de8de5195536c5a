//! `palan network create`.

use palan_docker_api::types::{ConfigReference, Ipam, IpamConfig, NetworkCreateRequest, StringMap};

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::check_label;
use crate::run_flags::request::map;

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] NETWORK", "Create a network", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[
    Flag::bool("attachable", None, "Enable manual container attachment"),
    Flag::list("aux-address", None, "Auxiliary IPv4 or IPv6 addresses used by Network driver").named("map"),
    Flag::string("config-from", None, "The network from which to copy the configuration"),
    Flag::bool("config-only", None, "Create a configuration only network"),
    Flag::string("driver", Some('d'), "Driver to manage the Network").default("bridge"),
    Flag::list("gateway", None, "IPv4 or IPv6 Gateway for the master subnet").named("ipSlice"),
    Flag::bool("ingress", None, "Create swarm routing-mesh network"),
    Flag::bool("internal", None, "Restrict external access to the network"),
    Flag::list("ip-range", None, "Allocate container ip from a sub-range").named("ipNetSlice"),
    Flag::string("ipam-driver", None, "IP Address Management Driver").default("default"),
    Flag::list("ipam-opt", None, "Set IPAM driver specific options").named("map"),
    Flag::bool("ipv4", None, "Enable or disable IPv4 address assignment").default("true"),
    Flag::bool("ipv6", None, "Enable or disable IPv6 address assignment"),
    Flag::list("label", None, "Set metadata on a network").check(check_label),
    Flag::list("opt", Some('o'), "Set driver specific options").named("map"),
    Flag::string("scope", None, "Control the network's scope"),
    Flag::list("subnet", None, "Subnet in CIDR format that represents a network segment").named("strings"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let config_from = flags.given("config-from").map(|name| ConfigReference { network: name.to_owned() });
    let request = NetworkCreateRequest {
        name: flags.args[0].clone(),
        driver: flags.string("driver").to_owned(),
        scope: flags.string("scope").to_owned(),
        enable_ipv4: flags.changed("ipv4").then(|| flags.bool("ipv4")),
        enable_ipv6: flags.changed("ipv6").then(|| flags.bool("ipv6")),
        ipam: Some(Ipam {
            driver: flags.string("ipam-driver").to_owned(),
            options: map(flags.list("ipam-opt")),
            config: ipam(flags).map_err(CliError::new)?,
        }),
        internal: flags.bool("internal"),
        attachable: flags.bool("attachable"),
        ingress: flags.bool("ingress"),
        config_only: flags.bool("config-only"),
        config_from,
        options: map(flags.list("opt")),
        labels: map(flags.list("label")),
    };
    app.streams.line(&app.client()?.create_network(&request)?.id)
}

/// Puts each range, gateway and auxiliary address to the subnet that contains it, as Docker's client does.
fn ipam(flags: &Parsed) -> std::result::Result<Vec<IpamConfig>, String> {
    let split = |name: &str| -> Vec<String> {
        flags.list(name).iter().flat_map(|text| text.split(',')).map(|text| text.trim().to_owned()).collect()
    };
    let (subnets, ranges, gateways) = (split("subnet"), split("ip-range"), split("gateway"));
    let auxiliary: StringMap = map(flags.list("aux-address"));
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".to_owned());
    }
    let mut configs: Vec<IpamConfig> = Vec::new();
    for subnet in &subnets {
        if configs.iter().any(|other| overlap(&other.subnet, subnet)) {
            return Err("multiple overlapping subnet configuration is not supported".to_owned());
        }
        configs.push(IpamConfig { subnet: subnet.clone(), ..IpamConfig::default() });
    }
    let place = |configs: &mut Vec<IpamConfig>, text: &str| {
        configs.iter().position(|config| contains(&config.subnet, text))
    };
    for range in ranges {
        let index =
            place(&mut configs, &range).ok_or_else(|| format!("no matching subnet for range {range}"))?;
        if !configs[index].ip_range.is_empty() {
            return Err(format!(
                "cannot configure multiple ranges ({range}, {}) on the same subnet ({})",
                configs[index].ip_range, configs[index].subnet
            ));
        }
        configs[index].ip_range = range;
    }
    for gateway in gateways {
        let index = place(&mut configs, &gateway)
            .ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
        if !configs[index].gateway.is_empty() {
            return Err(format!(
                "cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})",
                configs[index].gateway, configs[index].subnet
            ));
        }
        configs[index].gateway = gateway;
    }
    for (name, address) in auxiliary {
        let index = place(&mut configs, &address)
            .ok_or_else(|| format!("no matching subnet for aux-address {address}"))?;
        configs[index].auxiliary_addresses.insert(name, address);
    }
    Ok(configs)
}

/// Whether the subnet contains the first address of `text`, an address or a subnet. What can't be read is the daemon's to
/// refuse: it is put to the first subnet.
fn contains(subnet: &str, text: &str) -> bool {
    let (Some((base, prefix)), Some((address, _))) = (bits(subnet), bits(text)) else { return true };
    let shift = 128_u32.saturating_sub(prefix);
    subnet.contains(':') == text.contains(':')
        && base.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
}

fn overlap(first: &str, second: &str) -> bool {
    bits(first).is_some() && bits(second).is_some() && (contains(first, second) || contains(second, first))
}

/// An address as a number of 128 bits, and the length of its prefix as if it had so many.
fn bits(text: &str) -> Option<(u128, u32)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let (number, width) = match address.parse().ok()? {
        std::net::IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        std::net::IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let prefix: u32 = if prefix.is_empty() { width } else { prefix.parse().ok()? };
    Some((number, (128 - width) + prefix.min(width)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_put_to_their_subnets() {
        assert!(contains("10.5.0.0/16", "10.5.9.0/24") && contains("10.5.0.0/16", "10.5.0.1"));
        assert!(!contains("10.5.0.0/16", "10.6.0.1") && !contains("fd00::/64", "10.5.0.1"));
        assert!(contains("fd00::/64", "fd00::1") && contains("0.0.0.0/0", "10.0.0.1"));
        assert!(overlap("10.5.0.0/16", "10.0.0.0/8") && !overlap("10.5.0.0/16", "10.6.0.0/16"));
        assert!(contains("nonsense", "10.5.0.1"), "for the daemon to refuse");
    }
}
