//! What the processes of a cgroup use.

use super::Version;

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
