//! Images as files: `load` and `save` (Docker's archive and OCI layouts), `import` (a root file system as a tar); and
//! `commit`, which makes an image of a container's directory.
//!
//! The stream can't seek, and what says which entry is a layer usually comes last. So every entry is put aside first,
//! small documents in memory, all else as a part named by its digest; then the layers that are wanted are unpacked
//! from there, several at once, by the same code as those of a pull. Nothing of an archive is ever written under a
//! name of its own.

use std::collections::HashMap;
use std::io::Read;

use palan_oci::image_config::{HistoryEntry, ImageConfigError, RootFs};
use palan_oci::manifest::DocumentError;
use palan_oci::media_type::{self, Compression};
use palan_oci::reference::ReferenceError;
use palan_oci::{Descriptor, Digest, ImageConfig, Platform, Reference};

use crate::image::{ImageCommit, ImageId};
use crate::layer::TarError;
use crate::layer::decode::without_foreign;
use crate::{Lease, Result, Store};

mod change;
mod commit;
mod docker;
mod layout;
mod save;
mod spool;
mod unpack;

pub use change::{ChangeError, apply as apply_changes};
pub use commit::CommitOptions;
pub use save::{SaveItem, Saving};
pub(crate) use spool::Hashing;
use spool::{Entries, Parts, Spooled};
use unpack::WantedLayer;

/// An image that `load` brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub image: ImageId,
    /// The names it got; without any it is known by its id only.
    pub names: Vec<Reference>,
    /// Names that it took from other images, which had them before.
    pub replaced: Vec<(Reference, ImageId)>,
}

