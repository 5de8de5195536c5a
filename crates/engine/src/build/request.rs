//! What a build is asked for, what it may ask back, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use palan_builder::cancel::Cancel;
use palan_builder::content::KnownContent;
use palan_context::Ignore;
use palan_linux::path::RootDir;
use palan_oci::image_config::ImageConfig;
use palan_oci::{Digest, Reference};

use crate::Result;
use crate::image::Auth;
use crate::spec::Resources;

/// Everything that is known when a build begins.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// Names of contexts other than the main one that [`BuildClient::context`] has (`--build-context NAME=DIRECTORY`).
    pub contexts: BTreeSet<String>,
    /// Names of contexts that are images (`--build-context NAME=docker-image://REFERENCE`).
    pub image_contexts: BTreeMap<String, String>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// `--target`; none means the last stage.
    pub target: Option<String>,
    /// `os/architecture[/variant]` of the image; none means the host's.
    pub platform: Option<String>,
    /// `--label`, over those of the Dockerfile.
    pub labels: BTreeMap<String, String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: names of stages.
    pub no_cache_filter: BTreeSet<String>,
    /// `--pull`: base images are looked for in their registries even if they are here.
    pub pull: bool,
    /// Other caches than the local one.
    pub cache_from: Vec<CacheSource>,
    /// How steps run.
    pub steps: StepSettings,
    /// What becomes of the result; none: it only is in the cache.
    pub image: Option<ImageOutput>,
    /// Mistakes that [`palan_dockerfile::lint`] finds are told as [`Event::Warning`](super::Event::Warning).
    pub check: bool,
}

/// Where the Dockerfile is.
#[derive(Debug, Clone)]
pub enum DockerfileSource {
    /// A file of the main context, by its path there. The ignore file is looked for beside it.
    InContext(String),
    /// It came with the request, and so did the file that says what of the main context is left out.
    Given {
        /// What errors call it.
        name: String,
        /// Its bytes.
        content: Vec<u8>,
        /// The bytes of the ignore file, if there is one.
        ignore: Option<Vec<u8>>,
    },
}

impl Default for DockerfileSource {
    fn default() -> Self {
        Self::InContext("Dockerfile".to_owned())
    }
}

/// How steps run, beyond what the Dockerfile says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepSettings {
    /// `bridge`, `host`, `none` or the name of a network; empty means the default one.
    pub network: String,
    /// `--add-host`: `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
    /// `--shm-size` in bytes; 0 means the daemon's default.
    pub shm_size: i64,
    /// Memory, CPUs, `--ulimit`, `--cgroup-parent`.
    pub resources: Resources,
    /// `RUN --security=insecure` is allowed.
    pub allow_insecure: bool,
    /// `RUN --network=host` is allowed.
    pub allow_host_network: bool,
}

/// A cache that is somewhere else: `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSource {
    /// `registry`, `local`, `inline`, …, or [`CacheSource::IMAGE`].
    pub kind: String,
    /// What it needs to be known: `ref` of a registry or image.
    pub attributes: BTreeMap<String, String>,
}

impl CacheSource {
    /// An image that is here, as the classic builder has it: where one is named, steps are only taken from the cache if they made
    /// layers of such an image.
    pub const IMAGE: &str = "image";
}

/// An image that is recorded in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageOutput {
    /// Names that it gets; without any it is dangling.
    pub names: Vec<Reference>,
}

/// What a build fetches from its client when it needs it. Every method blocks; see the module.
pub trait BuildClient: Send + Sync {
    /// Fills the empty directory `into` with the files of a context (the main one has the empty name), or says where they are. Called
    /// once a build for a context that a needed step uses, with what is not wanted; what comes nevertheless is removed afterwards.
    ///
    /// Owners of files count for nothing, their modes do.
    fn context(
        &self,
        wanted: &ContextRequest<'_>,
        into: &RootDir,
        cancel: &Cancel,
    ) -> Result<Option<Box<dyn LentFiles>>>;

    /// A secret's value; none if the client has none of that name.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;

    /// A new connection to an ssh agent of the client's; none if it forwards none of that name. Called with
    /// [`Access::Check`] before the step runs, whether there is one, and then for each connection that a process makes.
    fn ssh(&self, id: &str, access: Access) -> Result<Option<UnixStream>>;

    /// Credentials for the registry of an image.
    fn credentials(&self, image: &Reference) -> Result<Option<Auth>>;

    /// Whether the client's policy lets the build use an image or a download (`docker-image://NAME`, `https://…`); an error is its
    /// refusal.
    fn allow(&self, source: &str) -> Result<()> {
        let _ = source;
        Ok(())
    }
}

/// The files of a context where they are kept between builds. Until it is dropped they are this build's alone, and on the file system of
/// the engine's data; whoever has a link to one of them never sees it change.
pub trait LentFiles: Send {
    /// Their directory.
    fn path(&self) -> &Path;

    /// What changes with them, while this daemon lives.
    fn identity(&self) -> Digest;

    /// What is known of their content, and who is to be told of more.
    fn known_content(&self) -> Option<Arc<dyn KnownContent>> {
        None
    }

    /// Told when files were removed: they are other files now.
    fn altered(&self);
}

/// Why [`BuildClient::ssh`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To learn whether there is such an agent; a stream that comes is closed at once.
    Check,
    /// For a process that has connected.
    Connect,
}

/// Which files are wanted.
#[derive(Debug)]
pub struct ContextRequest<'a> {
    /// The context's name; the main one has the empty name.
    pub name: &'a str,
    /// What is left out, as far as it is known before the files are here. With [`DockerfileSource::InContext`] nothing is.
    pub ignore: &'a Ignore,
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct BuildOutcome {
    /// The image's id: the digest of its configuration. Of an image that is not recorded, too: it would have this one.
    pub image: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's length in bytes.
    pub size: u64,
    /// What the image says.
    pub config: ImageConfig,
    /// The names that it got.
    pub names: Vec<Reference>,
}
