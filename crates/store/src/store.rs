//! The handle on the store, and what happens when it is opened.
//!
//! Opening puts right what an interrupted process left: unpacks in progress go to the trash, layers that no record
//! names too, blobs that no record names become resumable parts again, parts that nobody resumed for a week go. A record whose
//! files are gone is dropped. No step of this needs to have finished in an earlier start.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use palan_oci::Digest;
use palan_stdx::fs;
use rusqlite::Connection;
use rustix::fs::FlockOperation;

use crate::content::Busy;
use crate::durability::{Background, Syncing, Work};
use crate::layer::LayerRecord;
use crate::lease::Leases;
use crate::recipe::Recipe;
use crate::recipe::worker::Compactor;
use crate::{Error, Limits, Result, database};

/// How long a part waits to be resumed.
const PART_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Stands in for the layers of an image that has none.
pub(crate) const EMPTY_LAYER: &str = ".empty";

/// The store of one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) ingest: PathBuf,
    pub(crate) layers: PathBuf,
    pub(crate) recipes: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) busy: Busy,
    pub(crate) leases: Leases,
    pub(crate) background: Background,
    pub(crate) compactor: Arc<Compactor>,
    state: Mutex<State>,
    /// `flock` on the layers' directory; freed by the kernel however this process ends.
    _lock: File,
}

/// What one lock guards: looking something up, protecting it and removing it exclude each other.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) db: Connection,
    /// Layers that were unpacked and not recorded yet.
    pub(crate) pending: HashMap<Digest, LayerRecord>,
    pub(crate) syncing: Syncing,
}

