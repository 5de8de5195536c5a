//! `palan daemon --replace`: a new daemon takes the place of the running one, and no client notices.
//!
//! The running daemon listens on `control` in its run root, which root alone may connect to. In order:
//!
//! ```text
//! new                                        old
//! settings read and checked
//! Replace ─────────────────────────────────▶ waits for a quiet moment, stops accepting, lets requests end,
//!                                            puts connections aside (palan_server::handover), closes everything
//!             Socket, Metrics: what it listens on   ◀─┐
//!             Connection: clients between requests   ◀┤ each with its descriptor
//!             Client: attached before a start        ◀┘
//!             Session: exec sessions         ◀──
//!                                            ◀── Released
//! starts its engine, which the old one could do as well
//! Ready ───────────────────────────────────▶ ends, and leaves the files of its sockets
//! serves
//! ```
//!
//! **Invariant:** until `Ready` the old daemon has everything that it would need to go on, and it does so when the connection ends
//! without it: a new daemon that can't start costs its clients a moment of waiting. So the new daemon's end of the connection is the last
//! that it lets go of. Who connects meanwhile waits in the queues of the listening sockets, which never close; the same goes for
//! `control`, where a third daemon waits for whoever wins.
//!
//! One of the two goes on, never both: an old daemon that has waited too long says `Refused` and shuts the connection down, and then
//! looks once more for a `Ready` that came before. A new daemon whose `Ready` is not taken ends if it finds the `Refused`; without it the
//! old one has died.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use palan_engine::EngineConfig;
use palan_engine::container::ExecDetails;
use palan_engine::handover::{EarlyClient, EarlyClientNote, Legacy};
use palan_linux::socket;
use palan_server::{Handed, HandedNote, Listeners, Offer};
use serde::{Deserialize, Serialize};

use super::Failure;

/// The socket's name in the run root.
const NAME: &str = "control";
/// Changes when a daemon of another version would not understand.
const VERSION: u32 = 1;
/// A connection's note may hold a request's head, in two digits a byte.
const MAX_MESSAGE: usize = 2 << 20;
/// How long whoever connects may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the new daemon may take for each thing that it gets, and for its start.
const START_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Replace { version: u32, data_root: String },
    Refused { reason: String },
    Socket { host: String },
    Metrics { host: String },
    Connection(HandedNote),
    Client(EarlyClientNote),
    Session(Box<ExecDetails>),
    Released,
    Ready,
}

impl Message {
    fn has_descriptor(&self) -> bool {
        matches!(self, Self::Socket { .. } | Self::Metrics { .. } | Self::Connection(_) | Self::Client(_))
    }
}

