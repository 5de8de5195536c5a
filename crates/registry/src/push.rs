//! Brings an image from the store to its registry: the blobs side by side, then the manifest, byte for byte as it is
//! kept, then the tag.
//!
//! ```text
//! name ─▶ image ─▶ manifest ─▶ its layers and configuration (uploads) ─▶ PUT manifest ─▶ name by digest in the store
//!             made here: its layers are compressed first ([`palan_store::compress`])
//! ```
//! A manifest goes up last, so that nobody can see an image that lacks anything. It is never made for one registry: an image that was
//! pulled keeps its digest wherever it is pushed to, and one that was made here gets its last manifest by its first push.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use palan_oci::media_type::Class;
use palan_oci::{Descriptor, Digest, Manifest, Platform, Reference};
use palan_store::{Lease, Store};
use reqwest::Method;

use crate::chosen::{Chosen, Paper};
use crate::client::Client;
use crate::credentials::Credentials;
use crate::endpoint::made_insecure;
use crate::error::{RegistryError, RequestError};
use crate::login::is_connection_failure;
use crate::payload::Payload;
use crate::progress::{ProgressEvent, UploadStatus};
use crate::pull::{Listener, in_store};
use crate::repository::{Access, Repository};
use crate::retry;
use crate::session::check_digest;
use crate::transport::Outgoing;
use crate::upload::Upload;

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// The image by its name; for all tags of a repository see [`Client::push_all_tags`].
    pub reference: Reference,
    /// The platform that the image must be for.
    pub platform: Option<Platform>,
    /// The user's credentials for the registry.
    pub credentials: Credentials,
}

/// A tag that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushOutcome {
    /// The tag.
    pub tag: String,
    /// The digest that it has in the registry now.
    pub digest: Digest,
    /// The bytes of the manifest.
    pub size: u64,
}

/// One push on its way.
struct Push<'a> {
    client: &'a Client,
    store: &'a Store,
    reference: &'a Reference,
    platform: Option<&'a Platform>,
    listener: Listener<'a>,
}

/// One blob of an image.
struct Blob {
    descriptor: Descriptor,
    /// By what name users know it; nothing is told of the configuration.
    id: Option<String>,
    /// Repositories of the same registry that have it.
    sources: Vec<String>,
}

impl Client {
    /// Pushes the image that a tag names. Dropping the future ends the push; what the registry has got is there for the next
    /// one.
    ///
    /// `progress` is called from within the future and must not block.
    ///
    /// # Errors
    /// See [`RegistryError`]. The registry's tag leads to what it led to before then, though blobs may have come.
    pub async fn push(
        &self,
        request: &PushRequest,
        store: &Store,
        progress: impl Fn(ProgressEvent) + Send + Sync,
    ) -> Result<PushOutcome, RegistryError> {
        progress(refers_to(&request.reference));
        let reference = request.reference.clone().or_latest();
        let repository = self.repository_to_push_to(&reference, &request.credentials, false).await?;
        self.push_tag(&reference, request, &repository, store, &progress).await
    }

    /// Pushes all tags of a repository that the store has, one after the other.
    ///
    /// # Errors
    /// As for [`Client::push`]; the tags before the failing one stay pushed.
    pub async fn push_all_tags(
        &self,
        request: &PushRequest,
        store: &Store,
        progress: impl Fn(ProgressEvent) + Send + Sync,
    ) -> Result<Vec<PushOutcome>, RegistryError> {
        progress(refers_to(&request.reference));
        let name = request.reference.familiar_name();
        let wanted = request.reference.clone();
        let tags = in_store(store, format!("the names of {name}"), move |store| {
            let names = store.images()?.into_iter().flat_map(|image| image.tags);
            let mut own: Vec<Reference> = names.filter(|tag| is_same_repository(tag, &wanted)).collect();
            own.sort_by_key(ToString::to_string);
            Ok(own)
        })
        .await?;
        if tags.is_empty() {
            let text = format!("An image does not exist locally with the tag: {name}");
            return Err(RegistryError::NothingToPush { text });
        }
        let repository = self.repository_to_push_to(&request.reference, &request.credentials, false).await?;
        let mut outcomes = Vec::new();
        for tag in &tags {
            outcomes.push(self.push_tag(tag, request, &repository, store, &progress).await?);
        }
        Ok(outcomes)
    }

