//! Brings an image into the store: where from, which one, which layers, and under which names.
//!
//! ```text
//! for each endpoint: resolve ─▶ unchanged? ──yes──▶ up to date
//!                       │ no
//!                       ├─▶ index? ─▶ the entry for the platform ─▶ manifest ─▶ configuration ─▶ layers (flights) ─▶ commit
//!                       └─▶ failed: the next endpoint, else the error
//! ```
//! Everything is verified before it is used: a manifest fetched by digest against that digest, the configuration and
//! the layers against the manifest, the unpacked layers against the configuration.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use palan_oci::manifest::DocumentError;
use palan_oci::media_type::Class;
use palan_oci::{Descriptor, Digest, Document, ImageConfig, Manifest, Platform, Reference};
use palan_store::image::ImageCommit;
use palan_store::{BeginLayer, ImageId, LayerRequest, Lease, Store};
use tokio::sync::OnceCell;

use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::flight::{FlightKey, Ticket};
use crate::layer::Download;
use crate::progress::{LayerStatus, ProgressEvent};
use crate::repository::{Fetched, Repository};

/// How deep indexes may nest.
const DEEPEST_INDEX: usize = 4;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image; without tag and digest it is `latest`.
    pub reference: Reference,
    /// The platform, where it is not the host's.
    pub platform: Option<Platform>,
    /// The user's credentials for the registry.
    pub credentials: Credentials,
}

/// Whether a pull changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// The name leads to another image than before, or is new.
    Downloaded,
    /// The name led to this image before.
    UpToDate,
}

/// A pulled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutcome {
    /// The image in the store.
    pub image: ImageId,
    /// The digest that the reference has in the registry: of the index if there is one, else of the manifest.
    pub digest: Digest,
    /// Whether that was news.
    pub status: PullStatus,
}

/// Who listens to a pull's progress.
pub(crate) type Listener<'a> = &'a (dyn Fn(ProgressEvent) + Send + Sync);

/// One pull on its way.
struct Pull<'a> {
    client: &'a Client,
    store: &'a Store,
    reference: &'a Reference,
    /// What the reference leads to, where those who serve content may not be asked.
    resolved: Option<Digest>,
    platform: Option<&'a Platform>,
    listener: Listener<'a>,
}

/// A manifest that was chosen, with what leads to it.
struct Chosen {
    /// The digest that the reference has.
    digest: Digest,
    manifest: Manifest,
    body: Bytes,
    media_type: Option<String>,
    /// The index above, to be kept with the image.
    index: Option<Bytes>,
}

impl Client {
    /// Pulls one image. Dropping the future cancels the pull; what came of its layers is kept for the next one, and
    /// layers that other pulls wait for go on.
    ///
    /// `progress` is called from within the future and must not block.
    ///
    /// # Errors
    /// See [`RegistryError`]; nothing is recorded then, and a tag leads to what it led to before.
    pub async fn pull(
        &self,
        request: &PullRequest,
        store: &Store,
        progress: impl Fn(ProgressEvent) + Send + Sync,
    ) -> Result<PullOutcome, RegistryError> {
        let outcome =
            self.pull_reference(request, &request.reference.clone().or_latest(), store, &progress).await?;
        progress(final_status(&request.reference.clone().or_latest().familiar(), outcome.status));
        Ok(outcome)
    }

    /// Pulls all tags of a repository, one after the other.
    ///
    /// # Errors
    /// As for [`Client::pull`]; the tags before the failing one stay pulled.
    pub async fn pull_all_tags(
        &self,
        request: &PullRequest,
        store: &Store,
        progress: impl Fn(ProgressEvent) + Send + Sync,
    ) -> Result<Vec<PullOutcome>, RegistryError> {
        let tags = self.tags(&request.reference, &request.credentials).await?;
        let mut outcomes = Vec::new();
        for tag in tags {
            let reference = request.reference.with_tag(&tag).map_err(|error| RegistryError::Document {
                what: "list of tags",
                reference: request.reference.familiar_name(),
                reason: error.to_string(),
            })?;
            outcomes.push(self.pull_reference(request, &reference, store, &progress).await?);
        }
        let is_news = outcomes.iter().any(|outcome| outcome.status == PullStatus::Downloaded);
        let status = if is_news { PullStatus::Downloaded } else { PullStatus::UpToDate };
        progress(final_status(&request.reference.familiar_name(), status));
        Ok(outcomes)
    }

