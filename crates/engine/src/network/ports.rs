//! What a container publishes.

use palan_network::PortBinding;

use crate::container::{Details, validate};
use crate::{Error, Result};

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
        bindings("80/sctp", "80").expect("known, whether or not the kernel has it");
        bindings("80/tcp", "99999").expect_err("too large");
        bindings("80/icmp", "80").expect_err("unsupported");
        bindings("80/tcp", "9-8").expect_err("backwards");
    }

    #[test]
    fn all_declared_ports() {
        let mut details = Details::default();
        details.config.exposed_ports = ["80/tcp".to_owned(), "53/udp".to_owned()].into();
        details.host.publish_all_ports = true;
        assert_eq!(port_bindings(&details).expect("fine").len(), 2);
    }
}
