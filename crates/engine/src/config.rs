//! The daemon's settings: `daemon.json` and command line become one [`EngineConfig`], which never changes afterwards.
//!
//! [`FileConfig::parse`] reads Docker's keys. A key that Docker doesn't know is an error that names it; a key that Docker
//! knows and this version does not support is another; a value of the wrong type names the key. The front door lays
//! the command line over the file, then calls [`EngineConfig::resolve`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use palan_stdx::size;
pub use palan_store::gc::Watermarks;
use serde_json::Value;

use crate::cdi;
use crate::proxies::ProxySettings;
use crate::runtimes::{self, OciRuntime, Runtimes};
use crate::spec::{LogConfig, Ulimit};
use crate::{Error, Result};

/// Settings as written in `daemon.json` and on the command line; absent ones are `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileConfig {
    /// `data-root`.
    pub data_root: Option<PathBuf>,
    /// `run-root`, or Docker's `exec-root`.
    pub run_root: Option<PathBuf>,
    /// `hosts`.
    pub hosts: Option<Vec<String>>,
    /// `group`.
    pub group: Option<String>,
    /// `pidfile`.
    pub pid_file: Option<PathBuf>,
    /// `metrics-addr`: where Prometheus finds the metrics.
    pub metrics_addr: Option<std::net::SocketAddr>,
    /// `debug`.
    pub debug: Option<bool>,
    /// `experimental`.
    pub experimental: Option<bool>,
    /// `log-level`.
    pub log_level: Option<String>,
    /// `labels`.
    pub labels: Option<Vec<String>>,
    /// `registry-mirrors`.
    pub registry_mirrors: Option<Vec<String>>,
    /// `insecure-registries`.
    pub insecure_registries: Option<Vec<String>>,
    /// `max-concurrent-downloads`.
    pub max_concurrent_downloads: Option<u32>,
    /// `max-concurrent-uploads`.
    pub max_concurrent_uploads: Option<u32>,
    /// `max-download-attempts`.
    pub max_download_attempts: Option<u32>,
    /// `keep-compressed-layers` (Palan's own key).
    pub keep_compressed_layers: Option<bool>,
    /// `image-gc-high-threshold`, percent of the disk (Palan's own key).
    pub image_gc_high: Option<u32>,
    /// `image-gc-low-threshold` (Palan's own key).
    pub image_gc_low: Option<u32>,
    /// `proxies`.
    pub proxies: ProxySettings,
    /// `bip`.
    pub bip: Option<String>,
    /// `bridge`.
    pub bridge: Option<String>,
    /// `default-address-pools`.
    pub default_address_pools: Option<Vec<AddressPool>>,
    /// `mtu`.
    pub mtu: Option<u32>,
    /// `dns`.
    pub dns: Option<Vec<String>>,
    /// `dns-opts`.
    pub dns_options: Option<Vec<String>>,
    /// `dns-search`.
    pub dns_search: Option<Vec<String>>,
    /// `log-driver`.
    pub log_driver: Option<String>,
    /// `log-opts`.
    pub log_options: Option<BTreeMap<String, String>>,
    /// `default-ulimits`.
    pub default_ulimits: Option<BTreeMap<String, Ulimit>>,
    /// `default-shm-size` in bytes.
    pub default_shm_size: Option<i64>,
    /// `default-ipc-mode`: `private` or `shareable`.
    pub default_ipc_mode: Option<String>,
    /// `default-cgroupns-mode`: `private` or `host`.
    pub default_cgroupns_mode: Option<String>,
    /// `cpu-rt-period` in microseconds.
    pub cpu_realtime_period: Option<i64>,
    /// `cpu-rt-runtime` in microseconds.
    pub cpu_realtime_runtime: Option<i64>,
    /// `cdi-spec-dirs`.
    pub cdi_spec_dirs: Option<Vec<String>>,
    /// `init`.
    pub init: Option<bool>,
    /// `shutdown-timeout` in seconds (kept for `inspect`; containers outlive the daemon).
    pub shutdown_timeout: Option<i64>,
    /// `cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// `seccomp-profile`: a path, `builtin` or `unconfined`.
    pub seccomp_profile: Option<String>,
    /// `no-new-privileges`.
    pub no_new_privileges: Option<bool>,
    /// `runtimes`, by name.
    pub runtimes: Option<BTreeMap<String, OciRuntime>>,
    /// `default-runtime`.
    pub default_runtime: Option<String>,
    /// `firewall-integration`: `auto` or `none` (Palan's own key).
    pub firewall_integration: Option<String>,
    /// `firewall-table`: name of the nftables table (Palan's own key).
    pub firewall_table: Option<String>,
    /// `tls`, `tlsverify`, `tlscacert`, `tlscert`, `tlskey`.
    pub tls: TlsConfig,
}

