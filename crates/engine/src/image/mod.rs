//! Images as objects with names, and the requests about them.
//!
//! - [`pull`]: from registries, and their credentials;
//! - [`load`], [`save`] and [`import`]: archives in and out;
//! - [`commit`]: from containers;
//! - [`list`] and [`inspect`]: what is there;
//! - [`remove`]: names and images that go.

use jiff::Timestamp;
pub use palan_oci::ImageConfig;
use palan_oci::Reference;
use palan_store::Image;

use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::events::{Event, ObjectKind};
use crate::{Class, Error, Result};

pub mod attestations;
pub mod commit;
pub mod import;
pub mod inspect;
pub mod list;
pub mod load;
pub mod pull;
pub mod remove;
mod save;

pub use attestations::{Attestation, AttestationQuery};
pub use commit::CommitSpec;
pub use import::ImportSpec;
pub use inspect::{HistoryEntry, ImageDetails};
pub use list::{ImageListQuery, ImageSummary, ManifestKind, ManifestSummary, Manifests};
pub use pull::{Auth, PullSpec};
pub(crate) use pull::{Teller, credentials, registry_error};
pub use remove::ImageRemoval;

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

/// Progress that waits for a slow client.
pub(crate) const BACKLOG: usize = 256;

/// Names.
impl Engine {
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
}

/// Refuses an image that is not for the platform that was asked for. There is one platform to an image here: an index is
/// resolved when it is pulled or loaded.
fn check_platform(image: &Image, name: &str, platform: Option<&str>) -> Result<()> {
    let Some(text) = platform.filter(|text| !text.is_empty()) else { return Ok(()) };
    let wanted = crate::container::parse_platform(text)?;
    if wanted.matches(&image.config.platform()) {
        return Ok(());
    }
    let name = Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.or_latest().familiar());
    Err(Error::not_found(format!(
        "image with reference {name} was found but does not provide the specified platform ({wanted})"
    )))
}

/// The same where one of several is good enough.
fn check_platforms(image: &Image, name: &str, platforms: &[String]) -> Result<()> {
    let mut outcome = Ok(());
    for platform in platforms {
        outcome = check_platform(image, name, Some(platform));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
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

/// An error of the store with its class; the text holds all causes.
pub(crate) fn store_error(error: palan_store::Error) -> Error {
    use palan_store::Error as Store;
    use palan_store::tree::TreeError;
    let class = match &error {
        Store::NoSuchImage { .. } | Store::Archive(palan_store::archive::ArchiveError::NoPlatform { .. }) => {
            Class::NotFound
        }
        Store::Conflict(_) => Class::Conflict,
        Store::Reference(_)
        | Store::TagWithDigest
        | Store::AmbiguousId { .. }
        | Store::Archive(_)
        | Store::DockerRoot(_)
        | Store::Change(_)
        | Store::Tree(TreeError::Depth { .. } | TreeError::Name { .. }) => Class::InvalidParameter,
        _ => Class::System,
    };
    Error::new(class, palan_stdx::error_chain::to_string(&error))
}

pub(crate) fn reference_error(error: palan_oci::reference::ReferenceError) -> Error {
    Error::invalid(error.to_string())
}