    /// The repository at the first place that answers at all: a host of `hosts.toml` that takes pushes, else the registry.
    /// `registry-mirrors` are for pulls.
    pub(crate) async fn repository_to_push_to(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        insecure: bool,
    ) -> Result<Repository, RegistryError> {
        let mut endpoints = self.endpoints.for_pushes(&self.transport, reference.domain()).await?;
        if insecure {
            endpoints = made_insecure(endpoints);
        }
        let mut last = None;
        for endpoint in endpoints {
            if endpoint.plain_fallback && !last.as_ref().is_some_and(is_connection_failure) {
                break;
            }
            let repository = Repository::new(
                self.transport.clone(),
                self.authenticator.clone(),
                &endpoint,
                reference.path(),
                Access::Push,
                credentials,
            );
            match repository.challenge().await {
                Ok(_) => {
                    self.endpoints.worked(&endpoint);
                    return Ok(repository);
                }
                Err(error) if is_connection_failure(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::GivenUp { what: reference.familiar() }))
    }

    async fn push_tag(
        &self,
        reference: &Reference,
        request: &PushRequest,
        repository: &Repository,
        store: &Store,
        listener: Listener<'_>,
    ) -> Result<PushOutcome, RegistryError> {
        let push = Push { client: self, store, reference, platform: request.platform.as_ref(), listener };
        push.run(repository).await.map_err(in_dockers_words)
    }
}

impl Push<'_> {
    async fn run(&self, repository: &Repository) -> Result<PushOutcome, RegistryError> {
        let Some(tag) = self.reference.tag().filter(|_| self.reference.digest().is_none()) else {
            return Err(RegistryError::NothingToPush { text: "cannot push a digest reference".to_owned() });
        };
        let mut lease = self.store.lease();
        let mut chosen = self.choose(&lease).await?;
        let mut blobs = self.blobs(&chosen).await?;
        for blob in blobs.iter().rev() {
            self.tell(blob, UploadStatus::Preparing);
        }
        let compressed = self.store.lease();
        if let Some(found) = self.compress(&chosen, &compressed).await? {
            // What only the first manifest needs may go.
            lease = compressed;
            chosen = found;
            blobs = self.blobs(&chosen).await?;
        }
        self.bring_blobs(repository, &blobs).await?;
        if chosen.index.is_some() {
            for part in &chosen.parts {
                put(repository, &part.paper.digest.to_string(), &part.paper).await?;
            }
        }
        let Some(paper) = chosen.paper() else {
            return Err(RegistryError::GivenUp { what: self.reference.familiar() });
        };
        put(repository, tag, paper).await?;
        let (digest, size) = (paper.digest, paper.body.len() as u64);
        let by_digest = self.reference.with_digest(digest);
        let id = chosen.image;
        in_store(self.store, format!("the digest of {}", self.reference.familiar()), move |store| {
            match store.name_by_digest(&id, &by_digest) {
                // It was removed meanwhile; the registry has it all the same.
                Err(palan_store::Error::NoSuchImage { .. }) => Ok(()),
                outcome => outcome,
            }
        })
        .await?;
        drop(lease);
        (self.listener)(ProgressEvent::Message(format!("{tag}: digest: {digest} size: {size}")));
        let outcome = PushOutcome { tag: tag.to_owned(), digest, size };
        (self.listener)(ProgressEvent::Pushed(outcome.clone()));
        Ok(outcome)
    }