    /// The tags of a repository, as its registry lists them.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn tags(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<String>, RegistryError> {
        let mut places = self.places(reference, credentials).await?;
        while let Some(repository) = places.next() {
            match repository.tags().await {
                Ok(tags) => return Ok(places.worked(tags)),
                Err(error) => places.failed(error)?,
            }
        }
        Err(places.exhausted())
    }

    async fn pull_reference(
        &self,
        request: &PullRequest,
        reference: &Reference,
        store: &Store,
        listener: Listener<'_>,
    ) -> Result<PullOutcome, RegistryError> {
        let resolved = self.resolve_apart(reference, &request.credentials).await?;
        let platform = request.platform.as_ref();
        let pull = Pull { client: self, store, reference, resolved, platform, listener };
        let mut places = self.places(reference, &request.credentials).await?;
        while let Some(repository) = places.next() {
            match pull.run(&repository).await {
                Ok(outcome) => return Ok(places.worked(outcome)),
                Err(error) => places.failed(error)?,
            }
        }
        Err(places.exhausted())
    }
}

impl Pull<'_> {
    async fn run(&self, repository: &Repository) -> Result<PullOutcome, RegistryError> {
        if let Some(outcome) = self.unchanged(repository).await? {
            self.tell_start();
            self.tell(ProgressEvent::Message(format!("Digest: {}", outcome.digest)));
            return Ok(outcome);
        }
        let chosen = self.choose(repository).await?;
        self.tell_start();
        // Held to the end of the pull: others find it until the store has it.
        let held = self.config(repository, &chosen.manifest.config).await?;
        let config_body = held.get().cloned().unwrap_or_default();
        let config =
            ImageConfig::parse(&config_body).map_err(|error| self.invalid("image configuration", &error))?;
        let layers = self.layers(&chosen.manifest, &config)?;
        let lease = self.store.lease();
        let known = self.is_known(chosen.manifest.config.digest).await?;
        self.bring_layers(repository, &layers, &lease, known).await?;
        let digest = chosen.digest;
        let (image, status) = self.commit(chosen, config_body, lease).await?;
        self.tell(ProgressEvent::Message(format!("Digest: {digest}")));
        self.warn_about_platform(&config);
        Ok(PullOutcome { image, digest, status })
    }

    fn tell(&self, event: ProgressEvent) {
        (self.listener)(event);
    }

    fn tell_start(&self) {
        self.tell(ProgressEvent::Started {
            reference: self.tag_or_digest(),
            repository: self.reference.path().to_owned(),
        });
    }

    fn tag_or_digest(&self) -> String {
        match self.reference.digest() {
            Some(digest) => digest.to_string(),
            None => self.reference.tag().unwrap_or(palan_oci::reference::DEFAULT_TAG).to_owned(),
        }
    }

    fn wanted(&self) -> Platform {
        self.platform.cloned().unwrap_or_else(Platform::host)
    }

    /// The cheap way: the registry's digest for the reference is one that leads here to the same image already.
    async fn unchanged(&self, repository: &Repository) -> Result<Option<PullOutcome>, RegistryError> {
        let reference = self.named();
        let Some((id, platform)) = self.known_image(reference.clone()).await? else { return Ok(None) };
        if !self.wanted().matches(&platform) {
            return Ok(None);
        }
        let digest = match self.reference.digest().or(self.resolved) {
            Some(digest) => Some(digest),
            None => repository.digest_of(&self.tag_or_digest()).await?,
        };
        let Some(digest) = digest else { return Ok(None) };
        let by_digest = self.known_image(self.reference.with_digest(digest)).await?;
        let same = by_digest.is_some_and(|(other, _)| other == id);
        Ok(same.then_some(PullOutcome { image: id, digest, status: PullStatus::UpToDate }))
    }

    /// The name that this pull gives the image: a digest makes a tag beside it meaningless.
    fn named(&self) -> Reference {
        match self.reference.digest() {
            Some(digest) => self.reference.with_digest(digest),
            None => self.reference.clone(),
        }
    }

    async fn known_image(&self, reference: Reference) -> Result<Option<(ImageId, Platform)>, RegistryError> {
        let what = reference.familiar();
        self.in_store(what, move |store| {
            let Some(id) = store.find(&reference)? else { return Ok(None) };
            Ok(store.image(&id)?.map(|image| (id, image.config.platform())))
        })
        .await
    }

    async fn in_store<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Store) -> palan_store::Result<T> + Send + 'static,
    ) -> Result<T, RegistryError> {
        in_store(self.store, what, work).await
    }

    /// Resolves the reference to the manifest for the platform.
    async fn choose(&self, repository: &Repository) -> Result<Chosen, RegistryError> {
        let resolved = self.resolved.map(|digest| digest.to_string());
        let fetched = repository.manifest(&resolved.unwrap_or_else(|| self.tag_or_digest())).await?;
        let known = self.reference.digest().or(self.resolved);
        let digest = self.verified("manifest", &fetched.body, known)?;
        let mut fetched = fetched;
        let mut index = None;
        let mut delivered_as = fetched.content_type.clone();
        for _ in 0..DEEPEST_INDEX {
            match self.parse(&fetched, delivered_as.as_deref())? {
                Document::Manifest(manifest) => {
                    return Ok(Chosen {
                        digest,
                        manifest,
                        body: fetched.body,
                        media_type: delivered_as,
                        index,
                    });
                }
                Document::Index(list) => {
                    let platform = self.wanted();
                    let entry = list
                        .select(&platform)
                        .ok_or_else(|| RegistryError::NoPlatform { platform: platform.to_string() })?
                        .clone();
                    let next = repository.manifest(&entry.digest.to_string()).await?;
                    self.verified("manifest", &next.body, Some(entry.digest))?;
                    // The descriptor and the server must agree with the document, each of them.
                    self.parse(&next, next.content_type.as_deref())?;
                    index.get_or_insert(fetched.body);
                    delivered_as = Some(entry.media_type);
                    fetched = next;
                }
            }
        }
        Err(self.invalid_because("manifest", "indexes are nested too deeply"))
    }

    fn parse(&self, fetched: &Fetched, delivered_as: Option<&str>) -> Result<Document, RegistryError> {
        Document::parse(&fetched.body, delivered_as).map_err(|error| match error {
            DocumentError::SchemaVersion1 => RegistryError::Schema1 { reference: self.reference.familiar() },
            other => self.invalid("manifest", &other),
        })
    }

    fn verified(
        &self,
        what: &'static str,
        body: &[u8],
        expected: Option<Digest>,
    ) -> Result<Digest, RegistryError> {
        let found = Digest::of(body);
        match expected {
            Some(expected) if expected != found => {
                Err(RegistryError::Digest { what, expected: expected.to_string(), found: found.to_string() })
            }
            _ => Ok(found),
        }
    }

    fn invalid(&self, what: &'static str, error: &(dyn std::error::Error + 'static)) -> RegistryError {
        self.invalid_because(what, &palan_stdx::error_chain::to_string(error))
    }

    fn invalid_because(&self, what: &'static str, reason: &str) -> RegistryError {
        RegistryError::Document { what, reference: self.reference.familiar(), reason: reason.to_owned() }
    }

    /// The configuration, from the store if it is there.
    async fn config(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Arc<OnceCell<Bytes>>, RegistryError> {
        let is_config = matches!(descriptor.class(), Class::Config)
            || matches!(descriptor.media_type.as_str(), "application/octet-stream" | "application/json");
        if !is_config {
            return Err(RegistryError::Unsupported {
                reference: self.reference.familiar(),
                what: "its configuration",
                media_type: descriptor.media_type.clone(),
            });
        }
        let limit = palan_oci::manifest::MAX_MANIFEST_SIZE;
        if descriptor.size > limit {
            return Err(self.invalid_because("image configuration", "it is larger than 4 MiB"));
        }
        let digest = descriptor.digest;
        let known = self
            .in_store(format!("image configuration {digest}"), move |store| {
                if store.has_blob(&digest) { store.read_blob(&digest).map(Some) } else { Ok(None) }
            })
            .await?;
        if let Some(known) = known {
            return Ok(Arc::new(OnceCell::new_with(Some(known.into()))));
        }
        // Whoever asks at the same time has proven, with the manifest, that it may read this repository.
        let fetch = self.client.configurations.of(digest);
        let fetched = fetch.get_or_try_init(|| async {
            let body = repository.small_blob(&digest, limit).await?;
            self.verified("image configuration", &body, Some(digest))?;
            Ok::<_, RegistryError>(body)
        });
        fetched.await?;
        Ok(fetch)
    }

    /// The layers with their diff-ids, bottom first, each once.
    fn layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Result<Vec<(Descriptor, Digest)>, RegistryError> {
        if !matches!(config.os.as_str(), "linux" | "") {
            return Err(RegistryError::WrongOs { os: config.os.clone() });
        }
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            return Err(
                self.invalid_because("manifest", "layers from manifest don't match image configuration")
            );
        }
        let mut seen = HashSet::new();
        let mut layers = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            if !matches!(descriptor.class(), Class::Layer { .. }) {
                return Err(RegistryError::Unsupported {
                    reference: self.reference.familiar(),
                    what: "a layer",
                    media_type: descriptor.media_type.clone(),
                });
            }
            if seen.insert((descriptor.digest, *diff_id)) {
                layers.push((descriptor.clone(), *diff_id));
            }
        }
        Ok(layers)
    }

    /// Waits until all layers are in the store, telling how it goes. The first failure ends the wait, and with it the
    /// downloads that nobody else waits for.
    async fn bring_layers(
        &self,
        repository: &Repository,
        layers: &[(Descriptor, Digest)],
        lease: &Lease,
        known: bool,
    ) -> Result<(), RegistryError> {
        let missing = self.missing(layers, lease, known).await?;
        let mut waiting: FuturesUnordered<_> = missing
            .into_iter()
            .map(|(descriptor, diff_id)| {
                let id = descriptor.digest;
                let tell = move |status| self.tell_layer(&id, status);
                bring_layer(self.client, self.store, repository, descriptor, diff_id, tell)
            })
            .collect();
        while let Some(result) = waiting.next().await {
            result?;
        }
        Ok(())
    }

    /// Whether the image is in the store, under whatever name.
    async fn is_known(&self, config: Digest) -> Result<bool, RegistryError> {
        let id = ImageId(config);
        self.in_store(format!("image {id}"), move |store| Ok(store.image(&id)?.is_some())).await
    }

    /// The layers that are not in the store; tells of the others, unless their image is `known`: then there is only a
    /// name to add.
    async fn missing(
        &self,
        layers: &[(Descriptor, Digest)],
        lease: &Lease,
        known: bool,
    ) -> Result<Vec<(Descriptor, Digest)>, RegistryError> {
        for (descriptor, diff_id) in layers {
            lease.protect(descriptor.digest);
            lease.protect(*diff_id);
        }
        let wanted: Vec<(Descriptor, Digest)> = layers.to_vec();
        let marked = self
            .in_store("the list of layers".to_owned(), move |store| {
                let lease = store.lease();
                let mark = |(descriptor, diff_id): (Descriptor, Digest)| {
                    let request = LayerRequest { descriptor, diff_id: Some(diff_id) };
                    // Its directory alone does not make an image that can be pushed as it came.
                    let present = matches!(store.begin_layer(&request, &lease)?, BeginLayer::Present(_))
                        && store.has_blob(&request.descriptor.digest);
                    Ok((present, request.descriptor, diff_id))
                };
                wanted.into_iter().map(mark).collect::<palan_store::Result<Vec<_>>>()
            })
            .await?;
        let mut missing = Vec::new();
        for (present, descriptor, diff_id) in marked {
            let status = if present { LayerStatus::AlreadyExists } else { LayerStatus::Pulling };
            if !(present && known) {
                self.tell_layer(&descriptor.digest, status);
            }
            if !present {
                missing.push((descriptor, diff_id));
            }
        }
        Ok(missing)
    }

    fn tell_layer(&self, digest: &Digest, status: LayerStatus) {
        self.tell(ProgressEvent::Layer { id: digest.short(), status });
    }

    async fn commit(
        &self,
        chosen: Chosen,
        config: Bytes,
        lease: Lease,
    ) -> Result<(ImageId, PullStatus), RegistryError> {
        let named = self.named();
        let by_digest = self.reference.with_digest(chosen.digest);
        let tags = if self.reference.digest().is_some() { Vec::new() } else { vec![self.reference.clone()] };
        self.in_store(format!("image {}", self.reference.familiar()), move |store| {
            let before = store.find(&named)?;
            if let Some(index) = &chosen.index {
                lease.protect(chosen.digest);
                store.put_blob(index)?;
            }
            let image = store.commit_image(
                &ImageCommit {
                    manifest: chosen.body.to_vec(),
                    manifest_media_type: chosen.media_type,
                    config: config.to_vec(),
                    tags,
                    digests: vec![by_digest],
                    made_here: false,
                },
                &lease,
            )?;
            let status = if before == Some(image.id) { PullStatus::UpToDate } else { PullStatus::Downloaded };
            Ok((image.id, status))
        })
        .await
    }

    /// A manifest that is not behind an index may be for another platform than the one asked for.
    fn warn_about_platform(&self, config: &ImageConfig) {
        let Some(wanted) = self.platform else { return };
        let found = config.platform();
        if !wanted.matches(&found) {
            self.tell(ProgressEvent::Message(format!(
                "WARNING: image with reference {} was found but its platform ({found}) does not match the specified platform ({wanted})",
                self.reference.familiar()
            )));
        }
    }
}

