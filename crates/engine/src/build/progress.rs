//! News of a build, in BuildKit's words.

use jiff::Timestamp;
use palan_builder::backend::{StepError, Stream};
use palan_builder::graph::Remote;
use palan_context::remote::redacted;
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

impl Vertex {
    /// One that depends on nothing and begins now.
    pub(super) fn begun(digest: Digest, name: String) -> Self {
        Self {
            digest,
            name,
            inputs: Vec::new(),
            started: Some(Timestamp::now()),
            completed: None,
            cached: false,
            error: String::new(),
            result: None,
        }
    }
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

/// Tells of a context that is fetched from elsewhere: that is no vertex of the plan, which there is only when it is here.
pub(super) struct Telling<'a> {
    progress: &'a dyn ProgressSink,
    vertex: Vertex,
}

impl<'a> Telling<'a> {
    /// It has begun.
    pub(super) fn begin(progress: &'a dyn ProgressSink, context: &str, remote: &Remote) -> Self {
        let name = match remote {
            Remote::Git { remote, reference, subdirectory, .. } => {
                let mut place = redacted(remote);
                if reference.is_some() || !subdirectory.is_empty() {
                    place.push('#');
                    place.push_str(reference.as_deref().unwrap_or_default());
                }
                if !subdirectory.is_empty() {
                    place.push(':');
                    place.push_str(subdirectory);
                }
                format!("[internal] load git source {place}")
            }
            Remote::Http { url, .. } => format!("[context {context}] {}", redacted(url)),
        };
        let vertex = Vertex::begun(Digest::of(format!("context {context} {name}")), name);
        progress.event(Event::Vertex(vertex.clone()));
        Self { progress, vertex }
    }

    /// What the program says that fetches it.
    pub(super) fn output(&self, stream: Stream, bytes: &[u8]) {
        let stream = match stream {
            Stream::Stdout => Output::Stdout,
            Stream::Stderr => Output::Stderr,
        };
        let (vertex, time) = (self.vertex.digest, Timestamp::now());
        self.progress.event(Event::Log(Log { vertex, stream, time, bytes: bytes.to_vec() }));
    }

    /// It is here, and may have been before; or it is not.
    pub(super) fn end(mut self, outcome: Result<bool, &StepError>) {
        self.vertex.completed = Some(Timestamp::now());
        match outcome {
            Ok(was_here) => self.vertex.cached = was_here,
            Err(error) => self.vertex.error = palan_stdx::error_chain::to_string(error),
        }
        self.progress.event(Event::Vertex(self.vertex));
    }
}
