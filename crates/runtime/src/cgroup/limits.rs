//! Writing the limits of `linux.resources` into a cgroup: one function for each kind, v1 and v2 side by side.

use palan_oci::runtime_spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, devices, write_file};

pub(super) fn apply(cgroup: &mut Cgroup, resources: &Resources) -> Result<Vec<String>, CgroupError> {
    let mut warnings = Vec::new();
    if !resources.devices.is_empty() {
        devices::apply(cgroup, &resources.devices)?;
    }
    if let Some(memory) = &resources.memory {
        if cgroup.is_v2() {
            memory_v2(cgroup, memory, &mut warnings)?;
        } else {
            memory_v1(cgroup, memory, &mut warnings)?;
        }
    }
    if let Some(cpu) = &resources.cpu {
        cpu_time(cgroup, cpu)?;
        cpu_set(cgroup, cpu)?;
    }
    if let Some(limit) = resources.pids.and_then(|pids| pids.limit) {
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        set(cgroup, ("pids", "processes"), "pids.max", &value)?;
    }
    if let Some(block_io) = &resources.block_io {
        if cgroup.is_v2() {
            block_io_v2(cgroup, block_io, &mut warnings)?;
        } else {
            block_io_v1(cgroup, block_io, &mut warnings)?;
        }
    }
    huge_pages(cgroup, resources)?;
    network(cgroup, resources)?;
    rdma(cgroup, resources)?;
    unified(cgroup, resources)?;
    Ok(warnings)
}

/// A controller and what it limits, for the error where it is missing.
type Controller = (&'static str, &'static str);

const MEMORY: Controller = ("memory", "memory");
const CPU: Controller = ("cpu", "processor time");
const CPUSET: Controller = ("cpuset", "processors");

fn set(cgroup: &mut Cgroup, controller: Controller, file: &str, value: &str) -> Result<(), CgroupError> {
    cgroup.controller_for_limit(controller.0, controller.1)?;
    let group = cgroup.controller(controller.0, controller.1)?;
    cgroup.write_in(group, file, value)
}

/// Like [`set`], but a file that this kernel lacks is told as a warning.
fn set_if_known(
    cgroup: &mut Cgroup,
    controller: Controller,
    (file, value): (&str, &str),
    warning: &str,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    cgroup.controller_for_limit(controller.0, controller.1)?;
    let group = cgroup.controller(controller.0, controller.1)?;
    match write_file(&group.directory, file, value) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::OPNOTSUPP) => {
            warnings.push(warning.to_owned());
            Ok(())
        }
        Err(errno) => Err(cgroup.failed(format!("write {value:?} to {file}"), errno)),
    }
}

const NO_SWAP_LIMIT: &str = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. \
                             Memory limited without swap.";

fn memory_v1(cgroup: &mut Cgroup, memory: &Memory, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let limit = memory.limit.filter(|limit| *limit != 0);
    let swap = memory.swap.filter(|swap| *swap != 0);
    let set_swap = |cgroup: &mut Cgroup, warnings: &mut Vec<String>| match swap {
        Some(swap) => {
            let write = ("memory.memsw.limit_in_bytes", swap.to_string());
            set_if_known(cgroup, MEMORY, (write.0, &write.1), NO_SWAP_LIMIT, warnings)
        }
        None => Ok(()),
    };
    // Memory may never exceed memory + swap: which file goes first depends on where it comes from.
    let mut swap_first = false;
    if let (Some(_), Some(swap)) = (limit, swap) {
        cgroup.controller_for_limit(MEMORY.0, MEMORY.1)?;
        let group = cgroup.controller(MEMORY.0, MEMORY.1)?;
        let current: i64 = cgroup.read_in(group, "memory.limit_in_bytes")?.trim().parse().unwrap_or(i64::MAX);
        swap_first = swap == -1 || current < swap;
    }
    if swap_first {
        set_swap(cgroup, warnings)?;
    }
    if let Some(limit) = limit {
        set(cgroup, MEMORY, "memory.limit_in_bytes", &limit.to_string())?;
    }
    if !swap_first {
        set_swap(cgroup, warnings)?;
    }
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        set(cgroup, MEMORY, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(tcp) = memory.kernel_tcp.filter(|value| *value != 0) {
        let write = ("memory.kmem.tcp.limit_in_bytes", tcp.to_string());
        let warning = "This kernel has no separate limit for TCP buffers; it was not set.";
        set_if_known(cgroup, MEMORY, (write.0, &write.1), warning, warnings)?;
    }
    if let Some(kernel) = memory.kernel.filter(|value| *value > 0) {
        warnings.push(format!(
            "Kernels since 5.16 have no separate limit for kernel memory; {kernel} was not set."
        ));
    }
    if memory.disable_oom_killer == Some(true) {
        set(cgroup, MEMORY, "memory.oom_control", "1")?;
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            return Err(CgroupError::Invalid(format!(
                "invalid value for memory swappiness: {swappiness} (valid range is 0-100)"
            )));
        }
        set(cgroup, MEMORY, "memory.swappiness", &swappiness.to_string())?;
    }
    Ok(())
}

