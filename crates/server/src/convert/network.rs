//! Networks.

use http::StatusCode;
use palan_docker_api::types as wire;
use palan_engine::network::{IpamConfig, NOT_A_MANAGER, NetworkDetails, NetworkMember, NetworkSpec};

use crate::error::{ApiError, ApiResult};

/// `POST /networks/create`.
pub(crate) fn spec(request: wire::NetworkCreateRequest) -> ApiResult<NetworkSpec> {
    // As by an engine that is in no swarm.
    if request.ingress {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "Ingress network can only be global scope network"));
    }
    match request.scope.as_str() {
        "" | "local" => {}
        "swarm" => {
            let message = "cannot create a swarm scoped network when swarm is not active";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
        _ => return Err(ApiError::unavailable(NOT_A_MANAGER)),
    }
    let ipam = request.ipam.unwrap_or_default();
    let config = |config: wire::IpamConfig| IpamConfig {
        subnet: config.subnet,
        range: config.ip_range,
        gateway: config.gateway,
        auxiliary: config.auxiliary_addresses,
    };
    Ok(NetworkSpec {
        name: request.name,
        driver: request.driver,
        ipam_driver: ipam.driver,
        ipam_options: ipam.options,
        ipam: ipam.config.into_iter().map(config).collect(),
        enable_ipv4: request.enable_ipv4,
        enable_ipv6: request.enable_ipv6,
        internal: request.internal,
        attachable: request.attachable,
        config_only: request.config_only,
        config_from: request.config_from.unwrap_or_default().network,
        options: request.options,
        labels: request.labels,
    })
}

/// One entry of `GET /networks`.
pub(crate) fn listed(details: &NetworkDetails) -> wire::Network {
    let network = &details.network;
    let config = |config: &IpamConfig| wire::IpamConfig {
        subnet: config.subnet.clone(),
        ip_range: config.range.clone(),
        gateway: config.gateway.clone(),
        auxiliary_addresses: config.auxiliary.clone(),
    };
    wire::Network {
        name: network.name.clone(),
        id: network.id.clone(),
        created: network.created.to_string(),
        scope: "local".to_owned(),
        driver: network.driver.clone(),
        enable_ipv4: network.enable_ipv4,
        enable_ipv6: network.enable_ipv6,
        internal: network.internal,
        attachable: network.attachable,
        config_only: network.config_only,
        config_from: wire::ConfigReference { network: network.config_from.clone() },
        ipam: wire::Ipam {
            driver: "default".to_owned(),
            options: wire::StringMap::new(),
            config: network.ipam.iter().map(config).collect(),
        },
        options: network.options.clone(),
        labels: network.labels.clone(),
        ..wire::Network::default()
    }
}

/// `GET /networks/{id}`.
pub(crate) fn inspected(details: &NetworkDetails) -> wire::Network {
    let members = details.containers.iter().map(|(id, member)| (id.clone(), endpoint(member)));
    let subnets = details.usage.iter().map(|usage| {
        let status = wire::SubnetStatus { ips_in_use: usage.in_use, dynamic_ips_available: usage.available };
        (usage.subnet.to_string(), status)
    });
    let ipam = wire::IpamStatus { subnets: subnets.collect() };
    wire::Network {
        containers: Some(members.collect()),
        status: Some(wire::NetworkStatus { ipam }),
        ..listed(details)
    }
}

fn endpoint(member: &NetworkMember) -> wire::EndpointResource {
    wire::EndpointResource {
        name: member.name.clone(),
        endpoint_id: member.endpoint_id.clone(),
        mac_address: member.mac_address.clone(),
        ipv4_address: member.ipv4_address.clone(),
        ipv6_address: member.ipv6_address.clone(),
    }
}
