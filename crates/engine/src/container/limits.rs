//! Limits as this host can keep them, and those of block devices as the runtime is told them.

use std::path::{Path, PathBuf};

use palan_oci::runtime_spec::{BlockIo, ThrottleDevice, WeightDevice};

use crate::config::EngineConfig;
use crate::container::Details;
use crate::error::Context;
use crate::host::HostFacts;
use crate::spec::{self, Resources};
use crate::{Error, Result};

/// Leaves out what this host can't limit, with one warning for each as Docker words it, and fills in what follows from the
/// rest: the swap limit defaults to twice the memory.
pub(crate) fn complete(resources: &mut Resources, host: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    memory(resources, host, &mut warn);
    processors(resources, host, &mut warn);
    block_devices(resources, host, &mut warn);
    if resources.pids_limit.is_some_and(|limit| limit > 0) && !host.pids {
        warn(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        );
        resources.pids_limit = None;
    }
    warnings
}

/// What is said of an adjustment that this daemon has no right to make; the container keeps the daemon's own then.
pub(crate) fn oom_score_warning(adjustment: i64, host: &HostFacts) -> Option<String> {
    (adjustment < 0 && !host.may_lower_oom_score).then(|| {
        format!("The daemon lacks CAP_SYS_RESOURCE. The OOM score adjustment {adjustment} has no effect.")
    })
}

fn memory(resources: &mut Resources, host: &HostFacts, warn: &mut impl FnMut(&str)) {
    if resources.memory > 0 && !host.memory_limit {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        (resources.memory, resources.memory_swap) = (0, -1);
    }
    if resources.memory > 0 && resources.memory_swap != -1 && !host.swap_limit {
        warn(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        );
        resources.memory_swap = -1;
    }
    if resources.memory > 0 && resources.memory_swap == 0 {
        resources.memory_swap = resources.memory.saturating_mul(2);
    }
    if resources.memory_swap == -1 && !host.swap_limit {
        // Nothing to write where there is no such file.
        resources.memory_swap = 0;
    }
    if resources.memory_swappiness.is_some() && !host.memory_swappiness {
        warn(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
        );
        resources.memory_swappiness = None;
    }
    if resources.memory_reservation > 0 && !host.memory_reservation {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        resources.memory_reservation = 0;
    }
    let is_killer_off = resources.oom_kill_disable.get_or_insert(false);
    if *is_killer_off && host.oom_kill_disable && resources.memory == 0 {
        warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
        );
    }
    if !host.oom_kill_disable {
        if *is_killer_off {
            warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        }
        resources.oom_kill_disable = None;
    }
}

fn processors(resources: &mut Resources, host: &HostFacts, warn: &mut impl FnMut(&str)) {
    if resources.cpu_shares > 0 && !host.cpu {
        warn("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.");
        resources.cpu_shares = 0;
    }
    if (resources.cpu_period != 0 || resources.cpu_quota != 0) && !host.cpu_quota {
        warn("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.");
        (resources.cpu_period, resources.cpu_quota) = (0, 0);
    }
    let has_set = !resources.cpuset_cpus.is_empty() || !resources.cpuset_mems.is_empty();
    if has_set && !host.cpuset {
        warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.");
        resources.cpuset_cpus.clear();
        resources.cpuset_mems.clear();
    }
}

fn block_devices(resources: &mut Resources, host: &HostFacts, warn: &mut impl FnMut(&str)) {
    if resources.blkio_weight > 0 && !host.blkio_weight {
        warn("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.");
        resources.blkio_weight = 0;
    }
    if !resources.blkio_weight_device.is_empty() && !host.blkio_weight_device {
        warn(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
        );
        resources.blkio_weight_device.clear();
    }
    if host.blkio_throttle {
        return;
    }
    let lists = [
        (
            &mut resources.blkio_device_read_bps,
            "BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit",
        ),
        (
            &mut resources.blkio_device_write_bps,
            "BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit",
        ),
        (
            &mut resources.blkio_device_read_iops,
            "IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit",
        ),
        (
            &mut resources.blkio_device_write_iops,
            "IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit",
        ),
    ];
    for (list, what) in lists.into_iter().filter(|(list, _)| !list.is_empty()) {
        warn(&format!("Your kernel does not support {what} discarded."));
        list.clear();
    }
}