/// Bytes of swap alone, as v2 counts, from memory and swap together, as v1, OCI and Docker count.
fn swap_v2(limit: Option<i64>, both: Option<i64>) -> Result<Option<String>, CgroupError> {
    match (limit.unwrap_or(0), both.unwrap_or(0)) {
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some("max".to_owned())),
        (limit, both) if limit > 0 && both >= limit => Ok(Some((both - limit).to_string())),
        (limit, both) if limit > 0 => Err(CgroupError::Invalid(format!(
            "memory and swap together ({both}) must not be less than memory ({limit})"
        ))),
        (_, both) => {
            Err(CgroupError::Invalid(format!("a limit of memory and swap ({both}) needs one of memory")))
        }
    }
}

fn memory_v2(cgroup: &mut Cgroup, memory: &Memory, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let bytes = |value: i64| if value == -1 { "max".to_owned() } else { value.to_string() };
    if let Some(swap) = swap_v2(memory.limit, memory.swap)? {
        set_if_known(cgroup, MEMORY, ("memory.swap.max", &swap), NO_SWAP_LIMIT, warnings)?;
    }
    if let Some(limit) = memory.limit.filter(|value| *value != 0) {
        set(cgroup, MEMORY, "memory.max", &bytes(limit))?;
    }
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        set(cgroup, MEMORY, "memory.low", &bytes(reservation))?;
    }
    if memory.disable_oom_killer == Some(true) {
        warnings.push("OomKillDisable: cgroup v2 can't disable the OOM killer; it stays enabled.".to_owned());
    }
    if memory.swappiness.is_some() {
        warnings.push("MemorySwappiness: cgroup v2 has no swappiness; it was not set.".to_owned());
    }
    Ok(())
}

/// v1 shares (2 to 262144, 1024 usual) as a v2 weight (1 to 10000, 100 usual), through three fixed points.
fn weight_of_shares(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, reason = "at most 262144 here")]
    let logarithm = (shares as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000 for the range of shares above"
    )]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

