//! `syslog`: RFC 3164, RFC 5424, and the short form of local sockets, as moby's driver writes them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::attributes::Origin;
use super::is_true;
use super::tail::Record;
use super::wire::{Address, Wire};
use crate::{Error, Result};

const DEFAULT_PORT: u16 = 514;
/// Where a syslog of the host listens.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const DAEMON: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Without the host's name.
    Unix,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

/// What the options say.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Absent: the host's own.
    address: Option<Address>,
    facility: usize,
    format: Format,
    tls: Option<super::wire_tls::Files>,
}

impl Settings {
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key: &str| options.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let address = match get("syslog-address") {
            None => None,
            Some(text) => Some(Address::parse(text, DEFAULT_PORT).ok_or_else(|| {
                Error::invalid(format!("syslog-address should be in form proto://address, got {text}"))
            })?),
        };
        let facility = match get("syslog-facility") {
            None => DAEMON,
            Some(text) => FACILITIES
                .iter()
                .position(|name| *name == text)
                .or_else(|| text.parse().ok().filter(|number| *number < FACILITIES.len()))
                .ok_or_else(|| Error::invalid("invalid syslog facility"))?,
        };
        let format = match get("syslog-format") {
            None => Format::Unix,
            Some("rfc3164") => Format::Rfc3164,
            Some("rfc5424") => Format::Rfc5424,
            Some("rfc5424micro") => Format::Rfc5424Micro,
            Some(_) => return Err(Error::invalid("Invalid syslog format")),
        };
        let path = |key: &str| get(key).map(PathBuf::from);
        let files = super::wire_tls::Files {
            authorities: path("syslog-tls-ca-cert"),
            identity: path("syslog-tls-cert").zip(path("syslog-tls-key")),
            verify: !get("syslog-tls-skip-verify").is_some_and(is_true),
        };
        let tls = matches!(address, Some(Address::Tls(..))).then_some(files);
        Ok(Self { address, facility, format, tls })
    }
}

/// The connection to a syslog.
#[derive(Debug)]
pub(super) struct Syslog {
    settings: Settings,
    origin: Origin,
    zone: TimeZone,
    tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
    wire: Option<Wire>,
}

impl Syslog {
    pub(super) fn new(settings: Settings, origin: Origin) -> Result<Self> {
        let tls = settings.tls.as_ref().map(super::wire_tls::Files::load).transpose()?;
        Ok(Self { settings, origin, zone: TimeZone::system(), tls, wire: None })
    }

    pub(super) async fn send(&mut self, records: &[Record]) -> io::Result<()> {
        let messages: Vec<Vec<u8>> = records.iter().map(|record| self.message(record)).collect();
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.connect().await?,
        };
        wire.send(&messages).await?;
        self.wire = Some(wire);
        Ok(())
    }

    async fn connect(&self) -> io::Result<Wire> {
        if let Some(address) = &self.settings.address {
            return Wire::connect(address, self.tls.as_ref()).await;
        }
        let mut failure = io::Error::other("no local syslog: none of its sockets is there");
        for path in LOCAL.iter().map(Path::new).filter(|path| path.exists()) {
            for address in [Address::Unixgram(path.to_owned()), Address::Unix(path.to_owned())] {
                match Wire::connect(&address, None).await {
                    Ok(wire) => return Ok(wire),
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure)
    }

    fn message(&self, record: &Record) -> Vec<u8> {
        let severity = if record.is_stderr { 3 } else { 6 };
        let priority = self.settings.facility * 8 + severity;
        let Origin { tag, hostname, .. } = &self.origin;
        let (pid, text) = (std::process::id(), &record.text);
        let mut message = match self.settings.format {
            Format::Unix => {
                format!("<{priority}>{} {tag}[{pid}]: {text}", self.time(record.time, "%b %e %H:%M:%S"))
            }
            Format::Rfc3164 => {
                format!(
                    "<{priority}>{} {hostname} {tag}[{pid}]: {text}",
                    self.time(record.time, "%b %e %H:%M:%S")
                )
            }
            Format::Rfc5424 | Format::Rfc5424Micro => {
                let form = match self.settings.format {
                    Format::Rfc5424 => "%Y-%m-%dT%H:%M:%S%:z",
                    _ => "%Y-%m-%dT%H:%M:%S.%6f%:z",
                };
                let time = self.time(record.time, form);
                format!("<{priority}>1 {time} {hostname} {tag} {pid} {tag} - {text}")
            }
        };
        message.push('\n');
        let is_counted = self.settings.tls.is_some()
            && matches!(self.settings.format, Format::Rfc5424 | Format::Rfc5424Micro);
        // RFC 5425: with TLS the length stands in front.
        if is_counted { format!("{} {message}", message.len()).into_bytes() } else { message.into_bytes() }
    }

    fn time(&self, time: Timestamp, form: &str) -> String {
        time.to_zoned(self.zone.clone()).strftime(form).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(options: &[(&str, &str)]) -> String {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let origin = Origin { tag: "tag".into(), hostname: "host".into(), ..Origin::default() };
        let mut syslog = Syslog::new(Settings::parse(&options).expect("fine"), origin).expect("fine");
        syslog.zone = TimeZone::UTC;
        let time = "2026-01-02T03:04:05.678901Z".parse().expect("a time");
        let record = Record { time, is_stderr: true, text: "words".into(), is_partial: false };
        String::from_utf8(syslog.message(&record))
            .expect("text")
            .replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn formats() {
        assert_eq!(message(&[]), "<27>Jan  2 03:04:05 tag[PID]: words\n");
        let local = ("syslog-facility", "local3");
        assert_eq!(
            message(&[local, ("syslog-format", "rfc3164")]),
            "<155>Jan  2 03:04:05 host tag[PID]: words\n"
        );
        assert_eq!(
            message(&[("syslog-facility", "1"), ("syslog-format", "rfc5424")]),
            "<11>1 2026-01-02T03:04:05+00:00 host tag PID tag - words\n"
        );
        assert_eq!(
            message(&[("syslog-format", "rfc5424micro")]),
            "<27>1 2026-01-02T03:04:05.678901+00:00 host tag PID tag - words\n"
        );
    }

    #[test]
    fn settings() {
        let refused = |key: &str, value: &str| {
            Settings::parse(&[(key.to_owned(), value.to_owned())].into()).expect_err("refused").report()
        };
        assert_eq!(refused("syslog-facility", "24"), "invalid syslog facility");
        assert_eq!(refused("syslog-format", "x"), "Invalid syslog format");
        assert!(refused("syslog-address", "localhost").contains("proto://address"));
    }
}
