//! Staying with a process: its signals, its terminal, its end.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use palan_linux::event::{Epoll, Interest, SignalFd};
use palan_linux::process::{self as os, ExitStatus};
use palan_linux::signal::Signal;
use palan_linux::tty;
use rustix::io::Errno;

use super::Failure;
use super::notify::Listener;

/// The signals of this process, taken instead of delivered.
pub(super) struct Signals(SignalFd);

impl Signals {
    pub(super) fn block() -> Result<Self, Failure> {
        // Not those that report a fault of this very program, nor the two that can't be blocked.
        let own = [Signal::KILL, Signal::STOP, Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL];
        let numbers: Vec<i32> =
            (1..=31).filter(|number| own.iter().all(|signal| signal.as_raw() != *number)).collect();
        SignalFd::new(&numbers).map(Self).map_err(failed)
    }
}

fn failed(error: impl Into<std::io::Error>) -> Failure {
    Failure::new(format!("cannot attend to the container's process: {}", error.into()))
}

/// Puts the terminal's modes back when it goes.
struct RawTerminal(Option<rustix::termios::Termios>);

impl RawTerminal {
    fn new() -> Self {
        // Without a terminal there is nothing to change.
        Self(tty::make_raw(rustix::stdio::stdin()).ok())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(modes) = &self.0 {
            // The terminal may have gone away with its window.
            let _ = tty::restore(rustix::stdio::stdin(), modes);
        }
    }
}

const SIGNALS: u64 = 0;
const ENDED: u64 = 1;
const INPUT: u64 = 2;
const OUTPUT: u64 = 3;
const NOTIFIED: u64 = 4;

/// Passes signals and, with a terminal, bytes to and fro until the process has ended; reaps it. What it says on `ready` is
/// passed on with this process's PID.
pub(super) fn attend(
    signals: &Signals,
    pidfd: &OwnedFd,
    console: Option<&OwnedFd>,
    ready: Option<&Listener>,
) -> Result<ExitStatus, Failure> {
    let own_pid = std::process::id().cast_signed();
    let epoll = Epoll::new().map_err(failed)?;
    epoll.add(&signals.0, SIGNALS, Interest::READ).map_err(failed)?;
    epoll.add(pidfd, ENDED, Interest::READ).map_err(failed)?;
    if let Some(ready) = ready {
        epoll.add(ready, NOTIFIED, Interest::READ).map_err(failed)?;
    }
    let _raw = console.map(|_| RawTerminal::new());
    let mut input_open = false;
    if let Some(console) = console {
        epoll.add(console, OUTPUT, Interest::READ).map_err(failed)?;
        resize(console);
        // A file or /dev/null as input can't be polled: it is then simply not passed on.
        input_open = epoll.add(rustix::stdio::stdin(), INPUT, Interest::READ).is_ok();
    }
    let mut events = Vec::new();
    loop {
        events.clear();
        epoll.wait(&mut events, None).map_err(failed)?;
        for event in &events {
            match (event.token, console) {
                (SIGNALS, _) => forward(&signals.0, pidfd, console)?,
                (INPUT, Some(console)) if input_open && !copy(rustix::stdio::stdin(), console) => {
                    epoll.remove(rustix::stdio::stdin()).map_err(failed)?;
                    input_open = false;
                }
                // The other side is closed; only the end is left to wait for.
                (OUTPUT, Some(console)) if !copy(console, rustix::stdio::stdout()) => {
                    epoll.remove(console).map_err(failed)?;
                }
                (NOTIFIED, _) => {
                    if let Some(ready) = ready
                        // Nobody who waits for word is no reason to leave the container.
                        && !matches!(ready.pass_on(own_pid), Ok(None))
                    {
                        epoll.remove(ready).map_err(failed)?;
                    }
                }
                _ => {}
            }
        }
        if events.iter().any(|event| event.token == ENDED) {
            let status = os::wait(pidfd).map_err(failed)?;
            if let Some(console) = console {
                drain(console);
            }
            return Ok(status);
        }
    }
}

fn forward(signals: &SignalFd, pidfd: &OwnedFd, console: Option<&OwnedFd>) -> Result<(), Failure> {
    while let Some(number) = signals.next().map_err(failed)? {
        match Signal::from_raw(number) {
            // The pidfd tells about the child; SIGURG comes from runtimes that preempt themselves.
            Some(Signal::CHLD | Signal::URG) | None => {}
            Some(Signal::WINCH) if console.is_some() => console.map_or((), resize),
            // It may just have ended.
            Some(signal) => drop(os::send_signal(pidfd, signal)),
        }
    }
    Ok(())
}

fn resize(console: &OwnedFd) {
    if let Ok(size) = tty::window_size(rustix::stdio::stdin()) {
        // The other side may be gone already.
        let _ = tty::set_window_size(console, size);
    }
}

/// Copies what is there. False: the source has ended or the target takes no more.
fn copy(from: impl AsFd, to: impl AsFd) -> bool {
    let mut buffer = [0; 16 * 1024];
    let length = match rustix::io::read(from, &mut buffer) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(errno) => return matches!(errno, Errno::INTR | Errno::AGAIN),
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match rustix::io::write(&to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Shows what the process wrote last.
fn drain(console: &OwnedFd) {
    if rustix::io::ioctl_fionbio(console, true).is_ok() {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length) = rustix::io::read(console, &mut buffer) {
            if length == 0 || rustix::io::write(rustix::stdio::stdout(), &buffer[..length]).is_err() {
                break;
            }
        }
    }
}

pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(u8::try_from(status.code() & 0xff).unwrap_or(u8::MAX))
}
