//! Health checks: a probe is run in the container again and again, and its exit codes say how the container does.
//!
//! ```text
//!             due                     ended, counted
//! Waiting ───────────▶ Probing ───────────────────────▶ Waiting
//!    │                    │ └─ timeout: killed ─┘           ▲
//!    └──── pause ─────────┴──▶ Suspended ──── resume ───────┘   (a probe that is under way is killed and does not count)
//! ```
//!
//! What a result means is Docker's: the interval runs from a probe's end; a failure in the start period counts only after
//! a success; `retries` failures in a row make the container unhealthy, one success makes it healthy. A pause makes it
//! unhealthy without a word, since nobody looks any more, until the next probe that succeeds.
//!
//! Invariants:
//! - One probe at a time; it is an exec session without clients that the daemon does not know as one.
//! - Every result is in the journal, as long as the journal stays small. While no daemon commits it, only changes of the
//!   status are added from a certain size on, and from the next one nothing; then the last results are kept here and are
//!   journaled when a daemon is back, or with the container's end. So a container that is looked at every second with no
//!   daemon for a year takes a megabyte.
//! - What is done with an unhealthy container is done once, until it has been healthy again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use palan_linux::process::{self, ExitStatus};
use palan_linux::signal::Signal;
use palan_runtime::seccomp::Program;

use crate::journal::Event;
use crate::log::timestamp;
use crate::protocol::{
    AttachOptions, ExecOptions, HealthAction, HealthConfig, HealthStatus, ProbeOutcome, ProbeResult,
};
use crate::serve::{Life, Supervisor};

/// How much of a probe's output is kept, as in Docker.
const MAX_OUTPUT: usize = 4096;
/// How many results a daemon shows, and so how many are kept for it.
const MAX_RESULTS: usize = 5;
/// From this size of the journal on, only changes of the status are added.
const JOURNAL_FULL: u64 = 256 * 1024;
/// From this size on, nothing is.
const JOURNAL_OVERFULL: u64 = 1024 * 1024;

/// The health of a container that runs.
#[derive(Debug)]
pub(crate) struct Health {
    config: HealthConfig,
    /// The request for the next probe, which has the configuration's process.
    probe: ExecOptions,
    seccomp: Option<Program>,
    began: Instant,
    status: HealthStatus,
    failing_streak: u32,
    turn: Turn,
    /// Counts the probes, for their names.
    number: u64,
    /// Results that the journal was too large for.
    unrecorded: VecDeque<ProbeResult>,
    /// The action was carried out.
    acted: bool,
}

#[derive(Debug)]
enum Turn {
    Waiting { due: Instant },
    Probing { started: Instant, start_ns: u64, kill_at: Option<Instant>, counts: bool },
    Suspended,
}

/// The beginning of what a probe writes.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Capture {
    /// Keeps what there is room for.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn into_text(self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.truncated {
            text.push_str("...");
        }
        text
    }
}

impl Health {
    /// The health of a container that has just been started.
    pub(crate) fn new(mut config: HealthConfig, seccomp: Option<Program>, now: Instant) -> Self {
        let probe = ExecOptions {
            exec: String::new(),
            process: std::mem::take(&mut config.process),
            user: config.user.take(),
            groups: std::mem::take(&mut config.groups),
            attach: Some(AttachOptions { stdout: true, stderr: true, ..AttachOptions::default() }),
            seccomp: seccomp.is_some(),
        };
        let mut health = Self {
            config,
            probe,
            seccomp,
            began: now,
            status: HealthStatus::Starting,
            failing_streak: 0,
            turn: Turn::Suspended,
            number: 0,
            unrecorded: VecDeque::new(),
            acted: false,
        };
        health.wait(now);
        health
    }

    /// When something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.turn {
            Turn::Waiting { due } => Some(due),
            Turn::Probing { kill_at, .. } => kill_at,
            Turn::Suspended => None,
        }
    }

    /// Frozen: nobody looks any more.
    pub(crate) fn pause(&mut self) {
        self.status = HealthStatus::Unhealthy;
    }

    /// Thawed: goes on.
    pub(crate) fn resume(&mut self, now: Instant) {
        if matches!(self.turn, Turn::Suspended) {
            self.wait(now);
        }
    }

    fn wait(&mut self, now: Instant) {
        let starting = self.status == HealthStatus::Starting && now - self.began < self.start_period();
        let interval = if starting { self.config.start_interval_ns } else { self.config.interval_ns };
        // A year, where the interval is beyond what the clock can tell.
        let due = now + Duration::from_nanos(interval).min(Duration::from_secs(365 * 86400));
        self.turn = Turn::Waiting { due };
    }

    fn start_period(&self) -> Duration {
        Duration::from_nanos(self.config.start_period_ns)
    }

    /// Takes a result into account. `true`: it changes the status.
    fn count(&mut self, outcome: ProbeOutcome, started: Instant) -> bool {
        let before = self.status;
        if outcome == ProbeOutcome::Exited(0) {
            (self.status, self.failing_streak, self.acted) = (HealthStatus::Healthy, 0, false);
        } else if before != HealthStatus::Starting || started - self.began >= self.start_period() {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= self.config.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.status != before
    }

    /// What has to be done now, once.
    fn action(&mut self) -> HealthAction {
        if self.failing_streak < self.config.retries || self.acted {
            return HealthAction::None;
        }
        self.acted = true;
        self.config.on_failure
    }

    /// 64 hexadecimal digits that no other probe has on this host.
    fn next_name(&mut self) -> String {
        self.number += 1;
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        format!("{:032x}{pid:016x}{:016x}", timestamp::now(), self.number)
    }
}

