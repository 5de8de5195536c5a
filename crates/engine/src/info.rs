//! Facts about the daemon and its host, for `info` and `version`.

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
    pub warnings: Vec<String>,
    pub event_listeners: usize,
    pub open_files: usize,
    pub tasks: usize,
}
