//! Up to 1.51: fields of the default bridge, legacy event fields, and empty image fields that are printed.

use crate::types::{
    ContainerInspect, ContainerSummary, CreateContainerRequest, EventMessage, ImageConfig, ImageInspect,
};

/// The container's MAC address is that of its endpoint on the network that it is made with.
pub(super) fn create_container(request: &mut CreateContainerRequest) {
    let address = std::mem::take(&mut request.config.mac_address);
    if address.is_empty() {
        return;
    }
    let network = match request.host_config.network_mode.as_str() {
        "" => "default",
        mode => mode,
    };
    let endpoints = &mut request.networking_config.endpoints_config;
    let endpoint = endpoints.entry(network.to_owned()).or_default().get_or_insert_default();
    if endpoint.mac_address.is_empty() {
        endpoint.mac_address = address;
    }
}

pub(super) fn container_summary(answer: &mut ContainerSummary) {
    answer.health = None;
}

/// The fields of the default bridge are printed even when there is none, beside some that never say anything.
pub(super) fn container_inspect(answer: &mut ContainerInspect) {
    let network = &mut answer.network_settings;
    network.bridge = Some(String::new());
    network.hairpin_mode = Some(false);
    network.link_local_ipv6_address = Some(String::new());
    network.link_local_ipv6_prefix_len = Some(0);
    network.secondary_ip_addresses = Some(serde_json::Value::Null);
    network.secondary_ipv6_addresses = Some(serde_json::Value::Null);
    network.endpoint_id.get_or_insert_default();
    network.gateway.get_or_insert_default();
    network.global_ipv6_address.get_or_insert_default();
    network.global_ipv6_prefix_len.get_or_insert_default();
    network.ip_address.get_or_insert_default();
    network.ip_prefix_len.get_or_insert_default();
    network.ipv6_gateway.get_or_insert_default();
    network.mac_address.get_or_insert_default();
    answer.config.on_build.keep = true;
}

pub(super) fn image_inspect(answer: &mut ImageInspect) {
    answer.parent.get_or_insert_default();
    answer.comment.get_or_insert_default();
    answer.docker_version.get_or_insert_default();
    answer.author.get_or_insert_default();
    keep_empty(&mut answer.config);
}

/// Prints what is empty.
pub(super) fn keep_empty(config: &mut ImageConfig) {
    config.cmd.keep = true;
    config.entrypoint.keep = true;
    config.env.keep = true;
    config.labels.keep = true;
    config.on_build.keep = true;
    config.volumes.keep = true;
    config.user.get_or_insert_default();
    config.working_dir.get_or_insert_default();
}

/// `docker events` up to 24 panics without them.
pub(super) fn event(message: &mut EventMessage) {
    if matches!(message.kind.as_str(), "container" | "image") {
        message.status = Some(message.action.clone());
        message.id = Some(message.actor.id.clone());
    }
    if message.kind == "container" {
        message.from = Some(message.actor.attributes.get("image").cloned().unwrap_or_default());
    }
}
