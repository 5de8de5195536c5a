//! Restarts: whether the end of a run is followed by another run, and what is needed for that.
//!
//! ```text
//!             drained, and the policy wants it                due
//! Draining ──────────────────────────────────▶ Restarting ──────────▶ Running
//!    │ the policy has enough, or StayDown          │ StayDown, SIGTERM: `restart_canceled`
//!    ▼                                             │ the start fails: `start_failed`
//! Finished ◀───────────────────────────────────────┘
//! ```
//!
//! The times are Docker's: 100 ms, doubled with each restart up to a minute, and 100 ms again after a run of ten seconds. A
//! start that fails is the end, as in Docker: what is wrong with it will not be right by itself.
//!
//! Between two runs there is no process and no cgroup, but the container keeps its network namespace with all that is
//! in it, its resolver and its log. Attached clients have seen the end of their streams.
//!
//! A container that may have changed its network gets a new one, as it would in Docker, and one that shares namespaces of another
//! container those that this one has now. Only the daemon can bring either, so the supervisor of such a container leaves the next
//! run to the daemon that is connected, and ends. With no daemon there the container has the old ones again, which is better than
//! none.
//!
//! A policy that is taken away between two runs counts from the end of the next one on, as in Docker.
//!
//! Invariants:
//! - Each end and each start is in the journal, whether a daemon is there or not.
//! - What another run is made from is kept as descriptors, not in memory, and only while one may come.
//! - `StayDown` is for good: a container that somebody has stopped stays so until somebody starts it.

use std::time::{Duration, Instant};

use crate::journal::Event;
use crate::protocol::{Backoff, Config, Failure, FailureKind, HealthAction, RestartConfig, RestartPolicy};
use crate::serve::{Life, Supervisor};
use crate::start::{Descriptors, Origin, read_config, read_program};

/// What is known of runs to come.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    config: RestartConfig,
    backoff: Backoff,
    stay_down: bool,
    /// Some end may be followed by another run.
    are_wanted: bool,
    origin: Origin,
}

impl Restarts {
    /// Takes over what the next run is made from, and whether there is one. The count goes on.
    pub(crate) fn adopt(&mut self, config: &Config, mut origin: Origin) {
        let count = self.config.count.max(config.restart.count);
        self.config = RestartConfig { count, ..config.restart.clone() };
        self.backoff = self.backoff.or_after(config.restart.last_delay_ms);
        let restarts_unhealthy =
            config.health.as_ref().is_some_and(|health| health.on_failure == HealthAction::Restart);
        self.are_wanted = self.config.policy != RestartPolicy::Never || restarts_unhealthy;
        let namespaces = origin.namespaces.take().or_else(|| self.origin.namespaces.take());
        self.origin = Origin { namespaces, ..origin };
    }

    /// Gives up what the next run would be made from, if there can be none. Not between two runs: the one that is due takes
    /// place.
    pub(crate) fn let_go_unless_wanted(&mut self) {
        if !self.are_wanted {
            self.origin.let_go();
        }
    }

    /// What the next run is made from.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether the next run is a daemon's to start.
    pub(crate) fn are_for_daemon(&self) -> bool {
        self.config.by_daemon
    }

    /// The next end is the last.
    pub(crate) fn forbid(&mut self) {
        self.stay_down = true;
    }

    /// There is no next run.
    pub(crate) fn close(&mut self) {
        self.origin = Origin::default();
    }

    /// A run has ended. After which time there is another; `None`: there is none. `asked`: whatever the policy.
    pub(crate) fn after(&mut self, code: i32, ran: Duration, asked: bool) -> Option<Duration> {
        let RestartConfig { policy, count, .. } = self.config;
        if self.stay_down || self.origin.config.is_none() || !(asked || policy.wants(code, count)) {
            return None;
        }
        self.config.count = count.saturating_add(1);
        Some(self.backoff.next(ran))
    }
}

