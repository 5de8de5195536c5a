//! The flags that describe a health check.

use palan_docker_api::types::HealthConfig;
use palan_stdx::duration;

use crate::flags::Parsed;

/// What pflag checks: a duration, which may be negative until all flags are looked at together.
pub(super) fn check_duration(text: &str) -> Result<(), String> {
    nanoseconds(text).map(drop)
}

/// `--health-on-failure`.
pub(super) fn check_action(text: &str) -> Result<(), String> {
    match text {
        "none" | "kill" | "restart" | "stop" => Ok(()),
        _ => Err("valid actions are none, kill, restart and stop".to_owned()),
    }
}

/// The health check of the request, in Docker's order and with Docker's texts; the action is Palan's own.
pub(super) fn check(flags: &Parsed) -> Result<Option<HealthConfig>, String> {
    let time = |name: &str| match flags.string(name) {
        "" => Ok(0),
        text => nanoseconds(text),
    };
    let command = flags.string("health-cmd");
    let check = HealthConfig {
        test: if command.is_empty() { Vec::new() } else { vec!["CMD-SHELL".to_owned(), command.to_owned()] },
        interval: time("health-interval")?,
        timeout: time("health-timeout")?,
        start_period: time("health-start-period")?,
        start_interval: time("health-start-interval")?,
        retries: flags.int("health-retries"),
        on_failure: flags.string("health-on-failure").to_owned(),
    };
    let is_asked = check != HealthConfig::default();
    if flags.bool("no-healthcheck") {
        if is_asked {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }));
    }
    let numbers = [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("retries", check.retries),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
    ];
    match numbers.iter().find(|(_, number)| *number < 0) {
        Some((name, _)) => Err(format!("--health-{name} cannot be negative")),
        None => Ok(is_asked.then_some(check)),
    }
}

fn nanoseconds(text: &str) -> Result<i64, String> {
    let (sign, positive) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let time = duration::parse(positive).map_err(|error| error.to_string())?;
    i64::try_from(time.as_nanos()).map(|time| sign * time).map_err(|error| error.to_string())
}
