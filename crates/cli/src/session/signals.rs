//! Signals that this program receives during a session and hands on to the container, and the terminal's size.
//!
//! The signals are blocked in the main thread before any other thread starts, so that only the thread here sees them. No
//! child process is started while they are blocked.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use palan_docker_api::client::Client;
use palan_linux::event::SignalFd;
use palan_linux::signal::Signal;
use palan_linux::tty;
use rustix::event::{PollFd, PollFlags};

use super::Event;
use crate::error::{CliError, Kind};
use crate::terminal::{self, FATAL};

/// So many requests to end are enough, if the container ignores them.
const FORCEFUL: usize = 3;

/// The blocked signals of a session.
#[derive(Debug)]
pub(crate) struct Signals(Option<SignalFd>);

/// What is done with them.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) client: Client,
    pub(crate) subject: Subject,
    /// Hand every signal on to the container.
    pub(crate) forward: bool,
    /// Keep the terminal of the session as large as ours.
    pub(crate) resize: bool,
    /// The session is on a container that has drawn its screen already: a change of size makes it draw again.
    pub(crate) redraw: bool,
}

/// Whose terminal it is.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    Container(String),
    Exec(String),
}

impl Signals {
    /// Blocks what a container can be sent; to be called before a session's threads start.
    pub(crate) fn block_all() -> Self {
        // Not: those for faults of our own, those that nobody can block, our children's and our pipes'.
        let skipped = [
            Signal::CHLD,
            Signal::PIPE,
            Signal::URG,
            Signal::KILL,
            Signal::STOP,
            Signal::SEGV,
            Signal::BUS,
            Signal::ILL,
            Signal::FPE,
            Signal::TRAP,
            Signal::ABRT,
            Signal::SYS,
            // Those of job control, while no container takes them, must work on us.
            Signal::TTIN,
            Signal::TTOU,
        ];
        let numbers = (1..=31).filter(|number| !skipped.iter().any(|signal| signal.as_raw() == *number));
        Self(SignalFd::new(&numbers.collect::<Vec<_>>()).ok())
    }

    /// Blocks what ends us and what tells of a new terminal size.
    pub(crate) fn block_fatal() -> Self {
        let numbers: Vec<i32> = FATAL.iter().chain(&[Signal::WINCH]).map(|signal| signal.as_raw()).collect();
        Self(SignalFd::new(&numbers).ok())
    }

    /// Starts the thread that takes the signals.
    pub(crate) fn watch(self, policy: Policy, sender: Sender<Event>) {
        thread::spawn(move || {
            if policy.resize {
                if policy.redraw {
                    policy.resize_by(1);
                }
                policy.resize_to_ours();
            }
            if let Some(signals) = self.0 {
                run(&signals, &policy, &sender);
            }
        });
    }
}

fn run(signals: &SignalFd, policy: &Policy, sender: &Sender<Event>) {
    let mut requests_to_end = 0;
    loop {
        let mut ready = [PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut ready, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        while let Ok(Some(number)) = signals.next() {
            let Some(signal) = Signal::from_raw(number) else { continue };
            if signal == Signal::WINCH && policy.resize {
                policy.resize_to_ours();
                continue;
            }
            if !policy.forward {
                if FATAL.contains(&signal) {
                    terminal::restore();
                    let code = u8::try_from(128 + number).unwrap_or(u8::MAX);
                    let _ = sender.send(Event::Killed(CliError::of(Kind::Exit(code), "")));
                }
                continue;
            }
            if signal == Signal::INT || signal == Signal::TERM {
                requests_to_end += 1;
            }
            if requests_to_end == FORCEFUL {
                terminal::restore();
                let error = CliError::new("\ngot 3 SIGTERM/SIGINTs, forcefully exiting");
                let _ = sender.send(Event::Killed(error));
                return;
            }
            if let Subject::Container(id) = &policy.subject {
                let name = signal.to_string();
                // A container that has just ended takes no signal; the session's end tells so.
                let _ = policy.client.kill_container(id, Some(name.strip_prefix("SIG").unwrap_or(&name)));
            }
        }
    }
}

impl Policy {
    fn resize_to_ours(&self) {
        // Right after the start the other side may not be ready; Docker's client tries as often.
        for _ in 0..10 {
            if self.resize_by(0) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn resize_by(&self, more: u16) -> bool {
        let Ok(size) = tty::window_size(io::stdout()) else { return true };
        if size.rows == 0 && size.columns == 0 {
            return true;
        }
        let (rows, columns) = (size.rows.saturating_add(more), size.columns.saturating_add(more));
        let result = match &self.subject {
            Subject::Container(id) => self.client.resize_container(id, rows, columns),
            Subject::Exec(id) => self.client.resize_exec(id, rows, columns),
        };
        result.is_ok()
    }
}
