//! Images as objects with names, and the requests about them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
pub use palan_oci::ImageConfig;
use palan_oci::Reference;
use palan_registry::{Credentials, ProgressEvent, PullRequest, PushOutcome};
use palan_store::archive::{ImportOptions, LoadProgress};
use palan_store::image::{ImageUser, Removed};
use palan_store::{Image, ImageId};
use tokio::sync::mpsc;

use crate::db::Change;
use crate::engine::{Engine, blocking, waiting_for_client};
use crate::events::{Event, ObjectKind};
use crate::spec::Filters;
use crate::stream::{BodyReader, Items};
use crate::{Class, Error, Result};

/// One line of progress of a pull, push, load or import, in Docker's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it is about (a layer's short id, a tag); empty for the whole.
    pub id: String,
    /// Docker's word, such as `Downloading`.
    pub status: String,
    /// Bytes (or seconds with unit `s`) so far.
    pub current: Option<u64>,
    /// Bytes in all, when known.
    pub total: Option<u64>,
    /// A plain output line instead of a status (`load`), with its newline.
    pub stream: Option<String>,
    /// A tag that was pushed, for programs.
    pub pushed: Option<PushedTag>,
}

/// A tag that was pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushedTag {
    /// The tag.
    pub tag: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Bytes of the manifest.
    pub size: u64,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// Token from an earlier login.
    pub identity_token: String,
    /// Bearer token to present to the registry as it is.
    pub registry_token: String,
    /// Registry the credentials are for.
    pub server_address: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullSpec {
    /// Image as typed, with tag or digest where given.
    pub reference: String,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Every tag of the repository.
    pub all_tags: bool,
}

/// What to make of an imported tar.
#[derive(Debug, Clone, Default)]
pub struct ImportSpec {
    /// Name for the image; none when empty.
    pub reference: String,
    /// Message in the history.
    pub message: String,
    /// Dockerfile instructions applied to the configuration.
    pub changes: Vec<String>,
    /// `os/architecture[/variant]`; the host's when absent.
    pub platform: Option<String>,
    /// Where the bytes come from, for the message; `-` for a stream.
    pub source: String,
}

/// Which images a list shows.
///
/// Filters: `before`, `dangling`, `label`, `reference`, `since`, `until`.
#[derive(Debug, Clone, Default)]
pub struct ImageListQuery {
    /// Intermediate ones too.
    pub all: bool,
    /// Filters.
    pub filters: Filters,
    /// Count containers.
    pub containers: bool,
}

/// One line of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:…`.
    pub id: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `name:tag`, familiar form.
    pub repo_tags: Vec<String>,
    /// `name@digest`, familiar form.
    pub repo_digests: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers that use it; -1 when not counted.
    pub containers: i64,
}

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
}

/// One step of an image's history, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Id of the image for the newest entry, `<missing>` for the others.
    pub id: String,
    /// When.
    pub created: Option<Timestamp>,
    /// Instruction.
    pub created_by: String,
    /// Tags of the newest entry.
    pub tags: Vec<String>,
    /// Bytes of its layer unpacked.
    pub size: u64,
    /// Comment.
    pub comment: String,
}

/// What removing an image did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRemoval {
    /// A name was taken away.
    Untagged(String),
    /// An image or layer was deleted.
    Deleted(String),
}

/// Progress that waits for a slow client.
pub(crate) const BACKLOG: usize = 256;

/// Images.
impl Engine {
    /// Pulls an image. Errors that come before the first progress are returned; later ones are the stream's last item.
    pub async fn pull(&self, spec: PullSpec) -> Result<Items<Progress>> {
        let reference = Reference::parse(&spec.reference).map_err(reference_error)?;
        if spec.all_tags && (reference.tag().is_some() || reference.digest().is_some()) {
            return Err(Error::invalid("tag can't be used with --all-tags/-a"));
        }
        let platform = spec.platform.as_deref().filter(|text| !text.is_empty());
        let platform = platform.map(crate::container::parse_platform).transpose()?;
        let request = PullRequest { reference, platform, credentials: credentials(spec.auth) };
        let (sender, items) = Items::channel(BACKLOG);
        tokio::spawn(pull(self.shared(), request, spec.all_tags, sender));
        items.begun().await
    }

