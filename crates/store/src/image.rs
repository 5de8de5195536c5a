//! Images: a configuration, the layers it names, and the names that people gave it.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use palan_linux::mount::{OverlayOptions, overlay};
use palan_linux::path::RootDir;
use palan_oci::digest::DigestError;
use palan_oci::{ChainId, Digest, ImageConfig, Reference};

use crate::database::ImageRow;
use crate::store::{EMPTY_LAYER, Inner, State};
use crate::{Error, Result, Store, database};

mod commit;
pub(crate) mod index;
pub(crate) mod parent;
mod remove;

pub use index::IndexCommit;

/// The digest of an image's configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The digest that it is.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its configuration, parsed. The bytes as they came are the blob `id`.
    pub config: Arc<ImageConfig>,
    /// The digest of the manifest it came with (made up for a loaded or imported image).
    pub manifest: Digest,
    /// Bytes of all its layers, unpacked, as Docker counts.
    pub size: u64,
    /// Its names with tags, sorted. Empty (and no digests): dangling.
    pub tags: Vec<Reference>,
    /// Its names with digests, sorted.
    pub digests: Vec<Reference>,
    /// When it was last tagged, nanoseconds since 1970.
    pub last_tagged: Option<i64>,
}

/// A new image, whose layers are in the store already.
#[derive(Debug, Clone)]
pub struct ImageCommit {
    /// The manifest as it came.
    pub manifest: Vec<u8>,
    /// The media type it was delivered with.
    pub manifest_media_type: Option<String>,
    /// The configuration as it came.
    pub config: Vec<u8>,
    /// Names with tags that shall lead to it; they are taken from other images that had them.
    pub tags: Vec<Reference>,
    /// Names with digests, of the index if it came by one, else of the manifest.
    pub digests: Vec<Reference>,
    /// The manifest was written by this program, so it may be replaced when layers are compressed ([`crate::compress`]).
    pub made_here: bool,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's id.
    pub container: String,
    /// Whether it runs (or is paused).
    pub running: bool,
}

/// What a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away from an image.
    Untagged(Reference, ImageId),
    /// An image (by id) or a layer (by chain id) is gone.
    Deleted(Digest),
}

/// Why an image is not removed. The texts are Docker's; clients match on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The last name of an image that a container uses.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// As asked for.
        name: String,
        /// 12 digits.
        container: String,
        /// 12 digits.
        image: String,
    },
    /// A running container uses it: not even by force.
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    Running {
        /// 12 digits.
        image: String,
        /// 12 digits.
        container: String,
    },
    /// A stopped container uses it.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    Stopped {
        /// 12 digits.
        image: String,
        /// 12 digits.
        container: String,
    },
    /// Other images were made from it.
    #[error("conflict: unable to delete {image} (cannot be forced) - image has dependent child images")]
    Children {
        /// 12 digits.
        image: String,
    },
    /// It has names in several repositories and was named by its id.
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
    )]
    SeveralNames {
        /// 12 digits.
        image: String,
    },
}

/// One line of an image's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// The image's id for the newest line, else unknown.
    pub id: Option<ImageId>,
    /// RFC 3339, as written in the configuration.
    pub created: Option<String>,
    /// The command.
    pub created_by: String,
    /// Names of the image, for the newest line.
    pub tags: Vec<Reference>,
    /// Bytes that the line's layer added.
    pub size: u64,
    /// The remark.
    pub comment: String,
}

impl Store {
    /// The image with this id.
    pub fn image(&self, id: &ImageId) -> Result<Option<Image>> {
        let state = self.inner.lock();
        let Some(row) = database::image(&state.db, id)? else { return Ok(None) };
        let names = database::names_of(&state.db, id)?;
        drop(state);
        self.assemble(row, &names).map(Some)
    }

    /// The image that exactly this name (with a tag or a digest) leads to. With both, the digest decides.
    pub fn find(&self, reference: &Reference) -> Result<Option<ImageId>> {
        database::name(&self.inner.lock().db, &stored_name(reference))
    }

