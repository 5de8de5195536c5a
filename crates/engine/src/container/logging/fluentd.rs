//! `fluentd`: the forward protocol, a message for each line (github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attributes::Origin;
use super::is_true;
use super::tail::Record;
use super::wire::{self, Address, PATIENCE, Wire};
use crate::{Error, Result, identifier};

const DEFAULT_ADDRESS: &str = "tcp://127.0.0.1:24224";
const DEFAULT_PORT: u16 = 24224;
/// Lines in one delivery unless the user says something else.
const BATCH: usize = 1000;
/// The longest answer that is read.
const MAX_ANSWER: usize = 1024;

/// What the options say.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    address: Address,
    acknowledged: bool,
    sub_seconds: bool,
    pub(super) batch: usize,
    pub(super) max_retries: Option<u32>,
    pub(super) retry_wait: Option<Duration>,
    pub(super) longest_wait: Option<Duration>,
    write_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
}

impl Settings {
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key: &str| options.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let text = get("fluentd-address").unwrap_or(DEFAULT_ADDRESS);
        let full = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
        let address = Address::parse(&full, DEFAULT_PORT)
            .filter(|address| matches!(address, Address::Tcp(..) | Address::Unix(_)))
            .ok_or_else(|| Error::invalid(format!("invalid fluentd-address {text}")))?;
        let wrong = |key: &str, value: &str| Error::invalid(format!("invalid value for {key}: '{value}'"));
        let truth = |key: &str| match get(key) {
            None => Ok(false),
            Some(value) if is_true(value) => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(value) => Err(wrong(key, value)),
        };
        // Deliveries never hold a container up, whatever this says; a wrong value is wrong all the same.
        truth("fluentd-async")?;
        let duration = |key: &str| -> Result<Option<Duration>> {
            get(key)
                .map(|value| palan_stdx::duration::parse(value).map_err(|_| wrong(key, value)))
                .transpose()
        };
        let count = |key: &str| -> Result<Option<u32>> {
            get(key).map(|value| value.parse().map_err(|_| wrong(key, value))).transpose()
        };
        let batch = match get("fluentd-buffer-limit") {
            None => BATCH,
            Some(value) => {
                let limit = palan_stdx::size::parse_memory(value)
                    .map_err(|_| wrong("fluentd-buffer-limit", value))?;
                usize::try_from(limit).unwrap_or(BATCH).clamp(1, BATCH)
            }
        };
        Ok(Self {
            address,
            acknowledged: truth("fluentd-request-ack")?,
            sub_seconds: truth("fluentd-sub-second-precision")?,
            batch,
            max_retries: count("fluentd-max-retries")?,
            retry_wait: duration("fluentd-retry-wait")?,
            longest_wait: duration("fluentd-async-reconnect-interval")?,
            write_timeout: duration("fluentd-write-timeout")?,
            read_timeout: Some(duration("fluentd-read-timeout")?.unwrap_or(PATIENCE)),
        })
    }
}

/// The connection to a receiver.
#[derive(Debug)]
pub(super) struct Fluentd {
    settings: Settings,
    origin: Origin,
    wire: Option<Wire>,
}

impl Fluentd {
    pub(super) fn new(settings: Settings, origin: Origin) -> Self {
        Self { settings, origin, wire: None }
    }

