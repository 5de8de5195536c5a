//! `/wait` connections that are kept in case the daemon is gone when the container ends.
//!
//! The daemon has sent the response's head and gives us a copy of the connection. As long as the daemon that gave it is
//! connected, it is the one to answer, and says so with `ReleaseWait`. If it is lost before, the supervisor answers when
//! the container's run has ended, or at once if it had ended already. A daemon that connects later knows nothing of the
//! connection, so its presence changes nothing.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};

use crate::protocol::WaitOptions;

/// Which connection of a daemon, counted from the first.
pub(crate) type Generation = u32;

/// A kept connection.
#[derive(Debug)]
pub(crate) struct HeldWait {
    connection: OwnedFd,
    options: WaitOptions,
    generation: Generation,
    /// The end that it has waited for.
    exit_code: Option<i32>,
}

/// All kept connections.
#[derive(Debug, Default)]
pub(crate) struct HeldWaits(Vec<HeldWait>);

impl HeldWaits {
    /// Keeps one, which the daemon of `generation` has the right to answer.
    pub(crate) fn hold(&mut self, connection: OwnedFd, options: WaitOptions, generation: Generation) {
        self.0.push(HeldWait { connection, options, generation, exit_code: None });
    }

    /// Forgets the one named `key`.
    pub(crate) fn release(&mut self, key: u64) {
        self.0.retain(|held| held.options.key != key);
    }

    /// A run has ended, for good or not: those that wait for that have an answer.
    pub(crate) fn run_ended(&mut self, exit_code: i32, for_good: bool) {
        for held in self.0.iter_mut().filter(|held| for_good || !held.options.for_good) {
            held.exit_code.get_or_insert(exit_code);
        }
    }

    /// Answers those that have an answer and whose daemon is not the one that is connected now (if any is).
    pub(crate) fn answer_orphans(&mut self, connected: Option<Generation>) {
        self.0.retain(|held| {
            let Some(exit_code) = held.exit_code.filter(|_| connected != Some(held.generation)) else {
                return true;
            };
            let answer = chunk(&held.options, exit_code);
            // A few bytes into a socket that has sent only a head: they fit, or the client is gone.
            let _ = send(&held.connection, answer.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            false
        });
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether none is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The body as one chunk, and the last chunk (RFC 9112, section 7.1).
fn chunk(options: &WaitOptions, exit_code: i32) -> String {
    let body = format!("{}{exit_code}{}", options.body_prefix, options.body_suffix);
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn options(key: u64) -> WaitOptions {
        WaitOptions {
            key,
            body_prefix: "{\"StatusCode\":".into(),
            body_suffix: "}\n".into(),
            for_good: key == 4,
        }
    }

    #[test]
    fn only_the_waits_of_a_lost_daemon_are_answered() {
        let mut waits = HeldWaits::default();
        let mut peers = Vec::new();
        for (key, generation) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            waits.hold(ours.into(), options(key), generation);
            peers.push(theirs);
        }
        waits.release(2);
        waits.answer_orphans(None);
        waits.run_ended(137, false);
        waits.answer_orphans(Some(2));
        waits.run_ended(1, true);
        waits.answer_orphans(Some(2));
        assert!(!waits.is_empty());
        waits.clear();
        let texts = peers.into_iter().map(|mut peer| {
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            text
        });
        let last = "11\r\n{\"StatusCode\":1}\n\r\n0\r\n\r\n";
        let answer = "13\r\n{\"StatusCode\":137}\n\r\n0\r\n\r\n";
        assert_eq!(texts.collect::<Vec<_>>(), [answer, "", "", last]);
    }
}
