//! Memory and swap.

use palan_oci::runtime_spec::Memory;
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Controller, InField, attempt, set, set_if_known};

const MEMORY: Controller = ("memory", "memory");

const NO_SWAP_LIMIT: &str = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. \
                             Memory limited without swap.";

pub(super) fn apply(
    cgroup: &mut Cgroup,
    memory: &Memory,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    if memory.kernel.is_some() || memory.kernel_tcp.is_some() {
        warnings.push("Kernel memory settings are ignored and will be removed".to_owned());
    }
    if let Some(swappiness) = memory.swappiness.filter(|swappiness| *swappiness > 100) {
        let refused = format!("invalid value for memory swappiness: {swappiness} (valid range is 0-100)");
        return Err(CgroupError::Invalid(refused)).in_field("memory.swappiness");
    }
    if cgroup.is_v2() { apply_v2(cgroup, memory, warnings) } else { apply_v1(cgroup, memory, warnings) }
}

fn apply_v1(cgroup: &mut Cgroup, memory: &Memory, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    limits_v1(cgroup, memory, warnings)?;
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        set(cgroup, MEMORY, "memory.soft_limit_in_bytes", &reservation.to_string())
            .in_field("memory.reservation")?;
    }
    if memory.disable_oom_killer == Some(true) {
        set(cgroup, MEMORY, "memory.oom_control", "1").in_field("memory.disableOOMKiller")?;
    }
    if let Some(swappiness) = memory.swappiness {
        set(cgroup, MEMORY, "memory.swappiness", &swappiness.to_string()).in_field("memory.swappiness")?;
    }
    Ok(())
}

/// Memory may never exceed memory and swap together: which file goes first depends on where it comes from.
fn limits_v1(cgroup: &mut Cgroup, memory: &Memory, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let limit = memory.limit.filter(|limit| *limit != 0);
    let mut both = memory.swap.filter(|both| *both != 0);
    let mut swap_first = false;
    if let Some(limit) = limit {
        cgroup.controller_for_limit(MEMORY.0, MEMORY.1).in_field("memory.limit")?;
        let group = cgroup.controller(MEMORY.0, MEMORY.1)?;
        // Memory without a limit is memory and swap without one.
        if limit == -1 && both.is_none() && cgroup.read_in(group, BOTH).is_ok() {
            both = Some(-1);
        }
        if let Some(both) = both {
            let current = cgroup.read_in(group, "memory.limit_in_bytes")?;
            swap_first = both == -1 || current.trim().parse().unwrap_or(i64::MAX) < both;
        }
    }
    let set_both = |cgroup: &mut Cgroup, warnings: &mut Vec<String>| match both {
        Some(both) => set_if_known(cgroup, MEMORY, (BOTH, &both.to_string()), NO_SWAP_LIMIT, warnings)
            .in_field("memory.swap"),
        None => Ok(()),
    };
    if swap_first {
        set_both(cgroup, warnings)?;
    }
    if let Some(limit) = limit {
        limit_v1(cgroup, limit).in_field("memory.limit")?;
    }
    if !swap_first {
        set_both(cgroup, warnings)?;
    }
    Ok(())
}

fn limit_v1(cgroup: &mut Cgroup, limit: i64) -> Result<(), CgroupError> {
    const FILE: &str = "memory.limit_in_bytes";
    match attempt(cgroup, MEMORY, FILE, &limit.to_string())? {
        Ok(()) => Ok(()),
        // Less than is in use and can be freed. The text is runc's.
        Err(Errno::BUSY) => {
            let group = cgroup.controller(MEMORY.0, MEMORY.1)?;
            let usage = cgroup.read_in(group, "memory.usage_in_bytes")?;
            let peak = cgroup.read_in(group, "memory.max_usage_in_bytes")?;
            Err(CgroupError::Invalid(format!(
                "unable to set memory limit to {limit} (current usage: {}, peak usage: {})",
                usage.trim(),
                peak.trim()
            )))
        }
        Err(errno) => Err(cgroup.failed(format!("write \"{limit}\" to {FILE}"), errno)),
    }
}

fn apply_v2(cgroup: &mut Cgroup, memory: &Memory, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    let swap = swap_v2(memory.limit, memory.swap).in_field("memory.swap")?;
    if memory.check_before_update == Some(true) {
        check_usage(cgroup, memory).in_field("memory")?;
    }
    if let Some(swap) = swap {
        set_if_known(cgroup, MEMORY, ("memory.swap.max", &bytes(swap)), NO_SWAP_LIMIT, warnings)
            .in_field("memory.swap")?;
    }
    if let Some(limit) = memory.limit.filter(|value| *value != 0) {
        set(cgroup, MEMORY, "memory.max", &bytes(limit)).in_field("memory.limit")?;
    }
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        set(cgroup, MEMORY, "memory.low", &bytes(reservation)).in_field("memory.reservation")?;
    }
    if memory.disable_oom_killer == Some(true) {
        warnings.push("OomKillDisable: cgroup v2 can't disable the OOM killer; it stays enabled.".to_owned());
    }
    if memory.swappiness.is_some() {
        warnings.push("MemorySwappiness: cgroup v2 has no swappiness; it was not set.".to_owned());
    }
    Ok(())
}

fn bytes(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

/// Bytes of swap alone, as v2 counts, from memory and swap together, as v1, OCI and Docker count; -1 has no limit.
pub(in crate::cgroup) fn swap_v2(limit: Option<i64>, both: Option<i64>) -> Result<Option<i64>, CgroupError> {
    match (limit.unwrap_or(0), both.unwrap_or(0)) {
        // v1 can't have a limit for both without one for memory.
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (-1, both) => Ok(Some(both)),
        (0, _) => Err(CgroupError::Invalid("unable to set swap limit without memory limit".to_owned())),
        (limit, _) if limit < 0 => Err(CgroupError::Invalid(format!("invalid memory value: {limit}"))),
        (limit, both) if both < limit => {
            Err(CgroupError::Invalid("memory+swap limit should be >= memory limit".to_owned()))
        }
        (limit, both) => Ok(Some(both - limit)),
    }
}

/// v2 takes a limit below what is in use, and kills until it holds; `checkBeforeUpdate` rather refuses it.
pub(in crate::cgroup) fn check_usage(cgroup: &Cgroup, memory: &Memory) -> Result<(), CgroupError> {
    let usage = cgroup.unified().and_then(|group| cgroup.read_in(group, "memory.current").ok());
    // A cgroup without the controller uses nothing that could be compared.
    let Some(usage) = usage.and_then(|text| text.trim().parse::<i64>().ok()) else { return Ok(()) };
    for (what, limit) in [("memory+swap", memory.swap), ("memory", memory.limit)] {
        if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit <= usage) {
            return Err(CgroupError::Invalid(format!("rejecting {what} limit {limit} <= usage {usage}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_alone() {
        for (limit, both, swap) in [
            (Some(100), Some(300), Some(200)),
            (Some(100), Some(100), Some(0)),
            (Some(100), Some(-1), Some(-1)),
            (None, Some(-1), Some(-1)),
            (Some(100), None, None),
            (Some(100), Some(0), None),
            (Some(-1), None, Some(-1)),
            (Some(-1), Some(0), Some(-1)),
            (Some(-1), Some(50), Some(50)),
            (None, None, None),
        ] {
            assert_eq!(swap_v2(limit, both).unwrap(), swap, "{limit:?} {both:?}");
        }
        for (limit, both) in [(Some(100), 50), (None, 50), (Some(0), 50), (Some(-2), 50)] {
            assert!(swap_v2(limit, Some(both)).is_err(), "{limit:?} {both}");
        }
    }
}
