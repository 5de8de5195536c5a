//! The words between the caller and the process that becomes the container's.
//!
//! 1. new process → caller: any number of `Warning`, at most one `Console` (with the master of the terminal) and
//!    `Listener` (the number of seccomp's, which the caller takes over and acknowledges), then `Ready` when only the
//!    exec is missing; or `Failed` at any moment. One that enters a running container hands over to another process
//!    for the last step, and says so with `Process` (its pidfd).
//!    On the way it may ask: `NeedsMappings` (write the maps of my user namespace), `NeedsIdMapping` (map the ids of this
//!    detached mount, which only the owner of its file system may do), `Prepared` (everything is mounted; it is the moment
//!    for the caller's hooks and devices). The caller answers each with one byte.
//! 2. caller → new process: one byte: execute. The end of the stream instead: nobody wants it any more.
//! 3. The stream ends: the exec has happened, since the socket is close-on-exec. Or `Failed` comes: it has not.
//!
//! Most of what the new process says comes when its seccomp filter is in force. `write` and `read`, without which no
//! program runs, are all that it needs for it, as long as no descriptor goes along.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use palan_linux::signal::{self, SignalSet};
use palan_linux::{process as os, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::error::{Error, FailureKind};

/// Longest text that a message carries.
const MAX_TEXT: usize = 64 * 1024;

const WARNING: u8 = 1;
const CONSOLE: u8 = 2;
const LISTENER: u8 = 3;
const READY: u8 = 4;
const FAILED: u8 = 5;
const PROCESS: u8 = 6;
const NEEDS_MAPPINGS: u8 = 7;
const PREPARED: u8 = 8;
const NEEDS_ID_MAPPING: u8 = 9;

// Answers to a listener's number.
const TAKEN: u8 = 1;
const SEND: u8 = 2;

/// What the new process says.
#[derive(Debug)]
pub(crate) enum Message {
    Warning(String),
    Console(OwnedFd),
    Listener(Listener),
    Ready,
    Process(OwnedFd),
    NeedsMappings,
    /// A detached mount, and for which entry of the plan's mounts it is.
    NeedsIdMapping(usize, OwnedFd),
    Prepared,
    Failed(Error),
}

/// How the new process shows its seccomp listener.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Its number in that process.
    Number(i32),
    /// Itself.
    Descriptor(OwnedFd),
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// The caller's end and the new process's end.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (first, second) = socket::pair()?;
        Ok((Self { socket: first }, Self { socket: second }))
    }

    /// The same channel at a descriptor number of at least `minimum`.
    pub(crate) fn moved_above(self, minimum: i32) -> io::Result<Self> {
        Ok(Self { socket: rustix::io::fcntl_dupfd_cloexec(&self.socket, minimum)? })
    }

    /// Closes every descriptor from number `first` on but this channel and `others`. No owner of one of them may use it
    /// afterwards.
    pub(crate) fn close_others(&self, first: i32, others: &[BorrowedFd<'_>]) -> io::Result<()> {
        let keep: Vec<_> = std::iter::once(self.socket.as_fd()).chain(others.iter().copied()).collect();
        os::close_all_but(u32::try_from(first).map_err(io::Error::other)?, &keep)
    }

    // --- the new process's side ------------------------------------------------------------------------------

    pub(crate) fn warn(&self, text: &str) -> io::Result<()> {
        self.send(WARNING, text.as_bytes(), None)
    }

    pub(crate) fn console(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        self.send(CONSOLE, &[], Some(master))
    }

    /// Lets the caller take over a seccomp listener. Passing it along would be a call (`sendmsg`) that the filter, in
    /// force already, may hold back until somebody answers at this very listener.
    pub(crate) fn listener(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.send(LISTENER, &listener.as_raw_fd().to_le_bytes(), None)?;
        match read_byte(&self.socket)? {
            Some(TAKEN) => Ok(()),
            Some(_) => self.send(LISTENER, &[], Some(listener)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) fn process(&self, pidfd: BorrowedFd<'_>) -> io::Result<()> {
        self.send(PROCESS, &[], Some(pidfd))
    }

    pub(crate) fn ready(&self) -> io::Result<()> {
        self.send(READY, &[], None)
    }

    /// Asks the caller for the maps of this process's user namespace.
    pub(crate) fn ask_for_mappings(&self) -> io::Result<()> {
        self.ask(NEEDS_MAPPINGS, &[], None)
    }

    /// Has the caller map the ids of a detached mount as entry `index` of the plan's mounts says.
    pub(crate) fn ask_for_id_mapping(&self, index: usize, mount: BorrowedFd<'_>) -> io::Result<()> {
        let index = u32::try_from(index).map_err(io::Error::other)?;
        self.ask(NEEDS_ID_MAPPING, &index.to_le_bytes(), Some(mount))
    }

    /// Lets the caller do its part before the root changes.
    pub(crate) fn prepared(&self) -> io::Result<()> {
        self.ask(PREPARED, &[], None)
    }

    /// Waits, in a process that another one hands over to, until the caller knows of it: what it says before would be
    /// taken for the other one's.
    pub(crate) fn wait_until_known(&self) -> Result<(), Error> {
        match wait_for_byte(&self.socket) {
            Ok(true) => Ok(()),
            // Its failure is the one to tell.
            Ok(false) => os::exit_now(1),
            Err(error) => Err(Error::system("wait for the caller", error)),
        }
    }

    fn ask(&self, code: u8, payload: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(code, payload, descriptor)?;
        if wait_for_byte(&self.socket)? {
            return Ok(());
        }
        // Its failure is the one to tell.
        Err(io::Error::other("the caller has given up"))
    }

    /// Reports a failure; there is nobody to tell if that fails too.
    pub(crate) fn fail(&self, error: &Error) {
        // Without a listener, writing must not kill: the exit code still says something.
        let _ = signal::set_mask(&SignalSet::all());
        let errno = error.errno().unwrap_or(0);
        let mut payload = vec![kind_code(error.kind())];
        payload.extend(errno.to_le_bytes());
        payload.extend(error.report().as_bytes().iter().take(MAX_TEXT - 16));
        let _ = self.send(FAILED, &payload, None);
    }

    /// Waits for the word to execute. False: the caller has gone.
    pub(crate) fn wait_for_start(&self) -> io::Result<bool> {
        wait_for_byte(&self.socket)
    }

    fn send(&self, code: u8, payload: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let payload = &payload[..payload.len().min(MAX_TEXT)];
        let mut frame = vec![code];
        frame.extend(u32::try_from(payload.len()).map_err(io::Error::other)?.to_le_bytes());
        frame.extend(payload);
        let mut sent = 0;
        while sent < frame.len() {
            let rest = &frame[sent..];
            let result = match descriptor.filter(|_| sent == 0) {
                Some(descriptor) => socket::send_with_descriptors(&self.socket, rest, &[descriptor]),
                None => rustix::io::write(&self.socket, rest),
            };
            match result {
                Ok(length) => sent += length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    // --- the caller's side -----------------------------------------------------------------------------------

    /// Takes over the listener that `process` has named; `None` if it is going to be sent, since this process may not
    /// reach into another one.
    pub(crate) fn take_listener(&self, process: impl AsFd, named: Listener) -> io::Result<Option<OwnedFd>> {
        let number = match named {
            Listener::Number(number) => number,
            Listener::Descriptor(listener) => return Ok(Some(listener)),
        };
        let listener = match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
            Ok(listener) => Some(listener),
            Err(Errno::PERM | Errno::NOSYS) => None,
            Err(errno) => return Err(errno.into()),
        };
        let answer = if listener.is_some() { TAKEN } else { SEND };
        socket::send_with_descriptors(&self.socket, &[answer], &[])?;
        Ok(listener)
    }

    /// Waits until there is a message, or something to read from `other`: then true.
    pub(crate) fn is_preceded_by(&self, other: &OwnedFd) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(other, PollFlags::IN)];
        loop {
            match poll(&mut polled, None) {
                Ok(_) => return Ok(polled[0].revents().is_empty()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Gives the word to go on or to execute.
    pub(crate) fn start(&self) -> io::Result<()> {
        socket::send_with_descriptors(&self.socket, &[1], &[])?;
        Ok(())
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        let mut descriptors = Vec::new();
        let mut head = [0; 5];
        if !self.fill(&mut head, &mut descriptors)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_TEXT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        if !self.fill(&mut payload, &mut descriptors)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let descriptor = descriptors.pop();
        let message = match (head[0], descriptor) {
            (WARNING, None) => Message::Warning(String::from_utf8_lossy(&payload).into_owned()),
            (CONSOLE, Some(master)) => Message::Console(master),
            (LISTENER, Some(listener)) => Message::Listener(Listener::Descriptor(listener)),
            (LISTENER, None) => {
                let number = payload.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                Message::Listener(Listener::Number(i32::from_le_bytes(number)))
            }
            (PROCESS, Some(pidfd)) => Message::Process(pidfd),
            (READY, None) => Message::Ready,
            (NEEDS_MAPPINGS, None) => Message::NeedsMappings,
            (NEEDS_ID_MAPPING, Some(mount)) => {
                let index = payload.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                Message::NeedsIdMapping(u32::from_le_bytes(index) as usize, mount)
            }
            (PREPARED, None) => Message::Prepared,
            (FAILED, None) => Message::Failed(parse_failure(&payload)?),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Some(message))
    }

    /// Reads exactly `buffer`; false if the stream ended before its first byte.
    fn fill(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match socket::receive_with_descriptors(&self.socket, &mut buffer[filled..], descriptors) {
                Ok(0) | Err(Errno::CONNRESET) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => filled += length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

/// Waits for one byte; false at the end of the stream.
pub(crate) fn wait_for_byte(source: impl AsFd) -> io::Result<bool> {
    Ok(read_byte(source)?.is_some())
}

/// One byte; `None` at the end of the stream.
fn read_byte(source: impl AsFd) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match rustix::io::read(&source, &mut byte) {
            Ok(length) => return Ok((length == 1).then_some(byte[0])),
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn kind_code(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::ProgramNotFound => 1,
        FailureKind::ProgramNotExecutable => 2,
        FailureKind::Invalid => 3,
        FailureKind::NotRunning => 4,
        FailureKind::System => 5,
    }
}

fn parse_failure(payload: &[u8]) -> io::Result<Error> {
    let (head, text) = payload.split_at_checked(5).ok_or(io::ErrorKind::InvalidData)?;
    let kind = match head[0] {
        1 => FailureKind::ProgramNotFound,
        2 => FailureKind::ProgramNotExecutable,
        3 => FailureKind::Invalid,
        4 => FailureKind::NotRunning,
        _ => FailureKind::System,
    };
    let errno = i32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    Ok(Error::Child {
        kind,
        message: String::from_utf8_lossy(text).into_owned(),
        errno: (errno != 0).then_some(errno),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ProgramProblem;

    #[test]
    fn messages_arrive_in_order_with_their_descriptors() {
        let (caller, child) = Channel::pair().unwrap();
        child.warn("careful").unwrap();
        child.console(caller.socket.as_fd()).unwrap();
        child.ready().unwrap();
        let error = Error::Program { name: "x".into(), problem: ProgramProblem::NotInPath };
        child.fail(&error);
        drop(child);
        assert!(matches!(caller.receive().unwrap(), Some(Message::Warning(text)) if text == "careful"));
        assert!(matches!(caller.receive().unwrap(), Some(Message::Console(_))));
        assert!(matches!(caller.receive().unwrap(), Some(Message::Ready)));
        let Some(Message::Failed(error)) = caller.receive().unwrap() else { panic!() };
        assert_eq!(error.kind(), FailureKind::ProgramNotFound);
        assert_eq!(error.report(), "exec: \"x\": executable file not found in $PATH");
        assert!(caller.receive().unwrap().is_none());
    }
}
