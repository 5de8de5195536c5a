//! The protocol between the daemon and a supervisor.
//!
//! A connection is a unix stream socket: either the socketpair that the supervisor was spawned with, or one that the
//! daemon made to `supervisor.sock` in the run directory (mode 0600; the peer must be root or have our user id). Only one
//! connection counts at a time: a new one replaces the old one, which is closed.
//!
//! ## Frames
//!
//! `u32` length of the body, `u32` number of file descriptors, both little-endian, then the body: a JSON object. The
//! descriptors travel with the frame's first byte (SCM_RIGHTS). A body is at most [`MAX_BODY`] bytes; anything larger is
//! passed as a sealed memfd. Daemon → supervisor the body is a [`RequestFrame`], the other way a [`Message`].
//!
//! ## Steps
//!
//! 1. The daemon says [`Request::Hello`] with its version and the last journal sequence number that it has committed.
//! 2. The supervisor answers [`Message::Welcome`] and then one [`Message::Journal`] for each entry after that number.
//! 3. Requests and replies: every request gets exactly one [`Message::Reply`] with its id, in any order. Requests may be
//!    sent before the answer to an earlier one came, also before `Welcome`.
//! 4. Journal entries are sent as they happen. An entry that a request causes is sent before the reply to that request.
//!    The daemon may say [`Request::AckJournal`] once it has committed them.
//! 5. An `exit` entry that announces no restart is the last end of the container under this supervisor, and so is
//!    `restart_canceled`: `supervisor.sock` is gone then, and the container may be started again by another supervisor. This
//!    one closes the connection when it is done with its clients; the daemon sees the end of the stream.
//!
//! `Start` must come on the connection that the supervisor was spawned with. If that connection ends before, the
//! supervisor exits and leaves nothing.
//!
//! ## Versions
//!
//! A daemon drives every supervisor of its own major protocol version: fields and requests are only added, with defaults
//! that mean what was before. A supervisor answers a request that it does not know with [`FailureKind::Unsupported`].

pub(crate) mod frame;
mod health;
mod restart;

use std::net::SocketAddr;
use std::path::PathBuf;

use palan_oci::runtime_spec::{NamespaceKind, Process, Spec};
pub use palan_runtime::Rootfs as RootfsConfig;
use serde::{Deserialize, Serialize};

pub use self::health::{HealthAction, HealthConfig, HealthStatus, ProbeOutcome, ProbeResult};
pub use self::restart::{Backoff, RestartConfig, RestartPolicy};
use crate::journal::Entry;

/// The protocol's version. Raised when a message is added; a change that an older side can't ignore is not made.
///
/// 2 added [`Config::runtime`], 3 [`Request::Resolve`], the resolver of [`Request::Start`], [`Config::sources`] and
/// [`Config::health`], 4 [`Config::restart`], [`Request::StayDown`], [`Request::Update`], [`HealthAction::Restart`],
/// [`Config::groups`], the other containers' namespaces of [`Request::Start`], and [`Request::Relay`], 5 [`Request::Checkpoint`] and
/// the checkpoint of [`Request::Start`].
pub const VERSION: u32 = 5;

/// The name of the listening socket in the run directory.
pub const SOCKET_NAME: &str = "supervisor.sock";

/// The name of the file in the run directory that configures the resolver (`palan_dns::config`).
pub const RESOLVER_CONFIG_NAME: &str = "resolver";

/// The largest body of a frame.
pub const MAX_BODY: usize = 1024 * 1024;

/// The length of a frame's header.
pub const HEADER: usize = 8;

/// Chosen by the daemon to find the reply to a request. Unique on its connection.
pub type RequestId = u64;

/// One request as it stands in a frame.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestFrame {
    /// Comes back with the reply.
    pub id: RequestId,
    /// What to do.
    pub request: Request,
}

