//! `Config` and `HostConfig` of an inspect answer.

use palan_docker_api::types as wire;
use palan_engine::spec;

/// A health check as the API has it.
pub(super) fn health_check(check: &spec::Healthcheck) -> wire::HealthConfig {
    wire::HealthConfig {
        test: check.test.clone(),
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
        on_failure: check.on_failure.clone(),
    }
}

/// The reverse of [`health_check`].
pub(super) fn health_check_spec(check: wire::HealthConfig) -> spec::Healthcheck {
    spec::Healthcheck {
        test: check.test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
        on_failure: check.on_failure,
    }
}

pub(super) fn container_config(config: &spec::Config) -> wire::ContainerConfig {
    wire::ContainerConfig {
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        user: config.user.clone(),
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: string_set(&config.exposed_ports),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: config.env.clone(),
        cmd: config.cmd.clone().unwrap_or_default(),
        healthcheck: config.healthcheck.as_ref().map(health_check),
        args_escaped: config.args_escaped,
        image: config.image.clone(),
        volumes: string_set(&config.volumes),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        network_disabled: config.network_disabled,
        mac_address: String::new(),
        on_build: config.on_build.clone().into(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        stop_timeout: config.stop_timeout,
        shell: config.shell.clone().unwrap_or_default(),
    }
}

fn string_set(names: &std::collections::BTreeSet<String>) -> wire::StringSet {
    names.iter().map(|name| (name.clone(), wire::Empty {})).collect()
}

pub(super) fn host_config(host: &spec::HostConfig) -> wire::HostConfig {
    let limits = &host.resources;
    wire::HostConfig {
        binds: host.binds.clone(),
        read_only_binds_non_recursive: false,
        container_id_file: host.container_id_file.clone(),
        log_config: wire::LogConfig { kind: host.log.driver.clone(), config: host.log.options.clone() },
        network_mode: host.network_mode.clone(),
        port_bindings: host
            .port_bindings
            .iter()
            .map(|(port, list)| (port.clone(), Some(bindings(list))))
            .collect(),
        restart_policy: wire::RestartPolicy {
            name: host.restart_policy.name.clone(),
            maximum_retry_count: host.restart_policy.maximum_retry_count,
        },
        auto_remove: host.auto_remove,
        volume_driver: host.volume_driver.clone(),
        volumes_from: host.volumes_from.clone(),
        console_size: host.console_size.map(|n| u32::try_from(n).unwrap_or_default()),
        annotations: host.annotations.clone(),
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        cgroupns_mode: host.cgroupns_mode.clone(),
        dns: host.dns.clone(),
        dns_options: host.dns_options.clone(),
        dns_search: host.dns_search.clone(),
        extra_hosts: host.extra_hosts.clone(),
        group_add: host.group_add.clone(),
        ipc_mode: host.ipc_mode.clone(),
        cgroup: host.cgroup.clone(),
        // As paths, for which the container's name is needed.
        links: Vec::new(),
        oom_score_adj: host.oom_score_adj,
        pid_mode: host.pid_mode.clone(),
        privileged: host.privileged,
        publish_all_ports: host.publish_all_ports,
        readonly_rootfs: host.readonly_rootfs,
        security_opt: host.security_opt.clone(),
        storage_opt: host.storage_opt.clone(),
        tmpfs: host.tmpfs.clone(),
        uts_mode: host.uts_mode.clone(),
        userns_mode: host.userns_mode.clone(),
        shm_size: host.shm_size,
        sysctls: host.sysctls.clone(),
        runtime: host.runtime.clone(),
        isolation: host.isolation.clone(),
        cpu_shares: limits.cpu_shares,
        memory: limits.memory,
        nano_cpus: limits.nano_cpus,
        cgroup_parent: limits.cgroup_parent.clone(),
        blkio_weight: limits.blkio_weight,
        blkio_weight_device: limits
            .blkio_weight_device
            .iter()
            .map(|device| wire::WeightDevice { path: device.path.clone(), weight: device.weight })
            .collect(),
        blkio_device_read_bps: throttles(&limits.blkio_device_read_bps),
        blkio_device_write_bps: throttles(&limits.blkio_device_write_bps),
        blkio_device_read_iops: throttles(&limits.blkio_device_read_iops),
        blkio_device_write_iops: throttles(&limits.blkio_device_write_iops),
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_realtime_period: limits.cpu_realtime_period,
        cpu_realtime_runtime: limits.cpu_realtime_runtime,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        devices: limits.devices.iter().map(device).collect(),
        device_cgroup_rules: limits.device_cgroup_rules.clone(),
        device_requests: limits.requested_devices.iter().map(device_request).collect(),
        memory_reservation: limits.memory_reservation,
        memory_swap: limits.memory_swap,
        memory_swappiness: limits.memory_swappiness,
        oom_kill_disable: limits.oom_kill_disable,
        pids_limit: limits.pids_limit,
        ulimits: limits.ulimits.iter().map(ulimit).collect(),
        mounts: host.mounts.iter().map(mount).collect(),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        init: host.init,
        // What `convert::create` refuses or discards.
        ..wire::HostConfig::default()
    }
}

pub(super) fn bindings(list: &[spec::PortBinding]) -> Vec<wire::PortBinding> {
    let binding = |b: &spec::PortBinding| wire::PortBinding {
        host_ip: b.host_ip.clone(),
        host_port: b.host_port.clone(),
    };
    list.iter().map(binding).collect()
}

fn device(device: &spec::DeviceMapping) -> wire::DeviceMapping {
    wire::DeviceMapping {
        path_on_host: device.path_on_host.clone(),
        path_in_container: device.path_in_container.clone(),
        cgroup_permissions: device.cgroup_permissions.clone(),
    }
}

fn throttles(list: &[spec::ThrottleDevice]) -> Vec<wire::ThrottleDevice> {
    list.iter().map(|device| wire::ThrottleDevice { path: device.path.clone(), rate: device.rate }).collect()
}

fn device_request(request: &spec::DeviceRequest) -> wire::DeviceRequest {
    wire::DeviceRequest {
        driver: request.driver.clone(),
        count: request.count,
        device_ids: request.device_ids.clone(),
        capabilities: request.capabilities.clone(),
        options: request.options.clone(),
    }
}

fn ulimit(limit: &spec::Ulimit) -> wire::Ulimit {
    wire::Ulimit { name: limit.name.clone(), hard: limit.hard, soft: limit.soft }
}

fn mount(mount: &spec::Mount) -> wire::Mount {
    wire::Mount {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        consistency: mount.consistency.clone(),
        bind_options: mount.bind.as_ref().map(|options| wire::BindOptions {
            propagation: options.propagation.clone(),
            non_recursive: options.non_recursive,
            create_mountpoint: options.create_mountpoint,
            read_only_non_recursive: options.read_only_non_recursive,
            read_only_force_recursive: options.read_only_force_recursive,
        }),
        volume_options: mount.volume.as_ref().map(volume_options),
        image_options: mount
            .image
            .as_ref()
            .map(|options| wire::ImageOptions { subpath: options.subpath.clone() }),
        tmpfs_options: mount.tmpfs.as_ref().map(|options| wire::TmpfsOptions {
            size_bytes: options.size_bytes,
            mode: options.mode,
            options: options.options.clone(),
        }),
        cluster_options: None,
    }
}

fn volume_options(options: &spec::VolumeOptions) -> wire::VolumeOptions {
    let driver = wire::Driver { name: options.driver.clone(), options: options.driver_options.clone() };
    wire::VolumeOptions {
        no_copy: options.no_copy,
        labels: options.labels.clone(),
        subpath: options.subpath.clone(),
        driver_config: (driver != wire::Driver::default()).then_some(driver),
    }
}