    pub(super) async fn send(&mut self, records: &[Record]) -> io::Result<()> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::connect(&self.settings.address, None).await?,
        };
        if self.settings.acknowledged {
            for record in records {
                let chunk = STANDARD.encode(identifier::new_id());
                within(self.settings.write_timeout, wire.send_unchecked(&self.message(record, Some(&chunk))))
                    .await?;
                within(self.settings.read_timeout, acknowledged(&mut wire, &chunk)).await?;
            }
        } else {
            let messages: Vec<Vec<u8>> = records.iter().map(|record| self.message(record, None)).collect();
            within(self.settings.write_timeout, wire.send(&messages)).await?;
        }
        self.wire = Some(wire);
        Ok(())
    }

    /// `[tag, time, record]`, or with an option that asks for an answer.
    fn message(&self, record: &Record, chunk: Option<&str>) -> Vec<u8> {
        let mut out = vec![if chunk.is_some() { 0x94 } else { 0x93 }];
        string(&mut out, &self.origin.tag);
        let seconds = u32::try_from(record.time.as_second()).unwrap_or_default();
        if self.settings.sub_seconds {
            // EventTime: an extension of type 0 with seconds and nanoseconds.
            out.extend_from_slice(&[0xd7, 0x00]);
            out.extend_from_slice(&seconds.to_be_bytes());
            out.extend_from_slice(&record.time.subsec_nanosecond().to_be_bytes());
        } else {
            out.push(0xce);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        let name = format!("/{}", self.origin.name);
        let source = if record.is_stderr { "stderr" } else { "stdout" };
        let mut fields = vec![
            ("container_id", self.origin.id.as_str()),
            ("container_name", &name),
            ("source", source),
            ("log", &record.text),
        ];
        fields.extend(self.origin.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if record.is_partial {
            fields.push(("partial_message", "true"));
        }
        map(&mut out, &fields);
        if let Some(chunk) = chunk {
            map(&mut out, &[("chunk", chunk)]);
        }
        out
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit.filter(|limit| !limit.is_zero()) {
        Some(limit) => wire::within(limit, work).await,
        None => work.await,
    }
}

/// Waits for `{"ack": chunk}`.
async fn acknowledged(wire: &mut Wire, chunk: &str) -> io::Result<()> {
    let mut expected = Vec::new();
    map(&mut expected, &[("ack", chunk)]);
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while answer.len() < MAX_ANSWER {
        let count = wire.receive(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..count]);
        // Receivers differ in the forms of the map and of its strings, not in what is in them.
        if answer.windows(chunk.len()).any(|window| window == chunk.as_bytes()) {
            return Ok(());
        }
    }
    Err(io::Error::other("the receiver acknowledged something else"))
}

fn string(out: &mut Vec<u8>, text: &str) {
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ 0..=31), _) => out.push(0xa0 | length),
        (Ok(length), _) => out.extend_from_slice(&[0xd9, length]),
        (_, Ok(length)) => {
            out.push(0xda);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

fn map(out: &mut Vec<u8>, fields: &[(&str, &str)]) {
    match u8::try_from(fields.len()) {
        Ok(length @ 0..=15) => out.push(0x80 | length),
        _ => {
            out.push(0xde);
            out.extend_from_slice(&u16::try_from(fields.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    for (name, value) in fields {
        string(out, name);
        string(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let origin = Origin { id: "i".into(), name: "n".into(), tag: "t".into(), ..Origin::default() };
        let settings = |options: &[(&str, &str)]| {
            Settings::parse(&options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let fluentd =
            |options: &[(&str, &str)]| Fluentd::new(settings(options).expect("fine"), origin.clone());
        let time = "1970-01-01T00:00:01.000000002Z".parse().expect("a time");
        let record = Record { time, is_stderr: true, text: "x".repeat(40), is_partial: false };
        let plain = fluentd(&[]).message(&record, None);
        assert_eq!(plain[..8], [0x93, 0xa1, b't', 0xce, 0, 0, 0, 1]);
        let fields = b"\x84\xaccontainer_id\xa1i\xaecontainer_name\xa2/n\xa6source\xa6stderr\xa3log\xd9\x28";
        assert_eq!(plain[8..], [&fields[..], &[b'x'; 40]].concat());
        let exact = fluentd(&[("fluentd-sub-second-precision", "true")]).message(&record, Some("c"));
        assert_eq!(exact[..13], [0x94, 0xa1, b't', 0xd7, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert!(exact.ends_with(b"\x81\xa5chunk\xa1c"));
        for (key, value) in
            [("fluentd-address", "udp://x"), ("fluentd-async", "perhaps"), ("fluentd-retry-wait", "x")]
        {
            assert!(settings(&[(key, value)]).is_err(), "{key}");
        }
    }
}