    /// Loads an archive of images (`docker save` or OCI layout).
    pub async fn load(&self, body: BodyReader, quiet: bool) -> Result<Items<Progress>> {
        let (sender, items) = Items::channel(BACKLOG);
        let engine = self.shared();
        tokio::spawn(async move {
            let (progress_sender, mut body) = (sender.clone(), body);
            let working = engine.clone();
            let loaded = waiting_for_client(move || {
                let mut tell = |progress: LoadProgress| {
                    let LoadProgress::Layer { id, current, total } = progress;
                    let (id, status) =
                        (crate::container::driver::short(&id.hex()).to_owned(), "Loading layer".to_owned());
                    let progress = Progress {
                        id,
                        status,
                        current: Some(current),
                        total: Some(total),
                        ..Progress::default()
                    };
                    if !quiet {
                        // A slow client misses a step of a bar.
                        let _ = progress_sender.try_send(Ok(progress));
                    }
                };
                working.store.load(&mut body, &mut tell).map_err(store_error)
            });
            let outcome = match loaded.await {
                Ok(loaded) => engine.announce_loaded(loaded, &sender).await,
                Err(error) => Err(error),
            };
            give_memory_back().await;
            if let Err(error) = outcome {
                // The client may have gone.
                let _ = sender.send(Err(error)).await;
            }
        });
        items.begun().await
    }

    async fn announce_loaded(
        &self,
        loaded: Vec<palan_store::archive::Loaded>,
        sender: &mpsc::Sender<Result<Progress>>,
    ) -> Result<()> {
        for image in loaded {
            let id = image.image.to_string();
            self.db.commit(Change::new().event(event("load", &id, &id))).await?;
            let mut lines: Vec<String> =
                image.names.iter().map(|name| format!("Loaded image: {}\n", name.familiar())).collect();
            if lines.is_empty() {
                lines.push(format!("Loaded image ID: {id}\n"));
            }
            for (name, old) in &image.replaced {
                lines.insert(
                    0,
                    format!(
                        "The image {} already exists, renaming the old one with ID {old} to empty string\n",
                        name.familiar()
                    ),
                );
            }
            for line in lines {
                // The client may have gone; the images are there.
                let _ = sender.send(Ok(Progress { stream: Some(line), ..Progress::default() })).await;
            }
        }
        Ok(())
    }

