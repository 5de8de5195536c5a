//! What the processes of a cgroup use.

use super::{Cgroup, CgroupError, Group, Version, read_file};

/// A snapshot of all counters. A counter that the host does not have is zero or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "names say it all")]
pub struct Stats {
    pub version: Version,
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub block_io: BlockIoStats,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds.
    pub total: u64,
    /// Nanoseconds in user mode.
    pub user: u64,
    /// Nanoseconds in the kernel.
    pub system: u64,
    /// Nanoseconds by processor (v1).
    pub per_cpu: Vec<u64>,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Periods in which it was held back.
    pub throttled_periods: u64,
    /// Nanoseconds for which it was held back.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: u64,
    /// The limit; `u64::MAX` if there is none.
    pub limit: u64,
    /// How often the limit was hit (v1).
    pub fail_count: u64,
    /// The kernel's `memory.stat`.
    pub stat: Vec<(String, u64)>,
}

/// Tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// The limit; 0 if there is none.
    pub limit: u64,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIoStats {
    /// Bytes by device and operation (`read`, `write`, …).
    pub bytes: Vec<BlockIoEntry>,
    /// Operations by device and kind.
    pub operations: Vec<BlockIoEntry>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "names say it all")]
pub struct BlockIoEntry {
    pub major: u64,
    pub minor: u64,
    pub operation: String,
    pub value: u64,
}

/// Reads a file of a group; one that is not there is empty.
pub(super) fn text(group: Option<&Group>, file: &str) -> String {
    // A counter that can't be read is one that the host does not have.
    group.and_then(|group| read_file(&group.directory, file).ok()).unwrap_or_default()
}

pub(super) fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        digits => digits.parse().unwrap_or(0),
    }
}

/// Lines of `key value`.
pub(super) fn pairs(text: &str) -> Vec<(String, u64)> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

pub(super) fn value_of(pairs: &[(String, u64)], key: &str) -> u64 {
    pairs.iter().find(|(name, _)| name == key).map_or(0, |(_, value)| *value)
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, CgroupError> {
    if cgroup.is_v2() { Ok(read_v2(cgroup)) } else { Ok(read_v1(cgroup)) }
}

fn read_v1(cgroup: &Cgroup) -> Stats {
    let group = |controller: &'static str| cgroup.controller(controller, controller).ok();
    let (memory, pids, block_io) = (group("memory"), group("pids"), group("blkio"));
    let limit = number(&text(memory, "memory.limit_in_bytes"));
    let pids_limit = text(pids, "pids.max");
    Stats {
        version: Version::V1,
        cpu: cpu_v1(group("cpuacct"), group("cpu")),
        memory: MemoryStats {
            usage: number(&text(memory, "memory.usage_in_bytes")),
            max_usage: number(&text(memory, "memory.max_usage_in_bytes")),
            // Without a limit the kernel shows the largest multiple of a page.
            limit: if limit > 1 << 62 { u64::MAX } else { limit },
            fail_count: number(&text(memory, "memory.failcnt")),
            stat: pairs(&text(memory, "memory.stat")),
        },
        pids: PidsStats {
            current: number(&text(pids, "pids.current")),
            limit: if pids_limit.trim() == "max" { 0 } else { number(&pids_limit) },
        },
        block_io: BlockIoStats {
            bytes: block_io_v1(&text(block_io, "blkio.throttle.io_service_bytes_recursive")),
            operations: block_io_v1(&text(block_io, "blkio.throttle.io_serviced_recursive")),
        },
    }
}

fn cpu_v1(cpuacct: Option<&Group>, cpu: Option<&Group>) -> CpuStats {
    // cpuacct.stat counts in USER_HZ, which is 100 on every Linux platform.
    const NANOSECONDS_PER_TICK: u64 = 10_000_000;
    let times = pairs(&text(cpuacct, "cpuacct.stat"));
    let throttling = pairs(&text(cpu, "cpu.stat"));
    let per_cpu = text(cpuacct, "cpuacct.usage_percpu");
    CpuStats {
        total: number(&text(cpuacct, "cpuacct.usage")),
        user: value_of(&times, "user").saturating_mul(NANOSECONDS_PER_TICK),
        system: value_of(&times, "system").saturating_mul(NANOSECONDS_PER_TICK),
        per_cpu: per_cpu.split_whitespace().map(number).collect(),
        periods: value_of(&throttling, "nr_periods"),
        throttled_periods: value_of(&throttling, "nr_throttled"),
        throttled_time: value_of(&throttling, "throttled_time"),
    }
}

/// Lines of `8:0 Read 4096`; a last line has the total.
fn block_io_v1(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation: words.next()?.to_ascii_lowercase(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn read_v2(cgroup: &Cgroup) -> Stats {
    let group = cgroup.unified();
    let cpu = pairs(&text(group, "cpu.stat"));
    let nanoseconds = |key: &str| value_of(&cpu, key).saturating_mul(1000);
    let pids_limit = text(group, "pids.max");
    let pids = match text(group, "pids.current") {
        // Without the controller they can still be counted, though not those below.
        none if none.is_empty() => text(group, "cgroup.procs").lines().count() as u64,
        count => number(&count),
    };
    let (mut bytes, mut operations) = block_io_v2(&text(group, "io.stat"));
    bytes.iter_mut().chain(&mut operations).for_each(|entry| entry.operation.make_ascii_lowercase());
    let limit = text(group, "memory.max");
    Stats {
        version: Version::V2,
        cpu: CpuStats {
            total: nanoseconds("usage_usec"),
            user: nanoseconds("user_usec"),
            system: nanoseconds("system_usec"),
            per_cpu: Vec::new(),
            periods: value_of(&cpu, "nr_periods"),
            throttled_periods: value_of(&cpu, "nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        memory: MemoryStats {
            usage: number(&text(group, "memory.current")),
            max_usage: number(&text(group, "memory.peak")),
            limit: if limit.is_empty() { u64::MAX } else { number(&limit) },
            fail_count: value_of(&pairs(&text(group, "memory.events")), "max"),
            stat: pairs(&text(group, "memory.stat")),
        },
        pids: PidsStats {
            current: pids,
            limit: if pids_limit.trim() == "max" { 0 } else { number(&pids_limit) },
        },
        block_io: BlockIoStats { bytes, operations },
    }
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
pub(super) fn block_io_v2(text: &str) -> (Vec<BlockIoEntry>, Vec<BlockIoEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let entry =
                |operation: &str| BlockIoEntry { major, minor, operation: operation.to_owned(), value };
            match key {
                "rbytes" => bytes.push(entry("Read")),
                "wbytes" => bytes.push(entry("Write")),
                "rios" => operations.push(entry("Read")),
                "wios" => operations.push(entry("Write")),
                _ => {}
            }
        }
    }
    (bytes, operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_lines() {
        let v1 = block_io_v1("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n\nx\n8: y z");
        assert_eq!(v1.len(), 2);
        assert_eq!((v1[0].major, v1[0].operation.as_str(), v1[0].value), (8, "read", 4096));
        let (bytes, operations) = block_io_v2("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\nbad\n1:x a=b");
        assert_eq!(bytes.len(), 2);
        assert_eq!(operations[1].value, 4);
    }
}
