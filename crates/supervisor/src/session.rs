//! The stdio of one process, and the clients that are attached to it.
//!
//! ```text
//!  process ──stdout──▶┐              ┌─▶ log (init only)
//!          ──stderr──▶┤ read a piece ├─▶ client 1 (queue)
//!   (or its terminal) ┘              └─▶ client 2 (queue)
//!  process ◀──stdin── queue ◀── what the clients type
//! ```
//!
//! Output is read only while no client that wants it is full, so a slow client slows the process and nothing is lost;
//! once the process has ended this does not count any more, as a pipe then holds a bounded rest. What clients type is
//! read only while the process's stdin takes it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use palan_linux::event::{Epoll, Interest};
use palan_linux::tty::{self, WindowSize};
use rustix::io::Errno;

use crate::attach::{Client, Typed};
use crate::log::{Log, Stream};
use crate::protocol::{AttachOptions, TerminalSize};
use crate::watch::{ClientId, SessionId, Token, Watched};

/// How much one read of output takes.
const READ_SIZE: usize = 64 * 1024;

/// How many reads of one output are made in one turn of the loop, before others have theirs.
const READS_PER_TURN: usize = 4;

/// The same once the process has ended: more than its pipe can hold.
const READS_WHEN_DRAINING: usize = 64;

/// Clients are not read while this much waits for the process's stdin.
const INPUT_LIMIT: usize = 64 * 1024;

/// Our ends of a process's standard streams.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Writes to its stdin.
    pub(crate) stdin: Option<OwnedFd>,
    /// Reads its stdout, or is the master of its terminal.
    pub(crate) stdout: Option<OwnedFd>,
    /// Reads its stderr.
    pub(crate) stderr: Option<OwnedFd>,
}

/// What happens to stdin when a client's part of it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputEnd {
    /// It is closed (`stdin_once`, and exec sessions without terminal).
    Closes,
    /// It stays open for the next client; this one is detached.
    Detaches,
}

/// The stdio of one process.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    epoll: Rc<Epoll>,
    outputs: [Option<Watched>; 2],
    input: Option<Watched>,
    input_queue: VecDeque<u8>,
    /// Close the input once the queue is empty.
    input_ends: bool,
    input_end: InputEnd,
    terminal: bool,
    /// The process has ended: back-pressure is over.
    draining: bool,
    clients: Vec<Client>,
    next_client: ClientId,
}

impl Session {
    /// A session without a process yet: clients may be attached, and wait.
    pub(crate) fn new(epoll: &Rc<Epoll>, id: SessionId) -> Self {
        Self {
            id,
            epoll: Rc::clone(epoll),
            outputs: [None, None],
            input: None,
            input_queue: VecDeque::new(),
            input_ends: false,
            input_end: InputEnd::Detaches,
            terminal: false,
            draining: false,
            clients: Vec::new(),
            next_client: 1,
        }
    }

    /// The process is there; its streams are watched from now on.
    pub(crate) fn connect(
        &mut self,
        ends: Ends,
        terminal: bool,
        input_end: InputEnd,
    ) -> rustix::io::Result<()> {
        self.terminal = terminal;
        self.input_end = input_end;
        for (stream, end) in [(Stream::Stdout, ends.stdout), (Stream::Stderr, ends.stderr)] {
            if let Some(end) = end {
                rustix::io::ioctl_fionbio(&end, true)?;
                self.outputs[stream.index()] =
                    Some(Watched::new(&self.epoll, end, Token::Output(self.id, stream)));
            }
        }
        match ends.stdin {
            Some(end) => {
                rustix::io::ioctl_fionbio(&end, true)?;
                self.input = Some(Watched::new(&self.epoll, end, Token::Input(self.id)));
                self.write_input();
            }
            None => self.close_input(),
        }
        Ok(())
    }

    /// Attaches a client. `Some(Detached)`: it had typed the detach keys already.
    pub(crate) fn attach(&mut self, socket: OwnedFd, options: &AttachOptions) -> rustix::io::Result<Typed> {
        let id = self.next_client;
        self.next_client += 1;
        let mut client = Client::new(&self.epoll, self.id, id, socket, options)?;
        let mut input = Vec::new();
        let typed = client.typed(&options.buffered.0, &mut input);
        self.clients.push(client);
        self.push_input(&input);
        Ok(typed)
    }