/// What an administrator is told of this host, line by line, as `info` shows it.
pub(crate) fn warnings(host: &HostFacts) -> Vec<String> {
    let is_old = host.cgroup_version == 1;
    let named = |old: &str, new: &str| if is_old { format!("blkio throttle.{old}") } else { new.to_owned() };
    let missing = [
        (host.memory_limit, "memory limit".to_owned()),
        (host.swap_limit, "swap limit".to_owned()),
        // There is none in cgroup v2, and nothing that could be done about it.
        (host.oom_kill_disable || !is_old, "oom kill disable".to_owned()),
        (host.cpu_quota, "cpu cfs quota".to_owned()),
        (host.cpu_quota, "cpu cfs period".to_owned()),
        (host.cpu, "cpu shares".to_owned()),
        (host.cpuset, "cpuset".to_owned()),
        // Nor in cgroup v1 with a kernel of today.
        (host.blkio_weight || is_old, "io.weight".to_owned()),
        (host.blkio_weight_device || is_old, "io.weight (per device)".to_owned()),
        (host.blkio_throttle, named("read_bps_device", "io.max (rbps)")),
        (host.blkio_throttle, named("write_bps_device", "io.max (wbps)")),
        (host.blkio_throttle, named("read_iops_device", "io.max (riops)")),
        (host.blkio_throttle, named("write_iops_device", "io.max (wiops)")),
    ];
    missing
        .into_iter()
        .filter(|(is_there, _)| !is_there)
        .map(|(_, what)| format!("WARNING: No {what} support"))
        .collect()
}

/// Gives the parents of a container's cgroup the time for real-time processes that the daemon was told of, as far as they have
/// none yet: without, the kernel gives none to the container.
pub(crate) fn give_real_time(config: &EngineConfig, details: &Details) -> Result<()> {
    let wanted = [
        ("cpu.rt_period_us", config.cpu_realtime_period),
        ("cpu.rt_runtime_us", config.cpu_realtime_runtime),
    ];
    if config.cpu_realtime_runtime == 0 || details.host.resources.cpu_realtime_runtime == 0 {
        return Ok(());
    }
    let what = || "cannot give the containers' cgroups time for real-time processes".into();
    let mut directory = PathBuf::from("/sys/fs/cgroup/cpu");
    let parents = details.cgroup_path.rsplit_once('/').map_or("", |(parents, _)| parents);
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        directory.push(part);
        palan_stdx::fs::create_dir_all(&directory, 0o755).context(what)?;
        let has_some =
            palan_stdx::fs::read_to_string(&directory.join("cpu.rt_runtime_us")).context(what)?.trim() != "0";
        for (file, value) in wanted.iter().filter(|(_, value)| *value != 0 && !has_some) {
            palan_stdx::fs::write(&directory.join(file), value.to_string()).context(what)?;
        }
    }
    Ok(())
}

/// The limits of block devices, which must be there; `None` without any.
pub(crate) fn block_io(wanted: &Resources) -> Result<Option<BlockIo>> {
    let weight = |device: &spec::WeightDevice| {
        let (major, minor) = numbers(&device.path)?;
        Ok(WeightDevice { major, minor, weight: Some(device.weight), leaf_weight: None })
    };
    let throttles = |list: &[spec::ThrottleDevice]| {
        let one = |device: &spec::ThrottleDevice| {
            let (major, minor) = numbers(&device.path)?;
            Ok(ThrottleDevice { major, minor, rate: device.rate })
        };
        list.iter().map(one).collect::<Result<Vec<_>>>()
    };
    let block_io = BlockIo {
        weight: (wanted.blkio_weight > 0).then_some(wanted.blkio_weight),
        leaf_weight: None,
        weight_device: wanted.blkio_weight_device.iter().map(weight).collect::<Result<_>>()?,
        throttle_read_bps_device: throttles(&wanted.blkio_device_read_bps)?,
        throttle_write_bps_device: throttles(&wanted.blkio_device_write_bps)?,
        throttle_read_iops_device: throttles(&wanted.blkio_device_read_iops)?,
        throttle_write_iops_device: throttles(&wanted.blkio_device_write_iops)?,
    };
    Ok((block_io != BlockIo::default()).then_some(block_io))
}