/// One end of the way between two daemons.
#[derive(Debug)]
struct Peer {
    socket: UnixStream,
    received: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Peer {
    fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), received: Vec::new(), descriptors: VecDeque::new() }
    }

    fn send(&self, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let frame = [&length.to_le_bytes()[..], &body].concat();
        let (mut sent, mut descriptor) = (0, descriptor);
        while sent < frame.len() {
            match socket::send_with_descriptors(&self.socket, &frame[sent..], descriptor.as_slice()) {
                Ok(count) => (sent, descriptor) = (sent + count, None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<(Message, Option<OwnedFd>)> {
        loop {
            if let Some((head, rest)) = self.received.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*head) as usize;
                if length > MAX_MESSAGE {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
                }
                if let Some(body) = rest.get(..length) {
                    let message: Message = serde_json::from_slice(body)?;
                    self.received.drain(..4 + length);
                    let descriptor =
                        if message.has_descriptor() { self.descriptors.pop_front() } else { None };
                    return Ok((message, descriptor));
                }
            }
            let mut buffer = [0; 4096];
            let mut descriptors = Vec::new();
            match socket::receive_with_descriptors(&self.socket, &mut buffer, &mut descriptors) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.descriptors.extend(descriptors);
        }
    }
}

/// What the daemon that was replaced has left.
#[derive(Debug)]
pub(super) struct Predecessor {
    peer: Peer,
    pub(super) pid: i32,
    pub(super) sockets: Vec<Offer>,
    pub(super) metrics: Vec<Offer>,
    pub(super) connections: Vec<Handed>,
    pub(super) legacy: Legacy,
}

impl Predecessor {
    /// Asks the daemon that runs on the same run root to make place, and waits until it has; `None` if there is none.
    pub(super) fn ask(config: &EngineConfig) -> Result<Option<Self>, Failure> {
        loop {
            match Self::ask_once(config)? {
                Asked::Nobody => return Ok(None),
                Asked::Made(found) => return Ok(Some(*found)),
                // It gave its place to another one, which can be asked for it.
                Asked::Gone => tracing::info!("the running daemon has gone"),
            }
        }
    }

    fn ask_once(config: &EngineConfig) -> Result<Asked, Failure> {
        let connected =
            File::open(&config.run_root).and_then(|directory| Ok(socket::connect_at(&directory, NAME)?));
        let peer = match connected {
            Ok(socket) => Peer::new(socket),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                tracing::info!("there is no daemon to replace");
                return Ok(Asked::Nobody);
            }
            Err(error) => {
                let path = config.run_root.join(NAME);
                return Err(format!("cannot ask the running daemon by {}: {error}", path.display()).into());
            }
        };
        let pid = socket::peer_credentials(&peer.socket)?.pid;
        let data_root = config.data_root.display().to_string();
        match peer.send(&Message::Replace { version: VERSION, data_root }, None) {
            Err(error) if is_gone(&error) => return Ok(Asked::Gone),
            sent => sent?,
        }
        tracing::info!(pid, "waiting for the running daemon to make place");
        let mut found = Self {
            peer,
            pid,
            sockets: Vec::new(),
            metrics: Vec::new(),
            connections: Vec::new(),
            legacy: Legacy::default(),
        };
        let mut has_begun = false;
        loop {
            let received = match found.peer.receive() {
                Err(error) if !has_begun && is_gone(&error) => return Ok(Asked::Gone),
                received => received,
            };
            has_begun = true;
            let received = received.map_err(|error| {
                format!("the running daemon (process {pid}) broke off the replacement: {error}")
            })?;
            match received {
                (Message::Socket { host }, Some(socket)) => found.sockets.push(Offer { host, socket }),
                (Message::Metrics { host }, Some(socket)) => found.metrics.push(Offer { host, socket }),
                (Message::Connection(note), Some(socket)) => found.connections.push(Handed { socket, note }),
                (Message::Client(note), Some(socket)) => {
                    found.legacy.clients.push(EarlyClient { note, socket });
                }
                (Message::Session(session), None) => found.legacy.sessions.push(*session),
                (Message::Released, None) => return Ok(Asked::Made(Box::new(found))),
                (Message::Refused { reason }, _) => {
                    return Err(
                        format!("the running daemon (process {pid}) can't be replaced: {reason}").into()
                    );
                }
                _ => {
                    return Err(
                        "the running daemon said something that this version does not understand".into()
                    );
                }
            }
        }
    }

    /// From here on this daemon is the one, unless the other one has waited too long and goes on.
    pub(super) fn succeed(&mut self) -> Result<(), Failure> {
        let Err(error) = self.peer.send(&Message::Ready, None) else { return Ok(()) };
        if let Ok((Message::Refused { reason }, _)) = self.peer.receive() {
            return Err(format!("the running daemon (process {}) goes on: {reason}", self.pid).into());
        }
        // It was killed; nobody else has what it had.
        tracing::warn!(pid = self.pid, %error, "the replaced daemon could not be told");
        Ok(())
    }
}

