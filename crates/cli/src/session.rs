//! An attached session: the user's streams on one side, a container's or exec's on the other.
//!
//! Each direction has its thread, and so has what else can happen; all report to the command, which waits in [`Session::next`]:
//!
//! ```text
//! output thread ── the daemon's or supervisor's bytes → stdout, stderr ──▶ Event::Output
//! input thread  ── stdin → the socket, watching for the detach keys ─────▶ Event::Input, Event::Detached
//! signal thread ── forwards signals, resizes the terminal ───────────────▶ Event::Killed
//! wait thread   ── the exit code, through restarts of the daemon ────────▶ Event::Exited
//! ```
//! The socket belongs to the container's supervisor once the daemon has answered, so the session outlives the daemon;
//! the wait thread asks a restarted daemon again.

/// The exit code, through restarts of the daemon.
pub(crate) mod exit_code;
/// Signals that become the container's, and the size of the terminal.
pub(crate) mod signals;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use palan_docker_api::client::{Socket, Upgraded};
use palan_docker_api::stream;

use crate::error::{CliError, Result};
use crate::output::streams::{Sink, Streams};
use crate::terminal::{self, DetachFilter, RawMode};

/// What ends a part of a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// All output was written, or it can't be written any more.
    Output(io::Result<()>),
    /// All input was sent.
    Input,
    /// The user typed the detach keys.
    Detached,
    /// The container has ended with this code, or the code can't be learnt.
    Exited(Result<i64>),
    /// A signal ends this program, or three of them while the container ignores them.
    Killed(CliError),
}

/// Which streams are attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attached {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// The container has a terminal: one raw stream of output.
    pub(crate) tty: bool,
}

/// A running session.
#[derive(Debug)]
pub(crate) struct Session {
    events: Receiver<Event>,
    sender: Sender<Event>,
    has_output: bool,
    output_done: Arc<AtomicBool>,
    /// Puts the terminal back when the session ends, however it does.
    _raw: Option<RawMode>,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The streams ended, and the code if it was waited for.
    Finished(Option<i64>),
    /// The user left.
    Detached,
}

/// Refuses a terminal for the container where we have none to give.
pub(crate) fn check_tty(streams: &Streams, attach_stdin: bool, tty: bool) -> Result<()> {
    if attach_stdin && tty && !streams.input_is_terminal() {
        return Err(CliError::new("the input device is not a TTY"));
    }
    Ok(())
}

impl Session {
    /// Connects the streams. `keys` are the detach keys as written.
    pub(crate) fn start(
        streams: &Streams,
        connection: Upgraded,
        attached: Attached,
        keys: &str,
    ) -> Result<Self> {
        let (sender, events) = channel();
        let filter = if attached.stdin && attached.tty {
            Some(DetachFilter::new(terminal::parse_detach_keys(keys).map_err(CliError::new)?))
        } else {
            None
        };
        let raw = if filter.is_some() && streams.input_is_terminal() {
            let failed = |error| CliError::io("unable to set IO streams as raw terminal", &error);
            Some(RawMode::enter().map_err(failed)?)
        } else {
            None
        };
        let socket = connection.try_clone_socket().map_err(|error| CliError::io("attach", &error))?;
        let has_output = attached.stdout || attached.stderr;
        let output_done = Arc::new(AtomicBool::new(!has_output));
        if has_output {
            let (done, sender) = (Arc::clone(&output_done), sender.clone());
            let (out, err) = (streams.output(), streams.errors());
            thread::spawn(move || {
                let result = copy_output(connection, attached.tty, out, err);
                // The next line may be somebody else's: the terminal must be cooked by then.
                terminal::restore();
                done.store(true, Ordering::Release);
                let _ = sender.send(Event::Output(result));
            });
        }
        if attached.stdin {
            let (input, sender) = (streams.take_input(), sender.clone());
            thread::spawn(move || {
                let event = copy_input(input, socket, filter);
                let _ = sender.send(event);
            });
        } else {
            // The other side learns that no input will come.
            let _ = socket.shutdown(Shutdown::Write);
        }
        Ok(Self { events, sender, has_output, output_done, _raw: raw })
    }

    /// Where other threads report.
    pub(crate) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Becomes true when the output has ended.
    pub(crate) fn output_done(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.output_done)
    }

    /// Waits for the end: of the output if there is any, of the input otherwise, and for the exit code if somebody
    /// reports it.
    pub(crate) fn finish(self, with_code: bool) -> Result<End> {
        let mut streams_done = false;
        let mut code = None;
        while !streams_done || (with_code && code.is_none()) {
            // Our own sender keeps the channel open, so this can't fail.
            let Ok(event) = self.events.recv() else { break };
            match event {
                Event::Output(Ok(())) => streams_done = true,
                Event::Output(Err(error)) => return Err(CliError::of_output(&error)),
                Event::Input => streams_done |= !self.has_output,
                Event::Detached => return Ok(End::Detached),
                Event::Exited(result) => {
                    code = Some(result?);
                    // Without output nothing is left to wait for, even if input could still come.
                    streams_done |= !self.has_output;
                }
                Event::Killed(error) => return Err(error),
            }
        }
        Ok(End::Finished(code))
    }
}

fn copy_output(mut connection: Upgraded, tty: bool, mut out: Sink, mut err: Sink) -> io::Result<()> {
    if !tty {
        return stream::copy(connection, &mut out, &mut err);
    }
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => out.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn copy_input(
    mut input: Box<dyn Read + Send>,
    mut socket: Socket,
    mut filter: Option<DetachFilter>,
) -> Event {
    let mut buffer = vec![0; 32 * 1024];
    let mut passed = Vec::new();
    loop {
        let read = match input.read(&mut buffer) {
            // A failed read is the end of the input, as for every filter.
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let bytes = match &mut filter {
            None => &buffer[..read],
            Some(filter) => {
                passed.clear();
                let detached = filter.feed(&buffer[..read], &mut passed);
                if detached {
                    let _ = socket.write_all(&passed);
                    terminal::restore();
                    return Event::Detached;
                }
                &passed[..]
            }
        };
        // The container does not read any more: the output says how it goes on.
        if socket.write_all(bytes).is_err() {
            return Event::Input;
        }
    }
    let _ = socket.shutdown(Shutdown::Write);
    Event::Input
}
