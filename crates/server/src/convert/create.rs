//! `POST /containers/create` → [`ContainerSpec`].
//!
//! Whether a value makes sense is the engine's to say. Here only what its types have no place for is refused, or left out
//! with a warning: what Docker has for Windows only.

use std::collections::BTreeMap;

use palan_docker_api::types as wire;
use palan_engine::container::Update;
use palan_engine::spec;

use crate::error::{ApiError, ApiResult};

/// The network that `default` means.
const DEFAULT_NETWORK: &str = "bridge";

/// Name and platform are query parameters, so they are left empty here.
pub(crate) fn spec(request: wire::CreateContainerRequest) -> ApiResult<spec::ContainerSpec> {
    let wire::CreateContainerRequest { config, host_config: mut host, mut networking_config } = request;
    if !config.mac_address.is_empty() {
        let message =
            "Config.MacAddress was removed in API v1.52: use NetworkingConfig.EndpointsConfig instead";
        return Err(ApiError::invalid(message));
    }
    refuse_foreign(&host)?;
    if matches!(host.network_mode.as_str(), "" | "default") {
        DEFAULT_NETWORK.clone_into(&mut host.network_mode);
        if let Some(endpoint) = networking_config.endpoints_config.remove("default") {
            networking_config.endpoints_config.insert(DEFAULT_NETWORK.to_owned(), endpoint);
        }
    }
    let endpoints = networking_config.endpoints_config.into_iter();
    let endpoints = endpoints.map(|(name, settings)| endpoint(name, settings.unwrap_or_default()));
    Ok(spec::ContainerSpec {
        name: None,
        platform: None,
        config: container_config(config),
        endpoints: endpoints.collect(),
        host: host_config(host)?,
    })
}

/// What is to change in a container.
pub(crate) fn update(asked: wire::UpdateContainerRequest) -> ApiResult<Update> {
    refuse_foreign(&asked)?;
    let refused = [
        ("Devices", !asked.devices.is_empty()),
        ("DeviceCgroupRules", !asked.device_cgroup_rules.is_empty()),
        ("DeviceRequests", !asked.device_requests.is_empty()),
        ("Ulimits", !asked.ulimits.is_empty()),
        ("CgroupParent", !asked.cgroup_parent.is_empty()),
        ("BlkioWeightDevice", !asked.blkio_weight_device.is_empty()),
        ("BlkioDeviceReadBps", !asked.blkio_device_read_bps.is_empty()),
        ("BlkioDeviceWriteBps", !asked.blkio_device_write_bps.is_empty()),
        ("BlkioDeviceReadIOps", !asked.blkio_device_read_iops.is_empty()),
        ("BlkioDeviceWriteIOps", !asked.blkio_device_write_iops.is_empty()),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, set)| *set) {
        return Err(ApiError::unsupported(&format!("{name} in an update")));
    }
    // Unlike at creation, "no limit" is something else than nothing.
    let resources = spec::Resources { pids_limit: asked.pids_limit, ..resources(&asked) };
    let policy = asked.restart_policy;
    let restart_policy =
        spec::RestartPolicy { name: policy.name, maximum_retry_count: policy.maximum_retry_count };
    Ok(Update { resources, restart_policy })
}

/// What only a Windows host has, in Docker's words.
fn refuse_foreign(host: &wire::HostConfig) -> ApiResult<()> {
    let settings = [
        (host.io_maximum_bandwidth, "QoS maximum bandwidth configuration"),
        (host.io_maximum_iops, "QoS maximum IOPs configuration"),
    ];
    match settings.iter().find(|(value, _)| *value != 0) {
        Some((_, what)) => {
            Err(ApiError::invalid(format!("invalid option: {what} is not supported on linux")))
        }
        None => Ok(()),
    }
}

/// What is asked for and has no effect here, as Docker warns of it.
pub(crate) fn warnings(request: &wire::CreateContainerRequest) -> Vec<String> {
    let host = &request.host_config;
    let discarded = [
        (host.cpu_percent > 0, "linux does not support CPU percent. Percent discarded."),
        (host.cpu_count > 0, "linux does not support CPU count. Count discarded."),
        (
            host.kernel_memory > 0,
            "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        ),
    ];
    discarded.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, text)| text.to_owned()).collect()
}