    fn tell(&self, blob: &Blob, status: UploadStatus) {
        if let Some(id) = &blob.id {
            (self.listener)(ProgressEvent::Upload { id: id.clone(), status });
        }
    }

    /// What the tag names, and what of it is to be pushed.
    async fn choose(&self, lease: &Lease) -> Result<Chosen, RegistryError> {
        let (reference, platform, protected) =
            (self.reference.clone(), self.platform.cloned(), lease.share());
        let found = in_store(self.store, format!("image {}", reference.familiar()), move |store| {
            let Some(id) = store.find(&reference)? else { return Ok(None) };
            let Some(image) = store.image(&id)? else { return Ok(None) };
            Chosen::find(store, image, platform.as_ref(), &protected).map(Some)
        })
        .await?;
        match (found, self.platform) {
            (Some(Ok(chosen)), _) => Ok(chosen),
            (Some(Err(found)), Some(wanted)) => Err(RegistryError::OtherPlatform {
                reference: self.reference.familiar(),
                found,
                wanted: wanted.to_string(),
            }),
            _ => {
                let name = self.reference.familiar_name();
                let text = format!("An image does not exist locally with the tag: {name}");
                Err(RegistryError::NothingToPush { text })
            }
        }
    }

    /// The same image with compressed layers, if it was made here and is pushed for the first time.
    async fn compress(&self, chosen: &Chosen, lease: &Lease) -> Result<Option<Chosen>, RegistryError> {
        if chosen.index.is_some() {
            return Ok(None);
        }
        let (image, protected) = (chosen.image, lease.share());
        in_store(self.store, format!("the layers of {}", self.reference.familiar()), move |store| {
            let manifest = store.compress_image(&image, &protected)?;
            manifest.map(|manifest| Chosen::one(store, image, manifest, &protected)).transpose()
        })
        .await
    }

    /// The blobs of all images, the configuration first, then the layers from the bottom, each once.
    async fn blobs(&self, chosen: &Chosen) -> Result<Vec<Blob>, RegistryError> {
        let mut sources = self.sources(chosen).await?;
        let mut blobs: Vec<Blob> = Vec::new();
        let mut add = |descriptor: &Descriptor, id: Option<String>| {
            if blobs.iter().all(|blob| blob.descriptor.digest != descriptor.digest) {
                let sources = sources.remove(&descriptor.digest).unwrap_or_default();
                blobs.push(Blob { descriptor: descriptor.clone(), id, sources });
            }
        };
        for part in &chosen.parts {
            add(&part.manifest.config, None);
            for (index, layer) in part.manifest.layers.iter().enumerate() {
                add(layer, part.layer_id(index));
            }
        }
        Ok(blobs)
    }

    /// Which other repositories of this registry have which of the layers.
    async fn sources(&self, chosen: &Chosen) -> Result<HashMap<Digest, Vec<String>>, RegistryError> {
        let layers = chosen.parts.iter().flat_map(|part| &part.manifest.layers);
        let wanted: Vec<Digest> = layers.map(|layer| layer.digest).collect();
        sources(self.store, self.reference, wanted).await
    }

    /// Brings all blobs, side by side. The first failure ends it.
    async fn bring_blobs(&self, repository: &Repository, blobs: &[Blob]) -> Result<(), RegistryError> {
        // The topmost layer is the one that is most likely to be missing.
        let mut bringing: FuturesUnordered<_> =
            blobs.iter().rev().map(|blob| self.bring_blob(repository, blob)).collect();
        while let Some(result) = bringing.next().await {
            result?;
        }
        Ok(())
    }