    /// Whether clients are left, attached or being told the end.
    pub(crate) fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Whether all output has been read to its end.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Reads output. `log` is the container's, for init's session.
    pub(crate) fn read_output(&mut self, stream: Stream, mut log: Option<&mut Log>) {
        let limit = if self.draining { READS_WHEN_DRAINING } else { READS_PER_TURN };
        for _ in 0..limit {
            let Some(output) = &self.outputs[stream.index()] else { return };
            if !self.draining && self.is_held_back(stream) {
                return;
            }
            // The pages of the buffer are touched only as far as there is output.
            let mut buffer = Vec::with_capacity(READ_SIZE);
            match rustix::io::read(output, rustix::buffer::spare_capacity(&mut buffer)) {
                Ok(1..) => {
                    if let Some(log) = log.as_deref_mut() {
                        log.push(stream, &buffer);
                    }
                    for client in &mut self.clients {
                        client.write(stream, &buffer);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The end; for a terminal that nobody holds open any more it is EIO.
                Ok(0) | Err(_) => self.end_output(stream, log.as_deref_mut()),
            }
        }
    }

    /// The process has ended. What it has written is read, to the end if nobody else holds its streams open.
    pub(crate) fn drain(&mut self, mut log: Option<&mut Log>) {
        self.draining = true;
        self.close_input();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read_output(stream, log.as_deref_mut());
        }
    }

    /// No more output is wanted: the streams are closed, and the clients when they have read all.
    pub(crate) fn finish(&mut self, mut log: Option<&mut Log>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.outputs[stream.index()].is_some() {
                self.end_output(stream, log.as_deref_mut());
            }
        }
        self.close_input();
        for client in &mut self.clients {
            client.close();
        }
    }

    /// The process's stdin takes more.
    pub(crate) fn write_input(&mut self) {
        let Some(input) = &self.input else {
            return;
        };
        while !self.input_queue.is_empty() {
            match rustix::io::write(input, self.input_queue.as_slices().0) {
                Ok(written) => {
                    self.input_queue.drain(..written);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The process has closed it.
                Err(_) => {
                    self.close_input();
                    return;
                }
            }
        }
        self.input_queue = VecDeque::new();
        if self.input_ends {
            self.close_input();
        }
    }

    /// Something happened on a client's socket. Returns whether the client has detached itself.
    pub(crate) fn client_ready(&mut self, id: ClientId, read: bool, closed: bool) -> bool {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return false };
        if closed {
            client.hang_up();
        }
        let mut input = Vec::new();
        let typed = if read { client.read(&mut input) } else { Typed::Nothing };
        client.flush();
        self.push_input(&input);
        if typed == Typed::Ended {
            self.client_input_ended(id);
        }
        typed == Typed::Detached
    }

    /// Sets the terminal's size; `None`: there is no terminal.
    pub(crate) fn resize(&self, size: TerminalSize) -> Option<std::io::Result<()>> {
        let master = self.outputs[0].as_ref().filter(|_| self.terminal)?;
        Some(tty::set_window_size(master.as_fd(), WindowSize { rows: size.rows, columns: size.columns }))
    }

    /// When [`Self::end_turn`] has to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Client::deadline).min()
    }

    /// Sends what clients take, forgets those that have gone, and watches for what can go on.
    pub(crate) fn end_turn(&mut self, now: Instant) -> rustix::io::Result<()> {
        let input_full = self.input_queue.len() >= INPUT_LIMIT;
        for client in &mut self.clients {
            client.flush();
            client.pass_time(now);
            client.update_watch(input_full);
        }
        self.clients.retain(|client| !client.is_gone());
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held_back = !self.draining && self.is_held_back(stream);
            if let Some(output) = &mut self.outputs[stream.index()] {
                output.set((!held_back).then_some(Interest::READ))?;
            }
        }
        if let Some(input) = &mut self.input {
            input.set((!self.input_queue.is_empty()).then_some(Interest::WRITE))?;
        }
        Ok(())
    }

    fn is_held_back(&self, stream: Stream) -> bool {
        self.clients.iter().any(|client| client.holds_back(stream))
    }

    fn end_output(&mut self, stream: Stream, log: Option<&mut Log>) {
        self.outputs[stream.index()] = None;
        if let Some(log) = log {
            log.end(stream);
        }
    }

    fn push_input(&mut self, bytes: &[u8]) {
        // Before the process is there the queue keeps what was typed; when stdin is closed nobody wants it.
        if !self.input_ends {
            self.input_queue.extend(bytes);
            self.write_input();
        }
    }

    fn close_input(&mut self) {
        self.input = None;
        self.input_queue = VecDeque::new();
        self.input_ends = true;
    }

    fn client_input_ended(&mut self, id: ClientId) {
        match self.input_end {
            InputEnd::Closes => {
                self.input_ends = true;
                self.write_input();
            }
            InputEnd::Detaches => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
                    client.close();
                }
            }
        }
    }
}
