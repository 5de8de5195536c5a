//! The stdio of one process, and the clients that are attached to it.
//!
//! ```text
//!  process ──stdout──▶┐              ┌─▶ log (init only)
//!          ──stderr──▶┤ read a piece ├─▶ client 1 (queue)
//!   (or its terminal) ┘              └─▶ client 2 (queue)
//!  process ◀──stdin── queue ◀── what the clients type
//! ```
//!
//! Output is read only while no client that wants it is full, so a slow client slows the process and nothing is lost.
//! Once the process has ended, what its pipes hold is read all the same; what its children go on writing waits again.
//! What clients type is read only while the process's stdin takes it.
//!
//! A terminal that nobody holds open fails to be read, and works again when somebody opens it: that it is over is known
//! when the process has ended.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use palan_linux::event::{Epoll, Interest};
use palan_linux::tty::{self, WindowSize};
use rustix::io::Errno;

use crate::attach::{Client, Typed};
use crate::health::Capture;
use crate::log::{Log, Stream};
use crate::protocol::{AttachOptions, TerminalSize};
use crate::watch::{ClientId, SessionId, Token, Watched};

/// How much one read of output takes.
const READ_SIZE: usize = 64 * 1024;

/// How many reads of one output are made in one turn of the loop, before others have theirs.
const READS_PER_TURN: usize = 4;

/// What a terminal can hold; the kernel does not tell how much it does.
const TERMINAL_REST: u64 = 64 * 1024;

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
    /// The process has a stdin to attach to, or had.
    has_input: bool,
    input_queue: VecDeque<u8>,
    /// Close the input once the queue is empty.
    input_ends: bool,
    input_end: InputEnd,
    terminal: bool,
    /// The process has ended.
    draining: bool,
    /// What it had written and was not read yet when it ended, at most: back-pressure does not count for that.
    rest: [u64; 2],
    /// Keeps the output of a health check.
    pub(crate) capture: Option<Capture>,
    clients: Vec<Client>,
    next_client: ClientId,
}

