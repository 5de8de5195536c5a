//! The daemon's settings: `daemon.json` and command line become one [`EngineConfig`], which never changes afterwards.
//!
//! [`FileConfig::parse`] reads Docker's keys. A key that Docker doesn't know is an error that names it; a key that Docker
//! knows and this version does not support is another; a value of the wrong type names the key. The front door lays
//! the command line over the file, then calls [`EngineConfig::resolve`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

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
    /// `debug`.
    pub debug: Option<bool>,
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
    /// `max-download-attempts`.
    pub max_download_attempts: Option<u32>,
    /// `bip`.
    pub bip: Option<String>,
    /// `bridge`.
    pub bridge: Option<String>,
    /// `fixed-cidr`.
    pub fixed_cidr: Option<String>,
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
    /// Address and prefix of the default bridge; the first free pool when absent.
    pub bip: Option<String>,
    /// Name of the default bridge.
    pub bridge: String,
    /// Part of the bridge's subnet that containers get addresses from.
    pub fixed_cidr: Option<String>,
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
    /// Run an init in containers that say nothing.
    pub init: bool,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Seccomp profile for containers that name none: a path, `builtin` or `unconfined`.
    pub seccomp_profile: String,
    /// Set `no_new_privs` in every container.
    pub no_new_privileges: bool,
    /// The program for supervisors.
    pub supervisor: SupervisorSource,
}

/// Which program supervisors run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupervisorSource {
    /// The small program embedded in this one.
    Embedded(&'static [u8]),
    /// A file, run with these arguments.
    File(PathBuf, Vec<String>),
}

impl FileConfig {
    /// Reads `daemon.json`. `text` may be empty.
    pub fn parse(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
}

impl EngineConfig {
    /// Fills the defaults in and checks what can be checked without the host.
    pub fn resolve(file: &FileConfig, version: &str, supervisor: SupervisorSource) -> Result<Self> {
        let _ = (file, version, supervisor, Value::Null, Error::system(""));
        todo!()
    }
}
