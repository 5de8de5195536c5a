//! A client that is attached to a process's stdio: its socket, what waits to be sent to it, and its orderly end.
//!
//! ```text
//! Attached ──close()──▶ Closing ──all sent──▶ (unix) Gone
//!    │                     │                  (TCP)  Lingering ──peer closed, or LINGER passed──▶ Gone
//!    └─ both directions ───┴─ STUCK without progress, or an error ──▶ Gone
//!       of it failed
//! ```
//!
//! A client shall read everything that was sent before it sees the end. Closing a socket while bytes of the client lie
//! unread in it would turn that end into a reset: a unix socket is therefore told to take no more and emptied first, and
//! a TCP connection is read until the client closes it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_linux::event::{Epoll, Interest};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown};

use crate::detach_keys::DetachKeys;
use crate::log::Stream;
use crate::protocol::{AttachOptions, Framing};
use crate::watch::{ClientId, SessionId, Token, Watched};

/// A client with more than this waiting makes the process wait.
pub(crate) const BACK_PRESSURE: usize = 1024 * 1024;

/// How long a client that reads nothing keeps what is left for it once its session has ended: a person with a pager takes
/// its time. One that has gone is noticed at once, or, over TCP, when the kernel gives up.
const STUCK: Duration = Duration::from_secs(3600);

/// How long a TCP client has to close its side once it has been told the end.
const LINGER: Duration = Duration::from_secs(2);

/// How much one read of stdin takes.
const READ_SIZE: usize = 16 * 1024;

/// One attached client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    socket: Watched,
    family: AddressFamily,
    streams: [bool; 2],
    framing: Framing,
    /// Whether what it sends goes to the process.
    stdin: bool,
    keys: DetachKeys,
    /// It may still send something.
    readable: bool,
    /// It may still receive something.
    writable: bool,
    queue: VecDeque<u8>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Attached,
    Closing { stuck_at: Instant },
    Lingering { until: Instant },
    Gone,
}

/// What a read of a client's socket brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Bytes for the process were appended, perhaps none.
    More,
    /// Its stdin has ended (and it may still read).
    Ended,
    /// It has typed the detach keys.
    Detached,
    /// There is nothing to read.
    Nothing,
}