    /// The image that a user means: a name, an id, or the unique start of an id, in Docker's order.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let id = self.resolve_id(name)?;
        self.image(&id)?.ok_or_else(|| Error::NoSuchImage { name: id.to_string() })
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<Image>> {
        let state = self.inner.lock();
        let rows = database::images(&state.db)?;
        let names = database::names(&state.db)?;
        drop(state);
        let mut images = Vec::with_capacity(rows.len());
        for row in rows {
            let own = names.iter().filter(|(_, image)| *image == row.id);
            let own: Vec<String> = own.map(|(name, _)| name.clone()).collect();
            images.push(self.assemble(row, &own)?);
        }
        images
            .sort_by(|one, other| other.config.created.cmp(&one.config.created).then(one.id.cmp(&other.id)));
        Ok(images)
    }

    /// Gives an image one more name, taking it from another image that has it. Returns that other image.
    pub fn tag(&self, id: &ImageId, name: &Reference) -> Result<Option<ImageId>> {
        if name.digest().is_some() {
            return Err(Error::TagWithDigest);
        }
        let name = name.clone().or_latest();
        let mut state = self.inner.lock();
        if database::image(&state.db, id)?.is_none() {
            return Err(Error::NoSuchImage { name: id.to_string() });
        }
        database::write(&mut state.db, "tag an image", |transaction| {
            database::set_last_tagged(transaction, id, now())?;
            database::set_name(transaction, &name.to_string(), id)
        })
    }

    /// Gives an image a name with a digest: what it is called in a repository that it was pushed to. Another image that
    /// has it keeps nothing of it.
    pub fn name_by_digest(&self, id: &ImageId, name: &Reference) -> Result<()> {
        let mut state = self.inner.lock();
        if database::image(&state.db, id)?.is_none() {
            return Err(Error::NoSuchImage { name: id.to_string() });
        }
        database::write(&mut state.db, "name an image by its digest", |transaction| {
            database::set_name(transaction, &stored_name(name), id).map(drop)
        })
    }

    /// How an image came to be, newest first.
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryItem>> {
        let image = self.image(id)?.ok_or_else(|| Error::NoSuchImage { name: id.to_string() })?;
        let mut sizes = self.layer_sizes(id)?.into_iter().map(|(_, size)| size);
        let entries = image.config.history.iter().map(|entry| HistoryItem {
            id: None,
            created: entry.created.clone(),
            created_by: entry.created_by.clone(),
            tags: Vec::new(),
            size: if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            comment: entry.comment.clone(),
        });
        let mut history: Vec<HistoryItem> = entries.collect();
        history.reverse();
        if let Some(newest) = history.first_mut() {
            newest.id = Some(*id);
            newest.tags.clone_from(&image.tags);
        }
        Ok(history)
    }