fn numbers(path: &str) -> Result<(i64, i64)> {
    let stat = rustix::fs::stat(Path::new(path))
        .map_err(std::io::Error::from)
        .context(|| format!("cannot limit the block device {path}"))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
        return Err(Error::invalid(format!("cannot limit the block device {path}: it is none")));
    }
    Ok((rustix::fs::major(stat.st_rdev).into(), rustix::fs::minor(stat.st_rdev).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Resources {
        let throttle = vec![spec::ThrottleDevice { path: "/dev/sda".into(), rate: 1 }];
        Resources {
            memory: 64 << 20,
            memory_swappiness: Some(10),
            memory_reservation: 32 << 20,
            oom_kill_disable: Some(true),
            cpu_shares: 5,
            cpu_quota: 5000,
            cpuset_cpus: "0".into(),
            blkio_weight: 300,
            blkio_weight_device: vec![spec::WeightDevice { path: "/dev/sda".into(), weight: 100 }],
            blkio_device_read_bps: throttle.clone(),
            blkio_device_write_iops: throttle,
            pids_limit: Some(5),
            ..Resources::default()
        }
    }

    #[test]
    fn what_the_host_has_not_is_left_out_with_a_warning() {
        let mut resources = asked();
        let warnings = complete(&mut resources, &HostFacts::default());
        assert_eq!(resources, Resources::default());
        assert_eq!(warnings.len(), 12, "{warnings:#?}");
        assert!(warnings.iter().all(|text| text.ends_with("discarded.")), "{warnings:#?}");
        let throttle = "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS \
                        read limit discarded.";
        assert!(warnings.iter().any(|text| text == throttle), "{warnings:#?}");
    }

    #[test]
    fn what_the_host_has_stays() {
        let host = HostFacts {
            memory_limit: true,
            swap_limit: true,
            memory_swappiness: true,
            memory_reservation: true,
            oom_kill_disable: true,
            cpu: true,
            cpu_quota: true,
            cpuset: true,
            blkio_weight: true,
            blkio_weight_device: true,
            blkio_throttle: true,
            pids: true,
            ..HostFacts::default()
        };
        let mut resources = asked();
        assert_eq!(complete(&mut resources, &host), Vec::<String>::new());
        assert_eq!(resources, Resources { memory_swap: 128 << 20, ..asked() });
        let mut nothing = Resources { oom_kill_disable: Some(true), ..Resources::default() };
        assert!(
            complete(&mut nothing, &host)[0].starts_with("OOM killer is disabled for the container, but no")
        );
        let mut default = Resources::default();
        complete(&mut default, &host);
        assert_eq!(default.oom_kill_disable, Some(false));
        assert_eq!(warnings(&HostFacts { cgroup_version: 2, ..host }), Vec::<String>::new());
    }

    #[test]
    fn a_device_that_is_none() {
        let throttled = |path: &str| {
            let devices = vec![spec::ThrottleDevice { path: path.into(), rate: 1 }];
            block_io(&Resources { blkio_device_read_bps: devices, ..Resources::default() })
        };
        assert!(throttled("/dev/null").unwrap_err().report().contains("/dev/null: it is none"));
        assert!(
            throttled("/nonexist").unwrap_err().report().contains("cannot limit the block device /nonexist")
        );
        assert_eq!(block_io(&Resources::default()).unwrap(), None);
    }
}
