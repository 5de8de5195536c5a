//! Networks.

use palan_docker_api::types as wire;
use palan_engine::network::{NetworkDetails, NetworkMember};

/// One entry of `GET /networks`.
pub(crate) fn listed(network: &NetworkDetails) -> wire::Network {
    let config = wire::IpamConfig {
        subnet: network.subnet.clone(),
        gateway: network.gateway.clone(),
        ..wire::IpamConfig::default()
    };
    let has_subnet = !network.subnet.is_empty();
    wire::Network {
        name: network.name.clone(),
        id: network.id.clone(),
        created: network.created.to_string(),
        scope: "local".to_owned(),
        driver: network.driver.clone(),
        enable_ipv4: true,
        ipam: wire::Ipam {
            driver: "default".to_owned(),
            options: wire::StringMap::new(),
            config: if has_subnet { vec![config] } else { Vec::new() },
        },
        options: network.options.clone(),
        ..wire::Network::default()
    }
}

/// `GET /networks/{id}`.
pub(crate) fn inspected(network: &NetworkDetails) -> wire::Network {
    let members = network.containers.iter().map(|(id, member)| (id.clone(), endpoint(member)));
    wire::Network { containers: Some(members.collect()), ..listed(network) }
}

fn endpoint(member: &NetworkMember) -> wire::EndpointResource {
    wire::EndpointResource {
        name: member.name.clone(),
        endpoint_id: member.endpoint_id.clone(),
        mac_address: member.mac_address.clone(),
        ipv4_address: member.ipv4_address.clone(),
        ipv6_address: String::new(),
    }
}