    /// Makes an image of one layer from a tar of a root filesystem.
    pub async fn import(&self, spec: ImportSpec, mut body: BodyReader) -> Result<Items<Progress>> {
        let name = match spec.reference.as_str() {
            "" => None,
            text => Some(Reference::parse(text).map_err(reference_error)?.or_latest()),
        };
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(Error::invalid("cannot import digest reference"));
        }
        let message = match spec.message.as_str() {
            "" => format!("Imported from {}", spec.source),
            message => message.to_owned(),
        };
        let platform = spec.platform.as_deref().filter(|text| !text.is_empty());
        let platform = platform.map(crate::container::parse_platform).transpose()?;
        let created = Timestamp::now().to_string();
        let options = ImportOptions { name: name.clone(), changes: spec.changes, message, platform, created };
        let (sender, items) = Items::channel(BACKLOG);
        let engine = self.shared();
        tokio::spawn(async move {
            let working = engine.clone();
            let imported =
                waiting_for_client(move || working.store.import(&mut body, &options).map_err(store_error));
            let outcome = match imported.await {
                Ok(id) => {
                    let id = id.to_string();
                    let label = name.map_or_else(|| id.clone(), |name| name.familiar());
                    let recorded = engine.db.commit(Change::new().event(event("import", &id, &label))).await;
                    recorded.map(|()| Progress { status: id, ..Progress::default() })
                }
                Err(error) => Err(error),
            };
            give_memory_back().await;
            // The client may have gone; the image is there.
            let _ = sender.send(outcome).await;
        });
        items.begun().await
    }

    /// A list, newest first.
    pub async fn list_images(&self, query: ImageListQuery) -> Result<Vec<ImageSummary>> {
        query.filters.check(&["before", "dangling", "label", "reference", "since", "until"])?;
        let dangling = query.filters.boolean("dangling")?;
        let until = query.filters.until()?;
        let users = query.containers.then(|| self.image_users());
        let engine = self.shared();
        blocking(move || {
            let filters = &query.filters;
            let time_of = |key: &str| -> Result<Vec<Timestamp>> {
                let images = filters.values(key).map(|name| engine.store.resolve(name).map_err(store_error));
                images.map(|image| Ok(created(&image?).unwrap_or_default())).collect()
            };
            let before = time_of("before")?.into_iter().min();
            let since = time_of("since")?.into_iter().max();
            let images = engine.store.images().map_err(store_error)?;
            let fits = |image: &Image| {
                let time = created(image).unwrap_or_default();
                before.is_none_or(|before| time < before)
                    && since.is_none_or(|since| time > since)
                    && until.is_none_or(|until| time < until)
                    && dangling.is_none_or(|dangling| dangling == image.tags.is_empty())
                    && filters.labels("label", &image.config.config.labels)
            };
            let mut list = Vec::new();
            for image in images.iter().filter(|image| fits(image)) {
                let mut summary = summary(image);
                if filters.has("reference") {
                    summary.repo_tags = matching(filters, &image.tags);
                    summary.repo_digests = matching(filters, &image.digests);
                    if summary.repo_tags.is_empty() && summary.repo_digests.is_empty() {
                        continue;
                    }
                }
                if let Some(users) = &users {
                    let count = users.iter().filter(|user| *user == &summary.id).count();
                    summary.containers = i64::try_from(count).unwrap_or(i64::MAX);
                }
                list.push(summary);
            }
            Ok(list)
        })
        .await
    }

    /// Ids of the images of all containers.
    fn image_users(&self) -> Vec<String> {
        self.index.all().iter().map(|handle| handle.details().image_id.clone()).collect()
    }

    /// All about one image.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageDetails> {
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || {
            let image = engine.store.resolve(&name).map_err(store_error)?;
            let directories = engine.store.lower_dirs(&image.id).map_err(store_error)?;
            let last_tagged = image.last_tagged.and_then(|time| Timestamp::from_nanosecond(time.into()).ok());
            Ok(ImageDetails {
                id: image.id.to_string(),
                repo_tags: image.tags.iter().map(Reference::familiar).collect(),
                repo_digests: image.digests.iter().map(Reference::familiar).collect(),
                size: image.size,
                layer_dirs: directories.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
                last_tagged,
                config: image.config,
            })
        })
        .await
    }

    /// Its history, newest first.
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || {
            let image = engine.store.resolve(&name).map_err(store_error)?;
            let items = engine.store.history(&image.id).map_err(store_error)?;
            let entry = |item: palan_store::image::HistoryItem| HistoryEntry {
                id: item.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
                created: item.created.and_then(|time| time.parse().ok()),
                created_by: item.created_by,
                tags: item.tags.iter().map(Reference::familiar).collect(),
                size: item.size,
                comment: item.comment,
            };
            Ok(items.into_iter().map(entry).collect())
        })
        .await
    }

    /// Gives an image a further name.
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let mut target = Reference::parse(repository).map_err(reference_error)?;
        if target.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        if !tag.is_empty() {
            target = target.with_tag(tag).map_err(reference_error)?;
        }
        let target = target.or_latest();
        let (engine, name, label) = (self.shared(), name.to_owned(), target.familiar());
        let id = blocking(move || {
            let image = engine.store.resolve(&name).map_err(store_error)?;
            engine.store.tag(&image.id, &target).map_err(store_error)?;
            Ok(image.id.to_string())
        });
        let id = id.await?;
        self.db.commit(Change::new().event(event("tag", &id, &label))).await
    }

    /// Takes a name from an image, and deletes it with its last name. `no_prune` changes nothing: there are no images
    /// behind an image, layers that nothing needs always go.
    pub async fn remove_image(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageRemoval>> {
        let _ = no_prune;
        let (engine, wanted) = (self.shared(), name.to_owned());
        let removed = blocking(move || {
            let users = |id: &ImageId| engine.containers_of(id);
            engine.store.remove_image(&wanted, force, &users).map_err(store_error)
        });
        self.announce_removed(removed.await?).await
    }

    async fn announce_removed(&self, removed: Vec<Removed>) -> Result<Vec<ImageRemoval>> {
        let mut change = Change::new();
        let mut list = Vec::with_capacity(removed.len());
        // Names by digest that go along with a tag are no event of their own.
        let has_tag =
            removed.iter().any(|item| matches!(item, Removed::Untagged(name, _) if name.tag().is_some()));
        for item in removed {
            match item {
                Removed::Untagged(name, image) => {
                    if name.tag().is_some() || !has_tag {
                        let id = image.to_string();
                        change = change.event(event("untag", &id, &id));
                    }
                    list.push(ImageRemoval::Untagged(name.familiar()));
                }
                Removed::Deleted(digest) => {
                    let id = digest.to_string();
                    // Layers follow the image in the answer; only the image is an object with events.
                    if !list.iter().any(|item| matches!(item, ImageRemoval::Deleted(_))) {
                        change = change.event(event("delete", &id, &id));
                    }
                    list.push(ImageRemoval::Deleted(id));
                }
            }
        }
        self.db.commit(change).await?;
        Ok(list)
    }

    fn containers_of(&self, id: &ImageId) -> Vec<ImageUser> {
        let id = id.to_string();
        let all = self.index.all();
        let details = all.iter().map(|handle| handle.details()).filter(|details| details.image_id == id);
        details
            .map(|details| ImageUser {
                container: details.id.clone(),
                running: details.state.status.is_live(),
            })
            .collect()
    }

    /// Deletes images without names (all unused ones with `dangling=false`). Filters: `dangling`, `label`, `label!`, `until`.
    pub async fn prune_images(&self, filters: Filters) -> Result<(Vec<ImageRemoval>, u64)> {
        filters.check(&["dangling", "label", "label!", "until"])?;
        let only_dangling = filters.boolean("dangling")?.unwrap_or(true);
        let until = filters.until()?;
        let engine = self.shared();
        let (removed, freed) = blocking(move || {
            let before = engine.store.layers_size().map_err(store_error)?;
            let mut removed = Vec::new();
            for image in engine.store.images().map_err(store_error)? {
                let labels = &image.config.config.labels;
                let fits = (!only_dangling || image.tags.is_empty())
                    && until.is_none_or(|until| created(&image).unwrap_or_default() < until)
                    && filters.labels("label", labels)
                    && (!filters.has("label!") || !filters.labels("label!", labels));
                if !fits || !engine.containers_of(&image.id).is_empty() {
                    continue;
                }
                let users = |id: &ImageId| engine.containers_of(id);
                match engine.store.remove_image(&image.id.to_string(), true, &users) {
                    Ok(items) => removed.extend(items),
                    // Used or removed meanwhile.
                    Err(palan_store::Error::Conflict(_) | palan_store::Error::NoSuchImage { .. }) => {}
                    Err(error) => return Err(store_error(error)),
                }
            }
            let after = engine.store.layers_size().map_err(store_error)?;
            Ok((removed, before.saturating_sub(after)))
        })
        .await?;
        Ok((self.announce_removed(removed).await?, freed))
    }

    /// Checks credentials against their registry. Returns Docker's status line and an identity token where one is given.
    pub async fn login(&self, auth: Auth) -> Result<(String, String)> {
        let server = auth.server_address.clone();
        let outcome = self.registry.login(&server, &credentials(Some(auth))).await.map_err(registry_error)?;
        Ok(("Login Succeeded".into(), outcome.identity_token.unwrap_or_default()))
    }
}