/// How far `load` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadProgress {
    /// A layer is being unpacked: bytes so far and in all. The last report of a layer has them equal.
    Layer {
        /// The layer's diff-id.
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
pub enum ArchiveError {
    /// The archive itself is broken.
    #[error("cannot read the image archive")]
    Tar(#[from] TarError),
    /// It is no image archive.
    #[error(
        "the archive holds no image: it has neither manifest.json nor index.json (a root file system is for `import`)"
    )]
    NoImage,
    /// Something that it refers to is not in it.
    #[error("the archive refers to {name:?}, which it does not contain")]
    Missing {
        /// The name or digest.
        name: String,
    },
    /// A document in it is broken.
    #[error("{name} in the archive is not valid")]
    Json {
        /// The document.
        name: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A manifest or index in it is refused.
    #[error("{name} in the archive is refused")]
    Document {
        /// The document.
        name: String,
        /// Why.
        source: DocumentError,
    },
    /// A configuration in it is refused.
    #[error("{name} in the archive is refused")]
    Config {
        /// The document.
        name: String,
        /// Why.
        source: ImageConfigError,
    },
    /// A file whose name is a digest has other content.
    #[error("{name} in the archive does not match its digest: it is {actual}")]
    Digest {
        /// The entry.
        name: String,
        /// What its content has.
        actual: Digest,
    },
    /// A name for an image that is none.
    #[error("the archive names an image {name:?}")]
    Name {
        /// As written.
        name: String,
        /// Why not.
        source: ReferenceError,
    },
    /// Layers and configuration don't fit.
    #[error("image {name} in the archive has {layers} layers, but its configuration names {diff_ids}")]
    LayerCount {
        /// The configuration.
        name: String,
        /// Layers.
        layers: usize,
        /// Diff-ids.
        diff_ids: usize,
    },
    /// An archive without an image for the platform.
    #[error("the archive has no image for {wanted}")]
    NoPlatform {
        /// The platform that was asked for, or the host's.
        wanted: Platform,
    },
    /// Too much of something.
    #[error("the archive has {what} of more than {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A document where a layer is expected.
    #[error("{name} in the archive is used as a layer, but it is a document")]
    NotALayer {
        /// The entry.
        name: String,
    },
}

/// An image found in an archive, not unpacked yet.
#[derive(Debug)]
struct Found {
    config: Vec<u8>,
    config_name: String,
    layers: Vec<Spooled>,
    /// As it was in the archive; made up where there was none.
    manifest: Option<(Vec<u8>, Option<String>)>,
    names: Vec<Reference>,
}

impl Store {
    /// Loads images from an archive that is read once from start to end, plain, gzip or zstd. Of an image for several
    /// platforms it takes the one for this host.
    pub fn load(&self, source: &mut dyn Read, progress: &mut dyn FnMut(LoadProgress)) -> Result<Vec<Loaded>> {
        self.load_for(None, source, progress)
    }

    /// As [`Store::load`], for another platform: what is not for it stays away, and an archive that has nothing for it is
    /// refused.
    pub fn load_for(
        &self,
        platform: Option<&Platform>,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Vec<Loaded>> {
        let lease = self.lease();
        let mut parts = Parts::new(self);
        let loaded = Entries::read(&mut parts, source, &lease).and_then(|entries| {
            let found = found_images(&entries, platform.unwrap_or(&Platform::host()))?;
            let found = only_for(platform, found)?;
            self.unpack_layers(&wanted_layers(&found)?, &lease, progress)?;
            found.into_iter().map(|image| self.commit_found(image, &lease)).collect()
        });
        drop(lease);
        if loaded.is_err() {
            // What came in vain; the archive's error is the one to tell.
            let _ = self.collect();
        }
        loaded
    }

    /// Makes an image of one layer from a tar, plain, gzip or zstd.
    pub fn import(&self, source: &mut dyn Read, options: &ImportOptions) -> Result<ImageId> {
        let mut config = ImageConfig::default();
        change::apply(&mut config.config, &options.changes)?;
        let lease = self.lease();
        let mut parts = Parts::new(self);
        let imported = self.import_layer(&mut parts, source, config, options, &lease);
        drop(lease);
        if imported.is_err() {
            let _ = self.collect();
        }
        imported
    }

    fn import_layer(
        &self,
        parts: &mut Parts<'_>,
        source: &mut dyn Read,
        mut config: ImageConfig,
        options: &ImportOptions,
        lease: &Lease,
    ) -> Result<ImageId> {
        let mut source =
            without_foreign(source).map_err(|error| ArchiveError::from(TarError::Read(error)))?;
        let spooled = parts.spool(&mut source, None, lease)?;
        let wanted = WantedLayer { blob: spooled.clone(), diff_id: None };
        let diff_id = self.unpack_layer(&wanted, lease)?.diff_id;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        config.architecture = platform.architecture;
        config.os = platform.os;
        config.variant = platform.variant.unwrap_or_default();
        config.created = Some(options.created.clone());
        config.comment.clone_from(&options.message);
        config.rootfs = RootFs { diff_ids: vec![diff_id], ..RootFs::default() };
        config.history = vec![HistoryEntry {
            created: Some(options.created.clone()),
            comment: options.message.clone(),
            ..HistoryEntry::default()
        }];
        let content = to_json(&config);
        let commit = ImageCommit {
            manifest: manifest_of(&content, &[spooled]),
            manifest_media_type: None,
            config: content,
            tags: options.name.clone().into_iter().collect(),
            digests: Vec::new(),
            made_here: true,
        };
        Ok(self.commit_image(&commit, lease)?.id)
    }

    fn commit_found(&self, found: Found, lease: &Lease) -> Result<Loaded> {
        let (manifest, manifest_media_type) =
            found.manifest.unwrap_or_else(|| (manifest_of(&found.config, &found.layers), None));
        let mut before = HashMap::new();
        for name in &found.names {
            if let Some(image) = self.find(name)? {
                before.insert(name.clone(), image);
            }
        }
        let names = found.names.clone();
        let commit = ImageCommit {
            manifest,
            manifest_media_type,
            config: found.config,
            tags: found.names,
            digests: Vec::new(),
            made_here: false,
        };
        let image = self.commit_image(&commit, lease)?.id;
        let replaced = before.into_iter().filter(|(_, old)| *old != image).collect();
        Ok(Loaded { image, names, replaced })
    }
}

/// The images of an archive. One that is a layout and in Docker's format is read as a layout, which has the manifests as they
/// were; what only Docker's document names comes with it, and it alone counts where the layout is not whole (Docker saves the
/// index of all platforms with the content of one).
fn found_images(entries: &Entries, wanted: &Platform) -> Result<Vec<Found>, ArchiveError> {
    if entries.document("manifest.json").is_none() {
        return layout::images(entries, wanted);
    }
    let mut found = match entries.document("index.json") {
        Some(_) => layout::images(entries, wanted).unwrap_or_default(),
        None => Vec::new(),
    };
    for image in docker::images(entries)? {
        match found.iter_mut().find(|other| other.config == image.config) {
            Some(same) => {
                let new: Vec<Reference> =
                    image.names.into_iter().filter(|name| !same.names.contains(name)).collect();
                same.names.extend(new);
            }
            None => found.push(image),
        }
    }
    Ok(found)
}

/// The images for a platform, if one was asked for.
fn only_for(platform: Option<&Platform>, mut found: Vec<Found>) -> Result<Vec<Found>> {
    let Some(wanted) = platform else { return Ok(found) };
    let mut error = None;
    found.retain(|image| match ImageConfig::parse(&image.config) {
        Ok(config) => wanted.matches(&config.platform()),
        Err(source) => {
            error = Some(ArchiveError::Config { name: image.config_name.clone(), source });
            false
        }
    });
    match error {
        Some(error) => Err(error.into()),
        None if found.is_empty() => Err(ArchiveError::NoPlatform { wanted: wanted.clone() }.into()),
        None => Ok(found),
    }
}

/// The layers of all images, each once, with the diff-ids that the configurations promise.
fn wanted_layers(images: &[Found]) -> Result<Vec<WantedLayer>> {
    let mut wanted: Vec<WantedLayer> = Vec::new();
    for image in images {
        let config = ImageConfig::parse(&image.config)
            .map_err(|source| ArchiveError::Config { name: image.config_name.clone(), source })?;
        let (layers, diff_ids) = (image.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ArchiveError::LayerCount { name: image.config_name.clone(), layers, diff_ids }.into());
        }
        for (blob, diff_id) in image.layers.iter().zip(config.rootfs.diff_ids) {
            let layer = WantedLayer { blob: blob.clone(), diff_id: Some(diff_id) };
            if !wanted.contains(&layer) {
                wanted.push(layer);
            }
        }
    }
    Ok(wanted)
}

/// The manifest of an image that came without one.
fn manifest_of(config: &[u8], layers: &[Spooled]) -> Vec<u8> {
    commit::manifest(config, layers.iter().map(Spooled::descriptor).collect())
}

impl Spooled {
    fn descriptor(&self) -> Descriptor {
        let media_type = match self.compression {
            Compression::None => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        };
        Descriptor::new(media_type, self.digest, self.size)
    }
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    // Only maps with keys that are no strings and I/O can fail, and there are none.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
