//! What a container uses: counters from its cgroup and its network interfaces, in the order Docker shows them.

use std::collections::BTreeMap;

use jiff::Timestamp;

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
