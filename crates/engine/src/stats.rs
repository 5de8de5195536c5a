//! What a container uses: counters from its cgroup and its network interfaces, in the order Docker shows them.

use std::collections::BTreeMap;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use palan_supervisor::runtime::cgroup::{self, Cgroup, Place};
use tokio::sync::mpsc;

use crate::container::Details;
use crate::container::index::Handle;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::stream::Items;
use crate::{Error, Result};

/// One reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Id of the container.
    pub id: String,
    /// Its name without slash.
    pub name: String,
    /// When it was read; the epoch when the container does not run.
    pub read: Timestamp,
    /// When the reading before was made; the epoch when there is none.
    pub preread: Timestamp,
    /// Processor time now; absent when the container does not run.
    pub cpu: Option<CpuStats>,
    /// Processor time at the reading before.
    pub precpu: Option<CpuStats>,
    /// Memory.
    pub memory: MemoryStats,
    /// Block I/O.
    pub block_io: Vec<BlockIo>,
    /// Processes and threads now.
    pub pids_current: u64,
    /// Limit of processes; 0 means none.
    pub pids_limit: u64,
    /// Interfaces by name, without the loopback; absent without a network of its own.
    pub networks: Option<BTreeMap<String, InterfaceStats>>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds used in all.
    pub total: u64,
    /// Nanoseconds in user mode.
    pub user: u64,
    /// Nanoseconds in kernel mode.
    pub kernel: u64,
    /// Nanoseconds by processor (cgroup v1 only).
    pub per_cpu: Vec<u64>,
    /// Nanoseconds of all processors of the host since boot.
    pub system: u64,
    /// Processors online.
    pub online_cpus: u32,
    /// Periods, throttled periods, and nanoseconds throttled.
    pub throttling: (u64, u64, u64),
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes used with cache.
    pub usage: u64,
    /// Most bytes used (cgroup v1 only; 0 otherwise).
    pub max_usage: u64,
    /// Limit in bytes; the host's memory when there is none.
    pub limit: u64,
    /// Times the limit was hit.
    pub fail_count: u64,
    /// The kernel's own counters (`memory.stat`).
    pub counters: BTreeMap<String, u64>,
}

/// One counter of block I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Major number of the device.
    pub major: u64,
    /// Minor number of the device.
    pub minor: u64,
    /// `read` or `write`.
    pub operation: String,
    /// Bytes.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
}

/// Counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kernel's own counters")]
pub struct InterfaceStats {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Engine {
    /// Readings once a second, or one only. With `one_shot` the first comes at once and has no `precpu`.
    pub async fn stats(&self, name: &str, stream: bool, one_shot: bool) -> Result<Items<Stats>> {
        if stream && one_shot {
            return Err(Error::invalid("cannot have stream=true and one-shot=true"));
        }
        let handle = self.index.find(name)?;
        let (sender, items) = Items::channel(1);
        tokio::spawn(Sampler { engine: self.shared(), handle, previous: None }.run(stream, one_shot, sender));
        Ok(items)
    }
}

struct Sampler {
    engine: Arc<Engine>,
    handle: Arc<Handle>,
    previous: Option<(Timestamp, CpuStats)>,
}

impl Sampler {
    async fn run(mut self, stream: bool, one_shot: bool, sender: mpsc::Sender<Result<Stats>>) {
        const PERIOD: Duration = Duration::from_secs(1);
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut life = self.handle.life.subscribe();
        // A share of processor time needs two readings: a single answer waits for the second one.
        let mut to_skip = usize::from(!stream && !one_shot);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
                removed = life.wait_for(|life| life.removed) => if removed.is_ok() { return },
            }
            let sample = self.sample().await;
            let is_running = sample.as_ref().is_ok_and(|stats| stats.cpu.is_some());
            if is_running && to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            let failed = sample.is_err();
            if sender.send(sample).await.is_err() || failed || !stream {
                return;
            }
        }
    }

    async fn sample(&mut self) -> Result<Stats> {
        let details = self.handle.details();
        let empty = Stats { id: details.id.clone(), name: details.name.clone(), ..Stats::default() };
        if !details.state.status.has_process() {
            self.previous = None;
            return Ok(empty);
        }
        let engine = self.engine.clone();
        let mut stats = match blocking(move || read(&engine, &details)).await {
            Ok(stats) => stats,
            // It ended while it was read: that is no failure.
            Err(_) if !self.handle.details().state.status.has_process() => return Ok(empty),
            Err(error) => return Err(error),
        };
        if let Some((time, cpu)) = self.previous.take() {
            stats.preread = time;
            stats.precpu = Some(cpu);
        }
        self.previous = stats.cpu.clone().map(|cpu| (stats.read, cpu));
        Ok(stats)
    }
}

