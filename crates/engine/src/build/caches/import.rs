//! `--cache-from`: which keys are known elsewhere, and bringing what they lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use palan_builder::backend::{Bringing, Imports, Snapshot};
use palan_builder::cancel::Cancel;
use palan_builder::remote_cache::Layer;
use palan_builder::remote_cache::MAX_DOCUMENT;
use palan_builder::remote_cache::read::{CacheError, MAX_IMAGES, Place, RemoteCache};
use palan_oci::{Descriptor, Digest, Manifest, Reference, media_type};
use palan_registry::{Artifact, ArtifactRequest, LayerStatus};
use palan_store::{BeginLayer, LayerRequest, Lease};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use super::super::progress::ProgressSink;
use super::super::request::{BuildClient, CacheSource};
use super::{ContentStore, Telling, seconds, warn};
use crate::engine::Engine;
use crate::image::{credentials, registry_error, store_error};
use crate::{Class, Error, Result};

/// Caches that a build may name.
const MAX_CACHES: usize = 32;
/// After so many layers that could not be had, no more are asked for.
const MAX_FAILURES: usize = 3;

/// What all that is done with caches needs.
#[derive(Clone, Copy)]
pub(in super::super) struct Caching<'a> {
    pub(in super::super) engine: &'a Arc<Engine>,
    pub(in super::super) client: &'a Arc<dyn BuildClient>,
    pub(in super::super) progress: &'a dyn ProgressSink,
    pub(in super::super) lease: &'a Lease,
    pub(in super::super) runtime: &'a Handle,
    pub(in super::super) cancel: &'a Cancel,
}

impl Caching<'_> {
    /// Waits for something, unless the build is cancelled meanwhile.
    pub(super) fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let stop = Arc::new(Notify::new());
        let told = Arc::clone(&stop);
        let _watch = self.cancel.watch(move || told.notify_one());
        self.runtime.block_on(async {
            tokio::select! {
                outcome = work => outcome,
                () = stop.notified() => Err(Error::system("the build was cancelled")),
            }
        })
    }

    pub(super) fn artifact(&self, reference: &Reference, insecure: bool) -> Result<ArtifactRequest> {
        let auth = self.client.credentials(reference)?;
        Ok(ArtifactRequest { reference: reference.clone(), credentials: credentials(auth), insecure })
    }

    pub(super) fn store(&self, id: &str) -> Result<Arc<dyn ContentStore>> {
        self.client.store(id)?.ok_or_else(|| {
            Error::invalid(format!("the client does not offer its directory as the cache {id}"))
        })
    }
}

/// Where the layers of a cache are.
enum Origin {
    /// In a registry.
    Registry(Box<Artifact>),
    /// At the client's.
    Client(Arc<dyn ContentStore>),
    /// Here: it is the cache of an image of the store.
    Here,
}

/// A cache whose document was read.
struct Imported {
    name: String,
    cache: RemoteCache,
    origin: Arc<Origin>,
}

/// All caches of a build.
pub(in super::super) struct ImportedCaches<'a> {
    caching: Caching<'a>,
    caches: Vec<Imported>,
    /// Blobs that could not be had.
    bad: Mutex<BTreeSet<Digest>>,
    failures: AtomicUsize,
    /// Something was brought that only makes sense over what is below it: nobody keeps it.
    pub(in super::super) leftovers: AtomicBool,
}

impl<'a> ImportedCaches<'a> {
    /// Reads the documents. What can't be read is told and left out.
    pub(in super::super) fn load(caching: Caching<'a>, sources: &[CacheSource]) -> Self {
        let mut loaded = Self {
            caching,
            caches: Vec::new(),
            bad: Mutex::default(),
            failures: AtomicUsize::new(0),
            leftovers: AtomicBool::new(false),
        };
        if sources.len() > MAX_CACHES {
            warn(caching.progress, format!("of the caches, only the first {MAX_CACHES} are used"));
        }
        for (number, source) in sources.iter().take(MAX_CACHES).enumerate() {
            if caching.cancel.is_cancelled() {
                break;
            }
            loaded.load_one(source, number);
        }
        loaded
    }

