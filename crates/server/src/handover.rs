//! Giving the API to another daemon (`palan daemon --replace`) without a request being lost.
//!
//! 1. [`Handover::quiet`] waits, while everything is served as ever, until no request takes long.
//! 2. [`End::Leaving`]: nothing is accepted any more; the listening sockets stay open, and who connects waits in their queues.
//! 3. Requests end, for which they get a moment. A connection that is between two requests is put aside; and when no request is under
//!    way any more so is one whose answer another daemon can go on with, at the end of a chunk (`exchange` has the states). A wait that a supervisor holds stays, and
//!    ends with the supervisor's answer. Sessions over TLS and websockets end with this daemon, for their bytes go through it.
//! 4. [`Handover::take`] gives what was put aside. The other daemon's [`serve`](crate::serve) takes it first of all.
//!
//! The rest of an answer is asked for by a request that the old daemon has written and whose answer's head the new one drops: to HTTP it
//! is a connection like any other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::to_bytes;
use axum::response::Response;
use bytes::Bytes;
use palan_docker_api::stream::ProgressMessage;
use palan_docker_api::types::{ErrorResponse, WaitError, WaitResponse};
use rustix::net::AddressFamily;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::exchange::Exchange;
use crate::streaming::json_line;

/// How long requests that take long are waited for while everything is served.
const QUIET_PATIENCE: Duration = Duration::from_secs(60);
/// What takes longer takes long.
const LONG: Duration = Duration::from_millis(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long an answer may take that is known.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);

/// What the doors are to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// Serve.
    #[default]
    None,
    /// The daemon ends.
    Ending,
    /// Another daemon takes over.
    Leaving,
}

/// A connection that goes to another daemon.
#[derive(Debug)]
pub struct Handed {
    /// The socket.
    pub socket: OwnedFd,
    /// The rest of what is known about it.
    pub note: HandedNote,
}

/// What a daemon must know about a connection that it gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedNote {
    /// What was read of it: the beginning of a request.
    #[serde(with = "hexadecimal")]
    pub ahead: Vec<u8>,
    /// That is a request that the client never sent: its answer is the rest of one that was begun.
    pub resumed: bool,
}

/// What is on its way from one daemon to another.
#[derive(Debug, Default)]
pub struct Handover {
    aside: Mutex<Vec<Handed>>,
    /// Connections whose answers supervisors end.
    held: Mutex<Vec<Arc<Exchange>>>,
    /// No request is under way any more but those whose answers others can go on with. Before, it is not known who could: a start that
    /// is under way makes a container run that somebody waits for.
    is_quiet: watch::Sender<bool>,
    pub(crate) traffic: Traffic,
}

impl Handover {
    /// Nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits for a moment in which no request takes long, but not for ever; returns how many do.
    pub async fn quiet(&self) -> usize {
        let begun = Instant::now();
        loop {
            let long = self.traffic.longer_than(LONG);
            if long == 0 || begun.elapsed() > QUIET_PATIENCE {
                return long;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> u64 {
        lock(&self.traffic.0).next
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.traffic.longer_than(Duration::ZERO)
    }

    /// Waits until the answers are out that supervisors were to end and that this daemon had to after all, for it heard of the ends of
    /// their containers first.
    pub async fn settled(&self) {
        let begun = Instant::now();
        let is_due = || lock(&self.held).iter().any(|held| held.is_due());
        while is_due() && begun.elapsed() < SETTLE_PATIENCE {
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }

    pub(crate) fn hold(&self, exchange: &Arc<Exchange>) {
        lock(&self.held).push(Arc::clone(exchange));
    }

    /// Waits until requests have ended, but not for ever; then answers stop where they are.
    pub(crate) async fn wait_for_quiet(&self, patience: Duration) {
        let begun = Instant::now();
        loop {
            // First, for a request whose head is being read now.
            tokio::time::sleep(SETTLE_INTERVAL).await;
            if self.under_way() == 0 || begun.elapsed() > patience {
                break;
            }
        }
        self.is_quiet.send_replace(true);
    }

    pub(crate) fn quiet_now(&self) -> watch::Receiver<bool> {
        self.is_quiet.subscribe()
    }

    /// Puts a connection aside.
    pub(crate) fn put(&self, socket: OwnedFd, note: HandedNote) {
        lock(&self.aside).push(Handed { socket, note });
    }

    /// What was put aside.
    pub fn take(&self) -> Vec<Handed> {
        std::mem::take(&mut lock(&self.aside))
    }
}

/// The requests that are under way, but for those whose answers others can go on with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic(Arc<Mutex<Begun>>);

#[derive(Debug, Default)]
struct Begun {
    next: u64,
    times: BTreeMap<u64, Instant>,
}

/// One of them; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Request(Traffic, u64);

impl Traffic {
    pub(crate) fn begin(&self) -> Request {
        let mut begun = lock(&self.0);
        begun.next += 1;
        let number = begun.next;
        begun.times.insert(number, Instant::now());
        Request(self.clone(), number)
    }

    fn longer_than(&self, duration: Duration) -> usize {
        lock(&self.0).times.values().filter(|begun| begun.elapsed() >= duration).count()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        lock(&self.0.0).times.remove(&self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a socket is a unix socket.
pub(crate) fn is_unix(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_domain(socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

/// What an answer ends with whose rest can't be had.
pub(crate) async fn late_error(path: &str, response: Response) -> Bytes {
    const MOST: usize = 64 << 10;
    let body = to_bytes(response.into_body(), MOST).await.unwrap_or_default();
    let message =
        serde_json::from_slice::<ErrorResponse>(&body).map(|error| error.message).unwrap_or_default();
    if path.ends_with("/wait") {
        json_line(&WaitResponse { error: Some(WaitError { message }), status_code: 0 }, "\n")
    } else if path.contains("/images/") {
        json_line(&ProgressMessage::error(message), "\r\n")
    } else {
        Bytes::new()
    }
}

/// Bytes as text.
mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Digits(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let byte =
            |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        text.as_bytes()
            .chunks(2)
            .map(byte)
            .collect::<Option<_>>()
            .ok_or_else(|| de::Error::custom("no hexadecimal digits"))
    }

    struct Digits<'a>(&'a [u8]);

    impl std::fmt::Display for Digits<'_> {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_the_way() {
        let note = HandedNote { ahead: b"GET /\xff\0".to_vec(), resumed: true };
        let text = serde_json::to_string(&note).unwrap();
        assert_eq!(text, r#"{"ahead":"474554202fff00","resumed":true}"#);
        assert_eq!(serde_json::from_str::<HandedNote>(&text).unwrap(), note);
        serde_json::from_str::<HandedNote>(r#"{"ahead":"4","resumed":true}"#).unwrap();
        serde_json::from_str::<HandedNote>(r#"{"ahead":"xx","resumed":true}"#).unwrap_err();
    }
}
