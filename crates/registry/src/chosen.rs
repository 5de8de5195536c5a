//! What a push brings: the manifest of the image under a tag, or the index that it came by, if all of that is in the store.
//!
//! An index names images for many platforms, of which a machine mostly has one. Then the one is pushed, under its own
//! digest. A user who has pulled all platforms can push what he pulled: the index, byte for byte, with all of its images.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use palan_oci::media_type::Class;
use palan_oci::{Descriptor, Digest, Document, ImageConfig, Index, Manifest, Platform, Reference};
use palan_store::{Image, ImageId, Lease, Store};

/// A document that is stored under a tag or digest.
#[derive(Debug, Clone)]
pub(crate) struct Paper {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) body: Bytes,
}

/// One image of a push.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) paper: Paper,
    pub(crate) manifest: Manifest,
    config: Option<Arc<ImageConfig>>,
}

/// What a push brings.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The image that gets the name by digest.
    pub(crate) image: ImageId,
    /// The index, if there is more than one image.
    pub(crate) index: Option<Paper>,
    pub(crate) parts: Vec<Part>,
}

impl Chosen {
    /// The image that a tag names, for the platform if one is asked for. From here on `lease` keeps its blobs, whatever
    /// becomes of its names. The error is a platform that the image is for instead.
    pub(crate) fn find(
        store: &Store,
        image: Image,
        platform: Option<&Platform>,
        lease: &Lease,
    ) -> palan_store::Result<Result<Self, String>> {
        let index = complete_index(store, &image, lease)?;
        let own = image.config.platform();
        let is_other = platform.is_some_and(|wanted| !wanted.matches(&own));
        let part = match (platform, index) {
            (None, Some((index, parts))) => {
                return Ok(Ok(Self { image: image.id, index: Some(index), parts }));
            }
            (Some(wanted), Some((_, parts))) if is_other => {
                parts.into_iter().find(|part| part.is_for(wanted))
            }
            _ if is_other => None,
            _ => return Self::one(store, image.id, image.manifest, lease).map(Ok),
        };
        Ok(match part {
            Some(part) => {
                let image = ImageId(part.manifest.config.digest);
                Ok(Self { image, index: None, parts: vec![part] })
            }
            None => Err(own.to_string()),
        })
    }

    /// One image by its manifest.
    pub(crate) fn one(
        store: &Store,
        image: ImageId,
        manifest: Digest,
        lease: &Lease,
    ) -> palan_store::Result<Self> {
        lease.protect(manifest);
        let part = Part::read(store, manifest, None, lease)?;
        Ok(Self { image, index: None, parts: vec![part] })
    }

    /// What the tag will lead to.
    pub(crate) fn paper(&self) -> Option<&Paper> {
        self.index.as_ref().or_else(|| self.parts.first().map(|part| &part.paper))
    }
}

impl Part {
    fn read(
        store: &Store,
        digest: Digest,
        media_type: Option<&str>,
        lease: &Lease,
    ) -> palan_store::Result<Self> {
        let body = store.read_blob(&digest)?;
        let manifest = Manifest::parse(&body, media_type)
            .map_err(|source| palan_store::Error::Manifest { digest, source })?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            lease.protect(blob.digest);
        }
        let config = store.read_blob(&manifest.config.digest).ok();
        let config = config.and_then(|content| ImageConfig::parse(&content).ok()).map(Arc::new);
        let paper = Paper { digest, media_type: manifest.media_type().to_owned(), body: body.into() };
        Ok(Self { paper, manifest, config })
    }

    /// By what name users know a layer: its diff-id.
    pub(crate) fn layer_id(&self, index: usize) -> Option<String> {
        let diff_ids = self.config.as_ref().map(|config| &config.rootfs.diff_ids);
        let known = diff_ids.and_then(|diff_ids| diff_ids.get(index));
        known.or_else(|| self.manifest.layers.get(index).map(|layer| &layer.digest)).map(Digest::short)
    }

    fn is_for(&self, wanted: &Platform) -> bool {
        self.config.as_ref().is_some_and(|config| wanted.matches(&config.platform()))
    }

    fn is_complete(&self, store: &Store) -> bool {
        let here = |blob: &Descriptor| {
            let foreign = matches!(blob.class(), Class::Layer { foreign: true, .. });
            (foreign && !blob.urls.is_empty()) || store.has_blob(&blob.digest)
        };
        self.manifest.layers.iter().chain([&self.manifest.config]).all(here)
    }
}

/// The index that an image was made with or came by, with all of its images, if the store has them.
fn complete_index(
    store: &Store,
    image: &Image,
    lease: &Lease,
) -> palan_store::Result<Option<(Paper, Vec<Part>)>> {
    // A name by digest leads to the image that was pulled by it last; the others of the index are in it all the same.
    let others = store.images()?.into_iter().flat_map(|image| image.digests);
    let names: Vec<Reference> = image.digests.iter().cloned().chain(others).collect();
    let mut seen = HashSet::from([image.manifest]);
    let made = store.index_of(&image.id)?;
    for digest in made.into_iter().chain(names.iter().filter_map(Reference::digest)) {
        if !seen.insert(digest) {
            continue;
        }
        lease.protect(digest);
        if !store.has_blob(&digest) {
            continue;
        }
        let body = store.read_blob(&digest)?;
        let Ok(Document::Index(index)) = Document::parse(&body, None) else { continue };
        if !index.manifests.iter().any(|entry| entry.digest == image.manifest) {
            continue;
        }
        if let Some(parts) = images_of(store, &index, lease)? {
            let media_type = index.media_type.unwrap_or_else(|| palan_oci::media_type::OCI_INDEX.to_owned());
            return Ok(Some((Paper { digest, media_type, body: body.into() }, parts)));
        }
    }
    Ok(None)
}

fn images_of(store: &Store, index: &Index, lease: &Lease) -> palan_store::Result<Option<Vec<Part>>> {
    let mut parts = Vec::new();
    for entry in &index.manifests {
        lease.protect(entry.digest);
        if entry.class() != Class::Manifest || !store.has_blob(&entry.digest) {
            return Ok(None);
        }
        let part = Part::read(store, entry.digest, Some(&entry.media_type), lease)?;
        if !part.is_complete(store) {
            return Ok(None);
        }
        parts.push(part);
    }
    Ok(Some(parts))
}