/// One entry of `default-address-pools`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    /// CIDR.
    pub base: String,
    /// Prefix length of the subnets cut from it.
    pub size: u8,
}

/// How TCP listeners are secured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Use TLS.
    pub enabled: Option<bool>,
    /// Ask clients for a certificate.
    pub verify: Option<bool>,
    /// Certificate authority of the clients.
    pub ca: Option<PathBuf>,
    /// Certificate.
    pub certificate: Option<PathBuf>,
    /// Private key.
    pub key: Option<PathBuf>,
}

/// Settings with all defaults filled in.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where objects live.
    pub data_root: PathBuf,
    /// Where what dies with the machine lives.
    pub run_root: PathBuf,
    /// Version of the program, for `info`.
    pub version: String,
    /// `key=value` labels of the daemon.
    pub labels: Vec<String>,
    /// More output.
    pub debug: bool,
    /// Tell clients that experimental commands may be used; Docker's shows its `checkpoint` only then.
    pub experimental: bool,
    /// Mirrors of Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// Registries (`host[:port]` or CIDR) that may be spoken to without verified TLS.
    pub insecure_registries: Vec<String>,
    /// Directories with certificates by registry.
    pub certs_dirs: Vec<PathBuf>,
    /// Layers of one pull fetched at once.
    pub max_concurrent_downloads: u32,
    /// Attempts for each of them.
    pub max_download_attempts: u32,
    /// Keep layers compressed as they were transferred beside their directories, for pushes and saves that cost no CPU time.
    pub keep_compressed_layers: bool,
    /// When images that nobody uses are removed for want of space; never if absent.
    pub image_gc: Option<Watermarks>,
    /// Blobs uploaded to one registry at once.
    pub max_concurrent_uploads: u32,
    /// How registries are reached.
    pub proxies: ProxySettings,
    /// Address and prefix of the default bridge; the first free pool when absent.
    pub bip: Option<String>,
    /// Name of the default bridge.
    pub bridge: String,
    /// Pools; Docker's when empty.
    pub default_address_pools: Vec<AddressPool>,
    /// MTU of the default bridge; 0 means 1500.
    pub mtu: u32,
    /// Name of the nftables table.
    pub firewall_table: String,
    /// Add accept rules to foreign chains where they are needed.
    pub firewall_integration: bool,
    /// Name servers for containers.
    pub dns: Vec<String>,
    /// Resolver options for containers.
    pub dns_options: Vec<String>,
    /// Search domains for containers.
    pub dns_search: Vec<String>,
    /// Log driver and options for containers that name none.
    pub log: LogConfig,
    /// Limits for containers that name none.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// `/dev/shm` for containers that say nothing.
    pub default_shm_size: i64,
    /// IPC mode of containers that say nothing.
    pub default_ipc_mode: String,
    /// Cgroup namespace of containers that say nothing.
    pub default_cgroupns_mode: String,
    /// Microseconds of the period in which containers together may run real-time processes (cgroup v1); 0 is the kernel's.
    pub cpu_realtime_period: i64,
    /// How many of each such period; 0 leaves that to the administrator.
    pub cpu_realtime_runtime: i64,
    /// Where CDI specifications are, those of a later directory before those of an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Run an init in containers that say nothing.
    pub init: bool,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Seccomp profile for containers that name none: a path, `builtin` or `unconfined`.
    pub seccomp_profile: String,
    /// Set `no_new_privs` in every container.
    pub no_new_privileges: bool,
    /// The runtimes that containers can have.
    pub runtimes: Runtimes,
    /// The program for supervisors.
    pub supervisor: SupervisorSource,
}

/// Which program supervisors run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupervisorSource {
    /// The small program embedded in this one.
    Embedded(&'static [u8]),
    /// This very program, which understands `supervisor` as its first argument.
    CurrentExecutable,
    /// A file that takes no arguments; for tests.
    File(PathBuf),
}

