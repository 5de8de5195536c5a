//! Containers: one line of a list, and all about one.

use palan_docker_api::types as wire;
use palan_engine::container::{
    Details, Endpoint, Health, HealthResult, MountPoint, PublishedPorts, State, Status, Summary,
};
use palan_engine::spec;

use super::{config, signed, time};

/// The name of the driver in Docker's answers.
pub(super) const STORAGE_DRIVER: &str = "overlay2";

/// One line of `GET /containers/json`.
pub(crate) fn summary(summary: &Summary) -> wire::ContainerSummary {
    let details = &*summary.details;
    wire::ContainerSummary {
        id: details.id.clone(),
        names: vec![format!("/{}", details.name)],
        image: summary.image.clone(),
        image_id: details.image_id.clone(),
        image_manifest_descriptor: None,
        command: command(&details.path, &details.args),
        created: details.created.as_second(),
        ports: ports(&details.ports),
        size_rw: signed(summary.size_rw.unwrap_or(0)),
        size_root_fs: signed(summary.size_root_fs.unwrap_or(0)),
        labels: details.config.labels.clone(),
        state: details.state.status.as_str().to_owned(),
        status: summary.status.clone(),
        host_config: wire::HostConfigSummary {
            network_mode: details.host.network_mode.clone(),
            annotations: details.host.annotations.clone(),
        },
        health: Some(health_summary(details.state.health.as_ref())),
        network_settings: wire::NetworkSettingsSummary { networks: endpoints(details) },
        mounts: mount_points(details),
    }
}

/// The command line as lists show it: words with a space are quoted.
fn command(path: &str, args: &[String]) -> String {
    let mut line = path.to_owned();
    for word in args {
        line.push(' ');
        if word.contains(' ') {
            line.push('\'');
            line.push_str(word);
            line.push('\'');
        } else {
            line.push_str(word);
        }
    }
    line
}

fn ports(published: &PublishedPorts) -> Vec<wire::PortSummary> {
    let mut list = Vec::new();
    for (port, bindings) in published {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let private_port = number.parse().unwrap_or(0);
        let open =
            wire::PortSummary { private_port, kind: protocol.to_owned(), ..wire::PortSummary::default() };
        match bindings {
            None => list.push(open),
            Some(bindings) => list.extend(bindings.iter().map(|binding| wire::PortSummary {
                ip: binding.host_ip.clone(),
                public_port: binding.host_port.parse().unwrap_or(0),
                ..open.clone()
            })),
        }
    }
    list
}

/// What `--tmpfs` asks for is no mount point to Docker, what `--mount type=tmpfs` does is one.
fn mount_points(details: &Details) -> Vec<wire::MountPoint> {
    let shown = details.mounts.iter().filter(|mount| mount.kind != "tmpfs" || mount.from_mounts);
    shown.map(mount_point).collect()
}

fn mount_point(mount: &MountPoint) -> wire::MountPoint {
    wire::MountPoint {
        kind: mount.kind.clone(),
        name: mount.name.clone(),
        source: mount.source.clone(),
        destination: mount.destination.clone(),
        driver: mount.driver.clone(),
        mode: mount.mode.clone(),
        rw: mount.writable,
        propagation: mount.propagation.clone(),
    }
}

fn endpoints(details: &Details) -> std::collections::BTreeMap<String, wire::EndpointSettings> {
    details.endpoints.iter().map(|(name, value)| (name.clone(), endpoint(details, name, value))).collect()
}

fn endpoint(details: &Details, network: &str, endpoint: &Endpoint) -> wire::EndpointSettings {
    let asked = &endpoint.settings;
    let has_address =
        !asked.ipv4_address.is_empty() || !asked.ipv6_address.is_empty() || !asked.link_local_ips.is_empty();
    wire::EndpointSettings {
        ipam_config: has_address.then(|| wire::EndpointIpamConfig {
            ipv4_address: asked.ipv4_address.clone(),
            ipv6_address: asked.ipv6_address.clone(),
            link_local_ips: asked.link_local_ips.clone(),
        }),
        links: asked.links.clone(),
        aliases: asked.aliases.clone(),
        // What it will have, while it has none.
        mac_address: [&endpoint.mac_address, &asked.mac_address]
            .into_iter()
            .find(|address| !address.is_empty())
            .cloned()
            .unwrap_or_default(),
        driver_opts: asked.driver_options.clone(),
        gw_priority: asked.gateway_priority,
        network_id: endpoint.network_id.clone(),
        endpoint_id: endpoint.endpoint_id.clone(),
        gateway: endpoint.gateway.clone(),
        ip_address: endpoint.ip_address.clone(),
        ip_prefix_len: endpoint.ip_prefix_len.into(),
        ipv6_gateway: endpoint.ipv6_gateway.clone(),
        global_ipv6_address: endpoint.ipv6_address.clone(),
        global_ipv6_prefix_len: endpoint.ipv6_prefix_len.into(),
        dns_names: details.dns_names(network),
    }
}