/// What the daemon asks for. The descriptors that a request carries are listed with it, in their order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Opens the conversation. Any state.
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
        /// Journal entries after this number are replayed.
        after_seq: u64,
    },
    /// Starts the container. Only in state *Waiting*.
    ///
    /// Descriptors: the [`Config`] as JSON in a regular file or memfd; then, if the flag is set, the seccomp program;
    /// then, if the flag is set, the network namespace; then one namespace for each of `joins`; then, if the flag is set, a
    /// mount namespace; then, with a checkpoint, the directory of its images; then, if the flag is set, the resolver's two sockets as in [`Request::Resolve`]; then one socket for
    /// each of `attach`; then one for each of `waits`. Reply: [`Reply::Started`], or [`Failure`] with the kind.
    Start {
        /// A descriptor with the compiled seccomp program (an array of `struct sock_filter`) follows the configuration. Not
        /// with [`Config::runtime`]: another runtime finds the profile in the specification.
        seccomp: bool,
        /// A descriptor of the network namespace to join follows.
        network_namespace: bool,
        /// Descriptors of namespaces of other containers follow, which take the place of new ones of their kinds.
        #[serde(default)]
        joins: Vec<NamespaceKind>,
        /// A descriptor of the mount namespace follows in which [`MountWhole::Shared`] is found.
        #[serde(default)]
        shared_mounts: bool,
        /// The processes are made from a checkpoint, by this program, instead of anew. Only with Palan's own runtime.
        #[serde(default)]
        checkpoint: Option<CriuProgram>,
        /// The descriptors of [`Request::Resolve`] follow.
        #[serde(default)]
        resolver: bool,
        /// Clients that are attached before the first byte of output.
        #[serde(default)]
        attach: Vec<AttachOptions>,
        /// `/wait` connections to answer if the daemon can't.
        #[serde(default)]
        waits: Vec<WaitOptions>,
    },
    /// Answers the container's DNS queries from now on, as the file [`RESOLVER_CONFIG_NAME`] in the run directory says. States
    /// *Running* and *Paused*.
    ///
    /// Descriptors: a bound UDP socket and a listening TCP socket, both in the container's network namespace and
    /// non-blocking. Reply: [`Reply::Done`].
    Resolve,
    /// Relays ports of the host to the container, which the kernel can't translate to it: first those of `close` end (what they
    /// have connected goes on), then those of `open` begin, or lead elsewhere if they are relayed already. States *Running* and
    /// *Paused*.
    ///
    /// Descriptors: one for each of `open` with [`RelayedPort::socket`]: a listening TCP or a bound UDP socket, non-blocking; UDP
    /// of IPv6 only. Reply: [`Reply::Done`].
    Relay {
        /// Ports to relay no longer.
        close: Vec<RelayedPort>,
        /// Ports to relay from now on.
        open: Vec<RelayedPort>,
    },
    /// Attaches a client to the container's stdio. States *Running* and *Paused*; clients from before come with `Start`.
    ///
    /// Descriptor: the client's socket, whose response head has been written. Reply: [`Reply::Done`], after which the
    /// supervisor alone owns the connection.
    Attach(AttachOptions),
    /// Keeps a `/wait` connection, to be answered if this connection to the daemon is lost before the daemon says
    /// [`Request::ReleaseWait`]. Descriptor: the client's socket. Reply: [`Reply::Done`].
    HoldWait(WaitOptions),
    /// The daemon has answered the wait itself, or its client has gone: the descriptor is closed, nothing is written.
    ReleaseWait {
        /// As given in [`WaitOptions::key`].
        key: u64,
    },
    /// Sends a signal to init.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Sends `signal` to init now, and SIGKILL when `timeout_ms` has passed without its end. Replies at once; the end is
    /// told by the `exit` entry. A later `Stop` with an earlier deadline brings the deadline forward.
    Stop {
        /// The signal's number.
        signal: i32,
        /// How long to wait for init's end; `None` is for ever.
        timeout_ms: Option<u64>,
    },
    /// Sets the size of the container's terminal.
    Resize(TerminalSize),
    /// Freezes every process of the container.
    Pause,
    /// Thaws them.
    Resume,
    /// Saves the container's processes. State *Running*, one at a time; until it is done there are no [`Request::Pause`] and no
    /// [`Request::Exec`].
    ///
    /// Descriptors: the [`Config`] as in [`Request::Start`]; then the directory in which the checkpoint shall be. Reply:
    /// [`Reply::Done`] when the checkpoint is there, on the disk, and the processes go on or are being killed. A failure leaves
    /// nothing, and the processes go on.
    Checkpoint(CheckpointOptions),
    /// Starts another process in the container. Descriptor: the client's socket, if `attach` is set.
    /// Reply: [`Reply::ExecStarted`], or [`Failure`] (then nothing has been written to the client's socket).
    Exec(Box<ExecOptions>),
    /// Sets the size of an exec session's terminal.
    ExecResize {
        /// The session.
        exec: String,
        /// The new size.
        size: TerminalSize,
    },
    /// Sends a signal to an exec session's process.
    ExecSignal {
        /// The session.
        exec: String,
        /// The signal's number.
        signal: i32,
    },
    /// The container shall not be started again: the next end of it is the last, and between two runs it has ended with this.
    /// *Running*, *Paused*, *Draining*, *Restarting*.
    StayDown,
    /// From now on the container is to be as this configuration says: its restart policy at once, its limits at once if
    /// asked for, everything when it is started again. *Running*, *Paused*, *Draining*, *Restarting*. If the limits can't be
    /// set, the old configuration stays, with those limits that could be.
    ///
    /// Descriptors: the [`Config`] and, if the flag is set, the seccomp program, as in [`Request::Start`].
    Update {
        /// Set the specification's limits (`linux.resources` without devices) on what runs. Not taken when nothing runs.
        limits: bool,
        /// A seccomp program follows the configuration.
        seccomp: bool,
    },
    /// The daemon has committed the journal up to here; what it covers may be dropped from the file.
    AckJournal {
        /// The last committed number.
        seq: u64,
    },
    /// Does nothing. Since an entry is sent before the reply to what follows it, the reply tells that all entries of what
    /// happened before the request (say, the end of an exec session whose stream has ended) are here.
    Sync,
}