/// Keys that Docker knows and this version does not act on. Accepting them silently would be a lie.
const UNSUPPORTED: &[&str] = &[
    "allow-direct-routing",
    "api-cors-header",
    "authorization-plugins",
    "bip6",
    "bridge-accept-fwmark",
    "builder",
    "cluster-advertise",
    "cluster-store",
    "cluster-store-opts",
    "containerd",
    "containerd-namespace",
    "containerd-plugin-namespace",
    "default-gateway",
    "default-gateway-v6",
    "default-network-opts",
    "deprecated-key-path",
    "exec-opts",
    "features",
    "firewall-backend",
    "fixed-cidr",
    "fixed-cidr-v6",
    "host-gateway-ip",
    "host-gateway-ips",
    "icc",
    "ip",
    "ip-forward",
    "ip-forward-no-drop",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "log-format",
    "min-api-version",
    "network-control-plane-mtu",
    "node-generic-resources",
    "oom-score-adjust",
    "raw-logs",
    "rootless",
    "selinux-enabled",
    "storage-opts",
    "swarm-default-advertise-addr",
    "userland-proxy",
    "userland-proxy-path",
    "userns-remap",
    "validate",
];

impl FileConfig {
    /// Reads `daemon.json`. `text` may be empty.
    pub fn parse(text: &str) -> Result<Self> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        let value: Value = serde_json::from_str(text).map_err(|source| {
            Error::invalid("the configuration file is not valid JSON").with_source(source)
        })?;
        let Value::Object(keys) = value else {
            return Err(Error::invalid("the configuration file must hold one JSON object"));
        };
        for (key, value) in &keys {
            config.set(&Setting { key, value })?;
        }
        Ok(config)
    }

    fn set(&mut self, setting: &Setting<'_>) -> Result<()> {
        match setting.key {
            "data-root" | "graph" => self.data_root = Some(setting.path()?),
            "exec-root" | "run-root" => self.run_root = Some(setting.path()?),
            "hosts" => self.hosts = Some(setting.strings()?),
            "group" => self.group = Some(setting.string()?),
            "pidfile" => self.pid_file = Some(setting.path()?),
            "metrics-addr" => self.metrics_addr = Some(setting.socket_address()?),
            "debug" => self.debug = Some(setting.boolean()?),
            "experimental" => self.experimental = Some(setting.boolean()?),
            "log-level" => {
                self.log_level = Some(setting.one_of(&["debug", "info", "warn", "error", "fatal"])?)
            }
            "labels" => self.labels = Some(setting.strings()?),
            "registry-mirrors" => self.registry_mirrors = Some(setting.strings()?),
            "insecure-registries" => self.insecure_registries = Some(setting.strings()?),
            "max-concurrent-downloads" => self.max_concurrent_downloads = Some(setting.count()?),
            "max-concurrent-uploads" => self.max_concurrent_uploads = Some(setting.count()?),
            "max-download-attempts" => self.max_download_attempts = Some(setting.count()?),
            "keep-compressed-layers" => self.keep_compressed_layers = Some(setting.boolean()?),
            "image-gc-high-threshold" => self.image_gc_high = Some(setting.count()?),
            "image-gc-low-threshold" => self.image_gc_low = Some(setting.count()?),
            "proxies" => {
                let wrong = || setting.wrong("an object such as {\"http-proxy\": \"http://proxy:3128\"}");
                let ProxySettings { http, https, exceptions } = ProxySettings::parse(setting.value, wrong)?;
                let given = [("http-proxy", http), ("https-proxy", https), ("no-proxy", exceptions)];
                for (key, value) in given {
                    value.map_or(Ok(()), |value| self.proxies.set(key, &value))?;
                }
            }
            "http-proxy" | "https-proxy" | "no-proxy" => self.proxies.set(setting.key, &setting.string()?)?,
            "bip" => self.bip = Some(setting.string()?),
            "bridge" => self.bridge = Some(setting.string()?),
            "default-address-pools" => self.default_address_pools = Some(setting.pools()?),
            "mtu" => self.mtu = Some(setting.count()?),
            "dns" => self.dns = Some(setting.addresses()?),
            "dns-opts" => self.dns_options = Some(setting.strings()?),
            "dns-search" => self.dns_search = Some(setting.strings()?),
            "log-driver" => self.log_driver = Some(setting.string()?),
            "log-opts" => self.log_options = Some(setting.string_map()?),
            "default-ulimits" => self.default_ulimits = Some(setting.ulimits()?),
            "default-shm-size" => self.default_shm_size = Some(setting.bytes()?),
            "default-ipc-mode" => self.default_ipc_mode = Some(setting.one_of(&["private", "shareable"])?),
            "default-cgroupns-mode" => {
                self.default_cgroupns_mode = Some(setting.one_of(&["private", "host"])?)
            }
            "cpu-rt-period" => self.cpu_realtime_period = Some(setting.count()?.into()),
            "cpu-rt-runtime" => self.cpu_realtime_runtime = Some(setting.count()?.into()),
            "cdi-spec-dirs" => self.cdi_spec_dirs = Some(setting.strings()?),
            "init" => self.init = Some(setting.boolean()?),
            "shutdown-timeout" => self.shutdown_timeout = Some(setting.integer()?),
            "cgroup-parent" => self.cgroup_parent = Some(setting.string()?),
            "seccomp-profile" => self.seccomp_profile = Some(setting.string()?),
            "no-new-privileges" => self.no_new_privileges = Some(setting.boolean()?),
            "runtimes" => {
                let wrong = || setting.wrong("an object such as {\"crun\": {\"path\": \"/usr/bin/crun\"}}");
                self.runtimes = Some(runtimes::parse(setting.value, wrong)?);
            }
            "default-runtime" => self.default_runtime = Some(setting.string()?),
            "firewall-integration" => self.firewall_integration = Some(setting.one_of(&["auto", "none"])?),
            "firewall-table" => self.firewall_table = Some(setting.string()?),
            "tls" => self.tls.enabled = Some(setting.boolean()?),
            "tlsverify" => self.tls.verify = Some(setting.boolean()?),
            "tlscacert" => self.tls.ca = Some(setting.path()?),
            "tlscert" => self.tls.certificate = Some(setting.path()?),
            "tlskey" => self.tls.key = Some(setting.path()?),
            "live-restore" if !setting.boolean()? => {
                return Err(Error::invalid(
                    "live-restore: containers always outlive the daemon, it can't be turned off; remove the key",
                ));
            }
            "live-restore" => {}
            "storage-driver" => drop(setting.one_of(&["overlay2", "overlayfs"])?),
            known if UNSUPPORTED.contains(&known) => {
                return Err(Error::invalid(format!(
                    "the configuration key {known:?} is not supported by this version; remove it"
                )));
            }
            unknown => {
                return Err(Error::invalid(format!(
                    "the following directives don't match any configuration option: {unknown}"
                )));
            }
        }
        Ok(())
    }
}

