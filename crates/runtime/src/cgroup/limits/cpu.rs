//! Processor time and which processors.

use palan_oci::runtime_spec::Cpu;
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Controller, InField, attempt, set, set_if_known};

const CPU: Controller = ("cpu", "processor time");
const CPUSET: Controller = ("cpuset", "processors");

pub(super) fn apply(cgroup: &mut Cgroup, cpu: &Cpu, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    if cgroup.is_v2() {
        time_v2(cgroup, cpu, warnings)?;
    } else {
        time_v1(cgroup, cpu, warnings)?;
    }
    if !cpu.cpus.is_empty() {
        set(cgroup, CPUSET, "cpuset.cpus", &cpu.cpus).in_field("cpu.cpus")?;
    }
    if !cpu.mems.is_empty() {
        set(cgroup, CPUSET, "cpuset.mems", &cpu.mems).in_field("cpu.mems")?;
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
        Some(idle) => set(cgroup, CPU, "cpu.idle", &idle.to_string()).in_field("cpu.idle"),
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
        Some(shares) => shares_v1(cgroup, shares).in_field("cpu.shares"),
        None => Ok(()),
    })?;
    let mut bounded = Vec::new();
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        bounded.push(Value::new("period", "cpu.cfs_period_us", period));
    }
    if let Some(burst) = cpu.burst {
        bounded.push(Value::new("burst", "cpu.cfs_burst_us", burst));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let quota = quota.map(|quota| Value::new("quota", "cpu.cfs_quota_us", quota));
    set_bounded(cgroup, &bounded, quota, warnings)?;
    let period = cpu.realtime_period.filter(|period| *period != 0);
    let period = period.map(|period| Value::new("realtimePeriod", "cpu.rt_period_us", period));
    let period: Vec<_> = period.into_iter().collect();
    let runtime = cpu.realtime_runtime.filter(|runtime| *runtime != 0);
    let runtime = runtime.map(|runtime| Value::new("realtimeRuntime", "cpu.rt_runtime_us", runtime));
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
        weight => set(cgroup, CPU, "cpu.weight", &weight.to_string()).in_field("cpu.shares"),
    })?;
    let quota = cpu.quota.filter(|value| *value != 0);
    let period = cpu.period.filter(|value| *value != 0);
    let maximum = (quota.is_some() || period.is_some()).then(|| {
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |n| n.to_string());
        Value::new("quota", "cpu.max", format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD)))
    });
    let burst = cpu.burst.map(|burst| Value::new("burst", "cpu.max.burst", burst));
    let burst: Vec<_> = burst.into_iter().collect();
    set_bounded(cgroup, &burst, maximum, warnings)
}

/// Microseconds; the kernel's own.
pub(in crate::cgroup) const DEFAULT_PERIOD: u64 = 100_000;

/// What is written into which file, and the field of `linux.resources.cpu` that it comes from.
struct Value {
    field: &'static str,
    file: &'static str,
    value: String,
}

impl Value {
    fn new(field: &'static str, file: &'static str, value: impl ToString) -> Self {
        Self { field, file, value: value.to_string() }
    }
}

/// Values of which each bounds the others: one that is refused before the last is in place is tried again after it.
fn set_bounded(
    cgroup: &mut Cgroup,
    before: &[Value],
    last: Option<Value>,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let mut again = Vec::new();
    for entry in before {
        let Value { field, file, value } = entry;
        match attempt(cgroup, CPU, file, value).in_field(format_args!("cpu.{field}"))? {
            Ok(()) => {}
            Err(Errno::INVAL) if last.is_some() => again.push(entry),
            Err(Errno::NOENT) if file.contains("burst") => {
                warnings
                    .push("This kernel has no bursts of processor time; the burst was not set.".to_owned());
            }
            Err(errno) => {
                let failed = Err(cgroup.failed(format!("write {value:?} to {file}"), errno));
                return failed.in_field(format_args!("cpu.{field}"));
            }
        }
    }
    if let Some(Value { field, file, value }) = last {
        let missing = "This kernel has no limits for realtime scheduling; they were not set.";
        if file == "cpu.rt_runtime_us" {
            set_if_known(cgroup, CPU, (file, &value), missing, warnings)
        } else {
            set(cgroup, CPU, file, &value)
        }
        .in_field(format_args!("cpu.{field}"))?;
    }
    for Value { field, file, value } in again {
        set(cgroup, CPU, file, value).in_field(format_args!("cpu.{field}"))?;
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
