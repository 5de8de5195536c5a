//! `events`: what a container uses and when it runs out of memory, one JSON object a line.
//!
//! The structures are runc's (its package `types`), by which containerd and others read them.

mod rdt;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use palan_linux::event::{Epoll, Interest};
use palan_stdx::duration;
use serde::Serialize;

use super::arguments::{Arguments, Flag, flag, option};
use super::state::Existing;
use super::{Failure, Global, Outcome};
use crate::cgroup::{self, BlockIoEntry, BlockIoKind, Cgroup, Details, OomNotifier};
use crate::resctrl::ResourceGroup;
use rdt::IntelRdt;

pub(super) const FLAGS: &[Flag] = &[option("interval"), flag("stats")];

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn events(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let existing = Existing::load(global, arguments.container_id()?)?;
    let interval = match arguments.value("interval") {
        // Go has negative durations.
        Some(text) if text.starts_with('-') => Duration::ZERO,
        Some(text) => duration::parse(text)
            .map_err(|error| Failure::new(format!("invalid value {text:?} for flag --interval: {error}")))?,
        None => DEFAULT_INTERVAL,
    };
    if interval.is_zero() {
        return Err(Failure::new("duration interval must be greater than 0"));
    }
    let id = &existing.state.id;
    let Some(pidfd) = &existing.pidfd else {
        return Err(Failure::new(format!("container with id {id} is not running")));
    };
    let cgroup = existing.cgroup()?;
    let group = existing.state.resource_group.as_ref();
    let told = if arguments.has("stats") {
        print(&Event { kind: "stats", id, data: Some(stats(&cgroup, group)?) })
    } else {
        follow(global, id, &cgroup, group, pidfd, interval)?
    };
    match told {
        // Whoever looked has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot print: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

const ENDED: u64 = 0;
const MEMORY: u64 = 1;

/// Prints until the container ends.
fn follow(
    global: &Global,
    id: &str,
    cgroup: &Cgroup,
    group: Option<&ResourceGroup>,
    pidfd: impl AsFd,
    interval: Duration,
) -> Result<io::Result<()>, Failure> {
    let failed = |error: rustix::io::Errno| Failure::new(format!("cannot wait for events: {error}"));
    let epoll = Epoll::new().map_err(failed)?;
    epoll.add(pidfd, ENDED, Interest::READ).map_err(failed)?;
    let mut memory = Memory { notifier: cgroup.oom_notifier()?, kills: cgroup.oom_kills()? };
    if let Some(notifier) = &memory.notifier {
        epoll.add(notifier, MEMORY, notifier.interest()).map_err(failed)?;
    }
    let mut ready = Vec::new();
    let mut next = Instant::now() + interval;
    loop {
        ready.clear();
        epoll.wait(&mut ready, Some(next.saturating_duration_since(Instant::now()))).map_err(failed)?;
        let heard = |token| ready.iter().any(|event| event.token == token);
        let ended = heard(ENDED);
        // The end may be what the lack of memory led to.
        if (heard(MEMORY) || ended)
            && memory.ran_out(cgroup, heard(MEMORY))
            && let Err(error) = print(&Event { kind: "oom", id, data: None })
        {
            return Ok(Err(error));
        }
        if ended {
            return Ok(Ok(()));
        }
        if Instant::now() >= next {
            next += interval;
            match stats(cgroup, group) {
                Ok(stats) => {
                    if let Err(error) = print(&Event { kind: "stats", id, data: Some(stats) }) {
                        return Ok(Err(error));
                    }
                }
                Err(failure) => global.log.error(&failure.message),
            }
        }
    }
}

/// What is known about kills for lack of memory.
struct Memory {
    notifier: Option<OomNotifier>,
    kills: u64,
}

impl Memory {
    /// Whether memory has run out since the last time.
    fn ran_out(&mut self, cgroup: &Cgroup, told: bool) -> bool {
        if let Some(notifier) = self.notifier.as_ref().filter(|_| told) {
            notifier.clear();
        }
        if !cgroup.is_v2() {
            // It tells before it kills, also where it may not kill; and when the cgroup is removed.
            return told && !cgroup.is_gone();
        }
        let before = self.kills;
        self.kills = cgroup.oom_kills().unwrap_or(before);
        self.kills > before
    }
}

fn print(event: &Event<'_>) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

#[derive(Serialize)]
struct Stats {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memories,
    pids: Pids,
    blkio: BlockIo,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: IntelRdt,
    /// runc fills it for interfaces that it makes itself, which no specification asks for.
    network_interfaces: Option<()>,
}

#[derive(Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

#[derive(Serialize)]
struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Serialize)]
struct Memories {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryUse,
    swap: MemoryUse,
    kernel: MemoryUse,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryUse,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Serialize)]
