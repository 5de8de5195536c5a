//! The log drivers and their options: checks, and the form in which the supervisor wants them.
//!
//! Every driver but `none` writes a local file first, by the supervisor, in the format of `json-file`: it is what `logs` reads. The
//! remote ones (journald, syslog, gelf, fluentd) are followers of that file in the daemon ([`ship`]): a container is never held
//! up by a receiver that is slow, and what a receiver that is away misses is delivered later, at least once.

pub(crate) mod attributes;
pub(crate) mod compress;
mod fluentd;
mod gelf;
mod journald;
mod options;
pub(crate) mod ship;
mod syslog;
mod tail;
mod wire;
mod wire_tls;

use std::path::Path;

use palan_stdx::size;
use palan_supervisor::protocol;

use crate::container::Details;
use crate::spec::LogConfig;
use crate::{Error, Result};

/// Rotation when the user says nothing, so that no container fills the disk.
const DEFAULT_MAX_SIZE: u64 = 100_000_000;
const DEFAULT_MAX_FILES: u32 = 5;
/// The same for the file behind a remote driver, and for `local`: Docker's values.
const CACHE_MAX_SIZE: u64 = 20_000_000;

/// How a log rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Bytes of one file; `None` never rotates.
    pub(crate) max_size: Option<u64>,
    /// Files in all.
    pub(crate) max_files: u32,
    /// Files but the current one are compressed.
    pub(crate) compress: bool,
}

/// Checks driver and options.
pub(crate) fn check(log: &LogConfig) -> Result<()> {
    if log.driver == "none" {
        return Ok(());
    }
    options::check(log)?;
    rotation(log)?;
    match log.driver.as_str() {
        "syslog" => syslog::Settings::parse(&log.options).map(drop),
        "gelf" => gelf::Settings::parse(&log.options).map(drop),
        "fluentd" => fluentd::Settings::parse(&log.options).map(drop),
        _ => Ok(()),
    }
}

/// Whether somebody else than this host keeps the log.
pub(crate) fn is_remote(driver: &str) -> bool {
    matches!(driver, "journald" | "syslog" | "gelf" | "fluentd")
}

/// Whether `logs` has something to read.
pub(crate) fn is_readable(log: &LogConfig) -> bool {
    log.driver != "none" && !log.options.get("cache-disabled").is_some_and(|value| is_true(value))
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

/// The rotation that the options ask for.
pub(crate) fn rotation(log: &LogConfig) -> Result<Rotation> {
    let (size_key, files_key, compress_key) = if is_remote(&log.driver) {
        ("cache-max-size", "cache-max-file", "cache-compress")
    } else {
        ("max-size", "max-file", "compress")
    };
    let default = if log.driver == "json-file" { DEFAULT_MAX_SIZE } else { CACHE_MAX_SIZE };
    // Docker's `local` driver, which is also what it keeps beside a remote one, compresses unless it is told not to.
    let compress = log.options.get(compress_key).map(|value| is_true(value));
    let mut rotation = Rotation {
        max_size: Some(default),
        max_files: DEFAULT_MAX_FILES,
        compress: compress.unwrap_or(log.driver != "json-file"),
    };
    match log.options.get(size_key).map(String::as_str) {
        None => {}
        Some("-1") => rotation.max_size = None,
        Some(value) => {
            let bytes = size::parse_decimal(value).ok().filter(|bytes| *bytes > 0);
            rotation.max_size = Some(
                bytes.ok_or_else(|| Error::invalid(format!("invalid value for {size_key}: '{value}'")))?,
            );
        }
    }
    if let Some(value) = log.options.get(files_key) {
        let files = value.parse().ok().filter(|files| *files > 0);
        rotation.max_files = files
            .ok_or_else(|| Error::invalid(format!("{files_key} cannot be less than 1, it is '{value}'")))?;
    }
    if rotation.max_files < 2 || rotation.max_size.is_none() {
        if compress == Some(true) {
            return Err(Error::invalid(format!(
                "{compress_key} cannot be true when {files_key} is less than 2 or {size_key} is not set"
            )));
        }
        rotation.compress = false;
    }
    Ok(rotation)
}

/// What the supervisor is told.
pub(crate) fn supervisor_config(details: &Details) -> Result<protocol::LogConfig> {
    let log = &details.host.log;
    if log.driver == "none" {
        return Ok(protocol::LogConfig::None);
    }
    let rotation = rotation(log)?;
    let attributes = match log.driver.as_str() {
        "json-file" => attributes::of_lines(details)?,
        _ => None,
    };
    Ok(protocol::LogConfig::JsonFile {
        path: Path::new(&details.log_path).into(),
        max_size: rotation.max_size,
        max_files: rotation.max_files,
        attributes,
        compressed: rotation.compress,
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
        assert_eq!(rotated, Rotation { max_size: Some(10_000_000), max_files: 3, compress: false });
        assert_eq!(rotation(&log(&[])).expect("fine").max_files, 5);
        check(&log(&[("max-file", "0")])).expect_err("at least one file");
        assert!(rotation(&log(&[("compress", "true")])).expect("fine").compress);
        let one = check(&log(&[("compress", "true"), ("max-file", "1")])).expect_err("nothing to compress");
        let text = "compress cannot be true when max-file is less than 2 or max-size is not set";
        assert_eq!(one.report(), text);
        let local = |options| LogConfig { driver: "local".into(), ..log(options) };
        assert!(rotation(&local(&[])).expect("fine").compress);
        assert!(!rotation(&local(&[("compress", "false")])).expect("fine").compress);
        assert!(!rotation(&local(&[("max-file", "1")])).expect("fine").compress);
        let remote = LogConfig { driver: "syslog".into(), ..log(&[("cache-max-size", "1m")]) };
        assert_eq!(rotation(&remote).expect("fine").max_size, Some(1_000_000));
    }

    #[test]
    fn who_can_be_read() {
        assert!(is_readable(&log(&[])));
        assert!(!is_readable(&log(&[("cache-disabled", "true")])));
        assert!(!is_readable(&LogConfig { driver: "none".into(), ..LogConfig::default() }));
    }
}
