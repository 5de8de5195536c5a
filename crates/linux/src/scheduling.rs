//! How the kernel schedules the calling thread: CPU policy, CPU affinity, disk priority, NUMA memory policy; and its
//! execution domain.

use std::io;

use rustix::thread::CpuSet;

/// How the kernel schedules a thread (sched_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the ordinary policies.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// `struct sched_attr`, first version.
#[repr(C)]
struct RawAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduling policy of a thread (0: the calling one).
pub fn set_scheduler(pid: i32, attributes: &SchedulerAttributes) -> io::Result<()> {
    let SchedulerAttributes { policy, flags, nice, priority, runtime, deadline, period } = *attributes;
    let size = u32::try_from(size_of::<RawAttributes>()).map_err(io::Error::other)?;
    let raw = RawAttributes { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: the structure has the kernel's layout, says its size, and lives through the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const raw, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the disk priority of the calling thread (ioprio_set(2)): `class` as `IOPRIO_CLASS_*`, `priority` from 0 to 7.
pub fn set_io_priority(class: u16, priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = (libc::c_int::from(class) << IOPRIO_CLASS_SHIFT) | libc::c_int::from(priority);
    // SAFETY: the call takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Restricts the calling thread to these CPUs. The kernel leaves out those that it lacks.
pub fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        if *cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        set.set(*cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Lets the calling thread run on every CPU that its cpuset has.
pub fn reset_affinity() -> io::Result<()> {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU {
        all.set(cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &all)?)
}

/// Sets where the calling thread's memory comes from (set_mempolicy(2)): `mode` as `MPOL_*` with its flags, and the
/// numbers of NUMA nodes.
pub fn set_memory_policy(mode: u32, nodes: &[usize]) -> io::Result<()> {
    const WORD: usize = usize::BITS as usize;
    let length = nodes.iter().max().map_or(0, |highest| highest / WORD + 1);
    let mut mask = vec![0_usize; length];
    for node in nodes {
        mask[node / WORD] |= 1 << (node % WORD);
    }
    let (pointer, bits) = if mask.is_empty() {
        (std::ptr::null(), 0)
    } else {
        // The kernel looks at one bit less than it is told of.
        (mask.as_ptr(), mask.len() * WORD + 1)
    };
    // SAFETY: the mask has at least as many bits as the kernel reads and lives through the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the execution domain of the calling process (personality(2)).
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: the call takes an integer and changes only what later calls of this process see.
    let result = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calling_thread_is_changed() {
        std::thread::spawn(|| {
            set_affinity(&[0]).unwrap();
            let cpus = rustix::thread::sched_getaffinity(None).unwrap();
            assert!(cpus.is_set(0) && cpus.count() == 1);
            assert!(set_affinity(&[]).is_err() && set_affinity(&[usize::MAX]).is_err());
            let batch = SchedulerAttributes {
                policy: libc::SCHED_BATCH.unsigned_abs(),
                nice: 5,
                ..Default::default()
            };
            set_scheduler(0, &batch).unwrap();
            assert!(set_scheduler(0, &SchedulerAttributes { policy: 77, ..Default::default() }).is_err());
            set_io_priority(2, 7).unwrap();
            assert!(set_io_priority(5, 0).is_err());
        })
        .join()
        .unwrap();
    }
}
