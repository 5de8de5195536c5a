//! News of a build, in BuildKit's words.

use jiff::Timestamp;
use palan_oci::Digest;

/// Where news goes. Called from several threads; see the module `build`.
pub trait ProgressSink: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The plan is known: what the Dockerfile's instructions are, in their order, for who tells them one by one. Once, before the
    /// first step.
    Steps(Vec<Step>),
    /// A vertex is known, has started or has ended. Each one is told when the plan is known, without times; the same digest again
    /// replaces what was told before.
    Vertex(Vertex),
    /// How far a part of a vertex is.
    Status(Status),
    /// A command has written.
    Log(Log),
    /// A mistake in the Dockerfile that does not stop the build.
    Warning(Warning),
}

/// An instruction of a stage that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// As written, on one line.
    pub text: String,
    /// The vertex that does it; none for one that only says something.
    pub vertex: Option<Digest>,
}

/// One node of the build's graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Vertex {
    /// Its identity.
    pub digest: Digest,
    /// What a user is shown: `[build 2/3] RUN make`.
    pub name: String,
    /// What it depends on.
    pub inputs: Vec<Digest>,
    /// When it was begun.
    pub started: Option<Timestamp>,
    /// When it ended, well or not.
    pub completed: Option<Timestamp>,
    /// Its result was known.
    pub cached: bool,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// The files that it made are these layers: their chain id. Known when it ended well; none for an empty root.
    pub result: Option<Digest>,
}

/// A part of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The vertex.
    pub vertex: Digest,
    /// Which part: a layer's short digest, `transferring context:`.
    pub id: String,
    /// What is done with it: `downloading`.
    pub name: String,
    /// How far it is.
    pub current: u64,
    /// How far it will be; 0 if that is not known.
    pub total: u64,
    /// When it was begun.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub completed: Option<Timestamp>,
}

/// Which stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the streams'")]
pub enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// Its number, as BuildKit has it.
    pub fn number(self) -> i64 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// What a command has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The vertex.
    pub vertex: Digest,
    /// Where it wrote.
    pub stream: Output,
    /// When.
    pub time: Timestamp,
    /// What.
    pub bytes: Vec<u8>,
}

/// A mistake that does not stop the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule's name; empty if it is not about the Dockerfile.
    pub rule: String,
    /// One sentence.
    pub short: String,
    /// More of it.
    pub detail: String,
    /// Where to read on.
    pub url: String,
    /// First and last line in the Dockerfile, from 1; none if it is about none.
    pub lines: Option<(usize, usize)>,
}