pub(crate) fn container_config(config: wire::ContainerConfig) -> spec::Config {
    spec::Config {
        hostname: config.hostname,
        domainname: config.domainname,
        user: config.user,
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: config.exposed_ports.into_keys().collect(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: config.env,
        cmd: Some(config.cmd).filter(|words| !words.is_empty()),
        healthcheck: config.healthcheck.map(super::config::health_check_spec),
        args_escaped: config.args_escaped,
        image: config.image,
        volumes: config.volumes.into_keys().collect(),
        working_dir: config.working_dir,
        entrypoint: config.entrypoint.filter(|words| !words.is_empty()),
        network_disabled: config.network_disabled,
        on_build: config.on_build.items,
        labels: config.labels,
        stop_signal: Some(config.stop_signal).filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        shell: Some(config.shell).filter(|words| !words.is_empty()),
    }
}

fn host_config(host: wire::HostConfig) -> ApiResult<spec::HostConfig> {
    Ok(spec::HostConfig {
        resources: resources(&host),
        mounts: host.mounts.into_iter().map(mount).collect::<ApiResult<_>>()?,
        binds: host.binds,
        read_only_binds_non_recursive: host.read_only_binds_non_recursive,
        container_id_file: host.container_id_file,
        log: spec::LogConfig { driver: host.log_config.kind, options: host.log_config.config },
        network_mode: host.network_mode,
        port_bindings: port_bindings(host.port_bindings),
        restart_policy: spec::RestartPolicy {
            name: host.restart_policy.name,
            maximum_retry_count: host.restart_policy.maximum_retry_count,
        },
        auto_remove: host.auto_remove,
        volume_driver: host.volume_driver,
        volumes_from: host.volumes_from,
        console_size: host.console_size.map(u64::from),
        annotations: host.annotations,
        cap_add: host.cap_add,
        cap_drop: host.cap_drop,
        cgroupns_mode: host.cgroupns_mode,
        dns: host.dns,
        dns_options: host.dns_options,
        dns_search: host.dns_search,
        extra_hosts: host.extra_hosts,
        group_add: host.group_add,
        ipc_mode: host.ipc_mode,
        cgroup: host.cgroup,
        links: host.links,
        oom_score_adj: host.oom_score_adj,
        pid_mode: host.pid_mode,
        privileged: host.privileged,
        publish_all_ports: host.publish_all_ports,
        readonly_rootfs: host.readonly_rootfs,
        security_opt: host.security_opt,
        storage_opt: host.storage_opt,
        tmpfs: host.tmpfs,
        uts_mode: host.uts_mode,
        userns_mode: host.userns_mode,
        shm_size: host.shm_size,
        sysctls: host.sysctls,
        runtime: host.runtime,
        isolation: host.isolation,
        masked_paths: host.masked_paths,
        readonly_paths: host.readonly_paths,
        init: host.init,
    })
}

fn resources(host: &wire::HostConfig) -> spec::Resources {
    let devices = host.devices.iter().map(|device| spec::DeviceMapping {
        path_on_host: device.path_on_host.clone(),
        path_in_container: device.path_in_container.clone(),
        cgroup_permissions: device.cgroup_permissions.clone(),
    });
    let ulimits = host.ulimits.iter().map(|limit| spec::Ulimit {
        name: limit.name.clone(),
        hard: limit.hard,
        soft: limit.soft,
    });
    spec::Resources {
        cpu_shares: host.cpu_shares,
        memory: host.memory,
        nano_cpus: host.nano_cpus,
        cgroup_parent: host.cgroup_parent.clone(),
        blkio_weight: host.blkio_weight,
        blkio_weight_device: host
            .blkio_weight_device
            .iter()
            .map(|device| spec::WeightDevice { path: device.path.clone(), weight: device.weight })
            .collect(),
        blkio_device_read_bps: throttles(&host.blkio_device_read_bps),
        blkio_device_write_bps: throttles(&host.blkio_device_write_bps),
        blkio_device_read_iops: throttles(&host.blkio_device_read_iops),
        blkio_device_write_iops: throttles(&host.blkio_device_write_iops),
        cpu_period: host.cpu_period,
        cpu_quota: host.cpu_quota,
        cpu_realtime_period: host.cpu_realtime_period,
        cpu_realtime_runtime: host.cpu_realtime_runtime,
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        devices: devices.collect(),
        device_cgroup_rules: host.device_cgroup_rules.clone(),
        requested_devices: host.device_requests.iter().map(device_request).collect(),
        memory_reservation: host.memory_reservation,
        memory_swap: host.memory_swap,
        // Docker's CLI says -1 for "not given".
        memory_swappiness: host.memory_swappiness.filter(|percent| *percent != -1),
        oom_kill_disable: host.oom_kill_disable,
        pids_limit: host.pids_limit.filter(|limit| *limit > 0),
        ulimits: ulimits.collect(),
    }
}

fn throttles(list: &[wire::ThrottleDevice]) -> Vec<spec::ThrottleDevice> {
    list.iter().map(|device| spec::ThrottleDevice { path: device.path.clone(), rate: device.rate }).collect()
}

fn device_request(request: &wire::DeviceRequest) -> spec::DeviceRequest {
    spec::DeviceRequest {
        driver: request.driver.clone(),
        count: request.count,
        device_ids: request.device_ids.clone(),
        capabilities: request.capabilities.clone(),
        options: request.options.clone(),
    }
}

fn port_bindings(ports: wire::PortMap) -> BTreeMap<String, Vec<spec::PortBinding>> {
    let binding = |b: wire::PortBinding| spec::PortBinding { host_ip: b.host_ip, host_port: b.host_port };
    let bindings =
        |list: Option<Vec<_>>| list.unwrap_or_default().into_iter().map(binding).collect::<Vec<_>>();
    let ports = ports.into_iter().map(|(port, list)| (port, bindings(list)));
    // A port with an empty list is published on a port that the kernel chooses, as in Docker.
    ports
        .map(|(port, list)| (port, if list.is_empty() { vec![spec::PortBinding::default()] } else { list }))
        .collect()
}

fn mount(mount: wire::Mount) -> ApiResult<spec::Mount> {
    let misplaced = [
        ("VolumeOptions", mount.volume_options.is_some(), "volume"),
        ("BindOptions", mount.bind_options.is_some(), "bind"),
        ("TmpfsOptions", mount.tmpfs_options.is_some(), "tmpfs"),
        ("ImageOptions", mount.image_options.is_some(), "image"),
        ("ClusterOptions", mount.cluster_options.is_some(), "cluster"),
    ];
    if let Some((name, _, _)) = misplaced.iter().find(|(_, set, kind)| *set && *kind != mount.kind) {
        return Err(ApiError::invalid(format!(
            "{name} must not be specified on mount type {:?}",
            mount.kind
        )));
    }
    Ok(spec::Mount {
        bind: mount.bind_options.map(|options| spec::BindOptions {
            propagation: options.propagation,
            non_recursive: options.non_recursive,
            create_mountpoint: options.create_mountpoint,
            read_only_non_recursive: options.read_only_non_recursive,
            read_only_force_recursive: options.read_only_force_recursive,
        }),
        volume: mount.volume_options.map(|options| {
            let driver = options.driver_config.unwrap_or_default();
            spec::VolumeOptions {
                no_copy: options.no_copy,
                labels: options.labels,
                driver: driver.name,
                driver_options: driver.options,
                subpath: options.subpath,
            }
        }),
        tmpfs: mount.tmpfs_options.map(|options| spec::TmpfsOptions {
            size_bytes: options.size_bytes,
            mode: options.mode,
            options: options.options,
        }),
        image: mount.image_options.map(|options| spec::ImageOptions { subpath: options.subpath }),
        kind: mount.kind,
        source: mount.source,
        target: mount.target,
        read_only: mount.read_only,
        consistency: mount.consistency,
    })
}

/// The fields that only an answer has (`NetworkID`, `Gateway`, …) are ignored, since clients send back what they read.
pub(crate) fn endpoint(
    network: String,
    settings: wire::EndpointSettings,
) -> (String, spec::EndpointSettings) {
    let ipam = settings.ipam_config.unwrap_or_default();
    let settings = spec::EndpointSettings {
        ipv4_address: ipam.ipv4_address,
        ipv6_address: ipam.ipv6_address,
        aliases: settings.aliases,
        links: settings.links,
        link_local_ips: ipam.link_local_ips,
        gateway_priority: settings.gw_priority,
        mac_address: settings.mac_address,
        driver_options: settings.driver_opts,
    };
    (network, settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn converted(body: &Value) -> ApiResult<spec::ContainerSpec> {
        spec(wire::CreateContainerRequest::from_slice(body.to_string().as_bytes()).unwrap())
    }

    fn refused(host_config: &Value) -> ApiError {
        converted(&json!({"Image": "i", "HostConfig": host_config})).unwrap_err()
    }

    #[test]
    fn default_network() {
        for mode in ["", "default"] {
            let body = json!({"HostConfig": {"NetworkMode": mode},
                              "NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["a"]}}}});
            let spec = converted(&body).unwrap();
            assert_eq!(spec.host.network_mode, "bridge");
            assert_eq!(spec.endpoints["bridge"].aliases, ["a"]);
        }
    }

    #[test]
    fn what_is_not_set() {
        let spec = converted(
            &json!({"Cmd": [], "Entrypoint": [], "HostConfig": {"MemorySwappiness": -1, "PidsLimit": 0}}),
        )
        .unwrap();
        assert_eq!((spec.config.cmd, spec.config.entrypoint), (None, None));
        assert_eq!((spec.host.resources.memory_swappiness, spec.host.resources.pids_limit), (None, None));
        let spec = converted(&json!({"Cmd": "a b", "Entrypoint": [""]})).unwrap();
        assert_eq!(spec.config.cmd, Some(vec!["a b".to_owned()]));
        assert_eq!(spec.config.entrypoint, Some(vec![String::new()]));
    }

    #[test]
    fn ports() {
        let body = json!({"HostConfig": {"PortBindings": {"80/tcp": null, "81/tcp": [], "82/udp": [{"HostPort": "8"}]}}});
        let ports = converted(&body).unwrap().host.port_bindings;
        assert_eq!(ports["80/tcp"], [spec::PortBinding::default()]);
        assert_eq!(ports["81/tcp"], [spec::PortBinding::default()]);
        assert_eq!(ports["82/udp"][0].host_port, "8");
    }

    #[test]
    fn limits_of_devices_arrive() {
        let resources = converted(&json!({"HostConfig": {
            "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}],
            "BlkioDeviceWriteIOps": [{"Path": "/dev/sdb", "Rate": 2}],
            "BlkioWeightDevice": [{"Path": "/dev/sdc", "Weight": 3}],
            "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["v/c=d"], "Capabilities": null}],
        }}));
        let resources = resources.unwrap().host.resources;
        assert_eq!(resources.blkio_device_read_bps[0].path, "/dev/sda");
        assert_eq!(resources.blkio_device_write_iops[0].rate, 2);
        assert_eq!(resources.blkio_weight_device[0].weight, 3);
        assert_eq!(resources.requested_devices[0].device_ids, ["v/c=d"]);
    }

    #[test]
    fn what_linux_does_not_have() {
        let bandwidth = "invalid option: QoS maximum bandwidth configuration is not supported on linux";
        assert_eq!(refused(&json!({"IOMaximumBandwidth": 1})), ApiError::invalid(bandwidth));
        let body = json!({"HostConfig": {"kernelmemory": 1, "CpuPercent": 5, "CpuCount": 2}});
        let request = wire::CreateContainerRequest::from_slice(body.to_string().as_bytes()).unwrap();
        assert_eq!(warnings(&request).len(), 3);
        assert!(spec(request).is_ok());
        let mount = refused(&json!({"Mounts": [{"Type": "bind", "VolumeOptions": {}}]}));
        assert_eq!(mount, ApiError::invalid("VolumeOptions must not be specified on mount type \"bind\""));
    }
}
