//! Health checks: what is asked for, as the supervisor wants it, and what its journal tells of them. The supervisor runs
//! them (its module `health` has the state machine); here they get Docker's words.

use std::time::Duration;

use jiff::Timestamp;
use palan_stdx::duration;
use palan_supervisor::journal::{Entry, Event as JournalEvent};
use palan_supervisor::protocol::{HealthAction, HealthConfig, HealthStatus, ProbeOutcome, ProbeResult};
use serde::{Deserialize, Serialize};

use crate::container::driver::{container_event, timestamp};
use crate::container::exec::{shown, start_failure_text};
use crate::container::security::Options;
use crate::container::{Details, ExecSpec, State, oci};
use crate::events::Event;
use crate::spec::{Config, Healthcheck};
use crate::{Error, Result};

/// Results that are kept.
const MAX_RESULTS: usize = 5;
/// Where the check says nothing.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: u32 = 3;

/// What a container's health check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// How it does.
    pub status: HealthStatus,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// The last results, oldest first; they outlive a restart.
    pub log: Vec<HealthResult>,
}

/// The result of one probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthResult {
    /// Its beginning.
    pub start: Option<Timestamp>,
    /// Its end.
    pub end: Option<Timestamp>,
    /// Its exit code; -1 when it took too long or could not be started.
    pub exit_code: i32,
    /// The beginning of what it wrote, or what went wrong.
    pub output: String,
}

impl Health {
    /// Docker's word for the status.
    pub fn word(&self) -> &'static str {
        word(self.status)
    }

    /// The word as the list of containers shows it.
    pub(crate) fn sentence(&self) -> &'static str {
        match self.status {
            HealthStatus::Starting => "health: starting",
            // These are clear on their own.
            HealthStatus::Healthy | HealthStatus::Unhealthy => self.word(),
        }
    }

    fn push(&mut self, result: HealthResult) {
        if self.log.len() >= MAX_RESULTS {
            self.log.drain(..=self.log.len() - MAX_RESULTS);
        }
        self.log.push(result);
    }
}

fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// Checks what a caller asks, as Docker does.
pub(crate) fn check(check: &Healthcheck) -> Result<()> {
    const MINIMUM: i64 = 1_000_000;
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    if let Some((name, _)) = times.iter().find(|(_, time)| *time != 0 && *time < MINIMUM) {
        return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
    }
    if check.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    if check.test.iter().any(|word| word.contains('\0')) {
        return Err(Error::invalid("the health check contains a NUL byte"));
    }
    match check.test.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["NONE"] | ["CMD" | "CMD-SHELL", _, ..] => {}
        ["NONE", ..] => return Err(Error::invalid("a health check NONE takes no arguments")),
        ["CMD" | "CMD-SHELL"] => return Err(Error::invalid("the health check has no command")),
        [kind, ..] => {
            return Err(Error::invalid(format!(
                "unknown type of health check '{kind}': must be one of NONE, CMD, CMD-SHELL"
            )));
        }
    }
    action(check).map(drop)
}

/// Checks the same with what comes from the image; returns what has to be said.
pub(crate) fn check_merged(config: &Config) -> Result<Option<String>> {
    let Some(check) = &config.healthcheck else { return Ok(None) };
    let runs = command(config).is_some();
    if !runs && action(check)? != HealthAction::None {
        return Err(Error::invalid(format!(
            "the action '{}' on a failing health check needs a health check: neither the request nor the image has one",
            check.on_failure
        )));
    }
    let is_strange = !runs && check.test.first().is_some_and(|kind| kind != "NONE");
    Ok(is_strange.then(|| {
        format!(
            "The image's health check is not run: {:?} is none of NONE, CMD and CMD-SHELL with a command",
            check.test
        )
    }))
}

fn action(check: &Healthcheck) -> Result<HealthAction> {
    match check.on_failure.as_str() {
        "" | "none" => Ok(HealthAction::None),
        "kill" => Ok(HealthAction::Kill),
        "stop" => Ok(HealthAction::Stop),
        "restart" => Ok(HealthAction::Restart),
        other => Err(Error::invalid(format!(
            "invalid action '{other}' on a failing health check: must be one of none, kill, restart, stop"
        ))),
    }
}