/// Decompressors and buffers of a transfer were the daemon's largest allocations; what is free of them goes back.
pub(crate) async fn give_memory_back() {
    let trimmed = blocking(|| {
        palan_linux::memory::trim();
        Ok(())
    });
    if let Err(error) = trimmed.await {
        tracing::warn!(error = error.report(), "the allocator's free memory was not given back");
    }
}

async fn pull(
    engine: Arc<Engine>,
    request: PullRequest,
    all_tags: bool,
    sender: mpsc::Sender<Result<Progress>>,
) {
    let teller = Teller::new(&sender);
    let tell = |event| teller.tell(event);
    let work = async {
        if all_tags {
            engine.registry.pull_all_tags(&request, &engine.store, tell).await.map(drop)
        } else {
            engine.registry.pull(&request, &engine.store, tell).await.map(drop)
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome.map_err(registry_error),
        // Nobody waits for it any more: what has come is kept for the next pull.
        () = sender.closed() => return,
    };
    give_memory_back().await;
    teller.finish().await;
    let recorded = match outcome {
        Ok(()) => {
            let reference = if all_tags { request.reference } else { request.reference.or_latest() };
            let change =
                Change::new().event(event("pull", &reference.familiar(), &reference.familiar_name()));
            engine.db.commit(change).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The client may have gone.
        let _ = sender.send(Err(error)).await;
    }
}

/// Passes the news of a transfer on to a client that may be slow: it may miss a step of a bar, but no line.
pub(crate) struct Teller<'a> {
    sender: &'a mpsc::Sender<Result<Progress>>,
    late: Mutex<Vec<Result<Progress>>>,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(sender: &'a mpsc::Sender<Result<Progress>>) -> Self {
        Self { sender, late: Mutex::default() }
    }

    pub(crate) fn tell(&self, event: ProgressEvent) {
        let is_line = matches!(event, ProgressEvent::Message(_) | ProgressEvent::Pushed(_));
        if let Err(mpsc::error::TrySendError::Full(item)) = self.sender.try_send(Ok(progress(event)))
            && is_line
        {
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        }
    }

    /// Sends what the client was too slow for. It may have gone; the outcome stands.
    pub(crate) async fn finish(self) {
        for line in self.late.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let _ = self.sender.send(line).await;
        }
    }
}