impl Supervisor {
    /// Does what is due.
    pub(crate) fn tend_health(&mut self, now: Instant) {
        let (Life::Running(running), Some(health)) = (&self.life, &mut self.health) else { return };
        match &mut health.turn {
            Turn::Waiting { due } if *due <= now && !running.paused => self.start_probe(now),
            Turn::Probing { kill_at, .. } if kill_at.is_some_and(|kill_at| kill_at <= now) => {
                *kill_at = None;
                self.kill_probe();
            }
            Turn::Waiting { .. } | Turn::Probing { .. } | Turn::Suspended => {}
        }
    }

    /// The container is about to be frozen.
    pub(crate) fn suspend_health(&mut self) {
        let Some(health) = &mut self.health else { return };
        match &mut health.turn {
            Turn::Probing { counts, kill_at, .. } => {
                (*counts, *kill_at) = (false, None);
                self.kill_probe();
            }
            Turn::Waiting { .. } | Turn::Suspended => health.turn = Turn::Suspended,
        }
    }

    /// The container is thawed, or was not frozen after all.
    pub(crate) fn resume_health(&mut self) {
        if let Some(health) = &mut self.health {
            health.resume(Instant::now());
        }
    }

    fn start_probe(&mut self, now: Instant) {
        let (Life::Running(running), Some(health)) = (&self.life, &mut self.health) else { return };
        let name = health.next_name();
        health.probe.exec.clone_from(&name);
        let start_ns = timestamp::now();
        let execed = match running.container.exec(&health.probe, health.seccomp.as_ref()) {
            Ok(execed) => execed,
            // The container ends: there is nothing to look at any more.
            Err(_) if is_exiting(running.container.pid()) => return health.wait(now),
            Err(failure) => {
                let result = ProbeResult {
                    start_ns,
                    end_ns: timestamp::now(),
                    outcome: ProbeOutcome::NotStarted,
                    output: failure.message,
                };
                return self.probe_has_result(name, None, result, now);
            }
        };
        let kill_at = now.checked_add(Duration::from_nanos(health.config.timeout_ns));
        health.turn = Turn::Probing { started: now, start_ns, kill_at, counts: true };
        let options = health.probe.clone();
        if self.journal.size() < JOURNAL_FULL {
            self.record(Event::ProbeStart { exec: name, pid: execed.pid });
        }
        let adopted = self.adopt_exec(execed, &options, None);
        if let Some(exec) = self.execs.last_mut() {
            exec.probe = true;
            exec.session.capture = Some(Capture::default());
        }
        if adopted.is_err() {
            // Out of descriptors or memory: without its output it is of no use, and it counts as it ends.
            self.kill_probe();
        }
        self.idle_work = true;
    }

    /// Kills the probe and what it has started in its session.
    fn kill_probe(&mut self) {
        let Some(exec) = self.execs.iter().find(|exec| exec.probe && exec.is_running()) else { return };
        // It is not reaped yet, so its number is its own. It may have ended just now.
        let _ = process::kill(-exec.pid, Signal::KILL);
        let _ = process::kill(exec.pid, Signal::KILL);
    }

    /// A probe's process has ended, or is given up, and its output has been read.
    pub(crate) fn probe_ended(&mut self, name: String, capture: Option<Capture>, status: ExitStatus) {
        let now = Instant::now();
        let is_running = matches!(&self.life, Life::Running(running) if !running.paused);
        let init = if let Life::Running(running) = &self.life { Some(running.container.pid()) } else { None };
        let Some(health) = &mut self.health else { return };
        let turn = std::mem::replace(&mut health.turn, Turn::Suspended);
        let Turn::Probing { started, start_ns, kill_at, counts } = turn else { return };
        // With init the kernel kills all the rest, and reports the rest first.
        let went_with_init = status.code() == 128 + Signal::KILL.as_raw() && init.is_some_and(is_exiting);
        if !counts || !is_running || went_with_init {
            if is_running {
                health.wait(now);
            }
            return self.record(Event::ProbeAborted { exec: name, code: status.code() });
        }
        let timeout = Duration::from_nanos(health.config.timeout_ns);
        let timed_out = kill_at.is_none() && now - started >= timeout;
        let outcome = if timed_out { ProbeOutcome::TimedOut } else { ProbeOutcome::Exited(status.code()) };
        let output = capture.unwrap_or_default().into_text();
        let result = ProbeResult { start_ns, end_ns: timestamp::now(), outcome, output };
        self.probe_has_result(name, Some(status.code()), result, started);
    }

