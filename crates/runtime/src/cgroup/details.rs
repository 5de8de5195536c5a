//! Counters beyond those of [`Stats`](super::Stats), as `runc events` shows them: nobody needs them often, and reading
//! them takes many files.

use std::collections::BTreeMap;

use super::stats::{number, pairs, text, value_of};
use super::{BlockIoEntry, Cgroup, Group};

/// A snapshot. A counter that the host does not have is zero, empty or absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// Nanoseconds in the kernel by processor (v1).
    pub per_cpu_kernel: Vec<u64>,
    /// Nanoseconds in user mode by processor (v1).
    pub per_cpu_user: Vec<u64>,
    /// The cpuset, if the container has one of its own (v1).
    pub cpu_set: Option<CpuSet>,
    /// Bytes of the page cache.
    pub cache: u64,
    /// Memory, as the kernel counts it.
    pub memory: MemoryUse,
    /// Memory and swap together.
    pub swap: MemoryUse,
    /// Memory of the kernel (v1).
    pub kernel: MemoryUse,
    /// Memory of TCP buffers (v1).
    pub kernel_tcp: MemoryUse,
    /// Counters of block devices by what they count.
    pub block_io: BTreeMap<BlockIoKind, Vec<BlockIoEntry>>,
    /// Huge pages by their size, such as `2MB`.
    pub huge_pages: BTreeMap<String, HugePageUse>,
    /// How long its processes have waited for a processor (v2).
    pub cpu_pressure: Option<Pressure>,
    /// The same for memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// The same for block devices (v2).
    pub io_pressure: Option<Pressure>,
}

/// Files of the cpuset controller; the names are the kernel's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "names say it all")]
pub struct CpuSet {
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Bytes of one kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// The limit as the kernel shows it.
    pub limit: u64,
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: u64,
    /// How often the limit was hit (v1).
    pub fail_count: u64,
}

/// What a counter of a block device counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "names say it all")]
pub enum BlockIoKind {
    ServiceBytes,
    Serviced,
    Queued,
    ServiceTime,
    WaitTime,
    Merged,
    Time,
    Sectors,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePageUse {
    /// In use.
    pub usage: u64,
    /// The most that was in use (v1).
    pub max_usage: u64,
    /// How often the limit was hit.
    pub fail_count: u64,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Times in which some process waited.
    pub some: PressureData,
    /// Times in which all processes waited.
    pub full: PressureData,
}

/// Shares of the last seconds in percent, and microseconds since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs, reason = "names say it all")]
pub struct PressureData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

impl Cgroup {
    /// Reads them.
    pub fn details(&self) -> Details {
        if self.is_v2() { read_v2(self) } else { read_v1(self) }
    }
}

fn read_v1(cgroup: &Cgroup) -> Details {
    let group = |controller: &'static str| cgroup.controller(controller, controller).ok();
    let memory = group("memory");
    let (per_cpu_user, per_cpu_kernel) = per_cpu(&text(group("cpuacct"), "cpuacct.usage_all"));
    Details {
        per_cpu_kernel,
        per_cpu_user,
        cpu_set: group("cpuset").map(cpu_set),
        cache: value_of(&pairs(&text(memory, "memory.stat")), "cache"),
        memory: memory_v1(memory, "memory"),
        swap: memory_v1(memory, "memory.memsw"),
        kernel: memory_v1(memory, "memory.kmem"),
        kernel_tcp: memory_v1(memory, "memory.kmem.tcp"),
        block_io: block_io_v1(group("blkio")),
        huge_pages: huge_pages(group("hugetlb"), cgroup.is_in_unified("hugetlb")),
        ..Details::default()
    }
}

fn read_v2(cgroup: &Cgroup) -> Details {
    let group = cgroup.unified();
    let memory = memory_v2(group, "memory");
    let mut swap = memory_v2(group, "memory.swap");
    // Alone in v2; together with memory everywhere else.
    swap.usage = swap.usage.saturating_add(memory.usage);
    swap.limit = swap.limit.saturating_add(memory.limit);
    swap.max_usage = 0;
    let (bytes, operations) = super::stats::block_io_v2(&text(group, "io.stat"));
    Details {
        cache: value_of(&pairs(&text(group, "memory.stat")), "file"),
        memory,
        swap,
        block_io: [(BlockIoKind::ServiceBytes, bytes), (BlockIoKind::Serviced, operations)].into(),
        huge_pages: huge_pages(group, true),
        cpu_pressure: pressure(&text(group, "cpu.pressure")),
        memory_pressure: pressure(&text(group, "memory.pressure")),
        io_pressure: pressure(&text(group, "io.pressure")),
        ..Details::default()
    }
}

/// `cpuacct.usage_all`: a head line, then processor, nanoseconds in user mode, and in the kernel.
fn per_cpu(text: &str) -> (Vec<u64>, Vec<u64>) {
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?))
    };
    text.lines().skip(1).filter_map(row).unzip()
}