/// A checkpoint that shall be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckpointOptions {
    /// The name of its directory, a single name that begins with no dot.
    pub name: String,
    /// Let the processes go on. Else this is the container's end, and no restart follows.
    pub leave_running: bool,
    /// Who makes it.
    pub criu: CriuProgram,
}

/// A CRIU that the daemon has found and asked for its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriuProgram {
    /// Its absolute path.
    pub path: PathBuf,
    /// As a number: 3.17.1 is 31701.
    pub version: u32,
}

/// A port of the host that is relayed. Protocol and `host` are its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedPort {
    /// How clients speak to it.
    pub protocol: RelayProtocol,
    /// Where the socket is bound.
    pub host: SocketAddr,
    /// Where the container listens, as the host reaches it.
    pub target: SocketAddr,
    /// The socket comes along. Else the port is relayed already.
    #[serde(default)]
    pub socket: bool,
}

/// What a relay understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// How a client is attached.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Bytes from the client go to the process's stdin (if it has one).
    pub stdin: bool,
    /// The process's stdout goes to the client. A terminal's output counts as stdout.
    pub stdout: bool,
    /// The process's stderr goes to the client.
    pub stderr: bool,
    /// How output is framed.
    pub framing: Framing,
    /// The byte sequence in stdin that detaches the client, as Docker's `ctrl-p,ctrl-q` means `[16, 17]`; empty: none.
    pub detach_keys: Bytes,
    /// What was read from the client's connection before it was handed over: the beginning of stdin.
    #[serde(default)]
    pub buffered: Bytes,
}

