//! Which options each driver has. The words of the refusals are moby's.

use palan_stdx::size;

use super::{is_false, is_remote, is_true};
use crate::spec::LogConfig;
use crate::{Error, Result};

const ATTRIBUTES: [&str; 5] = ["env", "env-regex", "labels", "labels-regex", "tag"];
const CACHE: [&str; 4] = ["cache-compress", "cache-disabled", "cache-max-file", "cache-max-size"];

/// The options that a driver has of its own.
fn own(driver: &str) -> Option<&'static [&'static str]> {
    Some(match driver {
        "json-file" | "local" => &["compress", "max-file", "max-size"],
        "journald" => &[],
        "syslog" => &[
            "syslog-address",
            "syslog-facility",
            "syslog-format",
            "syslog-tls-ca-cert",
            "syslog-tls-cert",
            "syslog-tls-key",
            "syslog-tls-skip-verify",
        ],
        "gelf" => &[
            "gelf-address",
            "gelf-compression-level",
            "gelf-compression-type",
            "gelf-tcp-max-reconnect",
            "gelf-tcp-reconnect-delay",
        ],
        "fluentd" => &[
            "fluentd-address",
            "fluentd-async",
            "fluentd-async-reconnect-interval",
            "fluentd-buffer-limit",
            "fluentd-max-retries",
            "fluentd-read-timeout",
            "fluentd-request-ack",
            "fluentd-retry-wait",
            "fluentd-sub-second-precision",
            "fluentd-write-timeout",
        ],
        _ => return None,
    })
}

/// Refuses what is unknown, and common options with values that mean nothing.
pub(super) fn check(log: &LogConfig) -> Result<()> {
    let driver = log.driver.as_str();
    let Some(own) = own(driver) else {
        return Err(Error::invalid(format!("logger: no log driver named '{driver}' is registered")));
    };
    for (key, value) in &log.options {
        let key = key.as_str();
        let is_known = own.contains(&key)
            || (driver != "local" && ATTRIBUTES.contains(&key))
            || (is_remote(driver) && CACHE.contains(&key))
            || matches!(key, "mode" | "max-buffer-size");
        if !is_known && driver == "local" {
            return Err(Error::invalid(format!("unknown log opt '{key}' for log driver local")));
        }
        if !is_known {
            return Err(Error::invalid(format!("unknown log opt '{key}' for {driver} log driver")));
        }
        if matches!(key, "compress" | "cache-compress") && !is_true(value) && !is_false(value) {
            return Err(Error::invalid(format!("error parsing option {key}: invalid syntax: '{value}'")));
        }
        if matches!(key, "labels-regex" | "env-regex") {
            super::attributes::pattern(key, value)?;
        }
        if key == "tag" {
            super::attributes::check_tag(value)?;
        }
    }
    mode(log)
}

/// Nothing ever waits for a receiver, so both modes are the same; what a buffer in memory would hold is on the disk.
fn mode(log: &LogConfig) -> Result<()> {
    let mode = log.options.get("mode").map_or("blocking", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(Error::invalid(format!("logger: logging mode not supported: {mode}")));
    }
    match log.options.get("max-buffer-size") {
        Some(_) if mode != "non-blocking" => {
            Err(Error::invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'"))
        }
        Some(value) if size::parse_memory(value).is_err() => {
            Err(Error::invalid(format!("error parsing option max-buffer-size: invalid size: '{value}'")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let refused = |driver: &str, key: &str, value: &str, expected: &str| {
            let options = [(key.to_owned(), value.to_owned())].into();
            let log = LogConfig { driver: driver.into(), options };
            assert_eq!(super::super::check(&log).expect_err("refused").report(), expected);
        };
        refused("json-file", "max-sze", "1", "unknown log opt 'max-sze' for json-file log driver");
        refused("local", "labels", "a", "unknown log opt 'labels' for log driver local");
        refused("syslog", "gelf-address", "a", "unknown log opt 'gelf-address' for syslog log driver");
        refused("splunk", "a", "b", "logger: no log driver named 'splunk' is registered");
        refused("json-file", "mode", "fast", "logger: logging mode not supported: fast");
        let only = "logger: max-buffer-size option is only supported with 'mode=non-blocking'";
        refused("json-file", "max-buffer-size", "1m", only);
        refused("syslog", "syslog-facility", "nosuch", "invalid syslog facility");
        refused("syslog", "syslog-format", "nosuch", "Invalid syslog format");
        refused("gelf", "tag", "x", "gelf-address is a required parameter");
        refused("json-file", "compress", "maybe", "error parsing option compress: invalid syntax: 'maybe'");
    }
}
