//! Facts about the daemon and its host, for `info` and `version`.

use std::path::Path;

use crate::Result;
use crate::cdi::Registry;
use crate::container::{Status, limits};
use crate::engine::{Engine, blocking};
use crate::image::store_error;

/// What `info` shows beyond the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "one field for each line of the output")]
pub struct Info {
    pub id: String,
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
    pub images: usize,
    pub backing_filesystem: String,
    pub kernel_version: String,
    pub operating_system: String,
    pub os_version: String,
    pub architecture: String,
    pub cpus: usize,
    pub memory: u64,
    pub host_name: String,
    pub data_root: String,
    pub cgroup_version: u8,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpu_set: bool,
    pub pids_limit: bool,
    pub oom_kill_disable: bool,
    pub ipv4_forwarding: bool,
    pub security_options: Vec<String>,
    pub cdi_devices: Vec<String>,
    pub warnings: Vec<String>,
    pub event_listeners: usize,
    pub open_files: usize,
    pub tasks: usize,
}

impl Engine {
    /// Facts about daemon and host.
    pub async fn info(&self) -> Result<Info> {
        let statuses: Vec<Status> =
            self.index.all().iter().map(|handle| handle.details().state.status).collect();
        let count = |wanted: Status| statuses.iter().filter(|status| **status == wanted).count();
        // As Docker counts: what restarts runs.
        let running = count(Status::Running) + count(Status::Restarting);
        let paused = count(Status::Paused);
        let engine = self.shared();
        let (images, devices) = blocking(move || {
            let images = engine.store.images().map_err(store_error)?;
            Ok((images.len(), Registry::read(&engine.config.cdi_spec_dirs)))
        })
        .await?;
        let uname = rustix::system::uname();
        let (operating_system, os_version) = operating_system();
        let facts = &self.host;
        let mut info = Info {
            id: self.daemon_id.clone(),
            containers: statuses.len(),
            running,
            paused,
            stopped: statuses.len() - running - paused,
            images,
            backing_filesystem: filesystem_of(&self.config.data_root),
            kernel_version: uname.release().to_string_lossy().into_owned(),
            operating_system,
            os_version,
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpus: facts.cpus,
            memory: facts.memory,
            host_name: uname.nodename().to_string_lossy().into_owned(),
            data_root: self.config.data_root.to_string_lossy().into_owned(),
            cgroup_version: facts.cgroup_version,
            memory_limit: facts.memory_limit,
            swap_limit: facts.swap_limit,
            cpu_cfs: facts.cpu_quota,
            cpu_shares: facts.cpu,
            cpu_set: facts.cpuset,
            pids_limit: facts.pids,
            oom_kill_disable: facts.oom_kill_disable,
            ipv4_forwarding: sysctl_is_on("/proc/sys/net/ipv4/ip_forward"),
            security_options: security_options(self),
            cdi_devices: devices.names().map(str::to_owned).collect(),
            warnings: limits::warnings(facts),
            event_listeners: self.db.subscriber_count(),
            open_files: palan_stdx::fs::read_dir(Path::new("/proc/self/fd")).map_or(0, |list| list.len()),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        };
        info.warnings.extend(self.network.warnings());
        info.warnings.extend(devices.problems.iter().map(|problem| format!("WARNING: CDI: {problem}")));
        if !info.ipv4_forwarding {
            info.warnings.push("WARNING: IPv4 forwarding is disabled".into());
        }
        Ok(info)
    }
}

fn security_options(engine: &Engine) -> Vec<String> {
    let mut options = Vec::new();
    if engine.host.app_armor {
        options.push("name=apparmor".into());
    }
    if engine.config.seccomp_profile != "unconfined" {
        options.push(format!("name=seccomp,profile={}", engine.config.seccomp_profile));
    }
    options.push("name=cgroupns".into());
    if engine.config.no_new_privileges {
        options.push("name=no-new-privileges".into());
    }
    options
}

/// Pretty name and version of the distribution.
fn operating_system() -> (String, String) {
    let text = palan_stdx::fs::read_to_string(Path::new("/etc/os-release")).unwrap_or_default();
    let field = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    (field("PRETTY_NAME"), field("VERSION_ID"))
}

fn sysctl_is_on(path: &str) -> bool {
    palan_stdx::fs::read_to_string(Path::new(path)).is_ok_and(|text| text.trim() == "1")
}

/// Name of the file system that holds a path, as Docker prints it.
fn filesystem_of(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else { return "<unknown>".into() };
    let name = match stat.f_type {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlayfs",
        _ => "<unknown>",
    };
    name.into()
}
