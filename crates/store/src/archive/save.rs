//! `save`: images as one archive that is two things at once, an OCI layout (`index.json`) and Docker's own format
//! (`manifest.json`), over the same content.
//!
//! ```text
//! blobs/sha256/<hex>   manifests, configurations, layers: the bytes that were pulled, loaded or made
//! index.json           one entry for each name (one without a name for an image that is saved by its id)
//! manifest.json        one entry for each image, its paths below blobs/
//! oci-layout
//! ```
//!
//! This is what Docker writes from version 25 on. Nothing in it tells when or where it was written, so the same images give
//! the same archive. Every blob is hashed on its way out: content that the disk has damaged ends the archive instead of
//! spreading.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use palan_oci::digest::Verifier;
use palan_oci::{Descriptor, Digest, Document, Manifest, Reference, media_type};
use serde::Serialize;

use super::{commit, to_json};
use crate::image::{Image, ImageId};
use crate::layer::tar::write::Writer;
use crate::layer::tar::{Entry, Kind};
use crate::{Error, Lease, Result, Store};

/// An image to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveItem {
    /// Which.
    pub image: ImageId,
    /// The names it is saved with.
    pub names: Vec<Reference>,
}

/// An image whose content is at hand.
struct Ready {
    names: Vec<Reference>,
    /// The manifest's own, or that of the index over several.
    descriptor: Descriptor,
    config: Digest,
    layers: Vec<Descriptor>,
    /// Manifests and indexes.
    papers: BTreeMap<Digest, Vec<u8>>,
    /// Everything else.
    blobs: BTreeSet<Digest>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayoutIndex {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// Images that are about to be written; their content stays while this lives.
#[derive(Debug)]
pub struct Saving {
    store: Store,
    images: Vec<Ready>,
    _lease: Lease,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ready").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Store {
    /// Looks up all that an archive of these images needs.
    pub fn begin_save(&self, items: &[SaveItem]) -> Result<Saving> {
        let lease = self.lease();
        let mut images = Vec::with_capacity(items.len());
        for item in items {
            lease.protect(item.image.digest());
            let no_such_image = || Error::NoSuchImage { name: item.image.to_string() };
            let image = self.image(&item.image)?.ok_or_else(no_such_image)?;
            images.push(self.make_ready(image, item.names.clone(), &lease)?);
        }
        Ok(Saving { store: self.clone(), images, _lease: lease })
    }

    fn make_ready(&self, image: Image, names: Vec<Reference>, lease: &Lease) -> Result<Ready> {
        lease.protect(image.manifest);
        let layers = self.stored_layers(&image, lease)?;
        let mut manifest = self.read_blob(&image.manifest)?;
        let known = self.parse_manifest(&image.manifest, &manifest)?;
        let mut media_type = known.media_type.clone().unwrap_or_else(|| media_type::OCI_MANIFEST.to_owned());
        if layers != known.layers {
            // A layer was here already in another compression; the image is the same one, its manifest is not.
            manifest = commit::manifest(&self.read_blob(&image.id.digest())?, layers.clone());
            media_type::OCI_MANIFEST.clone_into(&mut media_type);
        }
        let mut descriptor = Descriptor::of(media_type, &manifest);
        let mut blobs: BTreeSet<Digest> = layers.iter().map(|layer| layer.digest).collect();
        blobs.insert(image.id.digest());
        let mut papers = BTreeMap::from([(descriptor.digest, manifest)]);
        if let Some(digest) = self.index_of(&image.id)? {
            lease.protect(digest);
            descriptor = self.gather_index(digest, &mut papers, &mut blobs, lease)?;
        }
        Ok(Ready { names, descriptor, config: image.id.digest(), layers, papers, blobs })
    }

    /// All that an index made here leads to.
    fn gather_index(
        &self,
        digest: Digest,
        papers: &mut BTreeMap<Digest, Vec<u8>>,
        blobs: &mut BTreeSet<Digest>,
        lease: &Lease,
    ) -> Result<Descriptor> {
        let content = self.read_blob(&digest)?;
        let parsed = Document::parse(&content, None).map_err(|source| Error::Manifest { digest, source })?;
        if let Document::Index(index) = &parsed {
            for entry in &index.manifests {
                lease.protect(entry.digest);
                let content = self.read_blob(&entry.digest)?;
                let manifest = self.parse_manifest(&entry.digest, &content)?;
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    lease.protect(blob.digest);
                    blobs.insert(blob.digest);
                }
                papers.insert(entry.digest, content);
            }
        }
        let descriptor = Descriptor::of(media_type::OCI_INDEX, &content);
        papers.insert(digest, content);
        Ok(descriptor)
    }

    /// The layers of an image as the store has them, bottom first: those of its manifest, or where one of them was never
    /// transferred because its content was here, the same layer in the form in which it came.
    pub(crate) fn stored_layers(&self, image: &Image, lease: &Lease) -> Result<Vec<Descriptor>> {
        let manifest = self.parse_manifest(&image.manifest, &self.read_blob(&image.manifest)?)?;
        let mut layers = manifest.layers;
        for (layer, diff_id) in layers.iter_mut().zip(&image.config.rootfs.diff_ids) {
            lease.protect(*diff_id);
            lease.protect(layer.digest);
            match self.open_blob(&layer.digest) {
                Ok(_) => continue,
                Err(Error::NoSuchBlob { .. }) => {}
                Err(error) => return Err(error),
            }
            let record = self.inner.lock().layer_by(Some(diff_id), &layer.digest)?;
            let missing = Error::NoSuchBlob { digest: layer.digest };
            let blob = record.ok_or(missing)?.blob;
            lease.protect(blob);
            *layer = self.describe_layer(&blob)?;
        }
        Ok(layers)
    }

    pub(crate) fn describe_layer(&self, digest: &Digest) -> Result<Descriptor> {
        let mut content = self.open_blob(digest)?;
        let mut start = [0; 4];
        let size = content.size();
        let length = content.read(&mut start).map_err(|source| Error::Source { digest: *digest, source })?;
        let compression = palan_oci::media_type::Compression::detect(&start[..length]);
        Ok(super::spool::Spooled { digest: *digest, size, compression }.descriptor())
    }

    fn parse_manifest(&self, digest: &Digest, content: &[u8]) -> Result<Manifest> {
        Manifest::parse(content, None).map_err(|source| Error::Manifest { digest: *digest, source })
    }
}

impl Saving {
    /// Writes the archive.
    pub fn write(&self, sink: &mut dyn Write) -> Result<()> {
        let mut archive = Archive { store: &self.store, writer: Writer::new(sink) };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        let papers = self.images.iter().flat_map(|image| &image.papers);
        let documents: BTreeMap<Digest, &[u8]> =
            papers.map(|(digest, content)| (*digest, &content[..])).collect();
        let mut blobs: BTreeSet<Digest> = documents.keys().copied().collect();
        blobs.extend(self.images.iter().flat_map(|image| &image.blobs));
        for blob in blobs {
            match documents.get(&blob) {
                Some(document) => archive.document(&blob_name(&blob), document)?,
                None => archive.blob(&blob)?,
            }
        }
        archive.document("index.json", &to_json(&self.index()))?;
        archive.document("manifest.json", &to_json(&self.docker_items()))?;
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.writer.finish().map(drop).map_err(Error::Sink)
    }