fn progress(event: ProgressEvent) -> Progress {
    match event {
        ProgressEvent::Started { reference, repository } => {
            Progress { id: reference, status: format!("Pulling from {repository}"), ..Progress::default() }
        }
        ProgressEvent::Layer { id, status } => {
            let (current, total) = status.progress().unzip();
            Progress { id, status: status.to_string(), current, total, ..Progress::default() }
        }
        ProgressEvent::Upload { id, status } => {
            let (current, total) = status.progress().unzip();
            Progress { id, status: status.to_string(), current, total, ..Progress::default() }
        }
        ProgressEvent::Pushed(pushed) => {
            let PushOutcome { tag, digest, size } = pushed;
            let pushed = PushedTag { tag, digest: digest.to_string(), size };
            Progress { pushed: Some(pushed), ..Progress::default() }
        }
        ProgressEvent::Message(status) => Progress { status, ..Progress::default() },
    }
}

pub(crate) fn credentials(auth: Option<Auth>) -> Credentials {
    let Some(auth) = auth else { return Credentials::Anonymous };
    if !auth.registry_token.is_empty() {
        return Credentials::RegistryToken(auth.registry_token);
    }
    if !auth.identity_token.is_empty() {
        let username = Some(auth.username).filter(|name| !name.is_empty());
        return Credentials::IdentityToken { username, token: auth.identity_token };
    }
    if auth.username.is_empty() && auth.password.is_empty() {
        return Credentials::Anonymous;
    }
    Credentials::Password { username: auth.username, password: auth.password }
}

pub(crate) fn event(action: &str, actor: &str, name: &str) -> Event {
    Event {
        time: Timestamp::now(),
        kind: ObjectKind::Image,
        action: action.into(),
        actor: actor.into(),
        attributes: [("name".to_owned(), name.to_owned())].into(),
    }
}

fn created(image: &Image) -> Option<Timestamp> {
    image.config.created.as_deref().and_then(|text| text.parse().ok())
}

fn summary(image: &Image) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        created: created(image),
        repo_tags: image.tags.iter().map(Reference::familiar).collect(),
        repo_digests: image.digests.iter().map(Reference::familiar).collect(),
        size: image.size,
        labels: image.config.config.labels.clone(),
        containers: -1,
    }
}