fn cpu_set(group: &Group) -> CpuSet {
    let file = |name: &str| text(Some(group), &format!("cpuset.{name}"));
    let flag = |name: &str| number(&file(name));
    CpuSet {
        cpus: list(&file("cpus")),
        cpu_exclusive: flag("cpu_exclusive"),
        mems: list(&file("mems")),
        mem_hardwall: flag("mem_hardwall"),
        mem_exclusive: flag("mem_exclusive"),
        memory_migrate: flag("memory_migrate"),
        memory_spread_page: flag("memory_spread_page"),
        memory_spread_slab: flag("memory_spread_slab"),
        memory_pressure: flag("memory_pressure"),
        sched_load_balance: flag("sched_load_balance"),
        sched_relax_domain_level: file("sched_relax_domain_level").trim().parse().unwrap_or(0),
    }
}

/// Numbers in the kernel's list format: `0-2,7`.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

fn memory_v1(group: Option<&Group>, kind: &str) -> MemoryUse {
    let file = |name: &str| number(&text(group, &format!("{kind}.{name}")));
    MemoryUse {
        limit: file("limit_in_bytes"),
        usage: file("usage_in_bytes"),
        max_usage: file("max_usage_in_bytes"),
        fail_count: file("failcnt"),
    }
}

fn memory_v2(group: Option<&Group>, kind: &str) -> MemoryUse {
    let file = |name: &str| number(&text(group, &format!("{kind}.{name}")));
    MemoryUse { limit: file("max"), usage: file("current"), max_usage: file("peak"), fail_count: 0 }
}

/// The schedulers that count, the most talkative first; the last counts always.
const BLOCK_IO_V1: [&[(&str, BlockIoKind)]; 5] = [
    &[
        ("blkio.bfq.sectors_recursive", BlockIoKind::Sectors),
        ("blkio.bfq.io_service_time_recursive", BlockIoKind::ServiceTime),
        ("blkio.bfq.io_wait_time_recursive", BlockIoKind::WaitTime),
        ("blkio.bfq.io_merged_recursive", BlockIoKind::Merged),
        ("blkio.bfq.io_queued_recursive", BlockIoKind::Queued),
        ("blkio.bfq.time_recursive", BlockIoKind::Time),
        ("blkio.bfq.io_serviced_recursive", BlockIoKind::Serviced),
        ("blkio.bfq.io_service_bytes_recursive", BlockIoKind::ServiceBytes),
    ],
    &[
        ("blkio.bfq.io_serviced_recursive", BlockIoKind::Serviced),
        ("blkio.bfq.io_service_bytes_recursive", BlockIoKind::ServiceBytes),
    ],
    &[
        ("blkio.sectors_recursive", BlockIoKind::Sectors),
        ("blkio.io_service_time_recursive", BlockIoKind::ServiceTime),
        ("blkio.io_wait_time_recursive", BlockIoKind::WaitTime),
        ("blkio.io_merged_recursive", BlockIoKind::Merged),
        ("blkio.io_queued_recursive", BlockIoKind::Queued),
        ("blkio.time_recursive", BlockIoKind::Time),
        ("blkio.io_serviced_recursive", BlockIoKind::Serviced),
        ("blkio.io_service_bytes_recursive", BlockIoKind::ServiceBytes),
    ],
    &[
        ("blkio.throttle.io_serviced_recursive", BlockIoKind::Serviced),
        ("blkio.throttle.io_service_bytes_recursive", BlockIoKind::ServiceBytes),
    ],
    &[
        ("blkio.throttle.io_serviced", BlockIoKind::Serviced),
        ("blkio.throttle.io_service_bytes", BlockIoKind::ServiceBytes),
    ],
];

