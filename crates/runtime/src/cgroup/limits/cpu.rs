//! Processor time and which processors.

use palan_oci::runtime_spec::Cpu;
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Controller, attempt, set, set_if_known};

const CPU: Controller = ("cpu", "processor time");
const CPUSET: Controller = ("cpuset", "processors");

pub(super) fn apply(cgroup: &mut Cgroup, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    if cgroup.is_v2() {
        time_v2(cgroup, cpu, warnings)?;
    } else {
        time_v1(cgroup, cpu, warnings)?;
    }
    if !cpu.cpus.is_empty() {
        set(cgroup, CPUSET, "cpuset.cpus", &cpu.cpus)?;
    }
    if !cpu.mems.is_empty() {
        set(cgroup, CPUSET, "cpuset.mems", &cpu.mems)?;
    }
    Ok(())
}

/// An idle cgroup takes no shares, so what makes it one comes last, and what makes it an ordinary one first.
fn idle_around(
    cgroup: &mut Cgroup,
    idle: Option<i64>,
    shares: impl FnOnce(&mut Cgroup) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let set_idle = |cgroup: &mut Cgroup| match idle {
        Some(idle) => set(cgroup, CPU, "cpu.idle", &idle.to_string()),
        None => Ok(()),
    };
    if idle == Some(1) {
        shares(cgroup)?;
        set_idle(cgroup)
    } else {
        set_idle(cgroup)?;
        shares(cgroup)
    }
}

fn time_v1(cgroup: &mut Cgroup, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    idle_around(cgroup, cpu.idle, |cgroup| match cpu.shares.filter(|shares| *shares != 0) {
        Some(shares) => shares_v1(cgroup, shares),
        None => Ok(()),
    })?;
    let mut bounded = Vec::new();
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        bounded.push(("cpu.cfs_period_us", period.to_string()));
    }
    if let Some(burst) = cpu.burst {
        bounded.push(("cpu.cfs_burst_us", burst.to_string()));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0).map(|quota| ("cpu.cfs_quota_us", quota.to_string()));
    set_bounded(cgroup, &bounded, quota, warnings)?;
    let period = cpu.realtime_period.filter(|period| *period != 0);
    let period: Vec<_> = period.map(|period| ("cpu.rt_period_us", period.to_string())).into_iter().collect();
    let runtime = cpu.realtime_runtime.filter(|runtime| *runtime != 0);
    let runtime = runtime.map(|runtime| ("cpu.rt_runtime_us", runtime.to_string()));
    set_bounded(cgroup, &period, runtime, warnings)
}

/// The kernel brings shares into its range without a word. The texts are runc's.
fn shares_v1(cgroup: &mut Cgroup, shares: u64) -> Result<(), CgroupError> {
    set(cgroup, CPU, "cpu.shares", &shares.to_string())?;
    let group = cgroup.controller(CPU.0, CPU.1)?;
    let taken = cgroup.read_in(group, "cpu.shares")?.trim().parse().unwrap_or(shares);
    match shares.cmp(&taken) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            Err(CgroupError::Invalid(format!("the maximum allowed cpu-shares is {taken}")))
        }
        std::cmp::Ordering::Less => {
            Err(CgroupError::Invalid(format!("the minimum allowed cpu-shares is {taken}")))
        }
    }
}

fn time_v2(cgroup: &mut Cgroup, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    if cpu.realtime_period.unwrap_or(0) != 0 || cpu.realtime_runtime.unwrap_or(0) != 0 {
        warnings.push("cgroup v2 has no limits for realtime scheduling; they were not set.".to_owned());
    }
    idle_around(cgroup, cpu.idle, |cgroup| match weight_of_shares(cpu.shares.unwrap_or(0)) {
        0 => Ok(()),
        weight => set(cgroup, CPU, "cpu.weight", &weight.to_string()),
    })?;
    let quota = cpu.quota.filter(|value| *value != 0);
    let period = cpu.period.filter(|value| *value != 0);
    let maximum = (quota.is_some() || period.is_some()).then(|| {
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |n| n.to_string());
        ("cpu.max", format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD)))
    });
    let burst: Vec<_> = cpu.burst.map(|burst| ("cpu.max.burst", burst.to_string())).into_iter().collect();
    set_bounded(cgroup, &burst, maximum, warnings)
}

/// Microseconds; the kernel's own.
pub(in crate::cgroup) const DEFAULT_PERIOD: u64 = 100_000;

/// Values of which each bounds the others: one that is refused before the last is in place is tried again after it.
fn set_bounded(
    cgroup: &mut Cgroup,
    before: &[(&str, String)],
    last: Option<(&str, String)>,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let mut again = Vec::new();
    for (file, value) in before {
        match attempt(cgroup, CPU, file, value)? {
            Ok(()) => {}
            Err(Errno::INVAL) if last.is_some() => again.push((file, value)),
            Err(Errno::NOENT) if file.contains("burst") => {
                warnings
                    .push("This kernel has no bursts of processor time; the burst was not set.".to_owned());
            }
            Err(errno) => return Err(cgroup.failed(format!("write {value:?} to {file}"), errno)),
        }
    }
    if let Some((file, value)) = last {
        let missing = "This kernel has no limits for realtime scheduling; they were not set.";
        if file == "cpu.rt_runtime_us" {
            set_if_known(cgroup, CPU, (file, &value), missing, warnings)?;
        } else {
            set(cgroup, CPU, file, &value)?;
        }
    }
    for (file, value) in again {
        set(cgroup, CPU, file, value)?;
    }
    Ok(())
}

/// v1 shares (2 to 262144, 1024 usual) as a v2 weight (1 to 10000, 100 usual), through three fixed points.
pub(in crate::cgroup) fn weight_of_shares(shares: u64) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_to_weight() {
        for (shares, weight) in [(0, 0), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