    fn load_one(&mut self, source: &CacheSource, number: usize) {
        let attribute = |name: &str| source.attributes.get(name).map_or("", String::as_str);
        let name = match source.kind.as_str() {
            CacheSource::IMAGE | "registry" => attribute("ref").to_owned(),
            "local" => format!("local:{}", attribute("src")),
            kind => kind.to_owned(),
        };
        let caching = self.caching;
        if source.kind == CacheSource::IMAGE {
            // As with the classic builder one that is not here has nothing to say.
            if let Ok(Some(cache)) = self.of_image(&name) {
                self.caches.push(Imported { name, cache, origin: Arc::new(Origin::Here) });
            }
            return;
        }
        let telling =
            Telling::begin(caching.progress, format!("importing cache manifest from {name}"), number);
        let loaded = match source.kind.as_str() {
            "registry" => {
                self.of_registry(attribute("ref"), is_true(attribute("registry.insecure")), &telling)
            }
            "local" => self.of_client(attribute("src"), attribute("digest"), &telling),
            kind => {
                Err(Error::new(Class::NotImplemented, format!("a cache of type {kind} is not supported")))
            }
        };
        if let Ok(loaded) = &loaded
            && loaded.iter().all(|(cache, _)| cache.is_empty())
        {
            telling.done("no results of this builder are in it");
        }
        match telling.end(loaded) {
            Ok(loaded) => self.caches.extend(loaded.into_iter().map(|(cache, origin)| Imported {
                name: name.clone(),
                cache,
                origin,
            })),
            Err(_) if caching.cancel.is_cancelled() => {}
            Err(error) => warn(
                caching.progress,
                format!("the cache {name} can't be read, and is not used: {}", error.report()),
            ),
        }
    }

    /// The cache in an image that is here.
    fn of_image(&self, name: &str) -> Result<Option<RemoteCache>> {
        let store = &self.caching.engine.store;
        let image = store.resolve(name).map_err(store_error)?;
        self.caching.lease.protect(image.id.digest());
        let config = store.read_blob(&image.id.digest()).map_err(store_error)?;
        let layers = image.config.rootfs.diff_ids.iter();
        let layers: Vec<Descriptor> =
            layers.map(|layer| Descriptor::new(media_type::OCI_LAYER, *layer, 0)).collect();
        RemoteCache::inline(&config, &layers).map_err(cache_error)
    }

    fn of_registry(
        &self,
        reference: &str,
        insecure: bool,
        telling: &Telling<'_>,
    ) -> Result<Vec<(RemoteCache, Arc<Origin>)>> {
        let reference = Reference::parse(reference).map_err(crate::image::reference_error)?.or_latest();
        if let Ok(Some(cache)) = self.of_image(&reference.to_string()) {
            telling.done("the image is here");
            return Ok(vec![(cache, Arc::new(Origin::Here))]);
        }
        let request = self.caching.artifact(&reference, insecure)?;
        self.caching.wait(async {
            let registry = &self.caching.engine.registry;
            let artifact = registry.artifact(&request).await.map_err(registry_error)?;
            let place = Place::read(&artifact.document).map_err(cache_error)?;
            inferred(telling, &artifact.document);
            let caches = match place {
                Place::Cache { config, layers } => {
                    let config = small(config)?;
                    let config = artifact.blob(&config).await.map_err(registry_error)?;
                    vec![RemoteCache::read(&config, &layers).map_err(cache_error)?]
                }
                Place::Image(manifest) => inline(&artifact, &manifest).await?.into_iter().collect(),
                Place::Images(images) => {
                    let mut caches = Vec::new();
                    for image in images.iter().take(MAX_IMAGES) {
                        let document = artifact.manifest(&image.digest).await.map_err(registry_error)?;
                        if let Ok(Place::Image(manifest)) = Place::read(&document) {
                            caches.extend(inline(&artifact, &manifest).await?);
                        }
                    }
                    caches
                }
            };
            let origin = Arc::new(Origin::Registry(Box::new(artifact)));
            Ok(caches.into_iter().map(|cache| (cache, Arc::clone(&origin))).collect())
        })
    }

