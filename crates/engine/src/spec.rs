//! What a caller asks a container to be. Everything here is *as written*: defaults are filled in and the image's
//! configuration is merged by [`crate::Engine::create`], which stores the outcome in a [`crate::container::Details`].
//!
//! The same types are stored in the database (version in [`crate::container::Details::version`]), so a field may be added
//! with a default, never renamed.

use std::collections::{BTreeMap, BTreeSet};

use palan_oci::image_config;
use serde::{Deserialize, Serialize};

/// A request for a new container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSpec {
    /// The name without slash; generated when absent.
    pub name: Option<String>,
    /// `os/architecture[/variant]` that the image must have; any when absent.
    pub platform: Option<String>,
    /// What runs.
    pub config: Config,
    /// How it is tied to this host.
    pub host: HostConfig,
    /// Settings of the endpoints by network name; may be empty.
    pub endpoints: BTreeMap<String, EndpointSettings>,
}

/// What runs inside the container. Fields that an image can give are optional here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Host name inside; the short id when empty.
    pub hostname: String,
    /// Domain name inside.
    pub domainname: String,
    /// `user[:group]`, names or numbers, resolved inside the root filesystem.
    pub user: String,
    /// The creating client wants to attach stdin (kept for `inspect`).
    pub attach_stdin: bool,
    /// The creating client wants to attach stdout (kept for `inspect`).
    pub attach_stdout: bool,
    /// The creating client wants to attach stderr (kept for `inspect`).
    pub attach_stderr: bool,
    /// Ports that the image or the user declares, such as `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep stdin open while nobody is attached.
    pub open_stdin: bool,
    /// Close stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// `NAME=value`, or `NAME` to remove a variable.
    pub env: Vec<String>,
    /// Arguments; the image's when absent.
    pub cmd: Option<Vec<String>>,
    /// Health check.
    pub healthcheck: Option<Healthcheck>,
    /// On Windows only; kept for `inspect`.
    pub args_escaped: bool,
    /// Image as written by the caller.
    pub image: String,
    /// Paths for anonymous volumes.
    pub volumes: BTreeSet<String>,
    /// Working directory.
    pub working_dir: String,
    /// Program; the image's when absent, none when it is one empty string.
    pub entrypoint: Option<Vec<String>>,
    /// No network at all.
    pub network_disabled: bool,
    /// Triggers for a build on top of this image (kept for `inspect`).
    pub on_build: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal for `stop`.
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before it kills; negative waits for ever.
    pub stop_timeout: Option<i64>,
    /// Shell of the image's shell-form commands (kept for `inspect`).
    pub shell: Option<Vec<String>>,
}

/// A health check as images and callers write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `NONE`, or `CMD …`, or `CMD-SHELL …`; empty inherits the image's.
    pub test: Vec<String>,
    /// Nanoseconds between checks.
    pub interval: i64,
    /// Nanoseconds that one check may take.
    pub timeout: i64,
    /// Nanoseconds of grace after the start.
    pub start_period: i64,
    /// Nanoseconds between checks during the grace.
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    pub retries: i64,
    /// What is done with an unhealthy container: `kill`, `restart`, `stop`, or `none`; empty is `none`. An image does not have it.
    pub on_failure: String,
}

impl From<&image_config::Healthcheck> for Healthcheck {
    fn from(check: &image_config::Healthcheck) -> Self {
        Self {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
            on_failure: String::new(),
        }
    }
}

impl From<&Healthcheck> for image_config::Healthcheck {
    fn from(check: &Healthcheck) -> Self {
        Self {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }
    }
}

