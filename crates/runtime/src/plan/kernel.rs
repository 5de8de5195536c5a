//! Small settings of the kernel for the container's processes: scheduling, disk priority, CPU affinity, memory policy,
//! execution domain, clocks.

use palan_linux::scheduling::SchedulerAttributes;
use palan_oci::runtime_spec::{ExecCpuAffinity, IoPriority, Linux, MemoryPolicy, Personality, Scheduler};

use super::invalid;
use crate::error::Error;

/// Highest CPU or NUMA node that a list may name.
const MAX_NUMBER: usize = 4095;

/// `linux.memoryPolicy`, in the kernel's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryPolicyPlan {
    pub(crate) mode: u32,
    pub(crate) nodes: Vec<usize>,
}

/// Names that `features` lists, with the kernel's numbers (`linux/mempolicy.h`).
pub(crate) const MEMORY_MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
pub(crate) const MEMORY_FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

fn by_name<T: Copy>(table: &[(&str, T)], name: &str, field: &str) -> Result<T, Error> {
    table
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| *value)
        .ok_or_else(|| invalid(format!("{field}: {name:?} is not known")))
}

pub(crate) fn memory_policy(policy: &MemoryPolicy) -> Result<MemoryPolicyPlan, Error> {
    // The first words are those that runc's callers know.
    let mut mode =
        by_name(&MEMORY_MODES, &policy.mode, "invalid memory policy mode: linux.memoryPolicy.mode")?;
    for flag in &policy.flags {
        mode |= by_name(&MEMORY_FLAGS, flag, "invalid memory policy flag: linux.memoryPolicy.flags")?;
    }
    let nodes = number_list(&policy.nodes, "invalid memory policy node: linux.memoryPolicy.nodes")?;
    if matches!(policy.mode.as_str(), "MPOL_DEFAULT" | "MPOL_LOCAL") && !nodes.is_empty() {
        return Err(invalid(format!(
            "linux.memoryPolicy: {} mode requires 0 nodes but got {}",
            policy.mode,
            nodes.len()
        )));
    }
    Ok(MemoryPolicyPlan { mode, nodes })
}

/// A list such as `0-3,7`, as the kernel writes them.
pub(crate) fn number_list(text: &str, field: &str) -> Result<Vec<usize>, Error> {
    let refuse = || invalid(format!("{field}: {text:?} is no list of numbers such as 0-3,7"));
    let number = |text: &str| -> Result<usize, Error> {
        let number: usize = text.trim().parse().map_err(|_| refuse())?;
        if number > MAX_NUMBER { Err(refuse()) } else { Ok(number) }
    };
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(refuse());
                }
                numbers.extend(first..=last);
            }
            None => numbers.push(number(part)?),
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

pub(crate) fn personality(personality: &Personality) -> Result<u32, Error> {
    if !personality.flags.is_empty() {
        return Err(invalid("linux.personality.flags: the specification defines none"));
    }
    by_name(&[("LINUX", 0x0000), ("LINUX32", 0x0008)], &personality.domain, "linux.personality.domain")
}

/// Offsets go with a time namespace of the container's own, and only two clocks have one (time_namespaces(7)).
pub(super) fn check_time_offsets(linux: &Linux, new_time: bool) -> Result<(), Error> {
    if !linux.time_offsets.is_empty() && !new_time {
        return Err(invalid("linux.timeOffsets needs a new time namespace in linux.namespaces"));
    }
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(invalid(format!(
                "linux.timeOffsets: clock {clock:?} has no offset, monotonic and boottime have"
            )));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(invalid(format!(
                "linux.timeOffsets.{clock}.nanosecs: {} is a second or more",
                offset.nanosecs
            )));
        }
    }
    Ok(())
}