/// How output is framed for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// As it comes; for terminals.
    #[default]
    Raw,
    /// Each piece with a header of 8 bytes: stream (1 stdout, 2 stderr), three zeros, length (big-endian).
    Multiplexed,
}

/// Bytes that JSON can't hold as text; written as hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// A `/wait` connection that the supervisor answers if no daemon is left that could.
///
/// The response head is on its way already (`Transfer-Encoding: chunked`). What the supervisor writes is one chunk with
/// `body_prefix`, the exit code in decimal and `body_suffix`, then the last chunk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaitOptions {
    /// Names the wait in [`Request::ReleaseWait`]; unique for this supervisor.
    pub key: u64,
    /// What comes before the exit code.
    pub body_prefix: String,
    /// What comes after it.
    pub body_suffix: String,
    /// It waits for the end of the container, not for that of a run which another follows.
    #[serde(default)]
    pub for_good: bool,
}

/// One further process in the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecOptions {
    /// The session's id; unique for this supervisor.
    pub exec: String,
    /// Arguments, environment, working directory, capabilities, limits; `terminal` and `consoleSize` count.
    pub process: Process,
    /// The user as written (`name`, `uid:gid`, …), resolved in the container's own files; `None`: as in `process`.
    #[serde(default)]
    pub user: Option<String>,
    /// Further groups by name or number, resolved there as well; only with `user`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether the client's socket comes along, and how it is attached. `None`: stdio is `/dev/null`.
    #[serde(default)]
    pub attach: Option<AttachOptions>,
    /// Whether a seccomp program as in `Start` comes along, before the client's socket. It is of use to Palan's own runtime
    /// only; another one applies the profile that the container was started with.
    #[serde(default)]
    pub seccomp: bool,
}

/// Everything that the supervisor needs to know to run the container, without asking anybody again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// The writer's [`VERSION`].
    pub version: u32,
    /// The runtime specification; `process.terminal` and `process.consoleSize` decide on the terminal,
    /// `linux.cgroupsPath` and `linux.resources` on the cgroup, an empty path for a new network namespace is replaced by the
    /// descriptor in `Start`.
    pub spec: Spec,
    /// What becomes the container's `/`.
    pub rootfs: RootfsConfig,
    /// The image's or the caller's user as written, resolved in the root file system; `None`: as in the specification.
    #[serde(default)]
    pub user: Option<String>,
    /// Further groups by name or number, resolved there as well; only with `user`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Create the working directory if the root file system lacks it.
    #[serde(default)]
    pub create_cwd: bool,
    /// Run our init as process 1, which forwards signals and reaps.
    #[serde(default)]
    pub init: bool,
    /// Where output is kept.
    #[serde(default)]
    pub log: LogConfig,
    /// Whether stdin is a pipe that stays open without a client; else it is `/dev/null` (or the terminal).
    #[serde(default)]
    pub open_stdin: bool,
    /// Close stdin when the first client that was attached to it goes.
    #[serde(default)]
    pub stdin_once: bool,
    /// Used when the supervisor itself is told to end (SIGTERM), as at a host's shutdown.
    pub stop_signal: i32,
    /// The time between `stop_signal` and SIGKILL then.
    pub stop_timeout_ms: u64,
    /// Journal entries are numbered from here on, at least: what the daemon has committed of earlier runs.
    #[serde(default)]
    pub journal_after: u64,
    /// Who makes the processes; `None`: Palan's own runtime, inside of the supervisor.
    #[serde(default)]
    pub runtime: Option<ExternalRuntime>,
    /// What bind mounts of the specification show in place of what is at their sources' paths.
    #[serde(default)]
    pub sources: Vec<MountSource>,
    /// How its health is looked after; `None`: not at all.
    #[serde(default)]
    pub health: Option<HealthConfig>,
    /// Whether it is started again when it has ended.
    #[serde(default)]
    pub restart: RestartConfig,
}

