//! `gelf`: the Graylog Extended Log Format, 1.1, by UDP (compressed, in chunks) or TCP.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value};

use super::attributes::Origin;
use super::tail::Record;
use super::wire::{Address, Wire};
use crate::{Error, Result, identifier};

const DEFAULT_PORT: u16 = 12201;
/// The largest datagram, its head included (Graylog's clients take the same).
const CHUNK: usize = 1420;
const CHUNK_HEAD: usize = 12;
/// As many chunks as a message may have.
const MAX_CHUNKS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zlib,
    None,
}

/// What the options say.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    address: Address,
    packing: Packing,
    level: Compression,
    pub(super) max_reconnect: Option<u32>,
    pub(super) reconnect_delay: Option<Duration>,
}

impl Settings {
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let get = |key: &str| options.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let text =
            get("gelf-address").ok_or_else(|| Error::invalid("gelf-address is a required parameter"))?;
        let address = Address::parse(text, DEFAULT_PORT)
            .filter(|address| matches!(address, Address::Udp(..) | Address::Tcp(..)))
            .ok_or_else(|| Error::invalid(format!("gelf: endpoint needs to be TCP or UDP, got {text}")))?;
        let is_tcp = matches!(address, Address::Tcp(..));
        let wrong = |key: &str, value: &str| {
            Error::invalid(format!("unknown value {value:?} for log opt {key:?} for gelf log driver"))
        };
        let of_udp = ["gelf-compression-type", "gelf-compression-level"];
        if is_tcp && of_udp.iter().any(|key| get(key).is_some()) {
            return Err(Error::invalid("compression is only supported on UDP"));
        }
        if !is_tcp
            && ["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"].iter().any(|key| get(key).is_some())
        {
            return Err(Error::invalid("TCP reconnect settings are only supported on TCP"));
        }
        let packing = match get("gelf-compression-type") {
            None | Some("gzip") => Packing::Gzip,
            Some("zlib") => Packing::Zlib,
            Some("none") => Packing::None,
            Some(other) => return Err(wrong("gelf-compression-type", other)),
        };
        let level = match get("gelf-compression-level") {
            None => Compression::fast(),
            Some(text) => match text.parse::<i32>() {
                Ok(-1) => Compression::default(),
                Ok(level @ 0..=9) => Compression::new(level.unsigned_abs()),
                _ => return Err(wrong("gelf-compression-level", text)),
            },
        };
        let number = |key: &str| -> Result<Option<u32>> {
            get(key).map(|text| text.parse().map_err(|_| wrong(key, text))).transpose()
        };
        let delay = number("gelf-tcp-reconnect-delay")?.map(|seconds| Duration::from_secs(seconds.into()));
        let max_reconnect = number("gelf-tcp-max-reconnect")?;
        Ok(Self { address, packing, level, max_reconnect, reconnect_delay: delay })
    }
}

/// The connection to a receiver.
#[derive(Debug)]
pub(super) struct Gelf {
    settings: Settings,
    /// What all messages have in common.
    common: Map<String, Value>,
    wire: Option<Wire>,
}

impl Gelf {
    pub(super) fn new(settings: Settings, origin: &Origin) -> Self {
        let fields = [
            ("version", "1.1"),
            ("host", &origin.hostname),
            ("_container_id", &origin.id),
            ("_container_name", &origin.name),
            ("_image_id", &origin.image_id),
            ("_image_name", &origin.image_name),
            ("_command", &origin.command),
            ("_tag", &origin.tag),
            ("_created", &origin.created),
        ];
        let mut common: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        common.extend(
            origin.extra.iter().map(|(name, value)| (format!("_{name}"), Value::from(value.as_str()))),
        );
        Self { settings, common, wire: None }
    }

