//! `--network`: a name, or `name=…,alias=…,ip=…`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use palan_docker_api::types::{EndpointIpamConfig, EndpointSettings};

use super::mounts::split_csv;
use crate::flags::Parsed;

/// One network to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) target: String,
    /// What was said beside the name, if anything was.
    pub(crate) endpoint: Option<EndpointSettings>,
}

/// Parses one `--network`.
pub(crate) fn parse(text: &str) -> Result<Attachment, String> {
    let is_long =
        text.split(',').next().and_then(|field| field.split_once('=')).is_some_and(|(key, value)| {
            !key.is_empty()
                && !value.is_empty()
                && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
        });
    if !is_long {
        return Ok(Attachment { target: text.to_owned(), endpoint: None });
    }
    let mut target = String::new();
    let mut endpoint = EndpointSettings::default();
    let mut ipam = EndpointIpamConfig::default();
    for field in split_csv(text)? {
        let field = field.to_lowercase();
        let (key, value) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field {field}"))?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "name" => value.clone_into(&mut target),
            "alias" => endpoint.aliases.push(value.to_owned()),
            "ip" => {
                value.parse::<Ipv4Addr>().map_err(|_| format!("invalid IPv4 address: {value}"))?;
                value.clone_into(&mut ipam.ipv4_address);
            }
            "ip6" => {
                value.parse::<Ipv6Addr>().map_err(|_| format!("invalid IPv6 address: {value}"))?;
                value.clone_into(&mut ipam.ipv6_address);
            }
            "mac-address" => value.clone_into(&mut endpoint.mac_address),
            "link-local-ip" => ipam.link_local_ips.push(value.to_owned()),
            "driver-opt" => {
                let (name, setting) = value
                    .split_once('=')
                    .filter(|(name, _)| !name.is_empty())
                    .ok_or("invalid key value pair format in driver options")?;
                endpoint.driver_opts.insert(name.trim().to_owned(), setting.trim().to_owned());
            }
            "gw-priority" => {
                endpoint.gw_priority =
                    value.parse().map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    if ipam != EndpointIpamConfig::default() {
        endpoint.ipam_config = Some(ipam);
    }
    let endpoint = (endpoint != EndpointSettings::default()).then_some(endpoint);
    Ok(Attachment { target, endpoint })
}

/// `--ip` and its siblings.
pub(crate) fn check_address(text: &str) -> Result<(), String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("failed to parse IP: {text:?}")),
    }
}

