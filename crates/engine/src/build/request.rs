//! What a build is asked for, what it may ask back, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use palan_builder::cancel::Cancel;
use palan_builder::content::KnownContent;
use palan_builder::graph::Remote;
use palan_context::Ignore;
use palan_linux::path::RootDir;
use palan_oci::image_config::ImageConfig;
use palan_oci::{Descriptor, Digest, Platform, Reference};

use super::caches::{CacheExport, ContentStore};
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
    /// Contexts that are fetched from elsewhere, by their names, of which the main one's is empty. Others are in `contexts`, too.
    pub remote_contexts: BTreeMap<String, Remote>,
    /// `--build-arg`.
    pub args: BTreeMap<String, String>,
    /// `--target`; none means the last stage.
    pub target: Option<String>,
    /// `os/architecture[/variant]` of each image; none means the host's.
    pub platforms: Vec<String>,
    /// The result is an index, and files are in a directory for each platform, also if there is one platform only.
    pub several: bool,
    /// The time that results have, in seconds since 1970; none: as the build argument `SOURCE_DATE_EPOCH` says.
    pub epoch: Option<String>,
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
    /// Where the results go besides.
    pub cache_to: Vec<CacheExport>,
    /// How steps run.
    pub steps: StepSettings,
    /// What becomes of the result; none: it only is in the cache.
    pub image: Option<ImageOutput>,
    /// What is said about images in statements beside them.
    pub attestations: Attestations,
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
    /// What it needs to be known: `ref` of a registry or image, `src` and `digest` of one at the client's.
    pub attributes: BTreeMap<String, String>,
}

impl CacheSource {
    /// An image that is here, as the classic builder has it: where one is named, steps are only taken from the cache if they made
    /// layers of such an image. The cache in its configuration is used, too.
    pub const IMAGE: &str = "image";
}

/// An image that is recorded in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageOutput {
    /// Names that it gets; without any it is dangling.
    pub names: Vec<Reference>,
    /// No file of a layer that is made here is later than the build's epoch.
    pub rewrite_times: bool,
    /// Remarks in its documents.
    pub annotations: Annotations,
}

/// Remarks in documents of an image, by where they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// In the manifest of each image.
    pub manifest: BTreeMap<String, String>,
    /// Where the index names a manifest.
    pub manifest_descriptor: BTreeMap<String, String>,
    /// In the index.
    pub index: BTreeMap<String, String>,
}

/// Statements that an image gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How it was made.
    pub provenance: Option<Provenance>,
    /// Its packages.
    pub packages: bool,
    /// Statements are artifacts with a subject, as registries find them.
    pub as_artifacts: bool,
}

/// What a statement about how an image was made shall have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// In which version.
    pub version: ProvenanceVersion,
    /// With all that is known, and not only what can be told to anybody.
    pub is_max: bool,
    /// It is an error if materials are not known by digests.
    pub needs_materials: bool,
    /// What the user says of the build.
    pub is_reproducible: bool,
    /// Who builds, as an address.
    pub builder: String,
    /// The build's own name.
    pub invocation: String,
    /// What was asked for, in the frontend's words.
    pub parameters: BTreeMap<String, String>,
}

/// Versions of SLSA's provenance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the versions'")]
pub enum ProvenanceVersion {
    #[default]
    V1,
    V02,
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

    /// A store of content at the client's by its id: `local:DIRECTORY` of a cache; none if the client offers none of that name.
    fn store(&self, id: &str) -> Result<Option<Arc<dyn ContentStore>>> {
        let _ = id;
        Ok(None)
    }

    /// Whether the client wants to look around where a command has failed: then its files are kept, and [`Self::terminal`] is asked for.
    fn wants_shell(&self) -> bool {
        false
    }

    /// The client's terminal, for a shell at a command that has failed. Asked once a build.
    fn terminal(&self, step: &FailedStep) -> Result<Terminal> {
        Err(crate::Error::system(format!("there is no terminal for the shell of {}", step.command)))
    }

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

/// A command that has failed, and whose files are still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// What was run.
    pub command: String,
    /// Its exit code.
    pub code: u32,
    /// The program that is opened.
    pub shell: String,
}

/// A client's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// What is typed, and what is shown.
    pub socket: UnixStream,
    /// Its rows and columns. That they can't change any more says that the client has gone.
    pub size: tokio::sync::watch::Receiver<(u16, u16)>,
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
    /// One for each platform, in the order in which they were asked for; never empty.
    pub images: Vec<BuiltImage>,
    /// Which of them is this host's, or else the first: the one that names lead to here.
    pub main: usize,
    /// All of them as one, if they are several, or statements belong to them.
    pub index: Option<Paper>,
    /// The names that it got.
    pub names: Vec<Reference>,
    /// What names the cache that was exported.
    pub cache: Option<Descriptor>,
    /// The time of files that are handed out.
    pub epoch: Option<jiff::Timestamp>,
    /// Files are in a directory for each platform.
    pub several: bool,
}

/// An image that was built.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// What it is for.
    pub platform: Platform,
    /// Its id: the digest of its configuration. Of an image that is not recorded, too: it would have this one.
    pub image: Digest,
    /// Its manifest.
    pub manifest: Paper,
    /// What it says.
    pub config: ImageConfig,
}

/// A document that others name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paper {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
}

impl BuildOutcome {
    /// The image that names lead to here.
    pub fn image(&self) -> &BuiltImage {
        &self.images[self.main]
    }

    /// What a registry would have under the names.
    pub fn top(&self) -> &Paper {
        self.index.as_ref().unwrap_or(&self.image().manifest)
    }
}

impl BuiltImage {
    /// The name of a directory of files for its platform.
    pub fn directory(&self) -> String {
        self.platform.to_string().replace('/', "_")
    }
}