impl EngineConfig {
    /// Fills the defaults in and checks what can be checked without the host.
    pub fn resolve(file: &FileConfig, version: &str, supervisor: SupervisorSource) -> Result<Self> {
        let absolute = |key: &str, given: &Option<PathBuf>, default: &str| match given {
            Some(path) if !path.is_absolute() => {
                Err(Error::invalid(format!("{key}: the path {path:?} must be absolute")))
            }
            Some(path) => Ok(path.clone()),
            None => Ok(PathBuf::from(default)),
        };
        let labels = file.labels.clone().unwrap_or_default();
        if let Some(label) = labels.iter().find(|label| !label.contains('=')) {
            return Err(Error::invalid(format!("bad attribute format: {label}")));
        }
        let log = LogConfig {
            driver: file.log_driver.clone().unwrap_or_else(|| "json-file".into()),
            options: file.log_options.clone().unwrap_or_default(),
        };
        crate::container::logging::check(&log)?;
        let positive = |key: &str, value: Option<u32>, default: u32| match value {
            Some(0) => Err(Error::invalid(format!("{key}: must be greater than 0"))),
            value => Ok(value.unwrap_or(default)),
        };
        let bridge = file.bridge.clone().unwrap_or_else(|| "palan0".into());
        check_bridge_name(&bridge)?;
        if let Some(bip) = &file.bip {
            check_cidr("bip", bip)?;
        }
        Ok(Self {
            data_root: absolute("data-root", &file.data_root, "/var/lib/palan")?,
            run_root: absolute("run-root", &file.run_root, "/run/palan")?,
            version: version.into(),
            labels,
            debug: file.debug.unwrap_or_default(),
            experimental: file.experimental.unwrap_or_default(),
            registry_mirrors: file.registry_mirrors.clone().unwrap_or_default(),
            insecure_registries: file.insecure_registries.clone().unwrap_or_default(),
            certs_dirs: vec!["/etc/palan/certs.d".into(), "/etc/docker/certs.d".into()],
            max_concurrent_downloads: positive("max-concurrent-downloads", file.max_concurrent_downloads, 3)?,
            max_concurrent_uploads: positive("max-concurrent-uploads", file.max_concurrent_uploads, 5)?,
            max_download_attempts: positive("max-download-attempts", file.max_download_attempts, 5)?,
            keep_compressed_layers: file.keep_compressed_layers.unwrap_or_default(),
            image_gc: watermarks(file.image_gc_high, file.image_gc_low)?,
            proxies: file.proxies.clone(),
            bip: file.bip.clone(),
            // Each bridge has its own, so that daemons with different bridges don't overwrite each other's rules.
            firewall_table: file
                .firewall_table
                .clone()
                .unwrap_or_else(|| palan_network::HostConfig::for_bridge(&bridge).table),
            bridge,
            default_address_pools: file.default_address_pools.clone().unwrap_or_default(),
            mtu: file.mtu.unwrap_or_default(),
            firewall_integration: file.firewall_integration.as_deref() != Some("none"),
            dns: file.dns.clone().unwrap_or_default(),
            dns_options: file.dns_options.clone().unwrap_or_default(),
            dns_search: file.dns_search.clone().unwrap_or_default(),
            log,
            default_ulimits: file.default_ulimits.clone().unwrap_or_default(),
            default_shm_size: file.default_shm_size.unwrap_or(64 << 20),
            default_ipc_mode: file.default_ipc_mode.clone().unwrap_or_else(|| "private".into()),
            default_cgroupns_mode: file.default_cgroupns_mode.clone().unwrap_or_else(|| "private".into()),
            cpu_realtime_period: file.cpu_realtime_period.unwrap_or_default(),
            cpu_realtime_runtime: file.cpu_realtime_runtime.unwrap_or_default(),
            cdi_spec_dirs: match &file.cdi_spec_dirs {
                // An empty entry turns CDI off, as in Docker.
                Some(list) => list.iter().filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
                None => cdi::DEFAULT_DIRECTORIES.map(PathBuf::from).to_vec(),
            },
            init: file.init.unwrap_or_default(),
            cgroup_parent: file.cgroup_parent.clone().unwrap_or_else(|| "/palan".into()),
            seccomp_profile: file.seccomp_profile.clone().unwrap_or_else(|| "builtin".into()),
            no_new_privileges: file.no_new_privileges.unwrap_or_default(),
            runtimes: Runtimes::new(
                file.runtimes.clone().unwrap_or_default(),
                file.default_runtime.as_deref(),
            )?,
            supervisor,
        })
    }
}