fn cpu_time(cgroup: &mut Cgroup, cpu: &Cpu) -> Result<(), CgroupError> {
    if cgroup.is_v2() {
        return cpu_time_v2(cgroup, cpu);
    }
    if let Some(shares) = cpu.shares.filter(|value| *value != 0) {
        set(cgroup, CPU, "cpu.shares", &shares.to_string())?;
    }
    if let Some(idle) = cpu.idle {
        set(cgroup, CPU, "cpu.idle", &idle.to_string())?;
    }
    // A realtime period before its runtime: the runtime may not exceed it.
    if let Some(period) = cpu.realtime_period.filter(|value| *value != 0) {
        set(cgroup, CPU, "cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|value| *value != 0) {
        set(cgroup, CPU, "cpu.rt_runtime_us", &runtime.to_string())?;
    }
    if let Some(period) = cpu.period.filter(|value| *value != 0) {
        set(cgroup, CPU, "cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = cpu.quota.filter(|value| *value != 0) {
        set(cgroup, CPU, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(burst) = cpu.burst {
        set(cgroup, CPU, "cpu.cfs_burst_us", &burst.to_string())?;
    }
    Ok(())
}

fn cpu_time_v2(cgroup: &mut Cgroup, cpu: &Cpu) -> Result<(), CgroupError> {
    if cpu.realtime_period.unwrap_or(0) != 0 || cpu.realtime_runtime.unwrap_or(0) != 0 {
        return Err(CgroupError::Invalid("cgroup v2 has no realtime scheduling limits".to_owned()));
    }
    if let Some(idle) = cpu.idle {
        set(cgroup, CPU, "cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = cpu.shares.filter(|value| *value != 0 && cpu.idle != Some(1)) {
        set(cgroup, CPU, "cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    let quota = cpu.quota.filter(|value| *value != 0);
    let period = cpu.period.filter(|value| *value != 0);
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = period.unwrap_or(100_000);
        set(cgroup, CPU, "cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(burst) = cpu.burst {
        set(cgroup, CPU, "cpu.max.burst", &burst.to_string())?;
    }
    Ok(())
}

fn cpu_set(cgroup: &mut Cgroup, cpu: &Cpu) -> Result<(), CgroupError> {
    if !cpu.cpus.is_empty() {
        set(cgroup, CPUSET, "cpuset.cpus", &cpu.cpus)?;
    }
    if !cpu.mems.is_empty() {
        set(cgroup, CPUSET, "cpuset.mems", &cpu.mems)?;
    }
    Ok(())
}

const NO_WEIGHT: &str = "This kernel has no block I/O weights (no BFQ scheduler); the weight was not set.";

fn device_line(device: &ThrottleDevice) -> String {
    format!("{}:{} {}", device.major, device.minor, device.rate)
}

fn block_io_v1(cgroup: &mut Cgroup, io: &BlockIo, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    const BLKIO: Controller = ("blkio", "block I/O");
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        let mut ignored = Vec::new();
        let value = weight.to_string();
        set_if_known(cgroup, BLKIO, ("blkio.weight", &value), NO_WEIGHT, &mut ignored)?;
        if !ignored.is_empty() {
            set_if_known(cgroup, BLKIO, ("blkio.bfq.weight", &value), NO_WEIGHT, warnings)?;
        }
    }
    for device in &io.weight_device {
        if let Some(weight) = device.weight {
            let value = format!("{}:{} {weight}", device.major, device.minor);
            set_if_known(cgroup, BLKIO, ("blkio.weight_device", &value), NO_WEIGHT, warnings)?;
        }
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &io.throttle_write_iops_device),
    ];
    for (file, devices) in throttles {
        for device in devices {
            set(cgroup, BLKIO, file, &device_line(device))?;
        }
    }
    Ok(())
}

fn block_io_v2(cgroup: &mut Cgroup, io: &BlockIo, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    const IO: Controller = ("io", "block I/O");
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        let mut ignored = Vec::new();
        set_if_known(cgroup, IO, ("io.bfq.weight", &weight.to_string()), NO_WEIGHT, &mut ignored)?;
        if !ignored.is_empty() {
            // blkio's 10 to 1000 as io.weight's 1 to 10000.
            let scaled = 1 + (u64::from(weight).max(10) - 10) * 9999 / 990;
            set_if_known(cgroup, IO, ("io.weight", &scaled.to_string()), NO_WEIGHT, warnings)?;
        }
    }
    for device in &io.weight_device {
        if let Some(weight) = device.weight {
            let value = format!("{}:{} {weight}", device.major, device.minor);
            set_if_known(cgroup, IO, ("io.bfq.weight", &value), NO_WEIGHT, warnings)?;
        }
    }
    let throttles = [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ];
    for (key, devices) in throttles {
        for device in devices {
            let line = format!("{}:{} {key}={}", device.major, device.minor, device.rate);
            set(cgroup, IO, "io.max", &line)?;
        }
    }
    Ok(())
}

fn huge_pages(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    for limit in &resources.hugepage_limits {
        let size = &limit.page_size;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(CgroupError::Invalid(format!("invalid huge page size {size:?}")));
        }
        let file = if cgroup.is_v2() {
            format!("hugetlb.{size}.max")
        } else {
            format!("hugetlb.{size}.limit_in_bytes")
        };
        set(cgroup, ("hugetlb", "huge pages"), &file, &limit.limit.to_string())?;
    }
    Ok(())
}

fn network(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    let Some(network) = &resources.network else { return Ok(()) };
    if let Some(class) = network.class_id.filter(|class| *class != 0) {
        set(cgroup, ("net_cls", "network classes"), "net_cls.classid", &class.to_string())?;
    }
    for priority in &network.priorities {
        let line = format!("{} {}", priority.name, priority.priority);
        set(cgroup, ("net_prio", "network priorities"), "net_prio.ifpriomap", &line)?;
    }
    Ok(())
}

fn rdma(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    for (device, limit) in &resources.rdma {
        let mut line = device.clone();
        if let Some(handles) = limit.hca_handles {
            line.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects {
            line.push_str(&format!(" hca_object={objects}"));
        }
        set(cgroup, ("rdma", "RDMA"), "rdma.max", &line)?;
    }
    Ok(())
}

fn unified(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    if resources.unified.is_empty() {
        return Ok(());
    }
    if !cgroup.is_v2() {
        return Err(CgroupError::Invalid("unified resources need a host with cgroup v2 only".to_owned()));
    }
    for (file, value) in &resources.unified {
        let plain =
            file.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !plain || !file.contains('.') {
            return Err(CgroupError::Invalid(format!("invalid name of a unified resource: {file:?}")));
        }
        let group = cgroup
            .unified()
            .ok_or(CgroupError::NoController { what: "unified resources", controller: "unified" })?;
        for line in value.lines() {
            cgroup.write_in(group, file, line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_to_weight() {
        for (shares, weight) in [(0, 0), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn swap_alone() {
        assert_eq!(swap_v2(Some(100), Some(300)).unwrap().as_deref(), Some("200"));
        assert_eq!(swap_v2(Some(100), Some(100)).unwrap().as_deref(), Some("0"));
        assert_eq!(swap_v2(Some(100), Some(-1)).unwrap().as_deref(), Some("max"));
        assert_eq!(swap_v2(Some(100), None).unwrap(), None);
        assert!(swap_v2(Some(100), Some(50)).is_err());
        assert!(swap_v2(None, Some(50)).is_err());
    }
}
