//! `/wait` connections that are kept in case the daemon is gone when the container ends.
//!
//! The daemon has sent the response's head and gives us a copy of the connection. As long as the daemon that gave it is
//! connected, it is the one to answer, and says so with `ReleaseWait`. If it is lost before, the supervisor answers when
//! the container has ended. A daemon that connects later knows nothing of the connection, so its presence changes nothing.

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
}

/// All kept connections.
#[derive(Debug, Default)]
pub(crate) struct HeldWaits(Vec<HeldWait>);

impl HeldWaits {
    /// Keeps one, which the daemon of `generation` has the right to answer.
    pub(crate) fn hold(&mut self, connection: OwnedFd, options: WaitOptions, generation: Generation) {
        self.0.push(HeldWait { connection, options, generation });
    }

    /// Forgets the one named `key`.
    pub(crate) fn release(&mut self, key: u64) {
        self.0.retain(|held| held.options.key != key);
    }

    /// Answers those whose daemon is not the one that is connected now (if any is).
    pub(crate) fn answer_orphans(&mut self, exit_code: i32, connected: Option<Generation>) {
        self.0.retain(|held| {
            let orphan = connected != Some(held.generation);
            if orphan {
                // A few bytes into a socket that has sent only a head: they fit, or the client is gone.
                let _ = send(
                    &held.connection,
                    chunk(&held.options, exit_code).as_bytes(),
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                );
            }
            !orphan
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
        WaitOptions { key, body_prefix: "{\"StatusCode\":".into(), body_suffix: "}\n".into() }
    }

    #[test]
    fn only_the_waits_of_a_lost_daemon_are_answered() {
        let mut waits = HeldWaits::default();
        let mut peers = Vec::new();
        for (key, generation) in [(1, 1), (2, 1), (3, 2)] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            waits.hold(ours.into(), options(key), generation);
            peers.push(theirs);
        }
        waits.release(2);
        waits.answer_orphans(137, Some(2));
        assert!(!waits.is_empty());
        waits.clear();
        let texts = peers.into_iter().map(|mut peer| {
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            text
        });
        let answer = "13\r\n{\"StatusCode\":137}\n\r\n0\r\n\r\n";
        assert_eq!(texts.collect::<Vec<_>>(), [answer, "", ""]);
    }
}
