//! What can go wrong in the store, as facts.

use std::io;

use palan_linux::mount::MountError;
use palan_linux::path;
use palan_oci::Digest;
use palan_oci::digest::VerifyError;
use palan_oci::image_config::ImageConfigError;
use palan_oci::manifest::DocumentError;
use palan_oci::reference::ReferenceError;
use palan_stdx::fs::PathError;

use crate::layer;

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No image of that name or id. The text is Docker's.
    #[error("No such image: {name}")]
    NoSuchImage {
        /// As asked for, in short form with its tag.
        name: String,
    },
    /// More than one image id starts so.
    #[error("the image id prefix {prefix:?} is ambiguous: it fits {first} and others; give more digits")]
    AmbiguousId {
        /// As asked for.
        prefix: String,
        /// One of the images.
        first: Digest,
    },
    /// A name breaks the grammar; the text is Docker's.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A name with a digest where only a tag makes sense. The text is Docker's.
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// An image can't be removed; the text is Docker's.
    #[error(transparent)]
    Conflict(#[from] crate::image::Conflict),
    /// What was to become a layer can't be read.
    #[error("cannot make a layer")]
    Making {
        /// Why.
        source: crate::tree::TreeError,
    },
    /// A blob that is not there.
    #[error("content {digest} is not in the store")]
    NoSuchBlob {
        /// Which.
        digest: Digest,
    },
    /// A blob that is kept as a recipe can't be made again.
    #[error("cannot make {blob} again from its layer: run `palan system fsck`")]
    Rebuild {
        /// Which.
        blob: Digest,
        /// Why.
        source: io::Error,
    },
    /// Content that differs from what was promised.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A layer whose tar is not the one that the image's configuration names.
    #[error("layer {blob} unpacks to {actual}, but the image's configuration says {expected}")]
    WrongDiffId {
        /// The digest of the layer as transferred.
        blob: Digest,
        /// The diff-id that was promised.
        expected: Digest,
        /// The digest of the tar.
        actual: Digest,
    },
    /// The source of a layer failed (the network, a file): what came so far is kept.
    #[error("cannot read the content of {digest}")]
    Source {
        /// Which content.
        digest: Digest,
        /// What the source said.
        source: io::Error,
    },
    /// A layer can't be unpacked.
    #[error("cannot unpack layer {blob}")]
    Layer {
        /// The digest of the layer as transferred.
        blob: Digest,
        /// Why.
        source: layer::LayerError,
    },
    /// A manifest or index is refused.
    #[error("manifest {digest} is refused")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
    /// A configuration is refused.
    #[error("image configuration {digest} is refused")]
    Config {
        /// Which.
        digest: Digest,
        /// Why.
        source: ImageConfigError,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers, but the configuration of image {image} names {diff_ids}")]
    LayerCount {
        /// The image.
        image: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Diff-ids of the configuration.
        diff_ids: usize,
    },
    /// An image is committed before one of its layers is there.
    #[error("layer {diff_id} of image {image} is not in the store")]
    MissingLayer {
        /// The image.
        image: Digest,
        /// The layer.
        diff_id: Digest,
    },
    /// The lowest layer needs one below it.
    #[error("layer {diff_id}, the lowest of image {image}, has a hard link to a file that is in no layer")]
    IncompleteBottom {
        /// The image.
        image: Digest,
        /// The layer.
        diff_id: Digest,
    },
    /// An archive given to `load` or `import` is refused.
    #[error(transparent)]
    Archive(#[from] crate::archive::ArchiveError),
    /// A Dockerfile instruction given to `import --change` or `commit --change` is refused.
    #[error(transparent)]
    Change(#[from] crate::archive::ChangeError),
    /// A container's files, read for an image or an archive.
    #[error(transparent)]
    Tree(#[from] crate::tree::TreeError),
    /// Whoever takes an archive.
    #[error("cannot write the archive")]
    Sink(#[source] io::Error),
    /// A Docker data root given to `import-docker` is refused.
    #[error(transparent)]
    DockerRoot(#[from] crate::docker_root::DockerRootError),
    /// Files of the store.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Files within a layer.
    #[error(transparent)]
    Scoped(#[from] path::PathError),
    /// Mounting the layers.
    #[error("cannot mount the layers of image {image}")]
    Mount {
        /// The image.
        image: Digest,
        /// Why.
        source: MountError,
    },
    /// The database of images.
    #[error("cannot {action} in the image database")]
    Database {
        /// In words.
        action: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A database of a later version.
    #[error(
        "the image database has version {found}, this program knows versions up to {known}: use a newer one"
    )]
    DatabaseVersion {
        /// In the file.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// Another process has the store open.
    #[error("the data root {root} is in use by another process")]
    InUse {
        /// The data root.
        root: String,
    },
}

impl StoreError {
    /// Whether the disk is full, anywhere in the chain of causes.
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
            if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
                || code == Some(rusqlite::ErrorCode::DiskFull)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
