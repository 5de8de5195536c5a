//! Images as objects with names, and the requests about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
pub use palan_oci::ImageConfig;

use crate::spec::Filters;

/// One line of progress of a pull, load or import, in Docker's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it is about (a layer's short id, a tag); empty for the whole.
    pub id: String,
    /// Docker's word, such as `Downloading`.
    pub status: String,
    /// Bytes (or seconds with unit `s`) so far.
    pub current: Option<u64>,
    /// Bytes in all, when known.
    pub total: Option<u64>,
    /// A plain output line instead of a status (`load`), with its newline.
    pub stream: Option<String>,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// Token from an earlier login.
    pub identity_token: String,
    /// Bearer token to present to the registry as it is.
    pub registry_token: String,
    /// Registry the credentials are for.
    pub server_address: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullSpec {
    /// Image as typed, with tag or digest where given.
    pub reference: String,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Every tag of the repository.
    pub all_tags: bool,
}

/// What to make of an imported tar.
#[derive(Debug, Clone, Default)]
pub struct ImportSpec {
    /// Name for the image; none when empty.
    pub reference: String,
    /// Message in the history.
    pub message: String,
    /// Dockerfile instructions applied to the configuration.
    pub changes: Vec<String>,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Where the bytes come from, for the message; `-` for a stream.
    pub source: String,
}

/// Which images a list shows.
///
/// Filters: `before`, `dangling`, `label`, `reference`, `since`, `until`.
#[derive(Debug, Clone, Default)]
pub struct ImageListQuery {
    /// Intermediate ones too.
    pub all: bool,
    /// Filters.
    pub filters: Filters,
    /// Count containers.
    pub containers: bool,
}

/// One line of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:…`.
    pub id: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `name:tag`, familiar form.
    pub repo_tags: Vec<String>,
    /// `name@digest`, familiar form.
    pub repo_digests: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers that use it; -1 when not counted.
    pub containers: i64,
}

/// Everything about one image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// `sha256:…`.
    pub id: String,
    /// Its configuration.
    pub config: Arc<ImageConfig>,
    /// `name:tag`, familiar form.
    pub repo_tags: Vec<String>,
    /// `name@digest`, familiar form.
    pub repo_digests: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    /// Directories of the layers, topmost first.
    pub layer_dirs: Vec<String>,
    /// When a name was last given to it.
    pub last_tagged: Option<Timestamp>,
}

/// One step of an image's history, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Id of the image for the newest entry, `<missing>` for the others.
    pub id: String,
    /// When.
    pub created: Option<Timestamp>,
    /// Instruction.
    pub created_by: String,
    /// Tags of the newest entry.
    pub tags: Vec<String>,
    /// Bytes of its layer unpacked.
    pub size: u64,
    /// Comment.
    pub comment: String,
}

/// What removing an image did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRemoval {
    /// A name was taken away.
    Untagged(String),
    /// An image or layer was deleted.
    Deleted(String),
}