impl Session {
    /// A session without a process yet.
    pub(crate) fn new(epoll: &Rc<Epoll>, id: SessionId) -> Self {
        Self {
            id,
            epoll: Rc::clone(epoll),
            outputs: [None, None],
            input: None,
            has_input: false,
            input_queue: VecDeque::new(),
            input_ends: false,
            input_end: InputEnd::Detaches,
            terminal: false,
            draining: false,
            rest: [0, 0],
            capture: None,
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
                let output = self.outputs[stream.index()].insert(Watched::new(
                    &self.epoll,
                    end,
                    Token::Output(self.id, stream),
                ));
                output.set(Some(Interest::READ))?;
            }
        }
        self.has_input = ends.stdin.is_some();
        match ends.stdin {
            Some(end) => {
                rustix::io::ioctl_fionbio(&end, true)?;
                let input = self.input.insert(Watched::new(&self.epoll, end, Token::Input(self.id)));
                input.set(Some(Interest::NONE))?;
                self.write_input();
            }
            None => self.close_input(),
        }
        Ok(())
    }

    /// Another process will follow the one that has ended. Clients of that one are still told its end.
    pub(crate) fn renew(&mut self) {
        self.draining = false;
        self.rest = [0, 0];
        self.input_ends = false;
    }

    /// Attaches a client. `Some(Detached)`: it had typed the detach keys already.
    pub(crate) fn attach(&mut self, socket: OwnedFd, options: &AttachOptions) -> rustix::io::Result<Typed> {
        let id = self.next_client;
        self.next_client += 1;
        // Without a stdin to write to, the end of the client's is no reason to detach it.
        let options = AttachOptions { stdin: options.stdin && self.has_input, ..options.clone() };
        let mut client = Client::new(&self.epoll, self.id, id, socket, &options)?;
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

    /// Reads output by way of `buffer`. `log` is the container's, for init's session.
    pub(crate) fn read_output(&mut self, stream: Stream, mut log: Option<&mut Log>, buffer: &mut Vec<u8>) {
        let mut reads = 0;
        while reads < READS_PER_TURN || self.rest[stream.index()] > 0 {
            reads += 1;
            if self.is_held_back(stream) {
                return;
            }
            let Some(output) = &mut self.outputs[stream.index()] else { return };
            // The pages of the buffer are touched only as far as there is output.
            buffer.clear();
            buffer.reserve_exact(READ_SIZE);
            match rustix::io::read(&*output, rustix::buffer::spare_capacity(buffer)) {
                Ok(length @ 1..) => {
                    // It was hung up and no longer is. What is watched already can always be changed.
                    if output.is_for_changes() {
                        let _ = output.set(Some(Interest::READ));
                    }
                    let rest = &mut self.rest[stream.index()];
                    *rest = rest.saturating_sub(length as u64);
                    if let Some(log) = log.as_deref_mut() {
                        log.push(stream, buffer);
                    }
                    if let Some(capture) = &mut self.capture {
                        capture.push(buffer);
                    }
                    for client in &mut self.clients {
                        client.write(stream, buffer);
                    }
                    // That was all for now; epoll tells when there is more.
                    if length < READ_SIZE && !self.draining {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Nobody holds the terminal open, for now.
                Err(Errno::IO) if self.terminal && !self.draining => {
                    if output.set_for_changes().is_ok() {
                        return;
                    }
                    self.end_output(stream, log.as_deref_mut());
                }
                Ok(0) | Err(_) => self.end_output(stream, log.as_deref_mut()),
            }
        }
    }

    /// The process has ended. What it has written is read, to the end if nobody else holds its streams open.
    pub(crate) fn drain(&mut self, mut log: Option<&mut Log>, buffer: &mut Vec<u8>) {
        self.draining = true;
        self.close_input();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let Some(output) = &self.outputs[stream.index()] else { continue };
            self.rest[stream.index()] =
                if self.terminal { TERMINAL_REST } else { rustix::io::ioctl_fionread(output).unwrap_or(0) };
            self.read_output(stream, log.as_deref_mut(), buffer);
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

    /// The process's three streams as its `/proc/<pid>/fd` shows them, as far as they are pipes whose other ends are open here.
    pub(crate) fn pipes(&self) -> Vec<String> {
        let [stdout, stderr] = &self.outputs;
        let name = |end: &Option<Watched>| {
            let inode = end.as_ref().filter(|_| !self.terminal).and_then(|end| rustix::fs::fstat(end).ok());
            inode.map(|stat| format!("pipe:[{}]", stat.st_ino)).unwrap_or_default()
        };
        [&self.input, stdout, stderr].map(name).to_vec()
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
            let held_back = self.is_held_back(stream);
            if let Some(output) = &mut self.outputs[stream.index()]
                && (held_back || !output.is_for_changes())
            {
                output.set((!held_back).then_some(Interest::READ))?;
            }
        }
        if let Some(input) = &mut self.input {
            input.set((!self.input_queue.is_empty()).then_some(Interest::WRITE))?;
        }
        Ok(())
    }

    fn is_held_back(&self, stream: Stream) -> bool {
        self.rest[stream.index()] == 0 && self.clients.iter().any(|client| client.holds_back(stream))
    }

    fn end_output(&mut self, stream: Stream, log: Option<&mut Log>) {
        self.outputs[stream.index()] = None;
        if let Some(log) = log {
            log.end(stream);
        }
    }

    fn push_input(&mut self, bytes: &[u8]) {
        // When stdin is closed nobody wants it.
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::protocol::Framing;

    /// A session whose process is the test: the other ends of its streams.
    struct Fixture {
        session: Session,
        epoll: Rc<Epoll>,
        stdin: std::fs::File,
        stdout: Option<std::fs::File>,
    }

    fn fixture(input_end: InputEnd) -> Fixture {
        let epoll = Rc::new(Epoll::new().unwrap());
        let mut session = Session::new(&epoll, 1);
        let (stdin, ours_in) = rustix::pipe::pipe().unwrap();
        let (ours_out, stdout) = rustix::pipe::pipe().unwrap();
        let ends = Ends { stdin: Some(ours_in), stdout: Some(ours_out), stderr: None };
        session.connect(ends, false, input_end).unwrap();
        Fixture { session, epoll, stdin: stdin.into(), stdout: Some(stdout.into()) }
    }

    impl Fixture {
        fn attach(&mut self, stdin: bool) -> UnixStream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let options = AttachOptions { stdin, stdout: true, framing: Framing::Raw, ..Default::default() };
            self.session.attach(ours.into(), &options).unwrap();
            theirs
        }

        /// Turns of the loop until nothing is ready.
        fn settle(&mut self) {
            loop {
                self.session.end_turn(Instant::now()).unwrap();
                let mut ready = Vec::new();
                self.epoll.wait(&mut ready, Some(Duration::ZERO)).unwrap();
                if ready.is_empty() {
                    return;
                }
                for event in ready {
                    match Token::decode(event.token).unwrap() {
                        Token::Output(_, stream) => self.session.read_output(stream, None, &mut Vec::new()),
                        Token::Input(_) => self.session.write_input(),
                        Token::Client(_, id) => {
                            self.session.client_ready(id, event.read, event.closed);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }

        fn say(&mut self, text: &[u8]) {
            self.stdout.as_mut().unwrap().write_all(text).unwrap();
            self.settle();
        }
    }

    fn read(peer: &mut UnixStream) -> String {
        peer.set_nonblocking(true).unwrap();
        let mut bytes = [0; 100];
        match peer.read(&mut bytes) {
            Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
            Err(error) => error.kind().to_string(),
        }
    }

    #[test]
    fn all_clients_get_the_output_and_then_the_end() {
        let mut fixture = fixture(InputEnd::Detaches);
        let (mut one, mut two) = (fixture.attach(false), fixture.attach(true));
        fixture.say(b"hello");
        assert_eq!((read(&mut one), read(&mut two)), ("hello".into(), "hello".into()));
        fixture.stdout = None;
        fixture.session.drain(None, &mut Vec::new());
        assert!(fixture.session.is_drained());
        fixture.session.finish(None);
        fixture.settle();
        assert!(!fixture.session.has_clients());
        assert_eq!((read(&mut one), read(&mut two)), (String::new(), String::new()));
    }

    #[test]
    fn the_end_of_a_clients_stdin_closes_it_or_detaches_the_client() {
        for (input_end, attached) in [(InputEnd::Closes, true), (InputEnd::Detaches, false)] {
            let mut fixture = fixture(input_end);
            let mut peer = fixture.attach(true);
            peer.write_all(b"typed").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            fixture.settle();
            assert_eq!(fixture.session.has_clients(), attached);
            rustix::io::ioctl_fionbio(&fixture.stdin, true).unwrap();
            let mut typed = Vec::new();
            let end = fixture.stdin.read_to_end(&mut typed);
            assert_eq!((typed.as_slice(), end.is_ok()), (&b"typed"[..], attached));
        }
    }

    #[test]
    fn a_client_without_stdin_may_close_its_side() {
        let mut fixture = fixture(InputEnd::Closes);
        let mut peer = fixture.attach(false);
        peer.shutdown(Shutdown::Write).unwrap();
        fixture.settle();
        fixture.say(b"still here");
        assert_eq!(read(&mut peer), "still here");
        drop(peer);
        fixture.settle();
        assert!(!fixture.session.has_clients());
        fixture.say(b"to nobody");
    }

    #[test]
    fn what_is_typed_waits_until_the_process_reads() {
        let mut fixture = fixture(InputEnd::Closes);
        let mut peer = fixture.attach(true);
        let typed: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = typed.clone();
        let writer = std::thread::spawn(move || {
            peer.write_all(&typed).unwrap();
            peer
        });
        let mut received = Vec::new();
        rustix::io::ioctl_fionbio(&fixture.stdin, true).unwrap();
        while received.len() < expected.len() {
            fixture.settle();
            assert!(fixture.session.input_queue.len() <= INPUT_LIMIT * 2);
            let _ = fixture.stdin.read_to_end(&mut received);
        }
        assert!(received == expected);
        drop(writer.join().unwrap());
    }

    #[test]
    fn a_process_that_closed_its_stdin_is_left_in_peace() {
        let mut fixture = fixture(InputEnd::Detaches);
        let mut peer = fixture.attach(true);
        fixture.stdin = std::fs::File::open("/dev/null").unwrap();
        for _ in 0..3 {
            peer.write_all(b"x").unwrap();
            fixture.settle();
        }
        fixture.say(b"fine");
        assert_eq!(read(&mut peer), "fine");
    }

    #[test]
    fn a_client_that_does_not_read_holds_the_process_and_one_that_vanished_does_not() {
        let mut fixture = fixture(InputEnd::Detaches);
        let slow = fixture.attach(false);
        let stdout = fixture.stdout.take().unwrap();
        rustix::io::ioctl_fionbio(&stdout, true).unwrap();
        let fill = |fixture: &mut Fixture| {
            let mut total = 0;
            while let Ok(written) = rustix::io::write(&stdout, &[0; 4096]) {
                total += written;
                fixture.settle();
            }
            total
        };
        let total = fill(&mut fixture);
        assert!((1 << 20..4 << 20).contains(&total), "{total}");
        assert_eq!(fill(&mut fixture), 0);
        drop(slow);
        fixture.settle();
        rustix::io::write(&stdout, &[0; 4096]).unwrap();
    }
}