fn block_io_v1(group: Option<&Group>) -> BTreeMap<BlockIoKind, Vec<BlockIoEntry>> {
    for files in BLOCK_IO_V1 {
        let mut counters = files.iter().map(|(file, kind)| (*kind, block_io_lines(&text(group, file))));
        if let Some((kind, first)) = counters.next().filter(|(_, first)| !first.is_empty()) {
            return [(kind, first)].into_iter().chain(counters).collect();
        }
    }
    BTreeMap::new()
}

/// Lines of `8:0 Read 4096`, or `8:0 4096` where nothing is told apart; a last line has the total.
fn block_io_lines(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (device, operation, value) = match words[..] {
            [device, operation, value] => (device, operation, value),
            [device, value] => (device, "", value),
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        Some(BlockIoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation: operation.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// What is reserved where the kernel counts that, otherwise what is in use.
fn huge_pages(group: Option<&Group>, v2: bool) -> BTreeMap<String, HugePageUse> {
    let (usage, max_usage) = if v2 { ("current", "") } else { ("usage_in_bytes", "max_usage_in_bytes") };
    let Some(group) = group else { return BTreeMap::new() };
    let read = |file: String| Some(text(Some(group), &file)).filter(|text| !text.is_empty());
    let of_size = |size: String| {
        let kind = [format!("hugetlb.{size}.rsvd"), format!("hugetlb.{size}")]
            .into_iter()
            .find(|kind| read(format!("{kind}.{usage}")).is_some())?;
        let file = |name: &str| read(format!("{kind}.{name}")).map_or(0, |text| number(&text));
        let events = read(format!("hugetlb.{size}.events")).unwrap_or_default();
        let counters = HugePageUse {
            usage: file(usage),
            max_usage: if max_usage.is_empty() { 0 } else { file(max_usage) },
            fail_count: file("failcnt").max(value_of(&pairs(&events), "max")),
        };
        Some((size, counters))
    };
    huge_page_sizes().into_iter().filter_map(of_size).collect()
}

/// The sizes that the kernel has, as cgroup files name them.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| huge_page_size(&name)).collect()
}

/// `hugepages-2048kB` is `2MB`.
fn huge_page_size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        0..1024 => format!("{kilobytes}KB"),
        1024..1_048_576 => format!("{}MB", kilobytes >> 10),
        _ => format!("{}GB", kilobytes >> 20),
    })
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; empty where the kernel counts no pressure.
fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let data = match words.next()? {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    (!text.is_empty()).then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(list("0-2,7\n"), [0, 1, 2, 7]);
        for (text, length) in [("", 0), ("\n", 0), ("3-1", 0), ("x,1", 1), ("70000", 0), ("1-", 0)] {
            assert_eq!(list(text).len(), length, "{text}");
        }
    }

    #[test]
    fn tables() {
        assert_eq!(per_cpu("cpu user system\n0 1 2\n1 3 4\nx\n"), (vec![1, 3], vec![2, 4]));
        let lines = block_io_lines("8:0 Read 4096\n8:16 7\nTotal 4103\n\n8 Read 1\n");
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].operation.as_str(), lines[1].minor, lines[1].value), ("Read", 16, 7));
    }

    #[test]
    fn sizes_of_huge_pages() {
        for (name, size) in [
            ("hugepages-64kB", Some("64KB")),
            ("hugepages-2048kB", Some("2MB")),
            ("hugepages-1048576kB", Some("1GB")),
            ("hugepages-2048", None),
            ("x", None),
        ] {
            assert_eq!(huge_page_size(name).as_deref(), size);
        }
    }

    #[test]
    fn pressures() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 total=7\nnew x=1\n";
        let pressure_of = pressure(text).unwrap();
        assert_eq!((pressure_of.some.avg10, pressure_of.some.total, pressure_of.full.total), (1.5, 42, 7));
        assert_eq!(pressure(""), None);
    }
}