    /// The directories of an image's layers, topmost first, as overlay wants them; never empty. A layer that occurs
    /// twice is named once, and nothing below an opaque root is named.
    pub fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        let keys = self.inner.lock().stack(id)?;
        Ok(self.inner.directories(&keys))
    }

    /// The image's file system, read-only, as a detached mount that dies with the handle.
    pub fn view(&self, id: &ImageId) -> Result<RootDir> {
        let mut lowers = self.lower_dirs(id)?;
        if lowers.len() == 1 {
            // Without an upper directory overlay wants two.
            lowers.push(self.inner.layers.join(EMPTY_LAYER));
        }
        lowers.dedup();
        if lowers.len() == 1 {
            return Ok(RootDir::open(&lowers[0])?);
        }
        let mount = overlay(&OverlayOptions { lowers, ..OverlayOptions::default() });
        let mount = mount.map_err(|source| Error::Mount { image: id.digest(), source })?;
        Ok(RootDir::from_fd(mount))
    }

    /// The chain ids and sizes of an image's layers, bottom first.
    pub fn layer_sizes(&self, id: &ImageId) -> Result<Vec<(ChainId, u64)>> {
        let image = self.image(id)?.ok_or_else(|| Error::NoSuchImage { name: id.to_string() })?;
        let state = self.inner.lock();
        let Some(row) = database::image(&state.db, id)? else {
            return Err(Error::NoSuchImage { name: id.to_string() });
        };
        let chain = image.config.chain_ids();
        let mut sizes = Vec::with_capacity(chain.len());
        for (chain, key) in chain.into_iter().zip(&row.layers) {
            let layer = database::layer(&state.db, key)?;
            sizes.push((chain, layer.map_or(0, |layer| layer.size)));
        }
        Ok(sizes)
    }

    /// Bytes of all unpacked layers, each counted once (`system df`, `info`).
    pub fn layers_size(&self) -> Result<u64> {
        database::layers_size(&self.inner.lock().db)
    }

    fn resolve_id(&self, name: &str) -> Result<ImageId> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let state = self.inner.lock();
        if let Ok(digest) = Digest::from_hex(hex) {
            let id = ImageId(digest);
            return match database::image(&state.db, &id)? {
                Some(_) => Ok(id),
                None => Err(Error::NoSuchImage { name: id.to_string() }),
            };
        }
        let reference = Reference::parse(name)?.or_latest();
        if let Some(id) = database::name(&state.db, &stored_name(&reference))? {
            return Ok(id);
        }
        let no_such_image = || Error::NoSuchImage { name: reference.familiar() };
        if hex.is_empty() || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(no_such_image());
        }
        match database::ids_with_prefix(&state.db, hex)?[..] {
            [] => Err(no_such_image()),
            [id] => Ok(id),
            [first, ..] => Err(Error::AmbiguousId { prefix: name.to_owned(), first: first.digest() }),
        }
    }

    fn assemble(&self, row: ImageRow, names: &[String]) -> Result<Image> {
        let content = self.read_blob(&row.id.digest())?;
        let config = ImageConfig::parse(&content)
            .map_err(|source| Error::Config { digest: row.id.digest(), source })?;
        let (digests, tags) = names
            .iter()
            .filter_map(|name| Reference::parse(name).ok())
            .partition(|name| name.digest().is_some());
        Ok(Image {
            id: row.id,
            config: Arc::new(config),
            manifest: row.manifest,
            size: row.size,
            tags,
            digests,
            last_tagged: row.last_tagged,
        })
    }
}

impl State {
    /// The names of an image's layer directories as they are stacked, topmost first.
    pub(crate) fn stack(&self, id: &ImageId) -> Result<Vec<String>> {
        let Some(row) = database::image(&self.db, id)? else {
            return Err(Error::NoSuchImage { name: id.to_string() });
        };
        let opaque = |key: &str| Ok(database::layer(&self.db, key)?.is_some_and(|layer| layer.opaque_root));
        stack(&row.layers, opaque)
    }
}

impl Inner {
    pub(crate) fn directories(&self, keys: &[String]) -> Vec<PathBuf> {
        keys.iter().map(|key| self.layers.join(key)).collect()
    }
}

/// Turns layers, bottom first, into what overlay is given, topmost first.
///
/// Overlay refuses a directory that occurs twice. Leaving out its lower occurrence changes nothing: whatever it has, the upper
/// occurrence shows or hides first.
pub(crate) fn stack(layers: &[String], opaque: impl Fn(&str) -> Result<bool>) -> Result<Vec<String>> {
    let mut seen = HashSet::new();
    let mut stack = Vec::with_capacity(layers.len());
    for key in layers.iter().rev() {
        if seen.insert(key) {
            stack.push(key.clone());
        }
        if opaque(key)? {
            break;
        }
    }
    if stack.is_empty() {
        stack.push(EMPTY_LAYER.to_owned());
    }
    Ok(stack)
}

/// How a name is stored: in full, and by its digest alone if it has one.
fn stored_name(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest).to_string(),
        None => reference.to_string(),
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