    fn probe_has_result(&mut self, exec: String, code: Option<i32>, result: ProbeResult, started: Instant) {
        let Some(health) = &mut self.health else { return };
        let is_change = health.count(result.outcome, started);
        health.wait(Instant::now());
        let (status, failing_streak, action) = (health.status, health.failing_streak, health.action());
        let size = self.journal.size();
        if size < JOURNAL_FULL || is_change && size < JOURNAL_OVERFULL {
            self.record_unrecorded_health();
            self.record(Event::Probe { exec, code, result, status, failing_streak });
        } else {
            if health.unrecorded.len() >= MAX_RESULTS {
                health.unrecorded.pop_front();
            }
            health.unrecorded.push_back(result);
        }
        self.act_on_health(action);
    }

    /// Journals what was kept back.
    pub(crate) fn record_unrecorded_health(&mut self) {
        let Some(health) = self.health.as_mut().filter(|health| !health.unrecorded.is_empty()) else {
            return;
        };
        let results = std::mem::take(&mut health.unrecorded).into();
        let (status, failing_streak) = (health.status, health.failing_streak);
        self.record(Event::Health { status, failing_streak, results });
    }

    fn act_on_health(&mut self, action: HealthAction) {
        let Life::Running(running) = &mut self.life else { return };
        let (signal, timeout) = (running.stop_signal, running.stop_timeout);
        // Init may be ending just now.
        let _ = match action {
            HealthAction::None => Ok(()),
            HealthAction::Kill => running.container.signal(Signal::KILL),
            HealthAction::Stop => self.stop(signal, Some(timeout)),
            HealthAction::Restart => {
                running.restart_asked = true;
                self.stop(signal, Some(timeout))
            }
        };
    }
}

/// Whether a process that was not reaped yet is on its way out.
fn is_exiting(pid: i32) -> bool {
    /// Field 9 of proc_pid_stat(5), which is the seventh after the name; the flag is `PF_EXITING`.
    const FLAGS: usize = 6;
    const EXITING: u32 = 4;
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let Ok(text) = palan_stdx::fs::read_to_string(&path) else { return true };
    let flags =
        text.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(FLAGS)?.parse::<u32>().ok());
    flags.is_none_or(|flags| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(start_period: u64, now: Instant) -> Health {
        let config = HealthConfig {
            process: Default::default(),
            user: None,
            groups: Vec::new(),
            interval_ns: 30_000_000_000,
            timeout_ns: 30_000_000_000,
            start_period_ns: start_period * 1_000_000_000,
            start_interval_ns: 5_000_000_000,
            retries: 3,
            on_failure: HealthAction::Kill,
        };
        Health::new(config, None, now)
    }

    #[test]
    fn three_failures_in_a_row_are_unhealthy_and_one_success_is_healthy() {
        let now = Instant::now();
        let mut health = health(0, now);
        let failed = ProbeOutcome::Exited(1);
        assert!(!health.count(failed, now));
        assert!(health.count(ProbeOutcome::Exited(0), now));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        assert!(!health.count(ProbeOutcome::TimedOut, now) && !health.count(failed, now));
        assert_eq!(health.action(), HealthAction::None);
        assert!(health.count(ProbeOutcome::NotStarted, now));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 3));
        assert_eq!((health.action(), health.action()), (HealthAction::Kill, HealthAction::None));
        assert!(!health.count(failed, now));
        assert_eq!(health.failing_streak, 4);
    }

    #[test]
    fn the_start_period_forgives_until_the_first_success() {
        let now = Instant::now();
        let mut health = health(60, now);
        assert_eq!(health.deadline(), Some(now + Duration::from_secs(5)));
        for second in 0..59 {
            assert!(!health.count(ProbeOutcome::Exited(1), now + Duration::from_secs(second)));
        }
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        health.count(ProbeOutcome::Exited(0), now);
        health.wait(now);
        assert_eq!(health.deadline(), Some(now + Duration::from_secs(30)));
        health.count(ProbeOutcome::Exited(1), now);
        assert_eq!(health.failing_streak, 1);
    }

    #[test]
    fn the_kernel_tells_who_is_exiting() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(!is_exiting(own));
        assert!(is_exiting(-1), "nobody");
    }

    #[test]
    fn output_is_cut() {
        let mut capture = Capture::default();
        capture.push(&[b'a'; 4000]);
        capture.push(&[b'b'; 96]);
        capture.push(&[]);
        assert!(!capture.truncated);
        capture.push(b"c");
        let text = capture.into_text();
        assert!(text.ends_with("b...") && text.len() == MAX_OUTPUT + 3);
    }
}