    pub(super) async fn send(&mut self, records: &[Record]) -> io::Result<()> {
        let mut messages = Vec::new();
        for record in records.iter().filter(|record| !record.text.is_empty()) {
            let message = self.message(record);
            if matches!(self.settings.address, Address::Tcp(..)) {
                messages.push([message, vec![0]].concat());
            } else {
                messages.extend(chunks(pack(&message, &self.settings)?));
            }
        }
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::connect(&self.settings.address, None).await?,
        };
        wire.send(&messages).await?;
        self.wire = Some(wire);
        Ok(())
    }

    fn message(&self, record: &Record) -> Vec<u8> {
        let mut message = self.common.clone();
        message.insert("short_message".to_owned(), Value::from(record.text.as_str()));
        message.insert("level".to_owned(), Value::from(if record.is_stderr { 3 } else { 6 }));
        let milliseconds = record.time.as_millisecond();
        // Digits of a decimal, for a float would change them.
        let time = format!("{}.{:03}", milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
        let time = time.parse::<f64>().map_or(Value::Null, Value::from);
        message.insert("timestamp".to_owned(), time);
        Value::Object(message).to_string().into_bytes()
    }
}

fn pack(message: &[u8], settings: &Settings) -> io::Result<Vec<u8>> {
    match settings.packing {
        Packing::None => Ok(message.to_vec()),
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), settings.level);
            encoder.write_all(message)?;
            encoder.finish()
        }
        Packing::Zlib => {
            let mut encoder = ZlibEncoder::new(Vec::new(), settings.level);
            encoder.write_all(message)?;
            encoder.finish()
        }
    }
}

/// The datagrams of a message; none for one that no receiver would put together.
fn chunks(message: Vec<u8>) -> Vec<Vec<u8>> {
    if message.len() <= CHUNK {
        return vec![message];
    }
    let pieces: Vec<&[u8]> = message.chunks(CHUNK - CHUNK_HEAD).collect();
    let Some(count) = u8::try_from(pieces.len()).ok().filter(|count| usize::from(*count) <= MAX_CHUNKS)
    else {
        tracing::warn!(bytes = message.len(), "a log message is too long for GELF by UDP and was left out");
        return Vec::new();
    };
    let id = identifier::new_id();
    let head = |number: u8| [&[0x1e, 0x0f][..], &id.as_bytes()[..8], &[number, count]].concat();
    (0..count).zip(pieces).map(|(number, piece)| [&head(number), piece].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &[(&str, &str)]) -> Result<Settings> {
        Settings::parse(&options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn refusals() {
        let udp = ("gelf-address", "udp://a:1");
        let refused = |options: &[(&str, &str)]| settings(options).expect_err("refused").report();
        assert_eq!(refused(&[]), "gelf-address is a required parameter");
        assert!(refused(&[("gelf-address", "http://a")]).contains("needs to be TCP or UDP"));
        let unknown = "unknown value \"x\" for log opt \"gelf-compression-type\" for gelf log driver";
        assert_eq!(refused(&[udp, ("gelf-compression-type", "x")]), unknown);
        assert!(settings(&[udp, ("gelf-compression-level", "10")]).is_err());
        let tcp = ("gelf-address", "tcp://a:1");
        assert_eq!(
            refused(&[tcp, ("gelf-compression-type", "none")]),
            "compression is only supported on UDP"
        );
    }

    #[test]
    fn messages_are_cut_and_named() {
        let cut = chunks(vec![7; 3000]);
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [1420, 1420, 3000 - 2 * 1408 + 12]);
        assert!(cut.iter().all(|chunk| chunk[..2] == [0x1e, 0x0f] && chunk[2..10] == cut[0][2..10]));
        assert_eq!(cut[2][10..12], [2, 3]);
        let origin = Origin { extra: [("team".to_owned(), "a".to_owned())].into(), ..Origin::default() };
        let gelf = Gelf::new(settings(&[("gelf-address", "udp://a")]).expect("fine"), &origin);
        let time = "2026-01-02T03:04:05.678Z".parse().expect("a time");
        let record = Record { time, is_stderr: false, text: "words".into(), is_partial: false };
        let message: Value = serde_json::from_slice(&gelf.message(&record)).expect("JSON");
        assert_eq!(
            (&message["level"], &message["_team"], &message["short_message"]),
            (&6.into(), &"a".into(), &"words".into())
        );
        assert_eq!(message["timestamp"], 1_767_323_045.678);
    }
}
