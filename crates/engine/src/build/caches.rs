//! Caches of builds that are somewhere else: in registries, in images, at the client's.
//!
//! ```text
//! before the steps   import   each --cache-from: its document is read; layers are not
//! at each step       import   a key that is not known here: its layers are brought, and the step is cached
//! after the steps    export   every result with its keys ─▶ layers compressed ─▶ sent where they are missing ─▶ document
//! ```
//!
//! The form is BuildKit's ([`palan_builder::remote_cache`]). An import never fails a build: what can't be read or brought is told, and the step
//! is executed. What was brought is held by the cache here like what was made here, and says when it was made, so that the image is the same.
//!
//! An export takes what this build knows: also what it has found in an import and did not need. Layers of that kind are copied only if they are
//! missing where the export goes to.
//!
//! **Invariant:** a layer of an import is checked like one of a pull: blob and diff-id against their digests, with the store's limits.
//!
//! *Absent:* the session. The client's content comes and goes through [`ContentStore`].

use std::io::Read;

use jiff::Timestamp;
use palan_builder::remote_cache::write::Form;
use palan_oci::{Digest, Reference};

use super::progress::{Event, ProgressSink, Status, Vertex, Warning};
use crate::Result;

pub(super) mod export;
pub(super) mod import;

/// A cache that the results go to: `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheExport {
    /// Where.
    pub target: CacheTarget,
    /// `mode=max`: the results of all steps; else those that the image is made of.
    pub all_steps: bool,
    /// `image-manifest`, `oci-mediatypes`.
    pub form: Form,
    /// Layers that were made here are compressed (`compression=gzip`).
    pub compressed: bool,
    /// A failure does not fail the build.
    pub ignore_error: bool,
}

/// Where a cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTarget {
    /// Into the image's configuration.
    Image,
    /// Under a name of a registry.
    Registry {
        /// The name.
        reference: Reference,
        /// The registry may be spoken to without a valid certificate, or without TLS.
        insecure: bool,
    },
    /// Into a store of the client's.
    Client {
        /// Its id.
        store: String,
    },
}

/// Content that a client keeps, by digests. Every method blocks.
pub trait ContentStore: Send + Sync {
    /// How many bytes it has; none: it is not there.
    fn size(&self, digest: &Digest) -> Result<Option<u64>>;

    /// Content from an offset on, as it is there.
    fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>>;

    /// Keeps content, of which the whole comes from the source.
    fn write(&self, digest: &Digest, size: u64, source: &mut dyn Read) -> Result<()>;
}

/// Tells of work that is no step.
pub(super) struct Telling<'a> {
    progress: &'a dyn ProgressSink,
    vertex: Vertex,
}

impl<'a> Telling<'a> {
    pub(super) fn begin(progress: &'a dyn ProgressSink, name: String, number: usize) -> Self {
        let vertex = Vertex::begun(Digest::of(format!("{number} {name}")), name);
        progress.event(Event::Vertex(vertex.clone()));
        Self { progress, vertex }
    }

    /// A part of it has come so far.
    pub(super) fn part(&self, text: &str, (current, total): (u64, u64), done: bool) {
        let now = Timestamp::now();
        self.progress.event(Event::Status(Status {
            vertex: self.vertex.digest,
            id: text.to_owned(),
            name: text.to_owned(),
            current,
            total,
            started: self.vertex.started,
            completed: done.then_some(now),
        }));
    }

    /// A part of it is done.
    pub(super) fn done(&self, text: &str) {
        self.part(text, (0, 0), true);
    }

    pub(super) fn end<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.vertex.completed = Some(Timestamp::now());
        if let Err(error) = &outcome {
            self.vertex.error = error.report();
        }
        self.progress.event(Event::Vertex(self.vertex));
        outcome
    }
}

/// Tells that something is not as it was asked for, although the build goes on.
pub(super) fn warn(progress: &dyn ProgressSink, short: String) {
    progress.event(Event::Warning(Warning {
        rule: String::new(),
        short,
        detail: String::new(),
        url: String::new(),
        lines: None,
    }));
}

/// A time as written, in seconds since 1970; none if it is no time, or Go's zero.
fn seconds(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second).filter(|seconds| *seconds > 0)
}

/// The same the other way round.
fn written(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}
