//! What the builder needs from the engine.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use palan_linux::path::RootDir;
use palan_oci::Digest;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::content::KnownContent;
use crate::graph::{Copy, Remote, Run};

/// A root file system: its layers, the lowest first. None is an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Digests of the layers' uncompressed archives.
    pub layers: Vec<Digest>,
}

/// Why a step failed. Clones share the cause: several builds may wait for one step.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// The build was told to stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// The command ended with something else than 0.
    #[error("process \"{command}\" did not complete successfully: exit code: {code}")]
    ExitCode {
        /// What was run.
        command: String,
        /// Its exit code; 128 and more for a signal.
        code: u32,
    },
    /// Anything else.
    #[error(transparent)]
    Other(SharedError),
}

/// An error that several have.
#[derive(Clone)]
pub struct SharedError(Arc<dyn Error + Send + Sync>);

impl StepError {
    /// Any other error.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(SharedError(Arc::from(error.into())))
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Where a command's output went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the streams'")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// An input, ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// A vertex's result, or nothing.
    Snapshot(Snapshot),
    /// A context by its name.
    Context(String),
}

/// Contexts and images.
pub trait Sources: Sync {
    /// The files of a context, without what its ignore file leaves out.
    fn context(&self, name: &str) -> Result<RootDir, StepError>;

    /// What is different whenever these files are, if there is such a thing that is cheaper than a look at them.
    fn identity(&self, _name: &str) -> Result<Option<Digest>, StepError> {
        Ok(None)
    }

    /// What is known of the content of a context's files.
    fn known_content(&self, _name: &str) -> Result<Option<Arc<dyn KnownContent>>, StepError> {
        Ok(None)
    }

    /// What remote files are now: a digest that changes with them (of a commit, of a file). With a checksum that doesn't match,
    /// an error.
    fn pin(&self, remote: &Remote, cancel: &Cancel) -> Result<Digest, StepError>;

    /// Remote files; they must be what they were when they were pinned. What a program says that fetches them is passed on.
    fn remote(
        &self,
        remote: &Remote,
        pinned: Digest,
        cancel: &Cancel,
        output: &dyn Fn(Stream, &[u8]),
    ) -> Result<Snapshot, StepError>;

    /// The files of an image; what is missing of it is pulled.
    fn image(&self, name: &str, manifest: Digest, cancel: &Cancel) -> Result<Snapshot, StepError>;
}

/// Files in layers.
pub trait Layers: Sync {
    /// Whether the cache's record of this result may be used: all layers are there, and the build takes such results. They stay
    /// until the build ends.
    fn has(&self, snapshot: &Snapshot) -> bool;

    /// Whether all layers of a result are there that was made for this build, if by another one. They stay until the build ends.
    fn hold(&self, snapshot: &Snapshot) -> bool;

    /// A look at the files, for as long as the handle lives.
    fn open(&self, snapshot: &Snapshot) -> Result<RootDir, StepError>;

    /// A new layer with copied files; with no change it may be the base. Sources name the inputs by their numbers, of which 0
    /// is the base.
    fn copy(
        &self,
        base: &Snapshot,
        inputs: &[Material],
        copy: &Copy,
        cancel: &Cancel,
    ) -> Result<Snapshot, StepError>;

    /// A new layer with a directory, and what is missing above it. If it is there already, the base.
    fn make_directory(&self, base: &Snapshot, path: &str, user: &str) -> Result<Snapshot, StepError>;
}

/// A command, ready to run.
#[derive(Debug)]
pub struct Command<'a> {
    /// What to run, and what is mounted.
    pub run: &'a Run,
    /// Variables that no key knows.
    pub hidden_env: &'a [String],
    /// The root file system that it changes.
    pub base: &'a Snapshot,
    /// Where its mounts come from, by the numbers that it uses.
    pub inputs: &'a [Material],
    /// When to stop.
    pub cancel: &'a Cancel,
}

/// Commands.
pub trait Runner: Sync {
    /// Runs a command, passes its output on, and makes a layer of what it changed.
    fn run(&self, command: &Command<'_>, output: &dyn Fn(Stream, &[u8])) -> Result<Snapshot, StepError>;
}

/// How far a layer is that is brought from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bringing<'a> {
    /// Which one.
    pub layer: &'a str,
    /// What is done with it.
    pub status: &'a str,
    /// How far that is.
    pub current: u64,
    /// How far it will be; 0 if that is not known.
    pub total: u64,
    /// Nothing more will be told of it.
    pub done: bool,
}

/// Caches that are somewhere else ([`crate::remote_cache`]).
pub trait Imports: Sync {
    /// What a key leads to there, whether or not it is here.
    fn known(&self, key: &Digest) -> Option<Snapshot>;

    /// What a key leads to, with all layers brought here. None: the key is not known, or not all could be brought; why is told by the
    /// implementation, and the step is executed.
    fn bring(&self, key: &Digest, told: &dyn Fn(Bringing<'_>), cancel: &Cancel) -> Option<Snapshot>;
}

/// There is none.
#[derive(Debug, Clone, Copy)]
pub struct NoImports;

impl Imports for NoImports {
    fn known(&self, _key: &Digest) -> Option<Snapshot> {
        None
    }

    fn bring(&self, _key: &Digest, _told: &dyn Fn(Bringing<'_>), _cancel: &Cancel) -> Option<Snapshot> {
        None
    }
}

/// All four.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the types say it")]
pub struct Backend<'a> {
    pub sources: &'a dyn Sources,
    pub layers: &'a dyn Layers,
    pub runner: &'a dyn Runner,
    pub imports: &'a dyn Imports,
}

impl fmt::Debug for Backend<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Backend")
    }
}
