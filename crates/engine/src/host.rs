//! Facts about the host, read once at start: processors, memory, which cgroup controllers there are.

use palan_linux::capability::{self, CapabilitySet};
use palan_stdx::fs;
use std::path::Path;

/// What the host offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostFacts {
    /// Processors that this process may use.
    pub(crate) cpus: usize,
    /// Processors online, as a list such as `0-3`.
    pub(crate) cpu_list: String,
    /// Memory nodes online, as a list.
    pub(crate) memory_node_list: String,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// 1 or 2.
    pub(crate) cgroup_version: u8,
    /// The memory controller is there.
    pub(crate) memory_limit: bool,
    /// Swap is accounted, so that memory and swap can be limited.
    pub(crate) swap_limit: bool,
    /// Memory can be limited softly.
    pub(crate) memory_reservation: bool,
    /// How readily memory is swapped out can be set.
    pub(crate) memory_swappiness: bool,
    /// The OOM killer can be turned off for a cgroup.
    pub(crate) oom_kill_disable: bool,
    /// The cpu controller is there.
    pub(crate) cpu: bool,
    /// The cpu controller has quotas.
    pub(crate) cpu_quota: bool,
    /// Time can be set aside for real-time processes.
    pub(crate) cpu_realtime: bool,
    /// The cpuset controller is there.
    pub(crate) cpuset: bool,
    /// The pids controller is there.
    pub(crate) pids: bool,
    /// Block devices can be shared out by weight.
    pub(crate) blkio_weight: bool,
    /// And by one for each device.
    pub(crate) blkio_weight_device: bool,
    /// Rates of block devices can be limited.
    pub(crate) blkio_throttle: bool,
    /// The kernel may be told to spare a process when memory runs out (`CAP_SYS_RESOURCE`).
    pub(crate) may_lower_oom_score: bool,
    /// AppArmor is active.
    pub(crate) app_armor: bool,
    /// SELinux is active.
    pub(crate) selinux: bool,
    /// Files that tell how hot the processors get, by which one container can watch another; masked as in Docker
    /// (GHSA-6fw5-f8r9-fgfm).
    pub(crate) thermal_paths: Vec<String>,
}

/// `cpuN/thermal_throttle` of every processor that has it.
fn thermal_paths(processors: &Path) -> Vec<String> {
    let entries = fs::read_dir(processors).unwrap_or_default();
    let is_processor = |name: &str| {
        name.strip_prefix("cpu")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut found: Vec<String> = entries
        .iter()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_processor))
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

impl HostFacts {
    /// Reads them.
    pub(crate) fn read() -> Self {
        let cgroup = Path::new("/sys/fs/cgroup");
        let unified = fs::read_to_string(&cgroup.join("cgroup.controllers")).ok();
        let cpu_list = line("/sys/devices/system/cpu/online").unwrap_or_else(|| "0".into());
        let memory_node_list = line("/sys/devices/system/node/online").unwrap_or_else(|| "0".into());
        let mut facts = Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_list,
            memory_node_list,
            memory: memory_total(),
            may_lower_oom_score: capability::current()
                .is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE)),
            app_armor: line("/sys/module/apparmor/parameters/enabled").as_deref() == Some("Y"),
            selinux: exists("/sys/fs/selinux/enforce"),
            thermal_paths: thermal_paths(Path::new("/sys/devices/system/cpu")),
            ..Self::default()
        };
        if let Some(controllers) = unified {
            let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
            facts.cgroup_version = 2;
            facts.memory_limit = has("memory");
            facts.swap_limit = facts.memory_limit && exists("/proc/swaps");
            facts.memory_reservation = facts.memory_limit;
            facts.cpu = has("cpu");
            facts.cpu_quota = facts.cpu;
            facts.cpuset = has("cpuset");
            facts.pids = has("pids");
            facts.blkio_throttle = has("io");
            (facts.blkio_weight, facts.blkio_weight_device) = (has("io"), has("io"));
        } else {
            let has = |file: &str| cgroup.join(file).exists();
            facts.cgroup_version = 1;
            facts.memory_limit = has("memory/memory.limit_in_bytes");
            facts.swap_limit = has("memory/memory.memsw.limit_in_bytes");
            facts.memory_reservation = has("memory/memory.soft_limit_in_bytes");
            facts.memory_swappiness = has("memory/memory.swappiness");
            facts.oom_kill_disable = has("memory/memory.oom_control");
            facts.cpu = has("cpu/cpu.shares");
            facts.cpu_quota = has("cpu/cpu.cfs_quota_us") || has("cpu,cpuacct/cpu.cfs_quota_us");
            facts.cpu_realtime = has("cpu/cpu.rt_period_us");
            facts.cpuset = has("cpuset/cpuset.cpus");
            facts.blkio_weight = has("blkio/blkio.weight") || has("blkio/blkio.bfq.weight");
            facts.blkio_weight_device =
                has("blkio/blkio.weight_device") || has("blkio/blkio.bfq.weight_device");
            facts.blkio_throttle = has("blkio/blkio.throttle.read_bps_device");
            facts.pids = has("pids");
        }
        facts
    }
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(path)).ok().map(|text| text.trim().to_owned())
}

fn memory_total() -> u64 {
    let text = line("/proc/meminfo").unwrap_or_default();
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_the_heat_of_processors_is_found() {
        let processors = tempfile::tempdir().expect("temporary");
        for path in ["cpu0/thermal_throttle", "cpu1", "cpufreq/thermal_throttle", "cpu10/thermal_throttle"] {
            std::fs::create_dir_all(processors.path().join(path)).expect("creates");
        }
        let path = |name: &str| processors.path().join(name).join("thermal_throttle").display().to_string();
        assert_eq!(thermal_paths(processors.path()), [path("cpu0"), path("cpu10")]);
    }
}