/// The low one is 10 percent below the high one unless it is given.
fn watermarks(high: Option<u32>, low: Option<u32>) -> Result<Option<Watermarks>> {
    let percent = |key: &str, value: u32| {
        u8::try_from(value)
            .ok()
            .filter(|percent| (1..100).contains(percent))
            .ok_or_else(|| Error::invalid(format!("{key}: {value} is not a percentage from 1 to 99")))
    };
    let (high_key, low_key) = ("image-gc-high-threshold", "image-gc-low-threshold");
    let Some(high) = high else {
        return match low {
            Some(_) => Err(Error::invalid(format!("{low_key} has no meaning without {high_key}"))),
            None => Ok(None),
        };
    };
    let high = percent(high_key, high)?;
    let low = low.map_or(Ok(high.saturating_sub(10)), |low| percent(low_key, low))?;
    if low >= high {
        return Err(Error::invalid(format!("{low_key} ({low}) must be below {high_key} ({high})")));
    }
    Ok(Some(Watermarks { high, low }))
}

fn check_bridge_name(name: &str) -> Result<()> {
    if name == "none" {
        return Err(Error::invalid(
            "bridge: a daemon without a default bridge (\"none\") is not supported by this version of Palan: \
             leave it out, and give containers --network none",
        ));
    }
    let fine = !name.is_empty()
        && name.len() < 16
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!("bridge: {name:?} can't be the name of an interface (1 to 15 characters)")))
}