pub(super) fn scheduler(scheduler: &Scheduler) -> Result<SchedulerAttributes, Error> {
    const POLICIES: [(&str, u32); 7] = [
        ("SCHED_OTHER", 0),
        ("SCHED_FIFO", 1),
        ("SCHED_RR", 2),
        ("SCHED_BATCH", 3),
        ("SCHED_ISO", 4),
        ("SCHED_IDLE", 5),
        ("SCHED_DEADLINE", 6),
    ];
    const FLAGS: [(&str, u64); 7] = [
        ("SCHED_FLAG_RESET_ON_FORK", 0x01),
        ("SCHED_FLAG_RECLAIM", 0x02),
        ("SCHED_FLAG_DL_OVERRUN", 0x04),
        ("SCHED_FLAG_KEEP_POLICY", 0x08),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let policy = by_name(&POLICIES, &scheduler.policy, "process.scheduler.policy")?;
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= by_name(&FLAGS, flag, "process.scheduler.flags")?;
    }
    let nice = scheduler.nice.unwrap_or_default();
    if !(-20..=19).contains(&nice) {
        return Err(invalid(format!("process.scheduler.nice: {nice} is not within -20 and 19")));
    }
    let real_time = matches!(scheduler.policy.as_str(), "SCHED_FIFO" | "SCHED_RR");
    let priority = scheduler.priority.unwrap_or_default();
    if priority != 0 && !real_time {
        return Err(invalid("process.scheduler.priority is for SCHED_FIFO and SCHED_RR only"));
    }
    let deadline = [scheduler.runtime, scheduler.deadline, scheduler.period].map(Option::unwrap_or_default);
    if deadline != [0; 3] && scheduler.policy != "SCHED_DEADLINE" {
        return Err(invalid("process.scheduler.runtime, deadline and period are for SCHED_DEADLINE only"));
    }
    let [runtime, deadline, period] = deadline;
    Ok(SchedulerAttributes {
        policy,
        flags,
        nice,
        priority: u32::try_from(priority)
            .map_err(|_| invalid(format!("process.scheduler.priority: {priority} is negative")))?,
        runtime,
        deadline,
        period,
    })
}

/// Class and priority in the kernel's numbers.
pub(super) fn io_priority(priority: &IoPriority) -> Result<(u16, u16), Error> {
    let classes = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];
    let class = by_name(&classes, &priority.class, "process.ioPriority.class")?;
    match u16::try_from(priority.priority) {
        Ok(number @ 0..=7) => Ok((class, number)),
        _ => {
            Err(invalid(format!("process.ioPriority.priority: {} is not within 0 and 7", priority.priority)))
        }
    }
}

/// The CPUs for a further process: on its way into the container, and once it is inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AffinityPlan {
    pub(crate) initial: Vec<usize>,
    pub(crate) last: Vec<usize>,
}

pub(super) fn affinity(affinity: &ExecCpuAffinity) -> Result<AffinityPlan, Error> {
    Ok(AffinityPlan {
        initial: number_list(&affinity.initial, "process.execCPUAffinity.initial")?,
        last: number_list(&affinity.last, "process.execCPUAffinity.final")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_the_kernels() {
        let list = |text| number_list(text, "field");
        assert!(list("").unwrap().is_empty());
        assert_eq!(list("3,0-2, 7").unwrap(), [0, 1, 2, 3, 7]);
        for bad in ["a", "1-", "-1", "3-1", "1-2-3", "4096", "0-99999999999"] {
            assert!(list(bad).unwrap_err().report().contains("field"), "{bad}");
        }
    }

    #[test]
    fn contradictions_name_their_field() {
        let check = |scheduler: Scheduler, field: &str| {
            let error = super::scheduler(&scheduler).unwrap_err().report();
            assert!(error.contains(field), "{error}");
        };
        let policy = |name: &str| Scheduler { policy: name.into(), ..Scheduler::default() };
        check(policy("SCHED_WRONG"), "process.scheduler.policy");
        check(Scheduler { nice: Some(20), ..policy("SCHED_OTHER") }, "process.scheduler.nice");
        check(Scheduler { priority: Some(1), ..policy("SCHED_BATCH") }, "process.scheduler.priority");
        check(Scheduler { runtime: Some(1), ..policy("SCHED_OTHER") }, "SCHED_DEADLINE");
        check(Scheduler { flags: vec!["X".into()], ..policy("SCHED_OTHER") }, "process.scheduler.flags");
        assert!(io_priority(&IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 8 }).is_err());
        assert!(
            memory_policy(&MemoryPolicy { mode: "MPOL_NONE".into(), ..MemoryPolicy::default() }).is_err()
        );
        assert!(personality(&Personality { domain: "BSD".into(), flags: vec![] }).is_err());
    }
}
