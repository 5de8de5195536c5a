//! Version and info.

use std::collections::BTreeMap;

use jiff::Timestamp;
use palan_docker_api::types as wire;
use palan_docker_api::version::ApiVersion;
use palan_engine::EngineConfig;
use palan_engine::info::Info;
use palan_engine::runtimes::OciRuntime;

use super::{container, signed, signed_size};

/// The registry that names without one are in.
const DOCKER_HUB: &str = "docker.io";
const INDEX_SERVER: &str = "https://index.docker.io/v1/";

/// Go's name of this machine's architecture.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `GET /version`.
pub(crate) fn version(info: &Info, config: &EngineConfig) -> wire::VersionResponse {
    let compiler = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
    let details = [
        ("ApiVersion", ApiVersion::MAX.to_string()),
        ("Arch", go_architecture().to_owned()),
        ("BuildTime", String::new()),
        ("Experimental", config.experimental.to_string()),
        ("GitCommit", option_env!("PALAN_BUILD").unwrap_or("unknown").to_owned()),
        ("GoVersion", compiler.to_owned()),
        ("KernelVersion", info.kernel_version.clone()),
        ("MinAPIVersion", ApiVersion::MIN.to_string()),
        ("Os", "linux".to_owned()),
    ];
    wire::VersionResponse {
        platform: wire::PlatformInfo { name: "Palan".to_owned() },
        version: config.version.clone(),
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        experimental: config.experimental,
        os: "linux".to_owned(),
        arch: go_architecture().to_owned(),
        components: vec![wire::ComponentVersion {
            name: "Engine".to_owned(),
            version: config.version.clone(),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }],
        go_version: compiler.to_owned(),
        kernel_version: info.kernel_version.clone(),
        ..wire::VersionResponse::default()
    }
}

/// `GET /info`.
/// A proxy's URL with other words for user and password, as Docker shows it.
fn shown_proxy(proxy: Option<&str>) -> String {
    let Some(proxy) = proxy else { return String::new() };
    match (proxy.find("://"), proxy.rfind('@')) {
        (scheme, Some(at)) if scheme.is_none_or(|scheme| scheme < at) => {
            let start = scheme.map_or(0, |scheme| scheme + 3);
            format!("{}xxxxx:xxxxx@{}", &proxy[..start], &proxy[at + 1..])
        }
        _ => proxy.to_owned(),
    }
}

pub(crate) fn info(info: Info, config: &EngineConfig) -> wire::SystemInfo {
    let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let pools = config.default_address_pools.iter();
    wire::SystemInfo {
        id: info.id,
        containers: signed_size(info.containers),
        containers_running: signed_size(info.running),
        containers_paused: signed_size(info.paused),
        containers_stopped: signed_size(info.stopped),
        images: signed_size(info.images),
        driver: container::STORAGE_DRIVER.to_owned(),
        driver_status: vec![["Backing Filesystem".to_owned(), info.backing_filesystem]],
        plugins: wire::PluginsInfo {
            volume: list(&["local"]),
            network: list(&["bridge", "host", "ipvlan", "macvlan", "null"]),
            authorization: Vec::new(),
            log: list(&["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"]),
        },
        memory_limit: info.memory_limit,
        swap_limit: info.swap_limit,
        cpu_cfs_period: info.cpu_cfs,
        cpu_cfs_quota: info.cpu_cfs,
        cpu_shares: info.cpu_shares,
        cpu_set: info.cpu_set,
        pids_limit: info.pids_limit,
        ipv4_forwarding: info.ipv4_forwarding,
        debug: config.debug,
        http_proxy: shown_proxy(config.proxies.http.as_deref()),
        https_proxy: shown_proxy(config.proxies.https.as_deref()),
        no_proxy: config.proxies.exceptions.clone().unwrap_or_default(),
        n_fd: signed_size(info.open_files),
        oom_kill_disable: info.oom_kill_disable,
        n_goroutines: signed_size(info.tasks),
        system_time: Timestamp::now().to_string(),
        logging_driver: config.log.driver.clone(),
        cgroup_driver: "cgroupfs".to_owned(),
        cgroup_version: info.cgroup_version.to_string(),
        n_events_listener: signed_size(info.event_listeners),
        kernel_version: info.kernel_version,
        operating_system: info.operating_system,
        os_version: info.os_version,
        os_type: "linux".to_owned(),
        architecture: info.architecture,
        index_server_address: INDEX_SERVER.to_owned(),
        registry_config: registry_config(config),
        ncpu: signed_size(info.cpus),
        mem_total: signed(info.memory),
        docker_root_dir: info.data_root,
        name: info.host_name,
        labels: config.labels.clone(),
        experimental_build: config.experimental,
        server_version: config.version.clone(),
        runtimes: config.runtimes.all().into_iter().map(runtime).collect(),
        default_runtime: config.runtimes.default_name().to_owned(),
        live_restore_enabled: true,
        init_binary: "palan-init".to_owned(),
        security_options: info.security_options,
        default_address_pools: pools
            .map(|pool| wire::AddressPool { base: pool.base.clone(), size: pool.size.into() })
            .collect(),
        firewall_backend: Some(wire::FirewallInfo { driver: "nftables".to_owned(), info: Vec::new() }),
        discovered_devices: info
            .cdi_devices
            .into_iter()
            .map(|id| wire::DeviceInfo { source: "cdi".to_owned(), id })
            .collect(),
        cdi_spec_dirs: config.cdi_spec_dirs.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        warnings: info.warnings,
        ..wire::SystemInfo::default()
    }
}

fn runtime((name, runtime): (String, OciRuntime)) -> (String, wire::RuntimeInfo) {
    let info = wire::RuntimeInfo {
        path: runtime.path,
        runtime_args: runtime.arguments,
        ..wire::RuntimeInfo::default()
    };
    (name, info)
}

/// Docker Hub with its mirrors, and the registries that may be spoken to without verified TLS: networks apart from names.
fn registry_config(config: &EngineConfig) -> wire::RegistryConfig {
    let index = |name: &str, mirrors: &[String], secure| wire::IndexInfo {
        name: name.to_owned(),
        mirrors: mirrors.to_vec(),
        secure,
        official: name == DOCKER_HUB,
    };
    let (networks, names): (Vec<_>, Vec<_>) =
        config.insecure_registries.iter().partition(|r| r.contains('/'));
    let mut indexes: BTreeMap<_, _> =
        names.into_iter().map(|name| (name.clone(), index(name, &[], false))).collect();
    indexes.insert(DOCKER_HUB.to_owned(), index(DOCKER_HUB, &config.registry_mirrors, true));
    let mut insecure_networks: Vec<_> = networks.into_iter().cloned().collect();
    // The loopback interface always is one, as in Docker.
    for loopback in ["::1/128", "127.0.0.0/8"] {
        if !insecure_networks.iter().any(|network| network == loopback) {
            insecure_networks.push(loopback.to_owned());
        }
    }
    wire::RegistryConfig {
        insecure_registry_cidrs: insecure_networks,
        index_configs: indexes,
        mirrors: config.registry_mirrors.clone(),
        ..wire::RegistryConfig::default()
    }
}