/// What a bind mount shows that no path of the host can be trusted to lead to: a part of a volume, in which containers may
/// exchange directories for symlinks at any moment, or an image. The supervisor opens it at the start, once, and hands the open
/// mount on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSource {
    /// Index of the mount in the specification.
    pub mount: usize,
    /// What it is a part of.
    pub whole: MountWhole,
    /// The part, relative; nothing that leads out of the whole is followed. Empty: all of it.
    #[serde(default)]
    pub subpath: PathBuf,
}

/// See [`MountSource`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountWhole {
    /// A directory of the host.
    Directory(PathBuf),
    /// An image's layers, topmost first; they can't be written to.
    Layers(Vec<PathBuf>),
    /// What is mounted at this path in the mount namespace that came with [`Request::Start`]: another container's.
    Shared(PathBuf),
    /// A file that is in memory and nowhere else: a secret of a build's step. Without a subpath.
    File {
        /// What is in it.
        content: Bytes,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// Layers, topmost first, with a directory that takes what is written.
    Overlay {
        /// What is read.
        lowers: Vec<PathBuf>,
        /// What takes the changes.
        upper: PathBuf,
        /// The empty directory beside it that overlay works in.
        work: PathBuf,
    },
}

/// An OCI runtime that is another program, driven by runc's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRuntime {
    /// What the runtime shall call the container.
    pub id: String,
    /// The absolute path of the program.
    pub program: PathBuf,
    /// Arguments that stand before all others.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The program's whole environment, `NAME=value`.
    #[serde(default)]
    pub environment: Vec<String>,
}

/// Where the container's output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogConfig {
    /// Nowhere.
    #[default]
    None,
    /// As JSON lines, as Docker's `json-file` driver writes them.
    JsonFile {
        /// The current file; rotated ones get `.1`, `.2` … appended.
        path: PathBuf,
        /// Rotate when the file has this size; `None`: never.
        max_size: Option<u64>,
        /// How many files are kept in all; 1 truncates instead of rotating.
        max_files: u32,
        /// A JSON object that is written into each line as `attrs` (from the labels and variables that the user chose).
        #[serde(default)]
        attributes: Option<String>,
        /// Somebody replaces rotated files by compressed ones, `.1.gz` …, which are moved on like the others.
        #[serde(default)]
        compressed: bool,
    },
}

/// What a supervisor sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to [`Request::Hello`].
    Welcome(Welcome),
    /// Something happened.
    Journal(Entry),
    /// The answer to any other request.
    Reply {
        /// The request's id.
        id: RequestId,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// A message that this version does not know; to be ignored.
    #[serde(skip_serializing)]
    Unknown,
}

/// How things stand, for a daemon that has just connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The supervisor's [`VERSION`].
    pub version: u32,
    /// The supervisor's process id.
    pub supervisor_pid: i32,
    /// Its state.
    pub state: State,
    /// The number of the newest journal entry.
    pub last_seq: u64,
    /// The exec sessions that are running.
    pub execs: Vec<ExecState>,
}

/// Where the container's life stands; see the crate's state machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Before `Start`.
    Waiting,
    /// Init lives.
    Running {
        /// Its process id on the host.
        pid: i32,
    },
    /// Init lives and is frozen.
    Paused {
        /// Its process id on the host.
        pid: i32,
    },
    /// Init has ended and will be started again.
    Restarting,
    /// Init has ended, or could not be started; the journal has or will have the rest.
    Exited,
}

/// A running exec session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// Its id.
    pub exec: String,
    /// Its process id on the host.
    pub pid: i32,
}

/// A request's success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It was done.
    Done,
    /// The container's program is being executed.
    Started {
        /// Init's process id on the host.
        pid: i32,
        /// When, in nanoseconds since the epoch.
        time_ns: u64,
        /// What was asked for and could not be had, one sentence each.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// The exec session's program is being executed.
    ExecStarted {
        /// Its process id on the host.
        pid: i32,
    },
}