fn check_cidr(key: &str, text: &str) -> Result<()> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: std::net::Ipv4Addr = address.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= 30 && prefix > 0).then_some(address)
    });
    match parsed {
        Some(_) => Ok(()),
        None => Err(Error::invalid(format!(
            "{key}: {text:?} is not an IPv4 address with prefix, such as 172.20.0.1/16"
        ))),
    }
}

/// One key of the file with its value; the methods are the types.
struct Setting<'a> {
    key: &'a str,
    value: &'a Value,
}

impl Setting<'_> {
    fn wrong(&self, wanted: &str) -> Error {
        Error::invalid(format!("the configuration key {:?} must be {wanted}, not {}", self.key, self.value))
    }

    fn string(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.wrong("a string"))
    }

    fn path(&self) -> Result<PathBuf> {
        self.string().map(PathBuf::from)
    }

    fn boolean(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    fn integer(&self) -> Result<i64> {
        self.value.as_i64().ok_or_else(|| self.wrong("an integer"))
    }

    fn count(&self) -> Result<u32> {
        let count = self.value.as_u64().and_then(|count| u32::try_from(count).ok());
        count.ok_or_else(|| self.wrong("a non-negative integer"))
    }

    fn strings(&self) -> Result<Vec<String>> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("an array of strings"))?;
        list.iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong("an array of strings"))
    }

    fn addresses(&self) -> Result<Vec<String>> {
        let list = self.strings()?;
        match list.iter().find(|item| item.parse::<std::net::IpAddr>().is_err()) {
            Some(item) => Err(Error::invalid(format!("{}: {item} is not an ip address", self.key))),
            None => Ok(list),
        }
    }

    fn socket_address(&self) -> Result<std::net::SocketAddr> {
        self.string()?.parse().map_err(|_| self.wrong("an address with a port such as \"127.0.0.1:9323\""))
    }

    fn one_of(&self, accepted: &[&str]) -> Result<String> {
        let text = self.string()?;
        if accepted.contains(&text.as_str()) {
            return Ok(text);
        }
        Err(Error::invalid(format!(
            "the configuration key {:?} has the value {text:?}; this version supports {}",
            self.key,
            accepted.join(", ")
        )))
    }

    fn string_map(&self) -> Result<BTreeMap<String, String>> {
        let map = self.value.as_object().ok_or_else(|| self.wrong("an object of strings"))?;
        map.iter()
            .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong("an object of strings"))
    }

    /// A number of bytes, or a size such as `64M`.
    fn bytes(&self) -> Result<i64> {
        let bytes = match self.value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => size::parse_memory(text).ok().and_then(|bytes| i64::try_from(bytes).ok()),
            _ => None,
        };
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| self.wrong("a size such as \"64M\""))
    }

    fn pools(&self) -> Result<Vec<AddressPool>> {
        let wrong = || self.wrong("an array of {\"base\": \"10.10.0.0/16\", \"size\": 24}");
        let list = self.value.as_array().ok_or_else(wrong)?;
        let mut pools = Vec::with_capacity(list.len());
        for item in list {
            let object = item.as_object().filter(|object| object.len() == 2).ok_or_else(wrong)?;
            let base = object.get("base").and_then(Value::as_str).ok_or_else(wrong)?;
            let size = object.get("size").and_then(Value::as_u64).ok_or_else(wrong)?;
            check_cidr(self.key, base)?;
            let prefix: u64 = base.rsplit('/').next().and_then(|prefix| prefix.parse().ok()).unwrap_or(32);
            let fitting = u8::try_from(size).ok().filter(|_| (prefix..=30).contains(&size));
            let size = fitting.ok_or_else(|| {
                Error::invalid(format!("{}: size {size} does not fit the pool {base}", self.key))
            })?;
            pools.push(AddressPool { base: base.into(), size });
        }
        Ok(pools)
    }

    fn ulimits(&self) -> Result<BTreeMap<String, Ulimit>> {
        let wrong = || self.wrong("an object such as {\"nofile\": {\"Hard\": 64000, \"Soft\": 64000}}");
        let mut ulimits = BTreeMap::new();
        for (name, value) in self.value.as_object().ok_or_else(wrong)? {
            let field = |wanted: &str| {
                let object = value.as_object()?;
                object.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted))?.1.as_i64()
            };
            let ulimit = Ulimit {
                name: name.clone(),
                hard: field("hard").ok_or_else(wrong)?,
                soft: field("soft").ok_or_else(wrong)?,
            };
            crate::container::validate::ulimit(&ulimit)?;
            ulimits.insert(name.clone(), ulimit);
        }
        Ok(ulimits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<EngineConfig> {
        EngineConfig::resolve(&FileConfig::parse(text)?, "1", SupervisorSource::Embedded(b""))
    }

    fn refused(text: &str, expected: &str) {
        let report = resolved(text).expect_err("refused").report();
        assert!(report.contains(expected), "{report:?} does not say {expected:?}");
    }

    #[test]
    fn defaults() {
        let config = resolved("").expect("an empty file");
        assert_eq!(config.data_root, PathBuf::from("/var/lib/palan"));
        assert_eq!(config.log.driver, "json-file");
        assert_eq!(config.default_shm_size, 64 << 20);
        assert!(config.firewall_integration);
        resolved("{\"live-restore\": true}").expect("accepted, it is always on");
    }

    #[test]
    fn a_daemon_without_a_bridge_is_refused_by_name() {
        refused(r#"{"bridge": "none"}"#, "a daemon without a default bridge (\"none\") is not supported");
        refused(r#"{"bridge": "longer-than-it-may-be"}"#, "1 to 15 characters");
    }

    #[test]
    fn keys_are_read() {
        let config = resolved(
            r#"{"data-root": "/srv/p", "exec-root": "/run/p", "default-shm-size": "128M", "bip": "10.9.0.1/24",
                "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}], "log-opts": {"max-size": "10m"},
                "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 32000}},
                "keep-compressed-layers": true, "image-gc-high-threshold": 85,
                "dns": ["10.0.0.2"], "registry-mirrors": ["http://127.0.0.1:5000"], "firewall-integration": "none"}"#,
        )
        .expect("all keys are known");
        assert_eq!(config.run_root, PathBuf::from("/run/p"));
        assert_eq!(config.default_shm_size, 128 << 20);
        assert_eq!(config.default_ulimits["nofile"].soft, 32000);
        assert_eq!(config.default_address_pools, [AddressPool { base: "10.10.0.0/16".into(), size: 24 }]);
        assert!(!config.firewall_integration);
        assert!(config.keep_compressed_layers);
        assert_eq!(config.image_gc, Some(Watermarks { high: 85, low: 75 }));
    }

    #[test]
    fn wrong_keys_are_named() {
        refused("{\"colour\": 1}", "don't match any configuration option: colour");
        refused("{\"userns-remap\": \"default\"}", "\"userns-remap\" is not supported");
        refused("{\"debug\": \"yes\"}", "\"debug\" must be true or false");
        refused("{\"hosts\": \"unix:///x\"}", "\"hosts\" must be an array of strings");
        refused("{\"live-restore\": false}", "live-restore");
        refused("{\"log-driver\": \"splunk\"}", "no log driver named 'splunk' is registered");
        refused("{\"log-opts\": {\"max-sze\": \"1\"}}", "unknown log opt 'max-sze' for json-file log driver");
        refused("{\"data-root\": \"srv\"}", "must be absolute");
        refused("[]", "one JSON object");
        refused("{", "not valid JSON");
        refused(
            "{\"default-ulimits\": {\"nofle\": {\"Hard\": 1, \"Soft\": 1}}}",
            "invalid ulimit type: nofle",
        );
        refused("{\"bip\": \"172.17.0.1\"}", "bip");
        refused("{\"image-gc-high-threshold\": 100}", "not a percentage");
        refused("{\"image-gc-low-threshold\": 10}", "no meaning without");
        refused("{\"image-gc-high-threshold\": 50, \"image-gc-low-threshold\": 50}", "must be below");
        refused("{\"default-runtime\": \"crun\"}", "specified default runtime 'crun' does not exist");
        refused("{\"runtimes\": [\"crun\"]}", "\"runtimes\" must be an object such as");
    }
}
