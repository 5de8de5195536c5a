//! Control groups: one handle over cgroup v1, v2 and the hybrid of both.

mod stats;

use palan_oci::runtime_spec::Resources;

pub use stats::{BlockIoEntry, BlockIoStats, CpuStats, MemoryStats, PidsStats, Stats};

/// Which layout the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller; perhaps v2 beside them without controllers (hybrid).
    V1,
    /// One hierarchy.
    V2,
}

/// An operation on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has no usable cgroups.
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup")]
    NoCgroups,
    /// A controller that a limit needs is missing.
    #[error("cannot limit {what}: this host has no {controller} cgroup controller")]
    NoController {
        /// What was to be limited.
        what: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// The path can't name a cgroup.
    #[error("invalid cgroup path {0:?}: it must be absolute, without . or .. components")]
    InvalidPath(String),
    /// A value is out of range.
    #[error("{0}")]
    Invalid(String),
    /// The kernel refused.
    #[error("cgroup {path}: cannot {action}")]
    Io {
        /// The cgroup's path.
        path: String,
        /// What was being done.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// A cgroup of one container, in every hierarchy of the host.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// Makes the cgroup `path` (such as `/palan/<id>`) and its missing parents.
    pub fn create(path: &str) -> Result<Self, CgroupError> {
        let _ = path;
        todo!()
    }

    /// A handle on an existing cgroup.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        let _ = path;
        todo!()
    }

    /// Its path below the root of each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sets limits. Returns sentences about what this host can't do and Docker only warns about.
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>, CgroupError> {
        let _ = resources;
        todo!()
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        let _ = pid;
        todo!()
    }

    /// Processes in it and below.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        todo!()
    }

    /// Stops all its processes; returns when they stand still.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Lets its processes go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        todo!()
    }

    /// Kills every process in it and below, also while frozen.
    pub fn kill(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// How many of its processes the kernel's out-of-memory killer has killed.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        todo!()
    }

    /// What its processes use.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        todo!()
    }

    /// Removes it with what is below; processes that are still ending get a moment to do so.
    pub fn remove(&self) -> Result<(), CgroupError> {
        todo!()
    }
}

/// The host's layout.
pub fn version() -> Result<Version, CgroupError> {
    todo!()
}