fn read(engine: &Engine, details: &Details) -> Result<Stats> {
    let what = || format!("cannot read the figures of container {}", details.id);
    let figures =
        Cgroup::open(&Place::root(&details.cgroup_path)).and_then(|cgroup| cgroup.stats()).context(what)?;
    let memory = figures.memory;
    Ok(Stats {
        id: details.id.clone(),
        name: details.name.clone(),
        read: Timestamp::now(),
        cpu: Some(CpuStats {
            total: figures.cpu.total,
            user: figures.cpu.user,
            kernel: figures.cpu.system,
            per_cpu: figures.cpu.per_cpu,
            system: host_cpu_time(),
            online_cpus: u32::try_from(engine.host.cpus).unwrap_or(u32::MAX),
            throttling: (figures.cpu.periods, figures.cpu.throttled_periods, figures.cpu.throttled_time),
        }),
        memory: MemoryStats {
            usage: memory.usage,
            max_usage: memory.max_usage,
            limit: if memory.limit == 0 { engine.host.memory } else { memory.limit.min(engine.host.memory) },
            fail_count: memory.fail_count,
            counters: memory.stat.into_iter().collect(),
        },
        block_io: block_io(&figures.block_io),
        pids_current: figures.pids.current,
        pids_limit: figures.pids.limit,
        networks: interfaces(engine, details)?,
        ..Stats::default()
    })
}

fn block_io(figures: &cgroup::BlockIoStats) -> Vec<BlockIo> {
    let requests = |wanted: &cgroup::BlockIoEntry| {
        let found = figures.operations.iter().find(|entry| {
            (entry.major, entry.minor, &entry.operation) == (wanted.major, wanted.minor, &wanted.operation)
        });
        found.map_or(0, |entry| entry.value)
    };
    let line = |entry: &cgroup::BlockIoEntry| BlockIo {
        major: entry.major,
        minor: entry.minor,
        operation: entry.operation.to_lowercase(),
        bytes: entry.value,
        requests: requests(entry),
    };
    figures.bytes.iter().map(line).collect()
}

fn interfaces(engine: &Engine, details: &Details) -> Result<Option<BTreeMap<String, InterfaceStats>>> {
    let mut interfaces = BTreeMap::new();
    for record in crate::network::endpoints::records(details) {
        let figures = engine.network.statistics(&record);
        let Some(figures) = figures.context(|| "cannot read the network's figures".into())? else { continue };
        let stats = InterfaceStats {
            rx_bytes: figures.rx_bytes,
            rx_packets: figures.rx_packets,
            rx_errors: figures.rx_errors,
            rx_dropped: figures.rx_dropped,
            tx_bytes: figures.tx_bytes,
            tx_packets: figures.tx_packets,
            tx_errors: figures.tx_errors,
            tx_dropped: figures.tx_dropped,
        };
        interfaces.insert(record.interface, stats);
    }
    Ok((!interfaces.is_empty()).then_some(interfaces))
}

/// Nanoseconds that all processors together have passed since boot.
fn host_cpu_time() -> u64 {
    const FIELDS: usize = 8;
    let text = palan_stdx::fs::read_to_string(Path::new("/proc/stat")).unwrap_or_default();
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("cpu ")) else { return 0 };
    let ticks: u64 = line.split_whitespace().take(FIELDS).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}
