//! Health checks as the daemon asks for them, and what came of them.

use palan_oci::runtime_spec::Process;
use serde::{Deserialize, Serialize};

/// How the container's health is found out. See the supervisor's module `health` for what is done with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HealthConfig {
    /// The probe, without a terminal. It runs under the container's seccomp program.
    pub process: Process,
    /// The user as written, resolved in the container's own files; `None`: as in `process`.
    #[serde(default)]
    pub user: Option<String>,
    /// Further groups by name or number, resolved there as well; only with `user`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// From the end of a probe to the next one.
    pub interval_ns: u64,
    /// How long a probe may take.
    pub timeout_ns: u64,
    /// Failures in this time after the start don't count, until the first success.
    pub start_period_ns: u64,
    /// Instead of the interval in that time.
    pub start_interval_ns: u64,
    /// Failures in a row until the container is unhealthy.
    pub retries: u32,
    /// What is done then.
    #[serde(default)]
    pub on_failure: HealthAction,
}

/// What is done with a container that has become unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    /// Nothing.
    #[default]
    None,
    /// Init gets SIGKILL.
    Kill,
    /// It is stopped: its stop signal, and SIGKILL after its time.
    Stop,
    /// It is stopped, and started again whatever its restart policy.
    Restart,
}

/// How the container does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Too early to tell.
    #[default]
    Starting,
    /// The last probe succeeded, or too few have failed since.
    Healthy,
    /// Too many probes in a row have failed.
    Unhealthy,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Its beginning, in nanoseconds since the epoch.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
    /// How it ended.
    pub outcome: ProbeOutcome,
    /// The beginning of what it wrote, or why it could not be started.
    pub output: String,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// With this exit code; 0 is a success.
    Exited(i32),
    /// It was killed after its time.
    TimedOut,
    /// It could not be started.
    NotStarted,
}