/// What a probe executes; `None`: there is no health check.
fn command(config: &Config) -> Option<Vec<String>> {
    const SHELL: [&str; 2] = ["/bin/sh", "-c"];
    let (kind, words) = config.healthcheck.as_ref()?.test.split_first()?;
    if words.is_empty() {
        return None;
    }
    match kind.as_str() {
        "CMD" => Some(words.to_vec()),
        "CMD-SHELL" => {
            let shell = config.shell.clone().filter(|shell| !shell.is_empty());
            let shell = shell.unwrap_or_else(|| SHELL.map(String::from).to_vec());
            Some(shell.into_iter().chain(words.iter().cloned()).collect())
        }
        _ => None,
    }
}

fn or_default(nanoseconds: i64, default: Duration) -> Duration {
    u64::try_from(nanoseconds).ok().filter(|time| *time > 0).map_or(default, Duration::from_nanos)
}

fn timeout(config: &Config) -> Duration {
    or_default(config.healthcheck.as_ref().map_or(0, |check| check.timeout), DEFAULT_TIMEOUT)
}

/// What the supervisor shall do.
pub(crate) fn supervisor_config(details: &Details, options: &Options) -> Result<Option<HealthConfig>> {
    let config = &details.config;
    let (Some(check), Some(command)) = (&config.healthcheck, command(config)) else { return Ok(None) };
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let exec = ExecSpec { cmd: command, ..ExecSpec::default() };
    let (user, groups) = oci::user_names(&config.user, &details.host);
    Ok(Some(HealthConfig {
        process: oci::exec_process(details, &exec, options)?,
        user,
        groups,
        interval_ns: nanoseconds(or_default(check.interval, DEFAULT_INTERVAL)),
        timeout_ns: nanoseconds(timeout(config)),
        start_period_ns: nanoseconds(or_default(check.start_period, Duration::ZERO)),
        start_interval_ns: nanoseconds(or_default(check.start_interval, DEFAULT_START_INTERVAL)),
        retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0).unwrap_or(DEFAULT_RETRIES),
        on_failure: action(check)?,
    }))
}

/// The health of a container that has just been started.
pub(crate) fn begin(details: &Details) -> Option<Health> {
    command(&details.config)?;
    let log = details.state.health.as_ref().map(|health| health.log.clone()).unwrap_or_default();
    Some(Health { log, ..Health::default() })
}

/// Nobody looks any more, which Docker calls unhealthy.
pub(crate) fn end(state: &mut State) {
    if let Some(health) = &mut state.health {
        health.status = HealthStatus::Unhealthy;
    }
}

/// Takes over what a journal entry tells of health checks, and returns the events of it. `None`: it tells of something else.
pub(crate) fn apply(details: &mut Details, entry: &Entry) -> Option<Vec<Event>> {
    let time = timestamp(entry.time_ns);
    let command = command(&details.config).unwrap_or_default();
    let event = |details: &Details, action: &str, exec: &str, code: Option<i32>| {
        let mut event = container_event(details, action, []);
        if !exec.is_empty() {
            event.attributes.insert("execID".into(), exec.into());
        }
        if let Some(code) = code {
            event.attributes.insert("exitCode".into(), code.to_string());
        }
        Event { time, ..event }
    };
    let begun = |details: &Details, exec: &str| {
        ["exec_create", "exec_start"]
            .map(|action| event(details, &format!("{action}: {}", shown(&command)), exec, None))
    };
    let mut events = Vec::new();
    let (status, failing_streak, results) = match &entry.event {
        JournalEvent::ProbeStart { exec, .. } => return Some(begun(details, exec).into()),
        JournalEvent::ProbeAborted { exec, code } => {
            return Some(vec![event(details, "exec_die", exec, Some(*code))]);
        }
        JournalEvent::Probe { exec, code, result, status, failing_streak } => {
            match code {
                Some(_) => events.push(event(details, "exec_die", exec, *code)),
                None => events.extend(begun(details, exec)),
            }
            (*status, *failing_streak, std::slice::from_ref(result))
        }
        JournalEvent::Health { status, failing_streak, results } => {
            (*status, *failing_streak, results.as_slice())
        }
        _ => return None,
    };
    let timeout = timeout(&details.config);
    let health = details.state.health.get_or_insert_default();
    for result in results {
        health.push(shown_result(result, timeout));
    }
    let is_change = health.status != status;
    (health.status, health.failing_streak) = (status, failing_streak);
    if is_change {
        events.push(event(details, &format!("health_status: {}", word(status)), "", None));
    }
    Some(events)
}