/// How the container is tied to its host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `source:destination[:options]` as given with `-v`.
    pub binds: Vec<String>,
    /// What is mounted below the source of a read-only bind stays writable: so for clients of before API 1.44.
    pub read_only_binds_non_recursive: bool,
    /// File of the client that holds the id (kept for `inspect`).
    pub container_id_file: String,
    /// Log driver.
    pub log: LogConfig,
    /// `default`, `bridge`, `none`, `host`, `container:<id>`, or a network's name; empty means default.
    pub network_mode: String,
    /// Published ports by `port/protocol`; the order of the bindings is kept.
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    /// What happens after an exit.
    pub restart_policy: RestartPolicy,
    /// Remove when it exits.
    pub auto_remove: bool,
    /// Driver for volumes named in `binds`.
    pub volume_driver: String,
    /// Containers whose volumes are mounted too, `id[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Mounts in the long form.
    pub mounts: Vec<Mount>,
    /// Height and width of the terminal at start.
    pub console_size: [u64; 2],
    /// Annotations handed to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Capabilities to add; `ALL` or names with or without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// `private`, `host`, or empty for the default.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `name:address` lines for the hosts file.
    pub extra_hosts: Vec<String>,
    /// Supplementary groups, names or numbers.
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `none`, `host`, `container:<id>`, or empty for the default.
    pub ipc_mode: String,
    /// Cgroup of another container (legacy, unsupported unless empty).
    pub cgroup: String,
    /// Links to other containers, `container[:alias]`.
    pub links: Vec<String>,
    /// OOM score adjustment of the container's processes.
    pub oom_score_adj: i64,
    /// `host`, `container:<id>`, or empty.
    pub pid_mode: String,
    /// All capabilities and devices, no confinement.
    pub privileged: bool,
    /// Publish all exposed ports on random host ports.
    pub publish_all_ports: bool,
    /// Mount the root filesystem read-only.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=…`, `apparmor=…`, `label=…`, `systempaths=unconfined`.
    pub security_opt: Vec<String>,
    /// Options of the storage driver.
    pub storage_opt: BTreeMap<String, String>,
    /// tmpfs mounts by path, with mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// `host` or empty.
    pub uts_mode: String,
    /// `host` or empty.
    pub userns_mode: String,
    /// Size of `/dev/shm` in bytes; 0 means the default.
    pub shm_size: i64,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Name of the runtime; empty means the default.
    pub runtime: String,
    /// Isolation (Windows); empty or `default`.
    pub isolation: String,
    /// Limits.
    pub resources: Resources,
    /// Paths hidden inside; the default list when absent.
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only inside; the default list when absent.
    pub readonly_paths: Option<Vec<String>>,
    /// Run an init as process 1; the daemon's default when absent.
    pub init: Option<bool>,
}

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative CPU weight (v1 scale, 2 to 262144); 0 means default.
    pub cpu_shares: i64,
    /// Memory limit in bytes; 0 means none.
    pub memory: i64,
    /// CPUs in units of 10⁻⁹; 0 means no limit.
    pub nano_cpus: i64,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Block I/O weight, 10 to 1000; 0 means default.
    pub blkio_weight: u16,
    /// Block I/O weights by device.
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Bytes per second that may be read from devices.
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    /// Bytes per second that may be written to devices.
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    /// Reads per second from devices.
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    /// Writes per second to devices.
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds.
    pub cpu_quota: i64,
    /// Real-time period in microseconds (cgroup v1); 0 means the kernel's.
    pub cpu_realtime_period: i64,
    /// Microseconds of each such period that real-time processes may run (cgroup v1); 0 means none.
    pub cpu_realtime_runtime: i64,
    /// CPUs allowed, such as `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes allowed.
    pub cpuset_mems: String,
    /// Devices of the host.
    pub devices: Vec<DeviceMapping>,
    /// Rules such as `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Devices that a driver finds: GPUs, and what CDI specifications describe. (`device_requests` was their number in
    /// early records.)
    pub requested_devices: Vec<DeviceRequest>,
    /// Soft memory limit in bytes.
    pub memory_reservation: i64,
    /// Memory and swap in bytes; 0 means twice the memory, -1 no limit.
    pub memory_swap: i64,
    /// 0 to 100; absent or -1 means the kernel's.
    pub memory_swappiness: Option<i64>,
    /// Turn the OOM killer off (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// Processes allowed; absent or ≤ 0 means no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
}

/// The weight of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightDevice {
    /// Path on the host.
    pub path: String,
    /// 10 to 1000; 0 means the container's weight.
    pub weight: u16,
}

/// The limit of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleDevice {
    /// Path on the host.
    pub path: String,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// A request for devices that a driver finds (`--gpus`, or `--device` with a CDI name).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `cdi`, `nvidia`, `amd`, or empty for the one that has the capabilities.
    pub driver: String,
    /// How many; -1 means all, 0 those of `device_ids`.
    pub count: i64,
    /// Names or numbers.
    pub device_ids: Vec<String>,
    /// Alternatives, each a list of what a device must be able to do.
    pub capabilities: Vec<Vec<String>>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// One `--device`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapping {
    /// Path on the host.
    pub path_on_host: String,
    /// Path inside.
    pub path_in_container: String,
    /// Letters of `rwm`.
    pub cgroup_permissions: String,
}

/// One `--ulimit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ulimit {
    /// Name as in `ulimit`, such as `nofile`.
    pub name: String,
    /// Hard limit; -1 means unlimited.
    pub hard: i64,
    /// Soft limit; -1 means unlimited.
    pub soft: i64,
}

/// Log driver and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `json-file`, `none`, or empty for the daemon's default.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// One published port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// Address on the host; empty means all.
    pub host_ip: String,
    /// Port or range `a-b` on the host; empty means a free one.
    pub host_port: String,
}