/// What became of a question for a daemon's place.
enum Asked {
    /// There is none.
    Nobody,
    /// It ended before it said anything.
    Gone,
    Made(Box<Predecessor>),
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// A daemon that wants this one's place.
#[derive(Debug)]
pub(super) struct Successor {
    peer: Peer,
    pub(super) pid: i32,
}

impl Successor {
    /// Whether it is still there.
    pub(super) fn waits(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.peer.socket, PollFlags::IN)];
        // It has nothing to say before it is told.
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready == 0)
    }

    /// Gives it everything.
    pub(super) fn give(
        &self,
        listeners: &Listeners,
        metrics: &Listeners,
        connections: &[Handed],
        legacy: &Legacy,
    ) -> io::Result<()> {
        let peer = &self.peer;
        peer.socket.set_write_timeout(Some(START_PATIENCE))?;
        for (host, socket) in listeners.sockets() {
            peer.send(&Message::Socket { host: host.to_owned() }, Some(socket))?;
        }
        for (host, socket) in metrics.sockets() {
            peer.send(&Message::Metrics { host: host.to_owned() }, Some(socket))?;
        }
        for Handed { socket, note } in connections {
            peer.send(&Message::Connection(note.clone()), Some(socket.as_fd()))?;
        }
        for EarlyClient { note, socket } in &legacy.clients {
            peer.send(&Message::Client(note.clone()), Some(socket.as_fd()))?;
        }
        for session in &legacy.sessions {
            peer.send(&Message::Session(Box::new(session.clone())), None)?;
        }
        peer.send(&Message::Released, None)
    }

    /// Waits until it has begun, but not for ever.
    pub(super) fn begins(&mut self) -> io::Result<()> {
        self.begins_within(START_PATIENCE)
    }

    fn begins_within(&mut self, patience: Duration) -> io::Result<()> {
        self.peer.socket.set_read_timeout(Some(patience))?;
        let said = match self.peer.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.refuse("the new one took too long to start");
                // It may have been ready just before.
                self.peer.receive().map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
            said => said?,
        };
        match said {
            (Message::Ready, _) => Ok(()),
            (other, _) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it said {other:?}"))),
        }
    }

    /// It gets nothing any more, and nothing that it says from here on counts.
    pub(super) fn refuse(&self, reason: &str) {
        // It may have gone.
        let _ = self.peer.send(&Message::Refused { reason: reason.to_owned() }, None);
        let _ = self.peer.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// Where a daemon that wants this one's place finds it.
#[derive(Debug)]
pub(super) struct Control {
    listener: tokio::net::UnixListener,
    data_root: String,
}

impl Control {
    pub(super) fn open(config: &EngineConfig) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| format!("cannot listen on {}: {error}", config.run_root.join(NAME).display());
        let directory = File::open(&config.run_root).map_err(failed)?;
        let listener = socket::listen_at(&directory, NAME, 0o600).map_err(|error| failed(error.into()))?;
        let listener = tokio::net::UnixListener::from_std(UnixListener::from(listener)).map_err(failed)?;
        Ok(Self { listener, data_root: config.data_root.display().to_string() })
    }

    /// Keeps whoever connects waiting, also while nobody accepts.
    pub(super) fn queue(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Waits for one that may have it.
    pub(super) async fn successor(&self) -> Successor {
        loop {
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!("accepting a connection for a replacement failed: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let data_root = self.data_root.clone();
            let greeted = tokio::task::spawn_blocking(move || greet(socket.into_std()?, &data_root)).await;
            match greeted.map_err(io::Error::other).flatten() {
                Ok(successor) => return successor,
                Err(error) => tracing::warn!("a replacement was refused: {error}"),
            }
        }
    }
}

/// Reads what somebody wants who has connected.
fn greet(socket: UnixStream, data_root: &str) -> io::Result<Successor> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let credentials = socket::peer_credentials(&socket)?;
    let mut peer = Peer::new(socket.into());
    let own = rustix::process::geteuid().as_raw();
    let refuse = |peer: &Peer, reason: String| {
        // It may have gone.
        let _ = peer.send(&Message::Refused { reason: reason.clone() }, None);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
    };
    if credentials.uid != 0 && credentials.uid != own {
        return refuse(&peer, format!("process {} is another user's", credentials.pid));
    }
    match peer.receive()?.0 {
        Message::Replace { version, .. } if version != VERSION => {
            refuse(&peer, format!("it speaks version {VERSION} of the protocol for that, not {version}"))
        }
        Message::Replace { data_root: other, .. } if Path::new(&other) != Path::new(data_root) => {
            refuse(&peer, format!("its data root is {data_root}, not {other}"))
        }
        Message::Replace { .. } => {
            peer.socket.set_read_timeout(None)?;
            Ok(Successor { peer, pid: credentials.pid })
        }
        _ => refuse(&peer, "it was asked for something else".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_descriptors() {
        let (ours, theirs) = socket::pair().unwrap();
        let (ours, mut theirs) = (Peer::new(ours), Peer::new(theirs));
        let null = File::open("/dev/null").unwrap();
        let note = HandedNote { ahead: vec![7; 300_000], resumed: false };
        let sender = std::thread::spawn(move || {
            ours.send(&Message::Connection(note), Some(null.as_fd())).unwrap();
            ours.send(&Message::Session(Box::default()), None).unwrap();
            ours.send(&Message::Socket { host: "tcp://1.2.3.4:5".into() }, Some(null.as_fd())).unwrap();
        });
        let (message, descriptor) = theirs.receive().unwrap();
        assert!(matches!(message, Message::Connection(note) if note.ahead.len() == 300_000));
        assert!(descriptor.is_some());
        assert!(matches!(theirs.receive().unwrap(), (Message::Session(_), None)));
        assert!(matches!(theirs.receive().unwrap(), (Message::Socket { .. }, Some(_))));
        sender.join().unwrap();
        assert_eq!(theirs.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    fn pair() -> (Predecessor, Successor) {
        let (ours, theirs) = socket::pair().unwrap();
        let predecessor = Predecessor {
            peer: Peer::new(ours),
            pid: 1,
            sockets: Vec::new(),
            metrics: Vec::new(),
            connections: Vec::new(),
            legacy: Legacy::default(),
        };
        (predecessor, Successor { peer: Peer::new(theirs), pid: 2 })
    }

    #[test]
    fn one_of_two_daemons_goes_on() {
        let soon = Duration::from_millis(20);
        let (mut new, mut old) = pair();
        assert_eq!(old.begins_within(soon).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let told = new.succeed().unwrap_err().to_string();
        assert_eq!(told, "the running daemon (process 1) goes on: the new one took too long to start");
        // Ready at the last moment.
        let (mut new, mut old) = pair();
        new.succeed().unwrap();
        old.refuse("late");
        old.begins_within(soon).unwrap();
        // One that was killed can't go on.
        let (mut new, old) = pair();
        drop(old);
        new.succeed().unwrap();
    }

    #[test]
    fn a_daemon_of_another_data_root_is_refused() {
        let (ours, theirs) = socket::pair().unwrap();
        let asking = std::thread::spawn(move || greet(theirs.into(), "/a"));
        let mut peer = Peer::new(ours);
        peer.send(&Message::Replace { version: VERSION, data_root: "/b".into() }, None).unwrap();
        let reason = "its data root is /a, not /b";
        assert!(matches!(peer.receive().unwrap().0, Message::Refused { reason: told } if told == reason));
        assert_eq!(asking.join().unwrap().unwrap_err().to_string(), reason);
    }
}