    fn of_client(
        &self,
        src: &str,
        digest: &str,
        telling: &Telling<'_>,
    ) -> Result<Vec<(RemoteCache, Arc<Origin>)>> {
        let invalid = |text: &str| Error::invalid(text.to_owned());
        if src.is_empty() {
            return Err(invalid("local cache importer requires src"));
        }
        let digest: Digest =
            digest.parse().map_err(|_| invalid("local cache importer requires explicit digest"))?;
        let store = self.caching.store(&format!("local:{src}"))?;
        let document = document(&*store, &digest)?;
        let place = Place::read(&document).map_err(cache_error)?;
        inferred(telling, &document);
        let cache = match place {
            Place::Cache { config, layers } => {
                let config = document_of(&*store, &small(config)?)?;
                RemoteCache::read(&config, &layers).map_err(cache_error)?
            }
            Place::Image(manifest) => {
                let config = document_of(&*store, &small(manifest.config.clone())?)?;
                RemoteCache::inline(&config, &manifest.layers).map_err(cache_error)?.unwrap_or_default()
            }
            Place::Images(_) => return Err(invalid("the index is of images, not of a cache")),
        };
        Ok(vec![(cache, Arc::new(Origin::Client(store)))])
    }

    /// A registry that has a cache: blobs may be mounted from there.
    pub(super) fn repository(&self) -> Option<&Reference> {
        self.caches.iter().find_map(|imported| match &*imported.origin {
            Origin::Registry(artifact) => Some(artifact.reference()),
            _ => None,
        })
    }

    /// All keys that lead to a result.
    pub(super) fn keys_of(&self, snapshot: &Snapshot) -> BTreeSet<Digest> {
        self.caches.iter().flat_map(|imported| imported.cache.keys_of(snapshot)).collect()
    }

    /// The layers of a result that is known elsewhere, as they are there.
    pub(super) fn layers_of(&self, keys: &[Digest]) -> BTreeMap<Digest, Layer> {
        let remote = self.caches.iter().filter(|imported| !matches!(*imported.origin, Origin::Here));
        let found = remote.flat_map(|imported| keys.iter().filter_map(move |key| imported.cache.find(key)));
        found.flatten().map(|layer| (layer.diff_id, layer.clone())).collect()
    }

    /// Brings one layer that some cache has.
    pub(super) fn fetch(&self, layer: &Layer) -> Result<()> {
        let mut failure = None;
        for imported in &self.caches {
            if matches!(*imported.origin, Origin::Here) {
                continue;
            }
            match self.bring_layers(
                &imported.origin,
                std::slice::from_ref(layer),
                &|_| {},
                self.caching.cancel,
            ) {
                Ok(()) => {
                    let (engine, lease) = (self.caching.engine, self.caching.lease);
                    let created = layer.created.as_deref().and_then(seconds);
                    // Without a record that names it, it goes when the cache has to become smaller.
                    let adopted = engine.store.adopt_layer(&layer.diff_id, created, lease);
                    if !adopted.map_err(store_error)? {
                        self.leftovers.store(true, Ordering::Relaxed);
                    }
                    return Ok(());
                }
                Err((_, error)) => failure = Some(error),
            }
        }
        Err(failure
            .unwrap_or_else(|| Error::not_found(format!("layer {} is nowhere", layer.descriptor.digest))))
    }