impl Supervisor {
    /// Starts the next run if it is time.
    pub(crate) fn restart_if_due(&mut self, now: Instant) {
        let Life::Restarting { due, code } = self.life else { return };
        if due > now {
            return;
        }
        match self.try_start_again() {
            Ok(pid) => self.record(Event::Start { pid }),
            Err(Failure { kind, message }) => {
                self.end_between_runs(Event::StartFailed { kind, message }, code)
            }
        }
    }

    /// See [`crate::protocol::Request::StayDown`].
    pub(crate) fn stay_down(&mut self) -> Result<(), Failure> {
        match self.life {
            Life::Running(_) | Life::Draining { .. } => self.restarts.forbid(),
            Life::Restarting { code, .. } => self.end_between_runs(Event::RestartCanceled, code),
            Life::Waiting | Life::Finished(_) => return Err(not_running()),
        }
        Ok(())
    }

    /// See [`crate::protocol::Request::Update`].
    pub(crate) fn update(
        &mut self,
        limits: bool,
        seccomp: bool,
        mut descriptors: Descriptors,
    ) -> Result<(), Failure> {
        let file = descriptors.take("the configuration")?.into();
        let config = read_config(&file)?;
        let seccomp = descriptors.take_if(seccomp, "the seccomp program")?.map(std::fs::File::from);
        seccomp.as_ref().map(read_program).transpose()?;
        match &mut self.life {
            Life::Waiting | Life::Finished(_) => return Err(not_running()),
            Life::Running(running) if limits => {
                let resources = config.spec.linux.as_ref().and_then(|linux| linux.resources.clone());
                let mut resources = resources.unwrap_or_default();
                resources.devices.clear();
                running.container.update(&resources)?;
            }
            Life::Running(_) | Life::Draining { .. } | Life::Restarting { .. } => {}
        }
        self.restarts.adopt(&config, Origin { config: Some(file), seccomp, namespaces: None });
        if !matches!(self.life, Life::Restarting { .. }) {
            self.restarts.let_go_unless_wanted();
        }
        Ok(())
    }
}

pub(crate) fn not_running() -> Failure {
    Failure::new(FailureKind::WrongState, "the container is not running")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restarts(policy: RestartPolicy) -> Restarts {
        let config = RestartConfig { policy, ..RestartConfig::default() };
        let origin = Origin { config: Some(tempfile::tempfile().unwrap()), ..Origin::default() };
        Restarts { config, origin, ..Restarts::default() }
    }

    #[test]
    fn a_policy_has_enough_in_the_end() {
        let mut restarts = restarts(RestartPolicy::OnFailure { most: Some(2) });
        let run = Duration::from_secs(1);
        assert_eq!(restarts.after(1, run, false), Some(Duration::from_millis(100)));
        assert_eq!(restarts.after(1, run, false), Some(Duration::from_millis(200)));
        assert_eq!(restarts.after(1, run, false), None);
        assert_eq!(restarts.after(0, run, true), Some(Duration::from_millis(400)));
    }

    #[test]
    fn the_pending_run_outlives_its_policy() {
        let run_dir = tempfile::tempdir().unwrap();
        let (_daemon, connection) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut supervisor = Supervisor::new(run_dir.path(), connection.into(), None).unwrap();
        let config = serde_json::json!({
            "version": 1,
            "spec": {},
            "rootfs": { "directory": "/" },
            "stop_signal": 15,
            "stop_timeout_ms": 0,
        });
        let file = || {
            let file = tempfile::tempfile().unwrap();
            serde_json::to_writer(&file, &config).unwrap();
            Descriptors::new(vec![file.into()])
        };
        supervisor.life = Life::Restarting { due: Instant::now(), code: 1 };
        supervisor.update(false, false, file()).unwrap();
        assert!(supervisor.restarts.origin().config.is_some());
        supervisor.restarts.let_go_unless_wanted();
        assert!(supervisor.restarts.origin().config.is_none());
        assert_eq!(supervisor.restarts.after(1, Duration::ZERO, true), None);
    }

    #[test]
    fn who_was_stopped_stays_down() {
        let mut restarts = restarts(RestartPolicy::Always);
        assert!(restarts.after(0, Duration::ZERO, false).is_some());
        restarts.forbid();
        assert_eq!(restarts.after(1, Duration::ZERO, true), None);
    }
}