/// The names that a filter `reference` selects.
fn matching(filters: &Filters, names: &[Reference]) -> Vec<String> {
    let fits = |name: &&Reference| {
        let (short, full) = (name.familiar_name(), name.familiar());
        filters.values("reference").any(|pattern| glob(pattern, &short) || glob(pattern, &full))
    };
    names.iter().filter(fits).map(Reference::familiar).collect()
}

/// Whether a text fits a pattern with `*` (not across `/`), `?` and `[…]`.
fn glob(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let mut characters = text.chars();
    match first {
        '*' => {
            let ends = text.char_indices().map(|(index, _)| index).chain([text.len()]);
            let within = ends.take_while(|end| !text[..*end].contains('/'));
            let mut within = within;
            within.any(|end| glob(rest, &text[end..]))
        }
        '?' => characters.next().is_some_and(|character| character != '/' && glob(rest, characters.as_str())),
        '[' => {
            let Some(end) = rest.find(']') else { return false };
            let (set, rest) = (&rest[..end], &rest[end + 1..]);
            let (is_negated, set) = set.strip_prefix('^').map_or((false, set), |set| (true, set));
            characters.next().is_some_and(|character| {
                in_set(set, character) != is_negated && glob(rest, characters.as_str())
            })
        }
        literal => characters.next() == Some(literal) && glob(rest, characters.as_str()),
    }
}

fn in_set(set: &str, wanted: char) -> bool {
    let characters: Vec<char> = set.chars().collect();
    let mut index = 0;
    while index < characters.len() {
        match characters[index..] {
            [first, '-', last, ..] => {
                if (first..=last).contains(&wanted) {
                    return true;
                }
                index += 3;
            }
            [only, ..] => {
                if only == wanted {
                    return true;
                }
                index += 1;
            }
            [] => break,
        }
    }
    false
}

/// An error of the store with its class; the text holds all causes.
pub(crate) fn store_error(error: palan_store::Error) -> Error {
    use palan_store::Error as Store;
    let class = match &error {
        Store::NoSuchImage { .. } | Store::Archive(palan_store::archive::ArchiveError::NoPlatform { .. }) => {
            Class::NotFound
        }
        Store::Conflict(_) => Class::Conflict,
        Store::Reference(_)
        | Store::TagWithDigest
        | Store::AmbiguousId { .. }
        | Store::Archive(_)
        | Store::Change(_) => Class::InvalidParameter,
        _ => Class::System,
    };
    Error::new(class, palan_stdx::error_chain::to_string(&error))
}

pub(crate) fn reference_error(error: palan_oci::reference::ReferenceError) -> Error {
    Error::invalid(error.to_string())
}

pub(crate) fn registry_error(error: palan_registry::RegistryError) -> Error {
    let class = match error.class() {
        palan_registry::Class::NotFound => Class::NotFound,
        palan_registry::Class::Unauthorized => Class::Unauthorized,
        palan_registry::Class::Invalid => Class::InvalidParameter,
        palan_registry::Class::Unavailable => Class::Unavailable,
        palan_registry::Class::System => Class::System,
    };
    Error::new(class, palan_stdx::error_chain::to_string(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("busy*", "busybox"),
            ("*", "busybox"),
            ("*/*", "library/busybox"),
            ("busybox:*", "busybox:1.36"),
            ("b?sybox", "busybox"),
            ("[a-c]usybox", "busybox"),
            ("[^x]usybox", "busybox"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("busy", "busybox"), ("*", "library/busybox"), ("[", "b"), ("[^b]usybox", "busybox")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn credentials_by_precedence() {
        let auth = |username: &str, password: &str, identity: &str| Auth {
            username: username.into(),
            password: password.into(),
            identity_token: identity.into(),
            ..Auth::default()
        };
        assert!(matches!(credentials(Some(auth("u", "p", ""))), Credentials::Password { .. }));
        assert!(matches!(credentials(Some(auth("u", "p", "t"))), Credentials::IdentityToken { .. }));
        assert!(matches!(credentials(Some(auth("", "", ""))), Credentials::Anonymous));
        assert!(matches!(credentials(None), Credentials::Anonymous));
    }
}
