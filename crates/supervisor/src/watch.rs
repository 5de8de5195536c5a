//! A descriptor that the event loop watches, and the tokens by which the loop knows what is ready.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use palan_linux::event::{Epoll, Interest};

use crate::log::Stream;

/// Names a process and its stdio: 0 is the container's init, every exec session gets the next number.
pub(crate) type SessionId = u32;

/// Names a client within its session. Numbers are not used again, so an event for one that has gone finds nobody.
pub(crate) type ClientId = u32;

/// The container's own session.
pub(crate) const INIT: SessionId = 0;

/// What a descriptor is to the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The connection to the daemon.
    Control,
    /// The listening socket.
    Listener,
    /// The signalfd.
    Signals,
    /// The pidfd of a session's process.
    Process(SessionId),
    /// An output of a session's process.
    Output(SessionId, Stream),
    /// The input of a session's process.
    Input(SessionId),
    /// A client's socket.
    Client(SessionId, ClientId),
    /// What tells of kills for lack of memory.
    Oom,
    /// The signalfd for children.
    Children,
    /// The resolver's datagrams.
    ResolverUdp,
    /// The resolver's listening socket.
    ResolverTcp,
    /// A client of the resolver.
    ResolverClient(u32),
    /// A server that the resolver has asked.
    ResolverUpstream(u32),
    /// Whatever the relay watches.
    Relay,
    /// What CRIU says about a checkpoint.
    Checkpoint,
}

const KIND_SHIFT: u32 = 60;
const CLIENT_SHIFT: u32 = 32;
const CLIENT_MASK: u64 = (1 << (KIND_SHIFT - CLIENT_SHIFT)) - 1;

impl Token {
    /// As epoll keeps it: 4 bits kind, 28 bits client, 32 bits session.
    pub(crate) fn encode(self) -> u64 {
        let (kind, client, session) = match self {
            Self::Control => (0, 0, 0),
            Self::Listener => (1, 0, 0),
            Self::Signals => (2, 0, 0),
            Self::Process(session) => (3, 0, session),
            Self::Output(session, Stream::Stdout) => (4, 0, session),
            Self::Output(session, Stream::Stderr) => (5, 0, session),
            Self::Input(session) => (6, 0, session),
            Self::Client(session, client) => (7, client, session),
            Self::Oom => (8, 0, 0),
            Self::Children => (9, 0, 0),
            Self::ResolverUdp => (10, 0, 0),
            Self::ResolverTcp => (11, 0, 0),
            Self::ResolverClient(number) => (12, 0, number),
            Self::ResolverUpstream(number) => (13, 0, number),
            Self::Relay => (14, 0, 0),
            Self::Checkpoint => (15, 0, 0),
        };
        kind << KIND_SHIFT | (u64::from(client) & CLIENT_MASK) << CLIENT_SHIFT | u64::from(session)
    }

    /// The reverse of [`Self::encode`].
    pub(crate) fn decode(token: u64) -> Option<Self> {
        let session = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        let client = u32::try_from(token >> CLIENT_SHIFT & CLIENT_MASK).ok()?;
        Some(match token >> KIND_SHIFT {
            0 => Self::Control,
            1 => Self::Listener,
            2 => Self::Signals,
            3 => Self::Process(session),
            4 => Self::Output(session, Stream::Stdout),
            5 => Self::Output(session, Stream::Stderr),
            6 => Self::Input(session),
            7 => Self::Client(session, client),
            8 => Self::Oom,
            9 => Self::Children,
            10 => Self::ResolverUdp,
            11 => Self::ResolverTcp,
            12 => Self::ResolverClient(session),
            13 => Self::ResolverUpstream(session),
            14 => Self::Relay,
            15 if token == Self::Checkpoint.encode() => Self::Checkpoint,
            _ => return None,
        })
    }
}

/// An owned descriptor and what is waited for on it.
///
/// It is taken out of the epoll instance before it is closed: another process may hold the same open file (the daemon a
/// client's connection), and epoll would go on reporting it. Until then it stays in, muted while nothing is waited for: the
/// kernel limits the watches of a user, and whoever has used them up (say, root in some other container) must not be able
/// to make this one deaf.
#[derive(Debug)]
pub(crate) struct Watched {
    descriptor: OwnedFd,
    epoll: Rc<Epoll>,
    token: u64,
    state: WatchState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WatchState {
    Unknown,
    Muted,
    For(Interest),
    ForChanges,
}

impl Watched {
    /// Takes `descriptor` over without waiting for anything yet.
    pub(crate) fn new(epoll: &Rc<Epoll>, descriptor: OwnedFd, token: Token) -> Self {
        Self::with_token(epoll, descriptor, token.encode())
    }