/// `GET /containers/{id}/json`.
pub(crate) fn inspect(details: &Details) -> wire::ContainerInspect {
    wire::ContainerInspect {
        id: details.id.clone(),
        created: details.created.to_string(),
        path: details.path.clone(),
        args: details.args.clone(),
        state: state(&details.state),
        image: details.image_id.clone(),
        resolv_conf_path: details.resolv_conf_path.clone(),
        hostname_path: details.hostname_path.clone(),
        hosts_path: details.hosts_path.clone(),
        log_path: details.log_path.clone(),
        name: format!("/{}", details.name),
        restart_count: details.restart_count.into(),
        driver: STORAGE_DRIVER.to_owned(),
        platform: "linux".to_owned(),
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: details.app_armor_profile.clone(),
        exec_ids: details.exec_ids.clone(),
        host_config: wire::HostConfig { links: details.link_paths(), ..config::host_config(&details.host) },
        graph_driver: Some(graph_driver(details)),
        storage: None,
        size_rw: None,
        size_root_fs: None,
        mounts: mount_points(details),
        config: config::container_config(&details.config),
        network_settings: network_settings(details),
        image_manifest_descriptor: None,
    }
}

fn state(state: &State) -> wire::ContainerState {
    wire::ContainerState {
        status: state.status.as_str().to_owned(),
        running: state.status.is_live(),
        paused: state.status == Status::Paused,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: state.pid.into(),
        exit_code: state.exit_code.into(),
        error: state.error.clone(),
        started_at: time(state.started_at),
        finished_at: time(state.finished_at),
        health: state.health.as_ref().map(health),
    }
}

fn health_summary(health: Option<&Health>) -> wire::HealthSummary {
    match health {
        Some(health) => wire::HealthSummary {
            status: health.word().to_owned(),
            failing_streak: health.failing_streak.into(),
        },
        None => wire::HealthSummary { status: "none".to_owned(), failing_streak: 0 },
    }
}

fn health(health: &Health) -> wire::Health {
    let result = |result: &HealthResult| wire::HealthcheckResult {
        start: time(result.start),
        end: time(result.end),
        exit_code: result.exit_code.into(),
        output: result.output.clone(),
    };
    wire::Health {
        status: health.word().to_owned(),
        failing_streak: health.failing_streak.into(),
        log: health.log.iter().map(result).collect(),
    }
}

/// The directories; there is no `MergedDir`, since the mount is visible in the container only.
fn graph_driver(details: &Details) -> wire::GraphDriver {
    let overlay = &details.overlay;
    let data = [
        ("ID", details.id.clone()),
        ("LowerDir", overlay.lowers.join(":")),
        ("UpperDir", overlay.upper.clone()),
        ("WorkDir", overlay.work.clone()),
    ];
    let data = data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    wire::GraphDriver { data, name: STORAGE_DRIVER.to_owned() }
}

fn network_settings(details: &Details) -> wire::NetworkSettings {
    let networks = endpoints(details);
    let published = |list: &Option<Vec<spec::PortBinding>>| list.as_deref().map(config::bindings);
    let mut settings = wire::NetworkSettings {
        ports: details.ports.iter().map(|(port, list)| (port.clone(), published(list))).collect(),
        ..wire::NetworkSettings::default()
    };
    if let Some(bridge) = networks.get("bridge") {
        settings.endpoint_id = Some(bridge.endpoint_id.clone());
        settings.gateway = Some(bridge.gateway.clone());
        settings.global_ipv6_address = Some(bridge.global_ipv6_address.clone());
        settings.global_ipv6_prefix_len = Some(bridge.global_ipv6_prefix_len);
        settings.ip_address = Some(bridge.ip_address.clone());
        settings.ip_prefix_len = Some(bridge.ip_prefix_len);
        settings.ipv6_gateway = Some(bridge.ipv6_gateway.clone());
        settings.mac_address = Some(bridge.mac_address.clone());
    }
    settings.networks = networks;
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let check = |args: &[&str], expected: &str| {
            assert_eq!(command("sh", &args.iter().map(|&a| a.to_owned()).collect::<Vec<_>>()), expected);
        };
        check(&[], "sh");
        check(&["-c", "echo hi", "x"], "sh -c 'echo hi' x");
    }

    #[test]
    fn port_lists() {
        let bindings =
            |ip: &str, port: &str| spec::PortBinding { host_ip: ip.into(), host_port: port.into() };
        let published = PublishedPorts::from([
            ("53/udp".to_owned(), None),
            ("80/tcp".to_owned(), Some(vec![bindings("0.0.0.0", "8080"), bindings("::", "8080")])),
        ]);
        let list = serde_json::to_value(ports(&published)).unwrap();
        let expected = serde_json::json!([
            {"PrivatePort": 53, "Type": "udp"},
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        ]);
        assert_eq!(list, expected);
    }

    #[test]
    fn fresh_container() {
        let details = Details { id: "1".into(), name: "web".into(), ..Details::default() };
        let answer = serde_json::to_value(inspect(&details)).unwrap();
        assert_eq!(answer["Name"], "/web");
        assert_eq!(answer["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(answer["ExecIDs"], serde_json::Value::Null);
        assert_eq!(answer["Args"], serde_json::json!([]));
        assert_eq!(answer["NetworkSettings"].get("IPAddress"), None);
    }
}