struct MemoryUse {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockIo {
    #[serde(flatten)]
    counters: BTreeMap<&'static str, Vec<Counter>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Serialize)]
struct Counter {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Serialize)]
struct Pressure {
    some: PressureData,
    full: PressureData,
}

#[derive(Serialize)]
struct PressureData {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn stats(cgroup: &Cgroup, group: Option<&ResourceGroup>) -> Result<Stats, Failure> {
    let (stats, details) = (cgroup.stats()?, cgroup.details());
    Ok(Stats {
        cpu: cpu(stats.cpu, &details),
        cpuset: cpu_set(details.cpu_set.unwrap_or_default()),
        memory: Memories {
            cache: details.cache,
            usage: memory(details.memory),
            swap: memory(details.swap),
            kernel: memory(details.kernel),
            kernel_tcp: memory(details.kernel_tcp),
            raw: stats.memory.stat.into_iter().collect(),
            psi: details.memory_pressure.map(pressure),
        },
        pids: Pids { current: stats.pids.current, limit: stats.pids.limit },
        blkio: BlockIo { counters: block_io(details.block_io), psi: details.io_pressure.map(pressure) },
        hugetlb: details.huge_pages.into_iter().map(|(size, pages)| (size, huge_pages(pages))).collect(),
        intel_rdt: IntelRdt::read(group)?,
        network_interfaces: None,
    })
}

fn cpu(stats: cgroup::CpuStats, details: &Details) -> Cpu {
    Cpu {
        usage: CpuUsage {
            total: stats.total,
            percpu: stats.per_cpu,
            percpu_kernel: details.per_cpu_kernel.clone(),
            percpu_user: details.per_cpu_user.clone(),
            kernel: stats.system,
            user: stats.user,
        },
        throttling: Throttling {
            periods: stats.periods,
            throttled_periods: stats.throttled_periods,
            throttled_time: stats.throttled_time,
        },
        psi: details.cpu_pressure.map(pressure),
    }
}

fn cpu_set(set: cgroup::CpuSet) -> CpuSet {
    CpuSet {
        cpus: set.cpus,
        cpu_exclusive: set.cpu_exclusive,
        mems: set.mems,
        mem_hardwall: set.mem_hardwall,
        mem_exclusive: set.mem_exclusive,
        memory_migrate: set.memory_migrate,
        memory_spread_page: set.memory_spread_page,
        memory_spread_slab: set.memory_spread_slab,
        memory_pressure: set.memory_pressure,
        sched_load_balance: set.sched_load_balance,
        sched_relax_domain_level: set.sched_relax_domain_level,
    }
}

fn memory(memory: cgroup::MemoryUse) -> MemoryUse {
    MemoryUse { limit: memory.limit, usage: memory.usage, max: memory.max_usage, failcnt: memory.fail_count }
}

fn block_io(counters: BTreeMap<BlockIoKind, Vec<BlockIoEntry>>) -> BTreeMap<&'static str, Vec<Counter>> {
    let name = |kind| match kind {
        BlockIoKind::ServiceBytes => "ioServiceBytesRecursive",
        BlockIoKind::Serviced => "ioServicedRecursive",
        BlockIoKind::Queued => "ioQueueRecursive",
        BlockIoKind::ServiceTime => "ioServiceTimeRecursive",
        BlockIoKind::WaitTime => "ioWaitTimeRecursive",
        BlockIoKind::Merged => "ioMergedRecursive",
        BlockIoKind::Time => "ioTimeRecursive",
        BlockIoKind::Sectors => "sectorsRecursive",
    };
    let counter = |entry: BlockIoEntry| Counter {
        major: entry.major,
        minor: entry.minor,
        op: entry.operation,
        value: entry.value,
    };
    counters
        .into_iter()
        .filter(|(_, entries)| !entries.is_empty())
        .map(|(kind, entries)| (name(kind), entries.into_iter().map(counter).collect()))
        .collect()
}

fn huge_pages(pages: cgroup::HugePageUse) -> HugePages {
    HugePages { usage: pages.usage, max: pages.max_usage, failcnt: pages.fail_count }
}

fn pressure(pressure: cgroup::Pressure) -> Pressure {
    let data = |data: cgroup::PressureData| PressureData {
        avg10: data.avg10,
        avg60: data.avg60,
        avg300: data.avg300,
        total: data.total,
    };
    Pressure { some: data(pressure.some), full: data(pressure.full) }
}