impl Client {
    /// Takes over a connection.
    pub(crate) fn new(
        epoll: &Rc<Epoll>,
        session: SessionId,
        id: ClientId,
        socket: OwnedFd,
        options: &AttachOptions,
    ) -> rustix::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let family = rustix::net::sockopt::socket_domain(&socket)?;
        let mut socket = Watched::new(epoll, socket, Token::Client(session, id));
        socket.set(Some(Interest::READ))?;
        Ok(Self {
            id,
            socket,
            family,
            streams: [options.stdout, options.stderr],
            framing: options.framing,
            stdin: options.stdin,
            keys: DetachKeys::new(if options.stdin { options.detach_keys.0.clone() } else { Vec::new() }),
            readable: true,
            writable: true,
            queue: VecDeque::new(),
            phase: Phase::Attached,
        })
    }

    /// Whether the process has to wait for this client before it may write more to `stream`.
    pub(crate) fn holds_back(&self, stream: Stream) -> bool {
        self.streams[stream.index()] && self.queue.len() >= BACK_PRESSURE
    }

    /// Nothing is left to be done for it.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Sends output, at once or as soon as the client takes it.
    pub(crate) fn write(&mut self, stream: Stream, data: &[u8]) {
        if !self.streams[stream.index()] || !self.writable || self.phase != Phase::Attached || data.is_empty()
        {
            return;
        }
        let header = match self.framing {
            Framing::Raw => None,
            Framing::Multiplexed => Some(frame_header(stream, data.len())),
        };
        let header = header.as_ref().map_or(&[][..], |header| header);
        let sent = if self.queue.is_empty() { self.send(&[header, data]) } else { 0 };
        if self.writable {
            self.queue.extend(&header[sent.min(header.len())..]);
            self.queue.extend(&data[sent.saturating_sub(header.len())..]);
        }
    }

    /// Sends what waits, and goes on with closing.
    pub(crate) fn flush(&mut self) {
        while self.writable && !self.queue.is_empty() {
            let (first, second) = self.queue.as_slices();
            // Both borrows end with the call; what it needs of `self` besides is the socket.
            let result = send(&self.socket, &[first, second]);
            let sent = self.sent(result);
            if sent == 0 {
                break;
            }
            self.queue.drain(..sent);
            if let Phase::Closing { stuck_at } = &mut self.phase {
                *stuck_at = Instant::now() + STUCK;
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
            if matches!(self.phase, Phase::Closing { .. }) {
                self.finish();
            }
        }
    }

    /// Reads what the client sent once; bytes for the process are appended to `input`.
    pub(crate) fn read(&mut self, input: &mut Vec<u8>) -> Typed {
        if !self.readable {
            return Typed::Nothing;
        }
        let mut buffer = Vec::with_capacity(READ_SIZE);
        match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(&mut buffer)) {
            Ok(0) => self.input_ended(input),
            Ok(_) => self.typed(&buffer, input),
            Err(Errno::AGAIN | Errno::INTR) => Typed::Nothing,
            Err(_) => {
                self.writable = false;
                self.queue = VecDeque::new();
                self.input_ended(input)
            }
        }
    }

    /// Looks for the detach keys in what was typed. For what was read before the connection was handed over, too.
    pub(crate) fn typed(&mut self, typed: &[u8], input: &mut Vec<u8>) -> Typed {
        if !self.stdin || self.phase != Phase::Attached {
            return Typed::More;
        }
        if self.keys.filter(typed, input) {
            self.close();
            return Typed::Detached;
        }
        Typed::More
    }

    /// No more output comes: close when all is sent.
    pub(crate) fn close(&mut self) {
        if self.phase == Phase::Attached {
            self.phase = Phase::Closing { stuck_at: Instant::now() + STUCK };
        }
    }

    /// The other end is gone, or the connection has failed (`EPOLLHUP`, `EPOLLERR`). What it has sent may still be read.
    pub(crate) fn hang_up(&mut self) {
        self.writable = false;
        self.queue = VecDeque::new();
    }

    /// When [`Self::pass_time`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closing { stuck_at } => Some(stuck_at),
            Phase::Lingering { until } => Some(until),
            Phase::Attached | Phase::Gone => None,
        }
    }

    /// Gives up on a client that does not do its part.
    pub(crate) fn pass_time(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.phase = Phase::Gone;
        }
    }

    /// Watches for what can go on. `input_full`: what it types has to wait for the process.
    pub(crate) fn update_watch(&mut self, input_full: bool) {
        if !self.readable && !self.writable {
            self.phase = Phase::Gone;
        }
        if self.phase == Phase::Gone {
            return;
        }
        let waits = self.stdin && input_full && self.phase == Phase::Attached;
        let interest =
            Interest { read: self.readable && !waits, write: self.writable && !self.queue.is_empty() };
        // A hang-up is reported even if nothing is asked for. It is news only while it has not been seen, and must not
        // spin while what the client has typed waits for the process.
        let wanted = (interest != Interest::NONE || (self.writable && !waits)).then_some(interest);
        if self.socket.set(wanted).is_err() {
            self.phase = Phase::Gone;
        }
    }

    fn input_ended(&mut self, input: &mut Vec<u8>) -> Typed {
        self.readable = false;
        if matches!(self.phase, Phase::Lingering { .. }) {
            self.phase = Phase::Gone;
        }
        self.keys.finish(input);
        if self.stdin { Typed::Ended } else { Typed::Nothing }
    }

    fn send(&mut self, parts: &[&[u8]]) -> usize {
        let result = send(&self.socket, parts);
        self.sent(result)
    }

    fn sent(&mut self, result: rustix::io::Result<usize>) -> usize {
        match result {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.hang_up();
                0
            }
        }
    }

    /// Tells the client the end, after all was sent.
    fn finish(&mut self) {
        // Errors mean that the other end is gone already.
        if self.family == AddressFamily::UNIX {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
            while self.readable && self.read(&mut Vec::new()) != Typed::Nothing {}
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
            self.phase = Phase::Gone;
        } else {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
            self.writable = false;
            let until = Instant::now() + LINGER;
            self.phase = if self.readable { Phase::Lingering { until } } else { Phase::Gone };
        }
    }
}

/// The header of a multiplexed piece of output.
fn frame_header(stream: Stream, length: usize) -> [u8; 8] {
    let kind = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    // Output is read in pieces far below 4 GiB.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind, 0, 0, 0, a, b, c, d]
}

