//! gRPC over HTTP/2: calls of four shapes (one message or a stream, in each direction), on any stream of bytes.
//!
//! ```text
//! caller                                         callee
//! HEADERS  :path /service/Method, metadata  ──▶  Service::call(Call) is started
//! DATA     messages, each with its length   ──▶  Incoming::next
//! DATA     empty, END_STREAM                ──▶  Incoming::next gives None
//!                             Incoming::next ◀──  HEADERS 200, then DATA: Outgoing::send
//!                           None, or a Status ◀──  HEADERS grpc-status, END_STREAM: what call() returned
//! ```
//!
//! A call's outgoing messages pass a channel of few places to one task, which hands them to HTTP/2 when its flow control has
//! room: a sender that is faster than its receiver waits. What is received is acknowledged when it is taken, so that a receiver that
//! is slow stops its sender.
//!
//! **Cancellation.** On the callee's side a call is one task; when the caller resets the stream or the connection goes, it is dropped,
//! and everything that it awaits with it. On the caller's side a call ends when its [`Incoming`] is dropped.

mod client;
mod server;
mod status;
mod stream;

pub use client::{Call as ClientCall, Channel, Driver};
pub use server::{Call, Handled, Service, serve};
pub use status::{Code, Status};
pub(crate) use stream::Batch;
pub use stream::{Incoming, Outgoing};

pub use http::{HeaderMap as Metadata, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest message that is received. What BuildKit's own clients allow.
pub const MAX_MESSAGE: usize = 16 << 20;

/// How much a peer may send ahead on a call, and on all of a connection's.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// What frames may cost that are sent ahead and are small. A transfer of many small files is a connection window of frames of about a
/// dozen bytes, and each costs h2 about 250 bytes of this budget.
const FRAME_BUDGET: usize = 48 << 20;

/// Calls at a time on a connection.
const MAX_STREAMS: u32 = 256;

/// The largest metadata: ignore files travel there.
const MAX_METADATA: u32 = 1 << 20;

/// The largest HTTP/2 frame that is received.
const MAX_FRAME: u32 = 64 << 10;

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// All connections are of one type, so that there is one HTTP/2 in the program.
type AnyIo = Box<dyn Io>;

/// Metadata of text. Names must be lower-case ASCII.
///
/// A text that is no header value (it has control characters) is left out; see [`encode_list`] for texts of others.
pub fn metadata(entries: &[(&'static str, &str)]) -> Metadata {
    let mut metadata = Metadata::new();
    for (name, value) in entries {
        if let Ok(value) = HeaderValue::from_str(value) {
            metadata.append(*name, value);
        }
    }
    metadata
}

/// The first value of a name, if it is text.
pub fn text<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}

/// Adds a list of texts as BuildKit's file transfer does: as they are if they are ASCII, else all of them escaped as in a URL's query,
/// and `<name>-encoded: 1`.
pub fn encode_list(metadata: &mut Metadata, name: &'static str, values: &[String]) {
    let plain = |value: &String| value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let is_plain = values.iter().all(plain);
    for value in values {
        let value = if is_plain { value.clone() } else { escape(value) };
        if let Ok(value) = HeaderValue::from_str(&value) {
            metadata.append(name, value);
        }
    }
    if !is_plain && let Ok(name) = HeaderName::try_from(format!("{name}-encoded")) {
        metadata.append(name, HeaderValue::from_static("1"));
    }
}

/// Reads a list that [`encode_list`] or BuildKit wrote.
pub fn decode_list(metadata: &Metadata, name: &str) -> Vec<String> {
    let is_encoded = matches!(text(metadata, &format!("{name}-encoded")), Some("1" | "true" | "t" | "T"));
    let values = metadata.get_all(name).into_iter();
    let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    texts.map(|value| if is_encoded { unescape(&value) } else { value }).collect()
}

fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

fn unescape(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// `%41` is `A`; what is no such escape stays.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        decoded.push(escaped.unwrap_or(bytes[index]));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests;
