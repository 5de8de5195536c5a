//! The journal: what happened to the container, one JSON line for each entry, append-only, in the run directory.
//!
//! The supervisor appends an entry before it tells the daemon, without fsync: the run root does not survive a reboot, and
//! neither does the container. Numbers rise by one and never repeat for a container, also over several runs, so that a
//! daemon may commit entries as often as it sees them: it keeps the last number and skips what is not newer.
//!
//! A line that is torn (the disk was full half-way) or malformed is skipped by readers; the writer starts a new line
//! after it.

use serde::{Deserialize, Serialize};

use crate::protocol::FailureKind;

/// The journal's name in the run directory.
pub const FILE_NAME: &str = "journal";

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Rises by one with each entry.
    pub seq: u64,
    /// When, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// What.
    pub event: Event,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The container's program is being executed.
    Start {
        /// Init's process id on the host.
        pid: i32,
    },
    /// It could not be started; nothing is left of it. The supervisor's last entry.
    StartFailed {
        /// Why.
        kind: FailureKind,
        /// In which step.
        step: String,
        /// The whole chain of causes.
        message: String,
    },
    /// Init has ended. The supervisor's last entry but for `log_lost`.
    Exit {
        /// The exit code; 128 + n where signal n ended it.
        code: i32,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// Whether a process of the container was killed because memory ran out.
        oom: bool,
    },
    /// A process of the container was killed because memory ran out.
    Oom,
    /// All processes were frozen.
    Pause,
    /// They were thawed.
    Resume,
    /// An exec session's program is being executed.
    ExecStart {
        /// The session.
        exec: String,
        /// Its process id on the host.
        pid: i32,
    },
    /// An exec session could not be started.
    ExecFailed {
        /// The session.
        exec: String,
        /// Why.
        kind: FailureKind,
        /// The whole chain of causes.
        message: String,
    },
    /// An exec session has ended.
    ExecExit {
        /// The session.
        exec: String,
        /// The exit code; 128 + n where signal n ended it.
        code: i32,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// A client detached itself by its keys.
    Detach {
        /// From this exec session; `None`: from the container.
        exec: Option<String>,
    },
    /// Output could not be written to the log.
    LogLost {
        /// How many lines.
        lines: u64,
        /// The error that was met.
        reason: String,
    },
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}
