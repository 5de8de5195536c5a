//! `journald`: systemd's journal by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::attributes::Origin;
use super::tail::Record;
use super::wire::{Address, Wire};

const SOCKET: &str = "/run/systemd/journal/socket";

/// The connection to the journal.
#[derive(Debug)]
pub(super) struct Journald {
    /// The container's, for the daemon's log.
    id: String,
    /// The fields that all entries have in common.
    common: Vec<u8>,
    wire: Option<Wire>,
}

impl Journald {
    pub(super) fn new(origin: &Origin) -> Self {
        let mut common = Vec::new();
        for (name, value) in [
            ("CONTAINER_ID", origin.id.get(..12).unwrap_or(&origin.id)),
            ("CONTAINER_ID_FULL", &origin.id),
            ("CONTAINER_NAME", &origin.name),
            ("CONTAINER_TAG", &origin.tag),
            ("IMAGE_NAME", &origin.image_name),
            ("SYSLOG_IDENTIFIER", &origin.tag),
        ] {
            field(&mut common, name, value);
        }
        for (name, value) in &origin.extra {
            field(&mut common, &field_name(name), value);
        }
        Self { id: origin.id.clone(), common, wire: None }
    }

    pub(super) async fn send(&mut self, records: &[Record]) -> io::Result<()> {
        let messages: Vec<Vec<u8>> = records.iter().map(|record| self.message(record)).collect();
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::connect(&Address::Unixgram(PathBuf::from(SOCKET)), None).await?,
        };
        for message in &messages {
            match wire.send(std::slice::from_ref(message)).await {
                // Longer than a datagram can be; it will never be shorter.
                Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                    let bytes = message.len();
                    tracing::error!(
                        container = self.id,
                        bytes,
                        "an entry is too long for the journal and is left out"
                    );
                }
                other => other?,
            }
        }
        self.wire = Some(wire);
        Ok(())
    }

    fn message(&self, record: &Record) -> Vec<u8> {
        let mut message = self.common.clone();
        field(&mut message, "MESSAGE", &record.text);
        field(&mut message, "PRIORITY", if record.is_stderr { "3" } else { "6" });
        field(&mut message, "SYSLOG_TIMESTAMP", &record.time.to_string());
        if record.is_partial {
            field(&mut message, "CONTAINER_PARTIAL_MESSAGE", "true");
        }
        message
    }
}

/// A name that the journal takes: capitals, digits and underscores, and no underscore first.
fn field_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let trimmed = name.trim_start_matches('_');
    if trimmed.starts_with(|c: char| c.is_ascii_digit()) { format!("N{trimmed}") } else { trimmed.to_owned() }
}

/// `NAME=value`, or with the length where the value has line breaks.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let extra = [("my.label".to_owned(), "a\nb".to_owned())].into();
        let origin = Origin { id: "0123456789abcdef".into(), tag: "t".into(), extra, ..Origin::default() };
        let time = "2026-01-02T03:04:05Z".parse().expect("a time");
        let record = Record { time, is_stderr: true, text: "words".into(), is_partial: false };
        let message = Journald::new(&origin).message(&record);
        let text = String::from_utf8(message).expect("text");
        assert!(
            text.starts_with("CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\n"),
            "{text}"
        );
        assert!(text.contains("\nMY_LABEL\n\u{3}\0\0\0\0\0\0\0a\nb\n"), "{text:?}");
        assert!(
            text.ends_with("MESSAGE=words\nPRIORITY=3\nSYSLOG_TIMESTAMP=2026-01-02T03:04:05Z\n"),
            "{text}"
        );
        assert_eq!(field_name("_1x-y"), "N1X_Y");
    }

    #[tokio::test]
    async fn what_is_too_long_is_left_out() {
        let (own, journal) = tokio::net::UnixDatagram::pair().expect("sockets");
        let mut journald = Journald { wire: Some(Wire::Unixgram(own)), ..Journald::new(&Origin::default()) };
        let time = "2026-01-02T03:04:05Z".parse().expect("a time");
        let record = |text: &str| Record { time, is_stderr: false, text: text.into(), is_partial: false };
        let long = "x".repeat(16 << 20);
        journald.send(&[record(&long), record("words")]).await.expect("sends");
        let mut buffer = [0; 1024];
        let count = journal.recv(&mut buffer).await.expect("receives");
        assert!(String::from_utf8_lossy(&buffer[..count]).contains("MESSAGE=words\n"));
    }
}