/// `--link`.
pub(crate) fn check_link(text: &str) -> Result<(), String> {
    let mut parts = text.split(':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(""), _, _) => Err("empty string specified for links".to_owned()),
        (Some(_), None | Some(_), None) => Ok(()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

/// What the flags beside `--network` say about the first network.
#[derive(Debug, Clone, Default)]
pub(crate) struct OfContainer {
    aliases: Vec<String>,
    links: Vec<String>,
    ip: String,
    ip6: String,
    link_local_ips: Vec<String>,
    mac_address: String,
}

impl OfContainer {
    pub(crate) fn from_flags(flags: &Parsed) -> Self {
        let list = |name: &str| flags.list(name).iter().map(|text| (*text).to_owned()).collect();
        Self {
            aliases: list("network-alias"),
            links: list("link"),
            ip: flags.string("ip").to_owned(),
            ip6: flags.string("ip6").to_owned(),
            link_local_ips: list("link-local-ip"),
            mac_address: flags.string("mac-address").to_owned(),
        }
    }

    /// Puts them into the first network's settings; both forms at once are a contradiction.
    fn apply(&self, target: &str, endpoint: &mut EndpointSettings) -> Result<bool, String> {
        let conflict = |flag: &str, field: &str| {
            Err(format!("conflicting options: cannot specify both --{flag} and per-network {field}"))
        };
        let is_user_defined = is_user_defined(target);
        if !self.aliases.is_empty() {
            if !endpoint.aliases.is_empty() {
                return conflict("network-alias", "alias");
            }
            if !is_user_defined {
                return Err("network-scoped aliases are only supported for user-defined networks".to_owned());
            }
            endpoint.aliases.clone_from(&self.aliases);
        }
        if !self.links.is_empty() && is_user_defined {
            if !endpoint.links.is_empty() {
                return conflict("link", "links");
            }
            endpoint.links.clone_from(&self.links);
        }
        let mut ipam = endpoint.ipam_config.take().unwrap_or_default();
        for (flag, text, place) in
            [("ip", &self.ip, &mut ipam.ipv4_address), ("ip6", &self.ip6, &mut ipam.ipv6_address)]
        {
            if text.is_empty() {
                continue;
            }
            if !place.is_empty() {
                return conflict(flag, if flag == "ip" { "IPv4 address" } else { "IPv6 address" });
            }
            text.clone_into(place);
        }
        if !self.link_local_ips.is_empty() {
            if !ipam.link_local_ips.is_empty() {
                return conflict("link-local-ip", "link-local IP addresses");
            }
            ipam.link_local_ips.clone_from(&self.link_local_ips);
        }
        if ipam != EndpointIpamConfig::default() {
            endpoint.ipam_config = Some(ipam);
        }
        if !self.mac_address.is_empty() {
            if !endpoint.mac_address.is_empty() {
                return conflict("mac-address", "MAC address");
            }
            endpoint.mac_address.clone_from(&self.mac_address);
        }
        Ok(*endpoint != EndpointSettings::default())
    }
}

/// Whether a network was made by the user, in the daemon's sense.
pub(crate) fn is_user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// The network mode and the endpoints of a container that joins these networks.
pub(crate) fn resolve(
    asked: &[&str],
    of_container: &OfContainer,
) -> Result<(String, BTreeMap<String, Option<EndpointSettings>>), String> {
    let mut attachments = asked.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut endpoints = BTreeMap::new();
    if let Some(first) = attachments.first_mut() {
        let mut endpoint = first.endpoint.take().unwrap_or_default();
        first.endpoint = of_container.apply(&first.target, &mut endpoint)?.then_some(endpoint);
    }
    let Some(first) = attachments.first() else {
        let mut endpoint = EndpointSettings::default();
        of_container.apply("default", &mut endpoint)?;
        endpoints.insert("default".to_owned(), Some(endpoint));
        return Ok(("default".to_owned(), endpoints));
    };
    let mode = first.target.clone();
    for Attachment { target, endpoint } in &attachments {
        if target.trim().is_empty() {
            return Err("no name set for network".to_owned());
        }
        let aliases = endpoint.as_ref().is_some_and(|endpoint| !endpoint.aliases.is_empty());
        if aliases && !is_user_defined(target) {
            return Err("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
        if endpoints.contains_key(target) {
            return Err(format!("network {target:?} is specified multiple times"));
        }
        // A single network without settings of its own is left to the network mode.
        if endpoint.is_none() && attachments.len() == 1 {
            continue;
        }
        endpoints.insert(target.clone(), Some(endpoint.clone().unwrap_or_default()));
    }
    let user_defined = attachments.iter().filter(|attachment| is_user_defined(&attachment.target)).count();
    if user_defined != 0 && user_defined != attachments.len() {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                .to_owned(),
        );
    }
    Ok((mode, endpoints))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_long_forms() {
        assert_eq!(parse("host").unwrap().target, "host");
        let long = parse("name=a,alias=b,alias=c,ip=10.0.0.2").unwrap();
        let endpoint = long.endpoint.unwrap();
        assert_eq!(endpoint.aliases, ["b", "c"]);
        assert_eq!(endpoint.ipam_config.unwrap().ipv4_address, "10.0.0.2");
        assert_eq!(parse("name=a,foo=b").unwrap_err(), "invalid field key foo");
        assert_eq!(parse("alias=b").unwrap_err(), "network name/id is not specified");
    }

    #[test]
    fn combinations_are_checked() {
        let error = |asked: &[&str]| resolve(asked, &OfContainer::default()).unwrap_err();
        assert_eq!(error(&[""]), "no name set for network");
        assert_eq!(error(&["a", "a"]), "network \"a\" is specified multiple times");
        assert_eq!(
            error(&["host", "b"]),
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        );
        assert_eq!(
            error(&["name=bridge,alias=b"]),
            "network-scoped aliases are only supported for user-defined networks"
        );
        let (mode, endpoints) = resolve(&["none"], &OfContainer::default()).unwrap();
        assert_eq!((mode.as_str(), endpoints.len()), ("none", 0));
        assert_eq!(resolve(&[], &OfContainer::default()).unwrap().0, "default");
    }
}
