//! `--cache-to`: the results of a build with their keys, sent where they are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use palan_builder::backend::Snapshot;
use palan_builder::remote_cache::Layer;
use palan_builder::remote_cache::write::{Results, Written};
use palan_builder::solver::Keyed;
use palan_oci::{Descriptor, Digest, media_type};
use palan_registry::UploadStatus;

use super::import::{Caching, ImportedCaches};
use super::{CacheExport, CacheTarget, ContentStore, Telling, warn, written};
use crate::image::{registry_error, store_error};
use crate::{Error, Result};

/// Layers that are compressed side by side, at most.
const MAX_THREADS: usize = 4;

/// What a build has to export.
pub(in super::super) struct Exporting<'a> {
    caching: Caching<'a>,
    imports: &'a ImportedCaches<'a>,
    /// With every key that is known.
    keyed: Vec<Keyed>,
    /// The image's files.
    image: &'a Snapshot,
}

impl<'a> Exporting<'a> {
    pub(in super::super) fn new(
        caching: Caching<'a>,
        imports: &'a ImportedCaches<'a>,
        mut keyed: Vec<Keyed>,
        image: &'a Snapshot,
    ) -> Self {
        keyed.retain(|keyed| !keyed.snapshot.layers.is_empty());
        for keyed in keyed.iter_mut().filter(|keyed| keyed.keys.len() == 1) {
            // What was found in an import without a look at its files has the other key there.
            let own = keyed.keys[0];
            let more = imports.keys_of(&keyed.snapshot).into_iter().filter(|key| *key != own);
            keyed.keys.extend(more);
        }
        Self { caching, imports, keyed, image }
    }

    /// What the image's configuration says of its cache.
    pub(in super::super) fn inline(&self) -> Option<String> {
        let mut results = Results::default();
        for keyed in &self.keyed {
            let layers: Vec<Layer> =
                keyed.snapshot.layers.iter().map(|layer| self.undescribed(layer)).collect();
            keyed.keys.iter().for_each(|key| results.add(*key, &layers));
        }
        results.inline(self.image)
    }