/// A result in Docker's words.
fn shown_result(result: &ProbeResult, timeout: Duration) -> HealthResult {
    let (exit_code, output) = match result.outcome {
        ProbeOutcome::Exited(code) => (code, result.output.clone()),
        ProbeOutcome::TimedOut => {
            let text = format!("Health check exceeded timeout ({})", duration::format(timeout));
            let output = &result.output;
            (-1, if output.is_empty() { text } else { format!("{text}: {output}") })
        }
        ProbeOutcome::NotStarted => (-1, start_failure_text(&result.output)),
    };
    HealthResult {
        start: Some(timestamp(result.start_ns)),
        end: Some(timestamp(result.end_ns)),
        exit_code,
        output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn details(test: &[&str]) -> Details {
        let healthcheck = Some(Healthcheck { test: words(test), ..Healthcheck::default() });
        Details { config: Config { healthcheck, ..Config::default() }, ..Details::default() }
    }

    fn probe(seq: u64, outcome: ProbeOutcome, status: HealthStatus) -> Entry {
        let result = ProbeResult { start_ns: 1, end_ns: 2, outcome, output: "out".into() };
        let event =
            JournalEvent::Probe { exec: "e".into(), code: Some(0), result, status, failing_streak: 2 };
        Entry { seq, time_ns: 3, event }
    }

    #[test]
    fn commands() {
        let of = |test: &[&str], shell: Option<&[&str]>| {
            let mut config = details(test).config;
            config.shell = shell.map(words);
            command(&config).map(|words| words.join(" "))
        };
        assert_eq!(of(&["NONE"], None), None);
        assert_eq!(of(&[], None), None);
        assert_eq!(of(&["CMD", "a", "b"], None).as_deref(), Some("a b"));
        assert_eq!(of(&["CMD-SHELL", "a b"], None).as_deref(), Some("/bin/sh -c a b"));
        assert_eq!(of(&["CMD-SHELL", "a"], Some(&["ash", "-ec"])).as_deref(), Some("ash -ec a"));
    }

    #[test]
    fn refusals() {
        let refused = |change: &dyn Fn(&mut Healthcheck)| {
            let mut asked = Healthcheck { test: words(&["CMD", "x"]), ..Healthcheck::default() };
            change(&mut asked);
            check(&asked).expect_err("refused").to_string()
        };
        assert_eq!(refused(&|check| check.interval = 1), "Interval in Healthcheck cannot be less than 1ms");
        assert_eq!(refused(&|check| check.retries = -1), "Retries in Healthcheck cannot be negative");
        assert!(refused(&|check| check.test = words(&["SHELL", "x"])).contains("unknown type"));
        assert!(refused(&|check| check.on_failure = "panic".into()).contains("invalid action 'panic'"));
        let mut config = details(&[]).config;
        assert_eq!(check_merged(&config).expect("fine"), None);
        config.healthcheck.get_or_insert_default().on_failure = "kill".into();
        check_merged(&config).expect_err("nothing to fail");
    }

    #[test]
    fn results_change_the_state_and_make_events() {
        let mut details = details(&["CMD", "x"]);
        details.state.health = begin(&details);
        let mut actions = Vec::new();
        for (seq, outcome, status) in [
            (1, ProbeOutcome::Exited(0), HealthStatus::Healthy),
            (2, ProbeOutcome::TimedOut, HealthStatus::Healthy),
            (3, ProbeOutcome::NotStarted, HealthStatus::Unhealthy),
            (4, ProbeOutcome::Exited(1), HealthStatus::Unhealthy),
            (5, ProbeOutcome::Exited(2), HealthStatus::Unhealthy),
            (6, ProbeOutcome::Exited(3), HealthStatus::Unhealthy),
        ] {
            let events = apply(&mut details, &probe(seq, outcome, status)).expect("about health");
            actions
                .extend(events.into_iter().map(|event| event.action).filter(|action| action != "exec_die"));
        }
        assert_eq!(actions, ["health_status: healthy", "health_status: unhealthy"]);
        let health = details.state.health.clone().expect("there");
        let codes: Vec<_> = health.log.iter().map(|result| result.exit_code).collect();
        assert_eq!(codes, [-1, -1, 1, 2, 3]);
        assert_eq!(health.log[0].output, "Health check exceeded timeout (30s): out");
        assert!(health.log[1].output.starts_with("OCI runtime exec failed: "));
        let kept = begin(&details).expect("checked");
        assert_eq!((kept.status, kept.log.len()), (HealthStatus::Starting, 5));
        assert_eq!(apply(&mut details, &Entry { seq: 7, time_ns: 0, event: JournalEvent::Oom }), None);
    }
}