/// What happens after an exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`, or empty for `no`.
    pub name: String,
    /// Attempts of `on-failure`.
    pub maximum_retry_count: i64,
}

/// A mount in the long form (`--mount`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs` or `image` (others are refused with their name).
    pub kind: String,
    /// Path on the host or name of the volume.
    pub source: String,
    /// Path inside.
    pub target: String,
    /// Mount read-only.
    pub read_only: bool,
    /// `default`, `consistent`, … (has no effect on Linux).
    pub consistency: String,
    /// Options of a bind mount.
    pub bind: Option<BindOptions>,
    /// Options of a volume mount.
    pub volume: Option<VolumeOptions>,
    /// Options of a tmpfs mount.
    pub tmpfs: Option<TmpfsOptions>,
    /// Options of an image mount.
    pub image: Option<ImageOptions>,
}

/// Options of an image mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageOptions {
    /// Directory or file inside the image.
    pub subpath: String,
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// `rprivate`, `private`, `rshared`, `shared`, `rslave`, `slave`, or empty.
    pub propagation: String,
    /// Don't take the mounts below the source along.
    pub non_recursive: bool,
    /// Create the source as a directory when it is missing.
    pub create_mountpoint: bool,
    /// A read-only mount leaves the mounts below it writable.
    pub read_only_non_recursive: bool,
    /// Fail when the mounts below can't be made read-only.
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    /// Don't copy the image's content into a new volume.
    pub no_copy: bool,
    /// Labels of a volume that is created.
    pub labels: BTreeMap<String, String>,
    /// Driver of a volume that is created; empty or `local`.
    pub driver: String,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// Directory inside the volume.
    pub subpath: String,
}

/// Options of a tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Bytes; 0 means the kernel's default.
    pub size_bytes: i64,
    /// Permission bits; 0 means 01777.
    pub mode: u32,
    /// Further mount options, each a name or a name and a value.
    pub options: Vec<Vec<String>>,
}

/// What is asked of the endpoint on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    /// Address asked for.
    pub ipv4_address: String,
    /// Address asked for.
    pub ipv6_address: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// `container:alias` names that only this container knows.
    pub links: Vec<String>,
    /// Further addresses, that are given to nobody else by nobody's doing.
    pub link_local_ips: Vec<String>,
    /// Among several networks the one of the highest priority leads outside.
    pub gateway_priority: i64,
    /// MAC address asked for.
    pub mac_address: String,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
}

/// A set of `key` → accepted values, as list and event requests carry them. Each key's meaning is documented at the
/// query that takes it; an unknown key is an error of that query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// No filter at all.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// The values of one key; empty when it is not given.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether the key is given with at least one value.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// No value given, or `actual` among them.
    pub fn exact(&self, key: &str, actual: &str) -> bool {
        self.0.get(key).is_none_or(|values| values.is_empty() || values.contains(actual))
    }

    /// An error for the first key that is not in `known`, in Docker's words.
    pub fn check(&self, known: &[&str]) -> crate::Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(crate::Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// A boolean key (`true`/`1`, `false`/`0`), or an error in Docker's words.
    pub fn boolean(&self, key: &str) -> crate::Result<Option<bool>> {
        let mut outcome = None;
        for value in self.values(key) {
            let value = match value {
                "1" | "true" | "True" | "TRUE" | "t" | "T" => true,
                "0" | "false" | "False" | "FALSE" | "f" | "F" => false,
                other => return Err(crate::Error::invalid(format!("invalid filter '{key}=[{other}]'"))),
            };
            if outcome.is_some_and(|earlier| earlier != value) {
                return Err(crate::Error::invalid(format!(
                    "invalid filter '{key}': both true and false are given"
                )));
            }
            outcome = Some(value);
        }
        Ok(outcome)
    }

    /// The time of a filter `until`: RFC 3339, seconds since the epoch, or a duration before now.
    pub fn until(&self) -> crate::Result<Option<jiff::Timestamp>> {
        let mut values = self.values("until");
        let Some(text) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(crate::Error::invalid("more than one until filter specified"));
        }
        let time = if let Ok(time) = text.parse::<jiff::Timestamp>() {
            Some(time)
        } else if let Ok(seconds) = text.parse::<i64>() {
            jiff::Timestamp::from_second(seconds).ok()
        } else {
            let duration = palan_stdx::duration::parse(text).ok();
            duration.and_then(|duration| jiff::Timestamp::now().checked_sub(duration).ok())
        };
        let invalid = || crate::Error::invalid(format!("invalid filter 'until=[{text}]'"));
        time.map(Some).ok_or_else(invalid)
    }

    /// Every `key` or `key=value` of a filter such as `label` must match the labels.
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|actual| actual == value),
            None => labels.contains_key(wanted),
        })
    }
}
