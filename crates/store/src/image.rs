//! Images: a configuration, the layers it names, and the names that people gave it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use palan_linux::path::RootDir;
use palan_oci::digest::DigestError;
use palan_oci::{ChainId, Digest, ImageConfig, Reference};

use crate::{Lease, Result, Store};

/// The digest of an image's configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The digest that it is.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its configuration, parsed. The bytes as they came are the blob `id`.
    pub config: Arc<ImageConfig>,
    /// The digest of the manifest it came with (made up for a loaded or imported image).
    pub manifest: Digest,
    /// Bytes of all its layers, unpacked, as Docker counts.
    pub size: u64,
    /// Its names with tags, sorted. Empty (and no digests): dangling.
    pub tags: Vec<Reference>,
    /// Its names with digests, sorted.
    pub digests: Vec<Reference>,
    /// When it was last tagged, nanoseconds since 1970.
    pub last_tagged: Option<i64>,
}

/// A new image, whose layers are in the store already.
#[derive(Debug, Clone)]
pub struct ImageCommit {
    /// The manifest as it came.
    pub manifest: Vec<u8>,
    /// The media type it was delivered with.
    pub manifest_media_type: Option<String>,
    /// The configuration as it came.
    pub config: Vec<u8>,
    /// Names with tags that shall lead to it; they are taken from other images that had them.
    pub tags: Vec<Reference>,
    /// Names with digests, of the index if it came by one, else of the manifest.
    pub digests: Vec<Reference>,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's id.
    pub container: String,
    /// Whether it runs (or is paused).
    pub running: bool,
}

/// What a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(Reference),
    /// An image (by id) or a layer (by chain id) is gone.
    Deleted(Digest),
}

/// Why an image is not removed. The texts are Docker's; clients match on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The last name of an image that a container uses.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// As asked for.
        name: String,
        /// 12 digits.
        container: String,
        /// 12 digits.
        image: String,
    },
    /// A running container uses it: not even by force.
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    Running {
        /// 12 digits.
        image: String,
        /// 12 digits.
        container: String,
    },
    /// A stopped container uses it.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    Stopped {
        /// 12 digits.
        image: String,
        /// 12 digits.
        container: String,
    },
    /// It has names in several repositories and was named by its id.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
    )]
    SeveralNames {
        /// 12 digits.
        image: String,
    },
}

/// One line of an image's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// The image's id for the newest line, else unknown.
    pub id: Option<ImageId>,
    /// RFC 3339, as written in the configuration.
    pub created: Option<String>,
    /// The command.
    pub created_by: String,
    /// Names of the image, for the newest line.
    pub tags: Vec<Reference>,
    /// Bytes that the line's layer added.
    pub size: u64,
    /// The remark.
    pub comment: String,
}

impl Store {
    /// Records an image whose layers were all brought under `lease`. Checks that manifest and configuration are
    /// sound and agree, unpacks over their parents the layers that are not self-contained, then writes the record and
    /// the names in one transaction.
    pub fn commit_image(&self, commit: &ImageCommit, lease: &Lease) -> Result<Image> {
        todo!()
    }

    /// The image with this id.
    pub fn image(&self, id: &ImageId) -> Result<Option<Image>> {
        todo!()
    }

    /// The image that exactly this name (with a tag or a digest) leads to.
    pub fn find(&self, reference: &Reference) -> Result<Option<ImageId>> {
        todo!()
    }

    /// The image that a user means: a name, an id, or the unique start of an id, in Docker's order.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        todo!()
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<Image>> {
        todo!()
    }

    /// Gives an image one more name, taking it from another image that has it. Returns that other image.
    pub fn tag(&self, id: &ImageId, name: &Reference) -> Result<Option<ImageId>> {
        todo!()
    }

    /// Removes a name or an image, as `docker rmi` does. `users` tells which containers use an image; it is called
    /// without any lock held.
    pub fn remove_image(
        &self,
        name: &str,
        force: bool,
        users: &dyn Fn(&ImageId) -> Vec<ImageUser>,
    ) -> Result<Vec<Removed>> {
        todo!()
    }

    /// How an image came to be, newest first.
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryItem>> {
        todo!()
    }

    /// The directories of an image's layers, topmost first, as overlay wants them; never empty. A layer that occurs
    /// twice is named once, and nothing below an opaque root is named.
    pub fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        todo!()
    }

    /// The image's file system, read-only, as a detached mount that dies with the handle.
    pub fn view(&self, id: &ImageId) -> Result<RootDir> {
        todo!()
    }

    /// The chain ids and sizes of an image's layers, bottom first.
    pub fn layer_sizes(&self, id: &ImageId) -> Result<Vec<(ChainId, u64)>> {
        todo!()
    }

    /// Bytes of all unpacked layers, each counted once (`system df`, `info`).
    pub fn layers_size(&self) -> Result<u64> {
        todo!()
    }
}