    fn index(&self) -> LayoutIndex {
        let mut manifests = Vec::new();
        for image in &self.images {
            let named = |name: &Reference| {
                let mut descriptor = image.descriptor.clone();
                let mut annotate = |key: &str, value: String| {
                    descriptor.annotations.insert(key.to_owned(), value);
                };
                annotate("io.containerd.image.name", name.to_string());
                if let Some(tag) = name.tag() {
                    annotate("org.opencontainers.image.ref.name", tag.to_owned());
                }
                descriptor
            };
            manifests.extend(image.names.iter().map(named));
            if image.names.is_empty() {
                manifests.push(image.descriptor.clone());
            }
        }
        LayoutIndex { schema_version: 2, media_type: media_type::OCI_INDEX, manifests }
    }

    fn docker_items(&self) -> Vec<DockerItem> {
        let item = |image: &Ready| DockerItem {
            config: blob_name(&image.config),
            repo_tags: (!image.names.is_empty())
                .then(|| image.names.iter().map(Reference::familiar).collect()),
            layers: image.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
        };
        self.images.iter().map(item).collect()
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Archive<'s> {
    store: &'s Store,
    writer: Writer<&'s mut dyn Write>,
}

impl Archive<'_> {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.writer.entry(&entry(name, Kind::Directory, 0o755, 0)).map_err(Error::Sink)
    }

    fn document(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let entry = entry(name, Kind::Regular, 0o644, content.len() as u64);
        self.writer.file(&entry, &mut &*content).map_err(Error::Sink)
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        let content = self.store.open_blob(digest)?;
        let size = content.size();
        let entry = entry(&blob_name(digest), Kind::Regular, 0o444, size);
        let mut content = Verified { content, verifier: Verifier::new(*digest, size), failure: None };
        let written = self.writer.file(&entry, &mut content);
        if let Some(source) = content.failure {
            return Err(Error::Source { digest: *digest, source });
        }
        written.map_err(Error::Sink)?;
        Ok(content.verifier.finish()?)
    }
}

/// Content that is checked while it is read; its own failures are told apart from those of the archive.
struct Verified<R> {
    content: R,
    verifier: Verifier,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.content.read(buffer).and_then(|length| {
            self.verifier.update(&buffer[..length]).map_err(io::Error::other)?;
            Ok(length)
        });
        outcome.map_err(|error| {
            let told = io::Error::from(error.kind());
            self.failure = Some(error);
            told
        })
    }
}

fn entry(name: &str, kind: Kind, mode: u32, size: u64) -> Entry {
    Entry { mode, size, ..Entry::plain(name.into(), kind) }
}