fn send(socket: &Watched, parts: &[&[u8]]) -> rustix::io::Result<usize> {
    let mut slices = [IoSlice::new(&[]), IoSlice::new(&[])];
    for (slice, part) in slices.iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    rustix::net::sendmsg(
        socket,
        &slices,
        &mut rustix::net::SendAncillaryBuffer::default(),
        SendFlags::NOSIGNAL,
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::protocol::Bytes;

    fn client(options: &AttachOptions) -> (Client, UnixStream) {
        let epoll = Rc::new(Epoll::new().unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(&epoll, 0, 1, ours.into(), options).unwrap(), theirs)
    }

    fn output(framing: Framing) -> AttachOptions {
        AttachOptions { stdout: true, stderr: true, framing, ..Default::default() }
    }

    #[test]
    fn multiplexed_pieces_have_a_header() {
        let (mut client, mut peer) = client(&output(Framing::Multiplexed));
        client.write(Stream::Stdout, b"out");
        client.write(Stream::Stderr, b"");
        client.write(Stream::Stderr, b"error");
        client.close();
        client.flush();
        assert!(client.is_gone());
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x05error");
    }

    #[test]
    fn a_client_gets_only_its_streams() {
        let options = AttachOptions { stderr: true, ..Default::default() };
        let (mut client, mut peer) = client(&options);
        client.write(Stream::Stdout, b"out");
        client.write(Stream::Stderr, b"error");
        client.close();
        client.flush();
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"error");
    }

    #[test]
    fn unread_input_does_not_cost_the_client_its_output() {
        let (mut client, mut peer) = client(&output(Framing::Raw));
        peer.write_all(&[b'x'; 50_000]).unwrap();
        client.write(Stream::Stdout, b"last words");
        client.close();
        client.flush();
        drop(client);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"last words");
    }

    #[test]
    fn a_slow_client_holds_back_and_loses_nothing() {
        let (mut client, mut peer) = client(&output(Framing::Multiplexed));
        let piece = vec![b'y'; 60_000];
        let mut pieces = 0;
        while !client.holds_back(Stream::Stdout) {
            client.write(Stream::Stdout, &piece);
            pieces += 1;
        }
        client.close();
        client.flush();
        assert!(!client.is_gone());
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            bytes
        });
        while !client.is_gone() {
            client.flush();
        }
        let bytes = reader.join().unwrap();
        assert_eq!(bytes.len(), pieces * (piece.len() + 8));
        assert!(bytes.chunks(piece.len() + 8).all(|frame| frame[..8] == [1, 0, 0, 0, 0, 0, 0xea, 0x60]));
    }

    /// It is a person with a pager, most likely.
    #[test]
    fn a_client_that_reads_nothing_for_minutes_after_the_end_loses_nothing() {
        let (mut client, mut peer) = client(&output(Framing::Raw));
        let piece = vec![b'y'; 60_000];
        (0..10).for_each(|_| client.write(Stream::Stdout, &piece));
        client.close();
        client.flush();
        client.pass_time(Instant::now() + Duration::from_secs(600));
        assert!(!client.is_gone());
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            bytes
        });
        while !client.is_gone() {
            client.flush();
        }
        assert_eq!(reader.join().unwrap().len(), 600_000);
    }

    #[test]
    fn a_client_that_vanished_is_gone_and_nobody_hurt() {
        let (mut client, peer) = client(&output(Framing::Raw));
        drop(peer);
        client.write(Stream::Stdout, b"x");
        client.read(&mut Vec::new());
        client.update_watch(false);
        assert!(client.is_gone());
    }

    #[test]
    fn stdin_is_read_until_the_keys_detach() {
        let options = AttachOptions {
            stdin: true,
            stdout: true,
            detach_keys: Bytes(vec![16, 17]),
            ..Default::default()
        };
        let (mut client, mut peer) = client(&options);
        let mut input = Vec::new();
        assert_eq!(client.read(&mut input), Typed::Nothing);
        peer.write_all(b"ls\n\x10").unwrap();
        assert_eq!(client.read(&mut input), Typed::More);
        assert_eq!(input, b"ls\n");
        peer.write_all(b"\x11").unwrap();
        assert_eq!(client.read(&mut input), Typed::Detached);
        client.flush();
        assert!(client.is_gone());
        assert_eq!(input, b"ls\n");
    }

    #[test]
    fn a_half_closed_client_still_reads() {
        let options = AttachOptions { stdin: true, stdout: true, ..Default::default() };
        let (mut client, mut peer) = client(&options);
        peer.write_all(b"end").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut input = Vec::new();
        assert_eq!(client.read(&mut input), Typed::More);
        assert_eq!(client.read(&mut input), Typed::Ended);
        assert_eq!(input, b"end");
        client.write(Stream::Stdout, b"answer");
        client.close();
        client.flush();
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }

    #[test]
    fn a_tcp_client_is_told_the_end_and_waited_for() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut peer = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let epoll = Rc::new(Epoll::new().unwrap());
        let mut client = Client::new(&epoll, 0, 1, ours.into(), &output(Framing::Raw)).unwrap();
        peer.write_all(b"never read by the process").unwrap();
        client.write(Stream::Stdout, b"last words");
        client.close();
        client.flush();
        assert!(!client.is_gone());
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
        drop(peer);
        for _ in 0..1000 {
            client.read(&mut Vec::new());
            if client.is_gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the client is not gone");
    }

    #[test]
    fn a_tcp_client_that_stays_is_left() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let _peer = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let epoll = Rc::new(Epoll::new().unwrap());
        let mut client = Client::new(&epoll, 0, 1, ours.into(), &output(Framing::Raw)).unwrap();
        client.close();
        client.flush();
        client.pass_time(Instant::now());
        assert!(!client.is_gone());
        client.pass_time(Instant::now() + LINGER);
        assert!(client.is_gone());
    }
}
