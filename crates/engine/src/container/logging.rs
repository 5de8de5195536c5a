//! The log drivers and their options: checks, and the form in which the supervisor wants them.

use std::path::Path;

use palan_stdx::size;
use palan_supervisor::protocol;

use crate::container::Details;
use crate::spec::LogConfig;
use crate::{Error, Result};

/// Rotation when the user says nothing, so that no container fills the disk.
const DEFAULT_MAX_SIZE: u64 = 100_000_000;
const DEFAULT_MAX_FILES: u32 = 5;

/// How a json-file log rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Bytes of one file; `None` never rotates.
    pub(crate) max_size: Option<u64>,
    /// Files in all.
    pub(crate) max_files: u32,
}

/// Checks driver and options.
pub(crate) fn check(log: &LogConfig) -> Result<()> {
    match log.driver.as_str() {
        "json-file" => rotation(log).map(drop),
        "none" => Ok(()),
        other => Err(Error::invalid(format!(
            "logger: no log driver named '{other}' is registered; this version has json-file and none"
        ))),
    }
}

/// The rotation that the options of `json-file` ask for.
pub(crate) fn rotation(log: &LogConfig) -> Result<Rotation> {
    let mut rotation = Rotation { max_size: Some(DEFAULT_MAX_SIZE), max_files: DEFAULT_MAX_FILES };
    for (key, value) in &log.options {
        match key.as_str() {
            "max-size" if value == "-1" => rotation.max_size = None,
            "max-size" => {
                let bytes = size::parse_decimal(value).ok().filter(|bytes| *bytes > 0);
                rotation.max_size = Some(
                    bytes.ok_or_else(|| Error::invalid(format!("invalid value for max-size: '{value}'")))?,
                );
            }
            "max-file" => {
                let files = value.parse().ok().filter(|files| *files > 0);
                rotation.max_files = files.ok_or_else(|| {
                    Error::invalid(format!("max-file cannot be less than 1, it is '{value}'"))
                })?;
            }
            "compress" | "mode" | "max-buffer-size" if matches!(value.as_str(), "false" | "blocking") => {}
            "compress" | "mode" | "max-buffer-size" => {
                return Err(Error::invalid(format!(
                    "log opt {key}={value} is not supported by this version"
                )));
            }
            "labels" | "labels-regex" | "env" | "env-regex" | "tag" => {
                return Err(Error::invalid(format!("log opt {key} is not supported by this version")));
            }
            _ => return Err(Error::invalid(format!("unknown log opt '{key}' for json-file log driver"))),
        }
    }
    Ok(rotation)
}

/// What the supervisor is told.
pub(crate) fn supervisor_config(details: &Details) -> Result<protocol::LogConfig> {
    if details.host.log.driver != "json-file" {
        return Ok(protocol::LogConfig::None);
    }
    let rotation = rotation(&details.host.log)?;
    Ok(protocol::LogConfig::JsonFile {
        path: Path::new(&details.log_path).into(),
        max_size: rotation.max_size,
        max_files: rotation.max_files,
        attributes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(options: &[(&str, &str)]) -> LogConfig {
        let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        LogConfig { driver: "json-file".into(), options }
    }

    #[test]
    fn rotation_options() {
        let rotated = rotation(&log(&[("max-size", "10m"), ("max-file", "3")])).expect("fine");
        assert_eq!(rotated, Rotation { max_size: Some(10_000_000), max_files: 3 });
        assert_eq!(rotation(&log(&[])).expect("fine").max_files, 5);
        let unknown = check(&log(&[("max-sze", "1")])).expect_err("unknown");
        assert_eq!(unknown.to_string(), "unknown log opt 'max-sze' for json-file log driver");
        check(&log(&[("max-file", "0")])).expect_err("at least one file");
        let driver = LogConfig { driver: "syslog".into(), ..LogConfig::default() };
        assert!(
            check(&driver).expect_err("no such driver").to_string().contains("no log driver named 'syslog'")
        );
    }
}
