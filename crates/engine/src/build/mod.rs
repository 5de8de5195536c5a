//! Builds: from a Dockerfile to an image in the store. Two front doors use it: `POST /build` and BuildKit's protocol.
//!
//! ```text
//! BuildRequest ─┐                    ┌─ pulls ──▶ image's configuration ─┐
//!               ├─ Engine::build ────┼─ lower ◀──────────────────────────┘      (palan_builder: pure)
//! BuildClient ◀─┤  one thread        ├─ solve ──▶ Sources, Layers, Runner, Imports (here: contexts, store, runtime, caches)
//! Progress    ◀─┘                    ├─ assemble ▶ configuration, manifest, names ──▶ BuildOutcome
//!                                    └─ caches ─▶ results with their keys, to where they are wanted
//! ```
//!
//! # What a front door brings
//!
//! - [`BuildRequest`]: everything that is known when the build begins. It is data.
//! - [`BuildClient`]: what is only fetched when a step needs it: files of contexts, secrets, connections to an ssh agent,
//!   credentials. Its methods block, and are called on threads of the build's own, several at a time. A front door
//!   whose client speaks asynchronously waits inside of them ([`tokio::runtime::Handle::block_on`] is allowed there).
//! - [`ProgressSink`]: where news goes, in BuildKit's words. Called from several threads, in the order of events for each vertex;
//!   it must not block for long, since a step stands still meanwhile.
//! - [`Cancel`]: told by the front door when its client has gone. Processes are
//!   killed then, what was made and is not in the cache is removed, and [`Engine::build`](crate::Engine::build) returns an error.
//!
//! # What is where
//!
//! ```text
//! <data-root>/build/cache/          records of results (palan_builder::cache)
//! <data-root>/build/mounts/<key>/   directories of `RUN --mount=type=cache`
//! <data-root>/build/work/<id>/      one build in progress: contexts, files of its steps; emptied when a daemon starts
//! <data-root>/layers/.tmp-…         a layer in progress, which the store removes when it opens
//! <data-root>/containers/<id>/      files and sockets of one step, and
//! <run-root>/containers/<id>/       its supervisor: without a row they are removed, and it is killed, when a daemon starts (`restore`)
//! ```
//!
//! **Invariant:** a layer of a step is in the store, and held there by the build cache, before a record names it. A daemon that
//! is killed leaves either a result that the next build finds, or nothing that survives the next start.
//!
//! **Invariant:** a secret is in memory, in a file system in memory of its own that ends with its step, and nowhere else.
//!
//! **Invariant:** paths in contexts, layers and cache directories are reached through `RootDir` alone. No mount of a build's is
//! ever in a mount namespace that a process of the host is in.
//!
//! # Several platforms
//!
//! Each has its own plan, which is solved beside the others; contexts, the cache and what runs at the moment are common (`platforms`). The
//! result is an index. Here it is one image, that of the host, which needs the others' blobs (`palan_store::image::index`).
//!
//! # A step
//!
//! `RUN` is a container without a row: the same specification, seccomp profile, capabilities, network and supervisor, from
//! [`Details`](crate::container::Details) that are made for it (`step`). Its overlay's upper directory becomes the layer. It has
//! no name, and no list shows it. Of one that fails the files are kept until the build ends if the client has a terminal for a shell
//! there (`shell`).

pub mod progress;
pub mod request;

pub mod classic;

mod assemble;
mod attest;
mod bases;
mod caches;
mod copy;
mod emulation;
mod epoch;
mod export;
mod git;
mod kept;
mod layers;
mod mounts;
mod observe;
mod output;
mod platforms;
mod provenance;
mod prune;
mod remotes;
mod run;
mod shell;
mod sources;
mod ssh;
mod step;

pub(crate) use attest::{PREDICATE_TYPE, STATEMENT};
pub use caches::{CacheExport, CacheTarget, ContentStore};
pub use export::BuiltFiles;
pub use kept::{KeptContext, KeptContexts};
pub use palan_builder::cancel::{Cancel, Watch};
pub use palan_builder::content::KnownContent;
pub use palan_builder::graph::Remote;
pub use palan_builder::remote_cache::write::Form as CacheForm;
pub use palan_context::Ignore;
pub use palan_context::remote::redacted;
pub use palan_linux::path::{Metadata as FileMetadata, RootDir, remove_tree};
pub use palan_oci::{Digest, Reference};
pub use progress::{Event, Log, Output, ProgressSink, Status, Step, Vertex, Warning};
pub use prune::{BuildCacheRecord, CachePruneSpec, CachePruned};
pub use remotes::of_context;
pub use request::{
    Access, Annotations, Attestations, BuildClient, BuildOutcome, BuildRequest, BuiltImage, CacheSource,
    ContextRequest, DockerfileSource, FailedStep, ImageOutput, LentFiles, Paper, Provenance,
    ProvenanceVersion, StepSettings, Terminal,
};
pub(crate) use run::Builds;

use crate::Error;

/// A build that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", error.report())]
pub struct BuildError {
    /// Class and text.
    pub error: Error,
    /// The command that ended with something else than 0: what was run, and its exit code.
    pub exit: Option<Box<(String, u32)>>,
    /// The vertex at fault.
    pub vertex: Option<Digest>,
    /// Lines of the Dockerfile, with the place marked; empty where there is none.
    pub excerpt: Box<str>,
    /// The first and the last of these lines, from 1.
    pub lines: Option<Box<(usize, usize)>>,
}

impl From<Error> for BuildError {
    fn from(error: Error) -> Self {
        Self { error, exit: None, vertex: None, excerpt: Box::default(), lines: None }
    }
}
