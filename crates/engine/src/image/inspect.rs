//! All about one image, and its history.

use std::sync::Arc;

use jiff::Timestamp;
use palan_oci::{Digest, ImageConfig, Manifest, Reference};
use palan_store::Image;

use super::list::{ManifestKind, ManifestSummary, Manifests};
use super::{check_platform, store_error};
use crate::engine::{Engine, blocking};
use crate::{Error, Result};

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
    /// The image that it was made from here; empty for none.
    pub parent: String,
    /// What it is as manifests.
    pub manifests: Manifests,
}

/// One step of an image's history, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Id of the image for the newest entry, then those of the images that it was made from here, `<missing>` for the rest.
    pub id: String,
    /// When.
    pub created: Option<Timestamp>,
    /// Instruction.
    pub created_by: String,
    /// Tags of that image.
    pub tags: Vec<String>,
    /// Bytes of its layer unpacked.
    pub size: u64,
    /// Comment.
    pub comment: String,
}

/// Details.
impl Engine {
    /// All about one image.
    pub async fn inspect_image(&self, name: &str, platform: Option<String>) -> Result<ImageDetails> {
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || {
            let image = engine.store.resolve(&name).map_err(store_error)?;
            let manifests = engine.manifests(&image)?;
            if let Err(error) = check_platform(&image, &name, platform.as_deref()) {
                let other = engine.other_platform(&image, platform.as_deref(), manifests)?;
                return other.ok_or(error);
            }
            let parent = engine.store.parent(&image.id).map_err(store_error)?;
            let directories = engine.store.lower_dirs(&image.id).map_err(store_error)?;
            let last_tagged = image.last_tagged.and_then(|time| Timestamp::from_nanosecond(time.into()).ok());
            Ok(ImageDetails {
                id: image.id.to_string(),
                repo_tags: image.tags.iter().map(Reference::familiar).collect(),
                repo_digests: image.digests.iter().map(Reference::familiar).collect(),
                size: image.size,
                layer_dirs: directories.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
                last_tagged,
                parent: parent.map(|parent| parent.to_string()).unwrap_or_default(),
                manifests,
                config: image.config,
            })
        })
        .await
    }

    /// The same of an image for another platform, which this one's name stands for as well. Blocking.
    fn other_platform(
        &self,
        image: &Image,
        platform: Option<&str>,
        manifests: Manifests,
    ) -> Result<Option<ImageDetails>> {
        let Some(platform) = platform.map(crate::container::parse_platform).transpose()? else {
            return Ok(None);
        };
        let is_it = |manifest: &&ManifestSummary| {
            manifest.kind == ManifestKind::Image && manifest.available && platform.matches(&manifest.platform)
        };
        let Some(found) = manifests.list.iter().find(is_it) else { return Ok(None) };
        let broken = |what: &str| Error::system(format!("{what} of image {} is broken", image.id));
        let digest: Digest = found.digest.parse().map_err(|_| broken("the index"))?;
        let manifest = self.store.read_blob(&digest).map_err(store_error)?;
        let manifest = Manifest::parse(&manifest, None).map_err(|_| broken("a manifest"))?;
        let config = self.store.read_blob(&manifest.config.digest).map_err(store_error)?;
        let config = ImageConfig::parse(&config).map_err(|_| broken("a configuration"))?;
        let lease = self.store.lease();
        let directories = self.store.layer_dirs(&config.rootfs.diff_ids, &lease).map_err(store_error)?;
        Ok(Some(ImageDetails {
            id: manifest.config.digest.to_string(),
            repo_tags: image.tags.iter().map(Reference::familiar).collect(),
            repo_digests: image.digests.iter().map(Reference::familiar).collect(),
            size: found.unpacked_size,
            layer_dirs: directories
                .unwrap_or_default()
                .iter()
                .map(|path| path.to_string_lossy().into_owned())
                .collect(),
            last_tagged: None,
            parent: String::new(),
            config: Arc::new(config),
            manifests,
        }))
    }

    /// Its history, newest first. An image that was made here from another tells that one's id, and so on down.
    pub async fn image_history(&self, name: &str, platform: Option<String>) -> Result<Vec<HistoryEntry>> {
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || {
            let image = engine.store.resolve(&name).map_err(store_error)?;
            check_platform(&image, &name, platform.as_deref())?;
            let items = engine.store.history(&image.id).map_err(store_error)?;
            let entry = |item: palan_store::image::HistoryItem| HistoryEntry {
                id: item.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
                created: item.created.and_then(|time| time.parse().ok()),
                created_by: item.created_by,
                tags: item.tags.iter().map(Reference::familiar).collect(),
                size: item.size,
                comment: item.comment,
            };
            let mut entries: Vec<HistoryEntry> = items.into_iter().map(entry).collect();
            let mut ancestor = image;
            for entry in entries.iter_mut().skip(1) {
                let parent = engine.store.parent(&ancestor.id).map_err(store_error)?;
                let Some(parent) = parent.and_then(|id| engine.store.image(&id).ok().flatten()) else {
                    break;
                };
                entry.id = parent.id.to_string();
                entry.tags = parent.tags.iter().map(Reference::familiar).collect();
                ancestor = parent;
            }
            Ok(entries)
        })
        .await
    }
}