    /// The same with a token of another epoll instance than the loop's.
    pub(crate) fn with_token(epoll: &Rc<Epoll>, descriptor: OwnedFd, token: u64) -> Self {
        Self { descriptor, epoll: Rc::clone(epoll), token, state: WatchState::Unknown }
    }

    /// Changes what is waited for. `None` is nothing at all; [`Interest::NONE`] still reports a hang-up.
    pub(crate) fn set(&mut self, interest: Option<Interest>) -> rustix::io::Result<()> {
        let state = match (interest, self.state) {
            (None, WatchState::Unknown) => WatchState::Unknown,
            (None, _) => WatchState::Muted,
            (Some(interest), _) => WatchState::For(interest),
        };
        self.change_to(state)
    }

    /// Waits for the next change only: what there is now (a hang-up that may end again) has been seen.
    pub(crate) fn set_for_changes(&mut self) -> rustix::io::Result<()> {
        self.change_to(WatchState::ForChanges)
    }

    /// Whether [`Self::set_for_changes`] was the last that was set.
    pub(crate) fn is_for_changes(&self) -> bool {
        self.state == WatchState::ForChanges
    }

    fn change_to(&mut self, state: WatchState) -> rustix::io::Result<()> {
        if self.state == state {
            return Ok(());
        }
        let token = self.token;
        if self.state == WatchState::Unknown {
            let first = if let WatchState::For(interest) = state { interest } else { Interest::NONE };
            self.epoll.add(&self.descriptor, token, first)?;
            self.state = WatchState::For(first);
            if self.state == state {
                return Ok(());
            }
        }
        match state {
            WatchState::Unknown => {}
            WatchState::Muted => self.epoll.mute(&self.descriptor, token)?,
            WatchState::For(interest) => self.epoll.modify(&self.descriptor, token, interest)?,
            WatchState::ForChanges => self.epoll.modify_to_changes(&self.descriptor, token)?,
        }
        self.state = state;
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.state != WatchState::Unknown {
            // It can only fail for a descriptor that is not watched.
            let _ = self.epoll.remove(&self.descriptor);
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Control,
            Token::Listener,
            Token::Signals,
            Token::Process(5),
            Token::Output(u32::MAX, Stream::Stdout),
            Token::Output(1, Stream::Stderr),
            Token::Input(7),
            Token::Client(u32::MAX, 0x0fff_ffff),
            Token::Client(INIT, 1),
            Token::Oom,
            Token::Children,
            Token::ResolverUdp,
            Token::ResolverTcp,
            Token::ResolverClient(u32::MAX),
            Token::ResolverUpstream(3),
            Token::Relay,
            Token::Checkpoint,
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn a_closed_descriptor_is_not_reported_although_another_copy_lives() {
        let epoll = Rc::new(Epoll::new().unwrap());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let copy = reader.try_clone().unwrap();
        let mut watched = Watched::new(&epoll, reader, Token::Control);
        watched.set(Some(Interest::READ)).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        drop(watched);
        let mut ready = Vec::new();
        epoll.wait(&mut ready, Some(std::time::Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        drop(copy);
    }

    #[test]
    fn a_muted_descriptor_is_silent_although_the_other_end_is_gone() {
        let epoll = Rc::new(Epoll::new().unwrap());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut watched = Watched::new(&epoll, reader, Token::Control);
        let events = || {
            let mut ready = Vec::new();
            epoll.wait(&mut ready, Some(std::time::Duration::ZERO)).unwrap();
            ready.len()
        };
        watched.set(None).unwrap();
        watched.set(Some(Interest::READ)).unwrap();
        watched.set(None).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(events(), 0);
        drop(writer);
        // The hang-up itself may be told once.
        events();
        assert_eq!((events(), events()), (0, 0));
        watched.set(Some(Interest::READ)).unwrap();
        assert_eq!((events(), events()), (1, 1));
        watched.set_for_changes().unwrap();
        assert_eq!((events(), events()), (1, 0));
    }
}