impl Store {
    /// Opens the store below `root` (created if absent), removes what an interrupted process left behind and takes
    /// the lock that keeps a second process out.
    pub fn open(root: &Path, limits: Limits) -> Result<Self> {
        let blobs = root.join("blobs/sha256");
        let ingest = blobs.join(".ingest");
        let layers = root.join("layers");
        for (directory, mode) in
            [(root, 0o710), (&root.join("blobs"), 0o700), (&blobs, 0o700), (&ingest, 0o700)]
        {
            ensure_directory(directory, mode)?;
        }
        let recipes = root.join("recipes");
        ensure_directory(&layers, 0o700)?;
        ensure_directory(&recipes, 0o700)?;
        ensure_directory(&layers.join(EMPTY_LAYER), 0o755)?;
        let lock = lock(&layers, root)?;
        fs::spread_subdirectories(&lock);
        let db = database::open(&root.join("images.db"))?;
        let store = Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                blobs,
                ingest,
                layers,
                recipes,
                limits,
                busy: Busy::default(),
                leases: Leases::default(),
                background: Background::default(),
                compactor: Arc::default(),
                state: Mutex::new(State { db, pending: HashMap::new(), syncing: Syncing::default() }),
                _lock: lock,
            }),
        };
        store.recover()?;
        Ok(store)
    }

    /// Whether no process has the store below `root`.
    pub fn is_free(root: &Path) -> bool {
        lock(&root.join("layers"), root).is_ok()
    }

    /// The data root.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    fn recover(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        if database::forget_unsynced_of_another_boot(&mut state.db, &boot_id())? {
            tracing::warn!("images that were not on the disk yet when the machine stopped are dropped");
        }
        let on_disk: HashSet<String> = inner.names_in(&inner.layers)?.into_iter().collect();
        let recorded = database::layer_keys(&state.db)?;
        for key in recorded.iter().filter(|key| !on_disk.contains(*key)) {
            tracing::warn!(layer = %key, "a layer's directory is gone: images that need it are dropped");
            database::drop_layer_and_its_images(&mut state.db, key)?;
        }
        for image in database::image_ids(&state.db)? {
            if !inner.has_blob(&image.digest()) {
                tracing::warn!(image = %image, "an image's configuration is gone: the image is dropped");
                database::delete_image(&mut state.db, &image)?;
            }
        }
        let mut garbage = on_disk
            .iter()
            .filter(|name| !recorded.contains(*name) && *name != EMPTY_LAYER && !name.starts_with(".trash-"));
        garbage.try_for_each(|name| inner.trash_layer(name))?;
        let needed = database::blobs(&state.db)?;
        inner.recover_recipes(&mut state, &needed)?;
        inner.recover_blobs(&needed)?;
        // Layers whose last image was removed, by somebody who was killed then.
        let recorded: Vec<String> = recorded.into_iter().collect();
        state.remove_unneeded(inner, &recorded, &[])?;
        let unsynced = database::has_unsynced(&state.db)?;
        drop(state);
        database::reserve::make(&inner.root);
        inner.background.schedule(inner, Work { sync: unsynced, ..Work::TRASH });
        Ok(())
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves at worst a transaction that SQLite rolls back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a finished directory its name. Somebody may have been faster with the same content: theirs stays.
    pub(crate) fn rename_layer(&self, temporary: &Path, key: &str) -> Result<()> {
        let target = self.layers.join(key);
        if fs::metadata(&target).is_ok() {
            self.discard(temporary);
            return Ok(());
        }
        crate::fault::point("name a layer");
        match fs::rename(temporary, &target) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                self.discard(temporary);
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Moves a directory below `layers` out of the way; it is deleted in the background.
    pub(crate) fn trash_layer(&self, name: &str) -> Result<()> {
        crate::fault::point("move a layer to the trash");
        self.trash(&self.layers.join(name))
    }

    /// Moves a file or directory of the store, if it is there, to the trash.
    pub(crate) fn trash(&self, path: &Path) -> Result<()> {
        let trash = self.layers.join(format!(".trash-{}", random_name()));
        fs::if_exists(fs::rename(path, &trash))?;
        Ok(())
    }

    /// Deletes a directory that was never part of the store, now.
    pub(crate) fn discard(&self, directory: &Path) {
        crate::fault::point("remove a directory");
        if let Err(error) = palan_linux::path::remove_tree(directory) {
            tracing::warn!(directory = %directory.display(), %error, "cannot remove; the next start tries again");
        }
    }

    pub(crate) fn names_in(&self, directory: &Path) -> Result<Vec<String>> {
        let entries = fs::read_dir(directory)?;
        Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Ends what was begun: a recipe without a row is of no use while the blob is there, a blob with a row goes.
    fn recover_recipes(&self, state: &mut State, needed: &HashSet<Digest>) -> Result<()> {
        let rows = database::recipe::recipes(&state.db)?;
        let mut recorded = HashSet::new();
        for row in rows {
            let is_there = fs::metadata(&self.recipe_path(&row.blob)).is_ok()
                && fs::metadata(&self.layers.join(&row.layer)).is_ok();
            if needed.contains(&row.blob) && is_there {
                crate::fault::point("remove a blob that has a recipe");
                fs::if_exists(fs::remove_file(&self.blob_path(&row.blob)))?;
                recorded.insert(row.blob);
            } else {
                database::write_durably(&mut state.db, "remove a recipe", |transaction| {
                    database::recipe::delete_recipe(transaction, &row.blob)
                })?;
            }
        }
        for name in self.names_in(&self.recipes)? {
            let path = self.recipes.join(&name);
            let digest = Digest::from_hex(&name).ok();
            if digest.is_some_and(|digest| recorded.contains(&digest)) {
                continue;
            }
            if let Some(row) = digest.and_then(|digest| self.lost_recipe(&path, &digest, needed)) {
                tracing::warn!(blob = %row.blob, "the record of a recipe was lost and is made again");
                database::recipe::insert_recipe(&mut state.db, &row)?;
            } else {
                crate::fault::point("remove a recipe without a row");
                fs::if_exists(fs::remove_file(&path))?;
            }
        }
        Ok(())
    }

    /// A recipe that nobody recorded although its blob is needed and gone. No kill leads there; an older copy of the
    /// database does.
    fn lost_recipe(
        &self,
        path: &Path,
        digest: &Digest,
        needed: &HashSet<Digest>,
    ) -> Option<database::recipe::RecipeRow> {
        if !needed.contains(digest) || fs::metadata(&self.blob_path(digest)).is_ok() {
            return None;
        }
        let header = Recipe::open(path).ok()?.header;
        let bytes = fs::metadata(path).ok()?.len();
        let is_usable = header.blob == *digest && fs::metadata(&self.layers.join(&header.layer)).is_ok();
        is_usable.then_some(database::recipe::RecipeRow {
            blob: *digest,
            layer: header.layer,
            size: header.size,
            bytes,
        })
    }

    fn recover_blobs(&self, recorded: &HashSet<Digest>) -> Result<()> {
        for name in self.names_in(&self.blobs)? {
            let Ok(digest) = Digest::from_hex(&name) else { continue };
            if !recorded.contains(&digest) {
                crate::fault::point("make a blob without a record a part");
                fs::rename(&self.blobs.join(&name), &self.part_path(&digest))?;
            }
        }
        for name in self.names_in(&self.ingest)? {
            let path = self.ingest.join(&name);
            let is_part = name.strip_suffix(".part").is_some_and(|hex| Digest::from_hex(hex).is_ok());
            let age = fs::metadata(&path).ok().and_then(|metadata| metadata.modified().ok());
            let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if !is_part || age.is_some_and(|age| age > PART_LIFETIME) {
                crate::fault::point("remove what was put aside");
                fs::if_exists(fs::remove_file(&path))?;
            }
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.compactor.stop();
    }
}

/// A name that no other temporary file has.
pub(crate) fn random_name() -> String {
    use std::fmt::Write as _;
    use std::hash::{BuildHasher as _, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = String::new();
    let _ = write!(name, "{:016x}", RandomState::new().hash_one((std::process::id(), count)));
    name
}

fn ensure_directory(path: &Path, mode: u32) -> Result<()> {
    match fs::create_dir(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(fs::create_dir_all(path, mode)?),
        other => Ok(other?),
    }
}

fn lock(layers: &Path, root: &Path) -> Result<File> {
    let lock = fs::open(layers)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { root: root.display().to_string() }),
        Err(error) => Err(fs::PathError::new("lock", layers, error).into()),
    }
}

/// Changes when the machine starts anew, and then only what was synced can be trusted.
fn boot_id() -> String {
    let id = fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"));
    id.map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}