/// A request's failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind, to choose an exit code or status by.
    pub kind: FailureKind,
    /// The whole chain of causes.
    pub message: String,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program to execute does not exist (exit code 127).
    NotFound,
    /// The program to execute is a directory, may not be executed, or is none of this machine (exit code 126).
    NotExecutable,
    /// No space left on a device.
    NoSpace,
    /// Not in this state: not running, running already, paused.
    WrongState,
    /// The exec session is not known, or has ended.
    NoSuchExec,
    /// What is asked for can't be had: an unknown user, a limit out of range, a missing descriptor.
    Invalid,
    /// This supervisor does not know the request.
    Unsupported,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl FailureKind {
    /// The exit code by which a shell, and Docker, tell why a program could not be executed.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            _ => 128,
        }
    }
}

impl Message {
    /// Reads the body of a frame; a message of a later version becomes [`Message::Unknown`].
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct JournalMessage<'a> {
            #[serde(borrow)]
            journal: &'a serde_json::value::RawValue,
        }
        let error = match serde_json::from_slice(json) {
            Ok(message) => return Ok(message),
            Err(error) => error,
        };
        if let Ok(JournalMessage { journal }) = serde_json::from_slice(json)
            && let Some(entry) = Entry::from_json(journal.get().as_bytes())
        {
            return Ok(Self::Journal(entry));
        }
        // Anything that is JSON at all comes from a later version.
        serde_json::from_slice::<serde::de::IgnoredAny>(json).map(|_| Self::Unknown).map_err(|_| error)
    }
}

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(self.0.len() * 2);
        for byte in &self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or_else(|| serde::de::Error::custom("not a hexadecimal digit"))
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(serde::de::Error::custom("an odd number of hexadecimal digits"));
        };
        pairs
            .iter()
            .map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_this_form() {
        let json = |message: &Message| serde_json::to_string(message).unwrap();
        let reply =
            Message::Reply { id: 7, result: Ok(Reply::Started { pid: 3, time_ns: 4, warnings: vec![] }) };
        assert_eq!(
            json(&reply),
            r#"{"reply":{"id":7,"result":{"Ok":{"started":{"pid":3,"time_ns":4,"warnings":[]}}}}}"#
        );
        let failure = Failure { kind: FailureKind::NotFound, message: "m".into() };
        assert_eq!(
            json(&Message::Reply { id: 8, result: Err(failure) }),
            r#"{"reply":{"id":8,"result":{"Err":{"kind":"not_found","message":"m"}}}}"#
        );
        let request = RequestFrame { id: 1, request: Request::Stop { signal: 15, timeout_ms: None } };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"id":1,"request":{"stop":{"signal":15,"timeout_ms":null}}}"#
        );
    }

    #[test]
    fn what_a_later_version_says_is_not_an_error() {
        let read = |text: &str| Message::from_json(text.as_bytes());
        assert!(matches!(read(r#"{"weather":{"rain":true}}"#), Ok(Message::Unknown)));
        assert!(read("{").is_err());
        let Ok(Message::Journal(entry)) = read(r#"{"journal":{"seq":9,"time_ns":1,"event":{"new":1}}}"#)
        else {
            panic!("not a journal entry");
        };
        assert_eq!((entry.seq, entry.event), (9, crate::journal::Event::Unknown));
        let failure: Failure = serde_json::from_str(r#"{"kind":"new","message":"m"}"#).unwrap();
        assert_eq!(failure.kind, FailureKind::Other);
    }

    #[test]
    fn bytes_are_written_as_digits() {
        let bytes = Bytes(vec![0, 16, 17, 255]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, r#""001011ff""#);
        assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), bytes);
        assert!(serde_json::from_str::<Bytes>(r#""0""#).is_err());
        assert!(serde_json::from_str::<Bytes>(r#""0g""#).is_err());
    }
}
