//! The user's terminal in raw mode, and the keys that leave a session.
//!
//! Whatever ends the program puts the terminal back: the guard's drop, a panic (release builds abort, so a hook does it),
//! and the signals, which a raw session receives through its signal thread.

use std::io;
use std::sync::{Mutex, Once, PoisonError};

use palan_linux::event::SignalFd;
use palan_linux::signal::{self, Signal, SignalSet};
use palan_linux::tty;
use rustix::event::{PollFd, PollFlags};
use rustix::termios::Termios;

/// The signals that end a program that doesn't care for them, apart from faults of its own.
pub(crate) const FATAL: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// The modes that the terminal on standard input had, while it is raw.
static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps standard input raw until it is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts the terminal on standard input into raw mode.
    pub(crate) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        let mut cooked = COOKED.lock().unwrap_or_else(PoisonError::into_inner);
        let modes = tty::make_raw(io::stdin())?;
        cooked.get_or_insert(modes);
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back if it is raw.
pub(crate) fn restore() {
    if let Some(modes) = COOKED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no modes.
        let _ = tty::restore(io::stdin(), &modes);
    }
}

/// Switches the terminal's echo off, calls `ask`, and `read` once there is a line on standard input: for a password.
///
/// # Errors
/// The number of a signal that would have ended the program and left the terminal without its echo.
pub(crate) fn without_echo<T>(ask: impl FnOnce(), read: impl FnOnce() -> T) -> Result<T, i32> {
    let mask = signal::set_mask(&SignalSet::empty());
    let signals = SignalFd::new(&FATAL.map(Signal::as_raw));
    let _ = tty::set_echo(io::stdin(), false);
    ask();
    let outcome = match signals.ok().and_then(|signals| signal_before_line(&signals)) {
        Some(number) => Err(number),
        None => Ok(read()),
    };
    let _ = tty::set_echo(io::stdin(), true);
    if let Ok(mask) = mask {
        let _ = signal::set_mask(&mask);
    }
    outcome
}

/// Waits for a line, or the end, of standard input; the number of a signal that comes before.
fn signal_before_line(signals: &SignalFd) -> Option<i32> {
    loop {
        let stdin = io::stdin();
        let mut ready = [PollFd::new(signals, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        match rustix::event::poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        if let Ok(Some(number)) = signals.next() {
            return Some(number);
        }
        if !ready[1].revents().is_empty() {
            return None;
        }
    }
}

/// `ctrl-p,ctrl-q`.
const DEFAULT_DETACH_KEYS: [u8; 2] = [16, 17];

/// Parses `ctrl-a,b`: the bytes that these keys send. An empty text is the default.
pub(crate) fn parse_detach_keys(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(DEFAULT_DETACH_KEYS.to_vec());
    }
    text.split(',')
        .map(|key| {
            let unknown =
                || format!("invalid detach keys ({text}): Unknown character: '{}'", key.to_lowercase());
            if let [byte] = key.as_bytes() {
                return Ok(*byte);
            }
            let letter = key.to_lowercase();
            match letter.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
                Some([b'@']) => Ok(0),
                Some([b'[']) => Ok(27),
                Some([b'\\']) => Ok(28),
                Some([b']']) => Ok(29),
                Some([b'^']) => Ok(30),
                Some([b'_']) => Ok(31),
                _ if key.eq_ignore_ascii_case("del") => Ok(127),
                _ => Err(unknown()),
            }
        })
        .collect()
}

/// Finds the detach keys in what the user types; keys of a sequence that isn't completed are passed on late.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends what may pass to `passed`; `true` once the whole sequence was typed.
    pub(crate) fn feed(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.keys.get(self.matched) != Some(byte) {
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
            } else {
                passed.push(*byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_parsed() {
        assert_eq!(parse_detach_keys(""), Ok(vec![16, 17]));
        assert_eq!(parse_detach_keys("ctrl-a,b"), Ok(vec![1, b'b']));
        assert_eq!(parse_detach_keys("ctrl-@,ctrl-[,DEL"), Ok(vec![0, 27, 127]));
        assert_eq!(
            parse_detach_keys("foo").unwrap_err(),
            "invalid detach keys (foo): Unknown character: 'foo'"
        );
    }

    #[test]
    fn the_filter_holds_back_a_beginning() {
        let run = |pieces: &[&[u8]]| {
            let mut filter = DetachFilter::new(vec![16, 17]);
            let mut passed = Vec::new();
            let detached = pieces.iter().any(|piece| filter.feed(piece, &mut passed));
            (detached, passed)
        };
        assert_eq!(run(&[b"ab\x10", b"\x11c"]), (true, b"ab".to_vec()));
        assert_eq!(run(&[b"a\x10", b"b\x11"]), (false, b"a\x10b\x11".to_vec()));
        assert_eq!(run(&[b"\x10\x10\x11"]), (true, b"\x10".to_vec()));
    }
}