/// Waits until a layer is in the store, which may be brought for somebody else already.
pub(crate) async fn bring_layer(
    client: &Client,
    store: &Store,
    repository: &Repository,
    descriptor: Descriptor,
    diff_id: Digest,
    tell: impl Fn(LayerStatus),
) -> Result<(), RegistryError> {
    loop {
        let key = FlightKey { digest: descriptor.digest, diff_id };
        let mut ticket = client.flights.join(key, repository.source(), |sender| {
            let download = Download {
                repository: repository.clone(),
                store: store.clone(),
                slots: client.slots.clone(),
                descriptor: descriptor.clone(),
                diff_id,
            };
            download.run(sender)
        });
        let outcome = follow(&mut ticket, &descriptor.digest, &tell).await;
        match outcome {
            // Somebody else's registry or credentials failed; that says nothing about ours.
            Err(error) if ticket.source != *repository.source() && error.is_of_the_endpoint() => {}
            outcome => return outcome,
        }
    }
}

/// Passes a flight's news on until it ends.
async fn follow(
    ticket: &mut Ticket,
    digest: &Digest,
    tell: &impl Fn(LayerStatus),
) -> Result<(), RegistryError> {
    let mut told = LayerStatus::Pulling;
    loop {
        let state = ticket.state.borrow_and_update().clone();
        for status in news(&told, &state.status) {
            tell(status);
        }
        told = state.status;
        match state.outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => {
                return Err(Arc::try_unwrap(error).unwrap_or_else(RegistryError::Shared));
            }
            None => {}
        }
        if ticket.state.changed().await.is_err() && ticket.state.borrow().outcome.is_none() {
            return Err(RegistryError::GivenUp { what: format!("layer {digest}") });
        }
    }
}

