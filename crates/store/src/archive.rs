//! Images as files: `load` (Docker's archive and OCI layouts) and `import` (a root file system as a tar).

use std::io::Read;

use palan_oci::{Digest, Platform, Reference};

use crate::image::ImageId;
use crate::{Result, Store};

/// An image that `load` brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub image: ImageId,
    /// The names it got; without any it is known by its id only.
    pub names: Vec<Reference>,
    /// Images that lost one of these names to it, and had it before.
    pub replaced: Vec<(Reference, ImageId)>,
}

/// How far `load` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadProgress {
    /// A layer is being read: bytes so far and in all.
    Layer {
        /// The layer: the start of a digest, unique in this load.
        id: Digest,
        /// Bytes read.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// What `import` makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name that the image gets.
    pub name: Option<Reference>,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME,
    /// WORKDIR.
    pub changes: Vec<String>,
    /// The remark in its history; Docker's default is `Imported from -`.
    pub message: String,
    /// What it is for; the host's platform if absent.
    pub platform: Option<Platform>,
    /// When it is made, RFC 3339.
    pub created: String,
}

/// An archive that can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {}

/// A change that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {}

impl Store {
    /// Loads images from an archive that is read once from start to end, plain, gzip or zstd.
    pub fn load(&self, source: &mut dyn Read, progress: &mut dyn FnMut(LoadProgress)) -> Result<Vec<Loaded>> {
        todo!()
    }

    /// Makes an image of one layer from a tar, plain, gzip or zstd.
    pub fn import(&self, source: &mut dyn Read, options: &ImportOptions) -> Result<ImageId> {
        todo!()
    }
}