    async fn bring_blob(&self, repository: &Repository, blob: &Blob) -> Result<(), RegistryError> {
        let is_foreign = matches!(blob.descriptor.class(), Class::Layer { foreign: true, .. });
        if is_foreign && !blob.descriptor.urls.is_empty() {
            self.tell(blob, UploadStatus::SkippedForeign);
            return Ok(());
        }
        let upload = Upload {
            repository,
            store: self.store,
            slots: &self.client.upload_slots,
            descriptor: &blob.descriptor,
            sources: &blob.sources,
            tell: &|status| self.tell(blob, status),
        };
        match upload.run().await {
            Err(error) if is_missing(&error) => Err(RegistryError::MissingBlob {
                reference: self.reference.familiar(),
                digest: blob.descriptor.digest.to_string(),
            }),
            outcome => outcome,
        }
    }
}

/// Which other repositories of a registry have which of these layers: an image that has a name with a digest there was pulled from there, or
/// pushed there.
pub(crate) async fn sources(
    store: &Store,
    target: &Reference,
    wanted: Vec<Digest>,
) -> Result<HashMap<Digest, Vec<String>>, RegistryError> {
    let target = target.clone();
    in_store(store, "the repositories of layers".to_owned(), move |store| {
        let mut sources: HashMap<Digest, Vec<String>> = HashMap::new();
        for image in store.images()? {
            let paths: Vec<&str> = image
                .digests
                .iter()
                .filter(|name| name.domain() == target.domain() && name.path() != target.path())
                .map(Reference::path)
                .collect();
            if paths.is_empty() {
                continue;
            }
            let Ok(manifest) = Manifest::parse(&store.read_blob(&image.manifest)?, None) else {
                continue;
            };
            for layer in manifest.layers.iter().filter(|layer| wanted.contains(&layer.digest)) {
                let known = sources.entry(layer.digest).or_default();
                for path in &paths {
                    if !known.iter().any(|known| known == path) {
                        known.push((*path).to_owned());
                    }
                }
            }
        }
        Ok(sources)
    })
    .await
}

async fn put(repository: &Repository, reference: &str, paper: &Paper) -> Result<(), RegistryError> {
    put_manifest(repository, reference, &paper.media_type, &paper.body).await
}

/// Stores a manifest or index under a tag or digest, and makes sure that the registry read what was sent.
pub(crate) async fn put_manifest(
    repository: &Repository,
    reference: &str,
    media_type: &str,
    body: &Bytes,
) -> Result<(), RegistryError> {
    let timing = &repository.transport().config().timing;
    let mut outgoing = Outgoing::new(Method::PUT, repository.url(&format!("manifests/{reference}"))?);
    outgoing.payload = Payload::Document { media_type: media_type.to_owned(), content: body.clone() };
    let mut failed = 0;
    loop {
        let error = match repository.request(outgoing.clone()).await {
            Ok(response) => return check_digest(&response, &Digest::of(body)),
            Err(error) => error,
        };
        failed += 1;
        if !error.is_transient() || failed >= timing.attempts {
            return Err(error);
        }
        tokio::time::sleep(retry::pause(timing, failed, error.retry_after())).await;
    }
}

fn refers_to(reference: &Reference) -> ProgressEvent {
    let (domain, path) = (reference.domain(), reference.path());
    ProgressEvent::Message(format!("The push refers to repository [{domain}/{path}]"))
}

fn is_same_repository(one: &Reference, other: &Reference) -> bool {
    one.domain() == other.domain() && one.path() == other.path()
}

pub(crate) fn is_missing(error: &RegistryError) -> bool {
    let RegistryError::Request { source: RequestError::Unreadable { source, .. }, .. } = error else {
        return false;
    };
    matches!(source.downcast_ref(), Some(palan_store::Error::NoSuchBlob { .. }))
}

/// A registry's refusal of a push, in the text that Docker's users know.
pub(crate) fn in_dockers_words(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Request { source: RequestError::Api(source), .. }
            if matches!(source.status, 401 | 403)
                || matches!(source.code.as_str(), "DENIED" | "UNAUTHORIZED") =>
        {
            RegistryError::PushRefused(source)
        }
        error => error,
    }
}