    /// Brings what is missing of a result. The error says at which layer.
    fn bring_result(
        &self,
        imported: &Imported,
        layers: &[Layer],
        told: &dyn Fn(Bringing<'_>),
        cancel: &Cancel,
    ) -> Result<(), (Option<Digest>, Error)> {
        let Caching { engine, lease, .. } = self.caching;
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let is_here =
            |count: usize| matches!(engine.store.layer_dirs(&diff_ids[..count], lease), Ok(Some(_)));
        // Most of the time what is missing lies on top.
        let present = (0..=layers.len()).rev().find(|count| is_here(*count)).unwrap_or(0);
        let missing = &layers[present..];
        if !missing.is_empty() {
            self.bring_layers(&imported.origin, missing, told, cancel)?;
        }
        for layer in layers {
            let created = layer.created.as_deref().and_then(seconds);
            if created.is_some() || missing.contains(layer) {
                let adopted = engine.store.adopt_layer(&layer.diff_id, created, lease);
                if !adopted.map_err(|error| (None, store_error(error)))? && missing.contains(layer) {
                    self.leftovers.store(true, Ordering::Relaxed);
                }
            }
        }
        if is_here(layers.len()) {
            return Ok(());
        }
        let top = layers.last().map(|layer| layer.descriptor.digest);
        Err((
            top,
            Error::system("a layer does not stand alone, and the image that it belongs to is not here"),
        ))
    }

    fn bring_layers(
        &self,
        origin: &Origin,
        layers: &[Layer],
        told: &dyn Fn(Bringing<'_>),
        cancel: &Cancel,
    ) -> Result<(), (Option<Digest>, Error)> {
        for layer in layers {
            self.caching.lease.protect(layer.descriptor.digest);
            self.caching.lease.protect(layer.diff_id);
        }
        match origin {
            Origin::Here => Err((None, Error::system("the image that has it is gone"))),
            Origin::Registry(artifact) => self.pull(artifact, layers, told),
            Origin::Client(store) => layers.iter().try_for_each(|layer| {
                if cancel.is_cancelled() {
                    return Err((None, Error::system("the build was cancelled")));
                }
                self.copy(&**store, layer, told).map_err(|error| (Some(layer.descriptor.digest), error))
            }),
        }
    }

    /// Side by side, as in a pull.
    fn pull(
        &self,
        artifact: &Artifact,
        layers: &[Layer],
        told: &dyn Fn(Bringing<'_>),
    ) -> Result<(), (Option<Digest>, Error)> {
        let mut failed = None;
        let pulled = self.caching.wait(async {
            let (news, mut heard) = mpsc::unbounded_channel::<(Digest, LayerStatus)>();
            let mut bringing = tokio::task::JoinSet::new();
            for layer in layers.iter().cloned() {
                let (artifact, store, news) =
                    (artifact.clone(), self.caching.engine.store.clone(), news.clone());
                bringing.spawn(async move {
                    let digest = layer.descriptor.digest;
                    // Who listened goes when another layer failed.
                    let tell = move |status| drop(news.send((digest, status)));
                    (digest, artifact.layer(&store, &layer.descriptor, layer.diff_id, tell).await)
                });
            }
            drop(news);
            loop {
                tokio::select! {
                    biased;
                    Some((digest, status)) = heard.recv() => tell(told, &digest, &status),
                    ended = bringing.join_next() => match ended {
                        None => return Ok(()),
                        Some(Ok((_, Ok(())))) => {}
                        Some(Ok((digest, Err(error)))) => {
                            failed = Some(digest);
                            return Err(registry_error(error));
                        }
                        Some(Err(_)) => return Err(Error::system("the transfer of a layer broke off")),
                    },
                }
            }
        });
        pulled.map_err(|error| (failed, error))
    }

    /// From the client's store.
    fn copy(&self, from: &dyn ContentStore, layer: &Layer, told: &dyn Fn(Bringing<'_>)) -> Result<()> {
        let Caching { engine, lease, .. } = self.caching;
        let digest = layer.descriptor.digest;
        let request = LayerRequest { descriptor: layer.descriptor.clone(), diff_id: Some(layer.diff_id) };
        let name = digest.to_string();
        let total = layer.descriptor.size;
        let tell =
            |current, done| told(Bringing { layer: &name, status: "downloading", current, total, done });
        let mut may_resume = true;
        loop {
            let mut writer = match engine.store.begin_layer(&request, lease).map_err(store_error)? {
                BeginLayer::Present(_) => return Ok(()),
                BeginLayer::Busy(busy) => {
                    busy.wait();
                    continue;
                }
                BeginLayer::Ready(writer) => writer,
            };
            if !may_resume {
                writer.restart().map_err(store_error)?;
            }
            let offset = writer.offset();
            tell(offset, false);
            let mut source = from.read(&digest, offset)?.take(total.saturating_sub(offset).saturating_add(1));
            match writer.run(&mut source) {
                Ok(_) => {
                    tell(total, true);
                    return Ok(());
                }
                // What was kept of an earlier attempt may be what is wrong.
                Err(palan_store::Error::Verify(_)) if offset > 0 && may_resume => may_resume = false,
                Err(error) => return Err(store_error(error)),
            }
        }
    }

    /// Takes note of what could not be had. The first failures are told.
    fn failed(&self, name: &str, digest: Option<Digest>, error: &Error) {
        if self.caching.cancel.is_cancelled() {
            return;
        }
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).extend(digest);
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        if before < MAX_FAILURES {
            let text = format!(
                "a result in the cache {name} can't be used, its step is executed: {}",
                error.report()
            );
            warn(self.caching.progress, text);
        }
    }
}

impl Imports for ImportedCaches<'_> {
    fn known(&self, key: &Digest) -> Option<Snapshot> {
        let layers = self.caches.iter().find_map(|imported| imported.cache.find(key))?;
        Some(Snapshot { layers: layers.into_iter().map(|layer| layer.diff_id).collect() })
    }

    fn bring(&self, key: &Digest, told: &dyn Fn(Bringing<'_>), cancel: &Cancel) -> Option<Snapshot> {
        for imported in &self.caches {
            if self.failures.load(Ordering::Relaxed) >= MAX_FAILURES || cancel.is_cancelled() {
                return None;
            }
            let Some(layers) = imported.cache.find(key) else { continue };
            let layers: Vec<Layer> = layers.into_iter().cloned().collect();
            let is_bad = {
                let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
                layers.iter().any(|layer| bad.contains(&layer.descriptor.digest))
            };
            if is_bad {
                continue;
            }
            match self.bring_result(imported, &layers, told, cancel) {
                Ok(()) => {
                    return Some(Snapshot {
                        layers: layers.into_iter().map(|layer| layer.diff_id).collect(),
                    });
                }
                Err((digest, error)) => self.failed(&imported.name, digest, &error),
            }
        }
        None
    }
}

fn tell(told: &dyn Fn(Bringing<'_>), digest: &Digest, status: &LayerStatus) {
    let name = digest.to_string();
    let (current, total) = status.progress().unwrap_or((0, 0));
    let done = matches!(status, LayerStatus::Complete | LayerStatus::AlreadyExists);
    told(Bringing { layer: &name, status: &status.to_string(), current, total, done });
}

fn cache_error(error: CacheError) -> Error {
    Error::invalid(palan_stdx::error_chain::to_string(&error))
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// Tells what a document, which was read already, says that it is.
fn inferred(telling: &Telling<'_>, document: &[u8]) {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let Kind { media_type, manifests } = serde_json::from_slice(document).unwrap_or_default();
    let usual = if manifests.is_some() { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
    telling.done(&format!("inferred cache manifest type: {}", media_type.as_deref().unwrap_or(usual)));
}

/// Not larger than what is read of a document.
fn small(descriptor: Descriptor) -> Result<Descriptor> {
    match descriptor.size {
        size if size > MAX_DOCUMENT => Err(cache_error(CacheError::TooLarge { size })),
        _ => Ok(descriptor),
    }
}

async fn inline(artifact: &Artifact, manifest: &Manifest) -> Result<Option<RemoteCache>> {
    let config = small(manifest.config.clone())?;
    let config = artifact.blob(&config).await.map_err(registry_error)?;
    RemoteCache::inline(&config, &manifest.layers).map_err(cache_error)
}

/// A document of a client's, checked.
fn document(store: &dyn ContentStore, digest: &Digest) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut source = store.read(digest, 0)?.take(MAX_DOCUMENT + 1);
    source
        .read_to_end(&mut content)
        .map_err(|source| Error::system(format!("cannot read {digest} of the cache")).with_source(source))?;
    let size = content.len() as u64;
    if size > MAX_DOCUMENT {
        return Err(cache_error(CacheError::TooLarge { size }));
    }
    match Digest::of(&content) {
        found if found == *digest => Ok(content),
        found => Err(Error::invalid(format!("content {digest} of the cache is {found}"))),
    }
}

fn document_of(store: &dyn ContentStore, descriptor: &Descriptor) -> Result<Vec<u8>> {
    document(store, &descriptor.digest)
}