    /// Exports all that does not go into the image. What names the cache is returned, of one at the client's if there are several.
    pub(in super::super) fn run(&self, exports: &[CacheExport]) -> Result<Option<Descriptor>> {
        let mut named = None;
        for (number, export) in exports.iter().enumerate() {
            let name = match &export.target {
                CacheTarget::Image => continue,
                CacheTarget::Registry { .. } => "exporting cache to registry",
                CacheTarget::Client { .. } => "exporting cache to client directory",
            };
            let telling = Telling::begin(self.caching.progress, name.to_owned(), number);
            let exported = self.export(export, &telling);
            match telling.end(exported) {
                Ok(Some(manifest)) => {
                    if named.is_none() || matches!(export.target, CacheTarget::Client { .. }) {
                        named = Some(manifest);
                    }
                }
                Ok(None) => {}
                Err(error) if export.ignore_error && !self.caching.cancel.is_cancelled() => {
                    warn(self.caching.progress, format!("the cache was not exported: {}", error.report()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(named)
    }

    fn export(&self, export: &CacheExport, telling: &Telling<'_>) -> Result<Option<Descriptor>> {
        const PREPARING: &str = "preparing build cache for export";
        telling.part(PREPARING, (0, 0), false);
        let results = self.results(export)?;
        telling.done(PREPARING);
        if results.is_empty() {
            telling.done("skipping cache export for empty result");
            return Ok(None);
        }
        let document = results.write(export.form);
        match &export.target {
            CacheTarget::Image => return Ok(None),
            CacheTarget::Registry { reference, insecure } => {
                let request = self.caching.artifact(reference, *insecure)?;
                let registry = &self.caching.engine.registry;
                let push = self
                    .caching
                    .wait(async { registry.push_artifact(&request).await.map_err(registry_error) })?;
                self.push(&push, &document, telling)?;
            }
            CacheTarget::Client { store } => {
                let store = self.caching.store(store)?;
                self.copy(&*store, &document, telling)?;
            }
        }
        Ok(Some(Descriptor::of(document.media_type, &document.manifest)))
    }

    /// What is to be exported, with its layers as they are transferred.
    fn results(&self, export: &CacheExport) -> Result<Results> {
        let is_wanted =
            |keyed: &&Keyed| export.all_steps || self.image.layers.starts_with(&keyed.snapshot.layers);
        let wanted: Vec<&Keyed> = self.keyed.iter().filter(is_wanted).collect();
        let needed: BTreeSet<Digest> =
            wanted.iter().flat_map(|keyed| keyed.snapshot.layers.iter().copied()).collect();
        let mut known = self.described(&needed, export.compressed)?;
        for keyed in &wanted {
            if keyed.snapshot.layers.iter().any(|layer| !known.contains_key(layer)) {
                for (diff_id, layer) in self.imports.layers_of(&keyed.keys) {
                    let created = layer.created.as_deref().and_then(super::seconds).and_then(written);
                    known.entry(diff_id).or_insert(Layer { created, ..layer });
                }
            }
        }
        let mut results = Results::default();
        let mut left_out = 0;
        for keyed in wanted {
            let layers: Option<Vec<Layer>> =
                keyed.snapshot.layers.iter().map(|layer| known.get(layer).cloned()).collect();
            match layers {
                Some(layers) => keyed.keys.iter().for_each(|key| results.add(*key, &layers)),
                None => left_out += 1,
            }
        }
        if left_out > 0 {
            let text =
                format!("{left_out} results are not in the exported cache: layers of them are not here");
            warn(self.caching.progress, text);
        }
        Ok(results)
    }

    /// The layers of these that are here.
    fn described(&self, layers: &BTreeSet<Digest>, compressed: bool) -> Result<BTreeMap<Digest, Layer>> {
        let Caching { engine, lease, cancel, .. } = self.caching;
        let layers: Vec<Digest> = layers.iter().copied().collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MAX_THREADS).min(layers.len()).max(1);
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::with_capacity(layers.len()));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if cancel.is_cancelled() {
                            return;
                        }
                        let described = match compressed {
                            true => engine.store.compress_made(layer, lease),
                            false => engine.store.describe(layer, lease),
                        };
                        let outcome = (*layer, described);
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                    }
                });
            }
        });
        if cancel.is_cancelled() {
            return Err(Error::system("the build was cancelled"));
        }
        let mut known = BTreeMap::new();
        for (diff_id, described) in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match described {
                Ok(descriptor) => {
                    known.insert(diff_id, Layer { descriptor, ..self.undescribed(&diff_id) });
                }
                Err(palan_store::Error::NoSuchBlob { .. }) => {}
                Err(error) => return Err(store_error(error)),
            }
        }
        Ok(known)
    }

    /// A layer of which it only matters which it is, and when it was made.
    fn undescribed(&self, diff_id: &Digest) -> Layer {
        let made = self.caching.engine.store.layer_made_at(diff_id).ok().flatten();
        Layer {
            descriptor: Descriptor::new(media_type::OCI_LAYER, *diff_id, 0),
            diff_id: *diff_id,
            created: made.and_then(written),
        }
    }

    fn push(
        &self,
        push: &palan_registry::ArtifactPush,
        document: &Written,
        telling: &Telling<'_>,
    ) -> Result<()> {
        let store = &self.caching.engine.store;
        let tell = |digest: &Digest, status: UploadStatus| {
            let is_there = matches!(
                status,
                UploadStatus::Pushed | UploadStatus::AlreadyExists | UploadStatus::MountedFrom(_)
            );
            telling.part(&format!("writing layer {digest}"), status.progress().unwrap_or((0, 0)), is_there);
        };
        let bring = |blobs: &[Descriptor]| {
            let from = self.imports.repository();
            self.caching.wait(async { push.bring(store, blobs, from, &tell).await.map_err(registry_error) })
        };
        let blobs: Vec<Descriptor> = document.layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let missing = bring(&blobs)?;
        if !missing.is_empty() {
            let is_missing =
                |layer: &&Layer| missing.iter().any(|blob| blob.digest == layer.descriptor.digest);
            document.layers.iter().filter(is_missing).try_for_each(|layer| self.imports.fetch(layer))?;
            if let Some(gone) = bring(&missing)?.first() {
                return Err(Error::not_found(format!("blob {} of the cache is gone", gone.digest)));
            }
        }
        let (config, manifest) =
            (Bytes::from(document.config.clone()), Bytes::from(document.manifest.clone()));
        let digest = Digest::of(&config);
        self.caching.wait(async { push.blob(config).await.map_err(registry_error) })?;
        telling.done(&format!("writing config {digest}"));
        let text = writing_manifest(document);
        self.caching
            .wait(async { push.manifest(document.media_type, &manifest).await.map_err(registry_error) })?;
        telling.done(&text);
        Ok(())
    }

    fn copy(&self, to: &dyn ContentStore, document: &Written, telling: &Telling<'_>) -> Result<()> {
        for layer in &document.layers {
            if self.caching.cancel.is_cancelled() {
                return Err(Error::system("the build was cancelled"));
            }
            let Descriptor { digest, size, .. } = layer.descriptor;
            let text = format!("writing layer {digest}");
            if to.size(&digest)? != Some(size) {
                telling.part(&text, (0, size), false);
                let store = &self.caching.engine.store;
                let blob = match store.open_blob(&digest) {
                    Err(palan_store::Error::NoSuchBlob { .. }) => {
                        self.imports.fetch(layer)?;
                        store.open_blob(&digest)
                    }
                    other => other,
                };
                let blob = blob.map_err(store_error)?;
                to.write(
                    &digest,
                    size,
                    &mut Counting { source: blob, telling, text: &text, read: 0, told: 0 },
                )?;
            }
            telling.part(&text, (size, size), true);
        }
        let documents = [
            (&document.config, format!("writing config {}", Digest::of(&document.config))),
            (&document.manifest, writing_manifest(document)),
        ];
        for (content, text) in documents {
            let (digest, size) = (Digest::of(content), content.len() as u64);
            if to.size(&digest)? != Some(size) {
                to.write(&digest, size, &mut &content[..])?;
            }
            telling.done(&text);
        }
        Ok(())
    }
}

fn writing_manifest(document: &Written) -> String {
    let kind = if document.media_type == media_type::OCI_MANIFEST { "image manifest" } else { "manifest" };
    format!("writing cache {kind} {}", Digest::of(&document.manifest))
}

/// Tells how far a transfer is.
struct Counting<'a> {
    source: palan_store::BlobContent,
    telling: &'a Telling<'a>,
    text: &'a str,
    read: u64,
    told: u64,
}

/// How many bytes are worth telling of.
const TELL_EVERY: u64 = 4 << 20;

impl std::io::Read for Counting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.read += read as u64;
        if self.read - self.told >= TELL_EVERY {
            self.told = self.read;
            self.telling.part(self.text, (self.read, self.source.size()), false);
        }
        Ok(read)
    }
}