/// The one blocking seam to the store.
pub(crate) async fn in_store<T: Send + 'static>(
    store: &Store,
    what: String,
    work: impl FnOnce(&Store) -> palan_store::Result<T> + Send + 'static,
) -> Result<T, RegistryError> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => result.map_err(|source| RegistryError::Store { what, source: Box::new(source) }),
        Err(_) => Err(RegistryError::GivenUp { what }),
    }
}

/// What to tell of a layer that was last told to be `before` and is `now`: a watcher may miss short phases, a user should
/// not.
fn news(before: &LayerStatus, now: &LayerStatus) -> Vec<LayerStatus> {
    if before == now {
        return Vec::new();
    }
    let (last, next) = (rank(before), rank(now));
    let mut news: Vec<LayerStatus> = [LayerStatus::Verifying, LayerStatus::Downloaded]
        .into_iter()
        .filter(|phase| last < rank(phase) && rank(phase) < next)
        .collect();
    news.push(now.clone());
    news
}

fn rank(status: &LayerStatus) -> u8 {
    match status {
        LayerStatus::Pulling => 0,
        LayerStatus::Waiting => 1,
        LayerStatus::Downloading { .. } | LayerStatus::Retrying { .. } => 2,
        // Found to be there after all: no phase was missed.
        LayerStatus::AlreadyExists => 3,
        LayerStatus::Verifying => 4,
        LayerStatus::Downloaded => 5,
        LayerStatus::Extracting { .. } => 6,
        LayerStatus::Complete => 7,
    }
}

fn final_status(name: &str, status: PullStatus) -> ProgressEvent {
    ProgressEvent::Message(match status {
        PullStatus::Downloaded => format!("Status: Downloaded newer image for {name}"),
        PullStatus::UpToDate => format!("Status: Image is up to date for {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_phase_is_missed() {
        let texts = |before: &LayerStatus, now: &LayerStatus| {
            news(before, now).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(texts(&LayerStatus::Waiting, &LayerStatus::Waiting), "");
        assert_eq!(
            texts(&LayerStatus::Waiting, &LayerStatus::Complete),
            "Verifying Checksum, Download complete, Pull complete"
        );
        assert_eq!(
            texts(&LayerStatus::Verifying, &LayerStatus::Complete),
            "Download complete, Pull complete"
        );
        assert_eq!(texts(&LayerStatus::Waiting, &LayerStatus::AlreadyExists), "Already exists");
        assert_eq!(texts(&LayerStatus::Pulling, &LayerStatus::Waiting), "Waiting");
    }
}
