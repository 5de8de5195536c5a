//! Layers that are made here: an overlay's upper directory, or one that was filled, becomes a layer where it lies.
//!
//! ```text
//! new_layer ─▶ layers/.tmp-… ──filled──▶ keep_layer: one walk ─▶ tar ─▶ sha256 (diff-id, and the blob's digest)
//!                                             │                  └────▶ recipe: the tar's headers
//!                                             └─▶ recipes/<hex>, layers/<hex>, one transaction
//! ```
//!
//! The tar is never written: it is hashed, and what of it is not in the directory's files becomes a recipe (`recipe`) on the same
//! pass. So the layer's blob is an uncompressed tar, whose digest is the diff-id, and [`Store::open_blob`] makes it.
//!
//! **Invariant:** a layer whose blob has the diff-id's digest is the same over whatever it lies: what overlay wrote that hides
//! nothing (a whiteout over no file, an opaque mark over no directory) is taken away, since the tar has no word of it.
//!
//! Rows in `made_layers` keep these layers, and their blobs, without an image: for the cache of builds, across restarts. What was made
//! elsewhere and brought as a transferred layer can be kept in the same way ([`Store::adopt_layer`]): its blob is what came.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use palan_linux::path::RootDir;
use palan_oci::digest::Hasher;
use palan_oci::{ChainId, Descriptor, Digest};
use palan_stdx::fs;
use palan_tar::pack::{Packer, Recent, pack_below, root_entry};
use rusqlite::{Connection, Transaction, params};

use crate::database::recipe::RecipeRow;
use crate::durability::Work;
use crate::image::stack;
use crate::layer::{LayerRecord, Standing, TemporaryLayer, chain_key, layer_key};
use crate::recipe::record::Instructions;
use crate::recipe::{Form, Header, Part, RecipeWriter, VERSION};
use crate::store::EMPTY_LAYER;
use crate::tree::{Overlaid, TreeError};
use crate::{Error, LayerInfo, Lease, Result, Store, compress, database};

/// Only ever added to the tables that are there, so an older program that does not know it is not disturbed: it removes the layers.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS made_layers (
    key TEXT PRIMARY KEY REFERENCES layers ON DELETE CASCADE,
    blob TEXT NOT NULL,
    created INTEGER NOT NULL        -- for the first time, seconds since 1970
) WITHOUT ROWID;
";

/// How hard headers are compressed: they are much alike, and somebody waits.
const ZSTD_LEVEL: i32 = 1;

/// A layer in progress. Dropped, it is removed; so it is when the store opens, should nobody have come so far.
#[derive(Debug)]
pub struct NewLayer {
    store: Store,
    path: PathBuf,
    root: RootDir,
    work: Option<PathBuf>,
    recent: Recent,
}

impl NewLayer {
    /// Its directory, which is to be filled.
    pub fn root(&self) -> &RootDir {
        &self.root
    }

    /// The directory's path, for an overlay's upper directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever fills it with small files may keep them here: they need not be read again.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// An empty directory beside it for overlay to work in; it goes with the layer.
    pub fn work(&mut self) -> Result<&Path> {
        if self.work.is_none() {
            self.work = Some(self.store.inner.new_layer_directory()?.path);
        }
        Ok(self.work.as_deref().unwrap_or(&self.path))
    }

    /// Empties that directory, for another mount of the same layer: the kernel refuses one after a volatile mount.
    pub fn renew_work(&self) -> Result<()> {
        let Some(work) = &self.work else { return Ok(()) };
        for entry in fs::read_dir(work)? {
            palan_linux::path::remove_tree(&entry.path())?;
        }
        Ok(())
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        let inner = &self.store.inner;
        for path in self.work.iter().chain([&self.path]) {
            // What was kept is under another name by now.
            if fs::metadata(path).is_ok() {
                inner.discard(path);
            }
        }
    }
}

/// A layer that only [`Store::keep_layer`]'s callers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeLayer {
    /// Which.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// An image has it, too.
    pub is_in_image: bool,
    /// When it was made for the first time, in seconds since 1970.
    pub created: i64,
}

impl Store {
    /// Begins a layer.
    pub fn new_layer(&self) -> Result<NewLayer> {
        let TemporaryLayer { path, root } = self.inner.new_layer_directory()?;
        Ok(NewLayer { store: self.clone(), path, root, work: None, recent: Recent::default() })
    }

    /// Makes a layer of what was filled. With `below`, the files that it lies over, it is an overlay's upper directory. It stays until
    /// [`Store::release_layer`]; `lease` protects it as well.
    pub fn keep_layer(&self, layer: NewLayer, below: Option<&RootDir>, lease: &Lease) -> Result<LayerInfo> {
        let root = layer.root.try_clone()?;
        let hashed = hash(root, below, &layer.recent).map_err(|source| Error::Making { source })?;
        let Hashed { digest, length, size, frames } = hashed;
        lease.protect(digest);
        let key = layer_key(&digest);
        let inner = &self.inner;
        let known = database::layer(&inner.lock().db, &key)?;
        let has_blob = known.as_ref().is_some_and(|record| inner.has_blob(&record.blob));
        if has_blob && is_made(&inner.lock().db, &key)? {
            return Ok(LayerInfo { diff_id: digest, size });
        }
        let recipe = inner.recipe_path(&digest);
        let mut bytes = 0;
        if !inner.has_blob(&digest) {
            let temporary = inner.recipes.join(format!(".tmp-{}", crate::store::random_name()));
            let header = Header {
                version: VERSION,
                blob: digest,
                size: length,
                form: Form::Plain,
                layer: key.clone(),
            };
            crate::fault::point("create a recipe");
            let written = RecipeWriter::create(&temporary, &header, u64::MAX).map_err(Error::from).and_then(
                |mut writer| {
                    let appended = writer.append(Part::Tar, &frames);
                    appended.map_err(|error| fs::PathError::new("write", &temporary, error))?;
                    bytes = writer.length();
                    crate::fault::point("name a recipe");
                    Ok(fs::rename(&temporary, &recipe)?)
                },
            );
            if let Err(error) = written {
                // The error to tell is the write's.
                let _ = fs::remove_file(&temporary);
                return Err(error);
            }
        }
        inner.rename_layer(&layer.path, &key)?;
        let record = LayerRecord {
            diff_id: digest,
            blob: digest,
            size,
            standing: Standing::SelfContained,
            opaque_root: false,
        };
        let row = (bytes > 0).then(|| RecipeRow { blob: digest, layer: key.clone(), size: length, bytes });
        let mut state = inner.lock();
        crate::fault::point("record a layer");
        database::write(&mut state.db, "record a layer", |transaction| {
            database::insert_layer(transaction, &key, &record)?;
            insert_at(transaction, &key, &digest, now())?;
            row.iter().try_for_each(|row| database::recipe::put_recipe(transaction, row))
        })?;
        drop(state);
        Ok(LayerInfo { diff_id: digest, size })
    }

    /// Has what was made so far written to the disk, behind everybody's back.
    pub fn sync_soon(&self) {
        self.inner.background.schedule(&self.inner, Work::SYNC);
    }

    /// Keeps a layer that was brought under `lease` as if it had been made here, at that time (seconds since 1970) where it is known. Whether it
    /// is here and stands alone: one that does not belongs to what it lies over.
    pub fn adopt_layer(&self, diff_id: &Digest, created: Option<i64>, lease: &Lease) -> Result<bool> {
        lease.protect(*diff_id);
        let key = layer_key(diff_id);
        let mut state = self.inner.lock();
        let Some(record) = state.layer_by(Some(diff_id), diff_id)? else { return Ok(false) };
        if record.standing != Standing::SelfContained {
            return Ok(false);
        }
        crate::fault::point("record a layer");
        database::write(&mut state.db, "record a layer", |transaction| {
            database::insert_layer(transaction, &key, &record)?;
            insert_at(transaction, &key, &record.blob, created.unwrap_or_else(now))
        })?;
        state.pending.remove(diff_id);
        Ok(true)
    }

    /// Nobody needs the layer for its own sake any more.
    pub fn release_layer(&self, diff_id: &Digest) -> Result<()> {
        let key = layer_key(diff_id);
        let mut state = self.inner.lock();
        let mut blobs = vec![*diff_id];
        let query = "SELECT blob FROM made_layers WHERE key = ?1";
        let own = database::first(&state.db, "look up a layer", query, &key, |row| database::digest(row, 0))?;
        blobs.extend(own.filter(|own| own != diff_id));
        blobs.extend(compress::kept_form(&state.db, diff_id)?);
        database::write_freeing(&mut state.db, "release a layer", |transaction| {
            compress::release_form(transaction, diff_id)?;
            transaction.execute("DELETE FROM made_layers WHERE key = ?1", [&key]).map(drop)
        })?;
        if state.remove_unneeded(&self.inner, &[key], &blobs)? {
            drop(state);
            self.inner.background.schedule(&self.inner, Work::TRASH);
        }
        Ok(())
    }

    /// All layers that were made here and not released.
    pub fn made_layers(&self) -> Result<Vec<MadeLayer>> {
        let state = self.inner.lock();
        let in_images: std::collections::HashSet<String> =
            database::images(&state.db)?.into_iter().flat_map(|image| image.layers).collect();
        let query = "SELECT key, created FROM made_layers";
        let made = database::all(&state.db, "list layers", query, |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })?;
        let mut layers = Vec::with_capacity(made.len());
        for (key, created) in made {
            if let Some(record) = database::layer(&state.db, &key)? {
                layers.push(MadeLayer {
                    diff_id: record.diff_id,
                    size: record.size,
                    is_in_image: in_images.contains(&key),
                    created,
                });
            }
        }
        Ok(layers)
    }

    /// Bytes of a layer's files; 0 for one that is not here.
    pub fn layer_size(&self, diff_id: &Digest) -> Result<u64> {
        let record = database::layer(&self.inner.lock().db, &layer_key(diff_id))?;
        Ok(record.map_or(0, |record| record.size))
    }

    /// When a layer was made here for the first time, in seconds since 1970; none if it was not.
    pub fn layer_made_at(&self, diff_id: &Digest) -> Result<Option<i64>> {
        let query = "SELECT created FROM made_layers WHERE key = ?1";
        let state = self.inner.lock();
        database::first(&state.db, "look up a layer", query, &layer_key(diff_id), |row| row.get(0))
    }

    /// The directories of these layers (bottom first) as overlay wants them, topmost first; never empty. `None`: one of them is not
    /// here. Those that are stay for as long as the lease.
    pub fn layer_dirs(&self, layers: &[Digest], lease: &Lease) -> Result<Option<Vec<PathBuf>>> {
        let state = self.inner.lock();
        let mut keys = Vec::with_capacity(layers.len());
        let mut opaque = Vec::new();
        let mut chain = None;
        for diff_id in layers {
            let own_chain = ChainId::extend(chain, diff_id);
            let is_bottom = chain.replace(own_chain).is_none();
            let over_parents = chain_key(&own_chain.digest());
            lease.protect(*diff_id);
            lease.protect(own_chain.digest());
            let alone = layer_key(diff_id);
            let found = match database::layer(&state.db, &over_parents)? {
                Some(record) => Some((over_parents, record)),
                None => database::layer(&state.db, &alone)?
                    .filter(|record| record.standing == Standing::SelfContained || is_bottom)
                    .map(|record| (alone, record)),
            };
            let Some((key, record)) = found else { return Ok(None) };
            if record.opaque_root {
                opaque.push(key.clone());
            }
            keys.push(key);
        }
        let keys = stack(&keys, |key| Ok(opaque.iter().any(|known| known == key)))?;
        Ok(Some(self.inner.directories(&keys)))
    }

    /// The files of these layers, read-only, as a detached mount that dies with the handle. `None`: one of them is not here.
    pub fn view_layers(&self, layers: &[Digest], lease: &Lease) -> Result<Option<RootDir>> {
        let Some(mut lowers) = self.layer_dirs(layers, lease)? else { return Ok(None) };
        if let [only] = &lowers[..] {
            return Ok(Some(RootDir::open(only)?));
        }
        lowers.push(self.inner.layers.join(EMPTY_LAYER));
        let mount = palan_linux::mount::overlay(&palan_linux::mount::OverlayOptions {
            lowers,
            ..palan_linux::mount::OverlayOptions::default()
        });
        let image = layers.last().copied().unwrap_or_else(|| Digest::of(""));
        let mount = mount.map_err(|source| Error::Mount { image, source })?;
        // A fresh mount is given as a descriptor that can't be read from.
        let root = RootDir::from_fd(mount).open_root(".")?;
        Ok(Some(root))
    }

    /// How a layer is transferred, whose blob is here: compressed, if it ever was.
    pub fn describe(&self, diff_id: &Digest, lease: &Lease) -> Result<Descriptor> {
        lease.protect(*diff_id);
        if let Some(compressed) = self.compressed_form(diff_id, lease)? {
            return Ok(compressed);
        }
        if self.has_blob(diff_id) {
            return self.describe_layer(diff_id);
        }
        let blob = self.inner.lock().layer_by(Some(diff_id), diff_id)?.map(|record| record.blob);
        let blob = blob.ok_or(Error::NoSuchBlob { digest: *diff_id })?;
        lease.protect(blob);
        self.describe_layer(&blob)
    }
}

struct Hashed {
    digest: Digest,
    /// Bytes of the tar.
    length: u64,
    /// Bytes of the files.
    size: u64,
    /// The tar part of the recipe.
    frames: Vec<u8>,
}

/// What is known while the tar passes by.
struct Recording {
    hasher: Hasher,
    instructions: Instructions<Vec<u8>>,
    /// So many of the next bytes are content.
    content: u64,
    size: u64,
}

impl Recording {
    fn take(&mut self, chunk: &Chunk) -> io::Result<()> {
        let mut done = 0;
        for range in &chunk.ranges {
            self.bytes(&chunk.bytes[done..range.at])?;
            done = range.at;
            self.content = range.length;
            self.size = self.size.saturating_add(range.length);
            self.instructions.range(&range.path, range.offset, range.length)?;
        }
        self.bytes(&chunk.bytes[done..])
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        let content = usize::try_from(self.content).unwrap_or(usize::MAX).min(bytes.len());
        self.content -= content as u64;
        self.instructions.bytes(&bytes[content..])
    }
}

/// A piece of the tar, and where in it the content of files begins.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    ranges: Vec<Range>,
}

impl Chunk {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }
}

struct Range {
    at: usize,
    path: Vec<u8>,
    offset: u64,
    length: u64,
}

/// Takes the tar down. From when there is enough for it, a thread hashes beside the one that reads the files, if one can be had.
struct Passing {
    chunk: Chunk,
    recording: Arc<Mutex<Recording>>,
    hashing: Hashing,
}

enum Hashing {
    Here,
    Beside {
        chunks: mpsc::SyncSender<Chunk>,
        done: mpsc::Receiver<Chunk>,
        thread: JoinHandle<io::Result<()>>,
    },
    Ended,
}

impl Passing {
    const CHUNK: usize = 256 * 1024;
    const QUEUE: usize = 4;

    fn new(recording: Recording) -> Self {
        let recording = Arc::new(Mutex::new(recording));
        Self { chunk: Chunk::default(), recording, hashing: Hashing::Here }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.chunk.bytes.extend_from_slice(bytes);
        if self.chunk.bytes.len() < Self::CHUNK {
            return Ok(());
        }
        if matches!(self.hashing, Hashing::Here)
            && let Ok(beside) = self.start()
        {
            self.hashing = beside;
        }
        let Hashing::Beside { chunks, done, .. } = &self.hashing else { return self.take_here() };
        let next = done.try_recv().unwrap_or_default();
        match chunks.send(std::mem::replace(&mut self.chunk, next)) {
            Ok(()) => Ok(()),
            // Only an error ends it before, and what was sent is lost.
            Err(_) => self.join().and_then(|()| Err(io::Error::other("the thread that hashes ended"))),
        }
    }

    fn start(&self) -> io::Result<Hashing> {
        let (chunks, full) = mpsc::sync_channel::<Chunk>(Self::QUEUE);
        let (emptied, done) = mpsc::channel();
        let recording = Arc::clone(&self.recording);
        let hash = move || {
            for mut chunk in full {
                recording.lock().unwrap_or_else(PoisonError::into_inner).take(&chunk)?;
                chunk.clear();
                let _ = emptied.send(chunk);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("store-hash".into()).spawn(hash)?;
        Ok(Hashing::Beside { chunks, done, thread })
    }

    fn take_here(&mut self) -> io::Result<()> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner).take(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }

    fn expect(&mut self, path: &[u8], offset: u64, length: u64) {
        self.chunk.ranges.push(Range { at: self.chunk.bytes.len(), path: path.to_vec(), offset, length });
    }

    fn finish(mut self) -> io::Result<Recording> {
        self.join()?;
        self.take_here()?;
        // The thread had the only other handle.
        let recording = Arc::into_inner(self.recording).ok_or_else(|| io::Error::other("busy"))?;
        Ok(recording.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the thread, if there is one.
    fn join(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.hashing, Hashing::Ended) {
            Hashing::Here | Hashing::Ended => Ok(()),
            Hashing::Beside { chunks, thread, .. } => {
                drop(chunks);
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that hashes ended")))
            }
        }
    }
}

#[derive(Clone)]
struct Sink(Rc<RefCell<Passing>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hash(root: RootDir, below: Option<&RootDir>, recent: &Recent) -> Result<Hashed, TreeError> {
    let instructions = Instructions::new(Vec::new(), ZSTD_LEVEL).map_err(TreeError::Write)?;
    let recording = Recording { hasher: Hasher::new(), instructions, content: 0, size: 0 };
    let passing = Rc::new(RefCell::new(Passing::new(recording)));
    let mut sink = Sink(Rc::clone(&passing));
    let told = sink.clone();
    let mut packer = Packer::new(&mut sink);
    packer.set_private(Some(recent));
    packer.watch_content(Box::new(move |path, offset, length| {
        told.0.borrow_mut().expect(path, offset, length);
    }));
    let top = root.as_directory().try_clone().map_err(palan_tar::pack::failed("open", b"/"))?;
    let entry = root_entry(&top)?;
    // Without a word of it, a root is like this.
    if (entry.mode, entry.uid, entry.gid) != (0o755, 0, 0) || !entry.xattrs.is_empty() {
        packer.bare(&entry)?;
    }
    match below {
        None => pack_below(&mut packer, top, None, &|_, _| false)?,
        Some(below) => {
            let below = below.try_clone().map_err(|error| TreeError::Read {
                action: "open",
                path: "/".to_owned(),
                source: error.source,
            })?;
            Overlaid::new(root, below, "").settle(&mut packer)?;
        }
    }
    packer.finish()?;
    drop(sink);
    // The packer had the only other handle.
    let passing = Rc::into_inner(passing).ok_or_else(|| TreeError::Write(io::Error::other("busy")))?;
    let recording = passing.into_inner().finish().map_err(TreeError::Write)?;
    let Recording { hasher, instructions, size, .. } = recording;
    let length = hasher.length();
    let frames = instructions.finish().map_err(TreeError::Write)?;
    Ok(Hashed { digest: hasher.finish(), length, size, frames })
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed()
}

fn insert_at(transaction: &Transaction<'_>, key: &str, blob: &Digest, created: i64) -> rusqlite::Result<()> {
    let query = "INSERT OR IGNORE INTO made_layers VALUES (?1, ?2, ?3)";
    transaction.execute(query, params![key, blob.to_string(), created]).map(drop)
}

fn is_made(db: &Connection, key: &str) -> Result<bool> {
    Ok(all_made(db)?.iter().any(|made| made == key))
}

/// Whether a layer is kept for its own sake.
pub(crate) fn is_kept(db: &Connection, diff_id: &Digest) -> Result<bool> {
    is_made(db, &layer_key(diff_id))
}

/// The keys of all of them.
pub(crate) fn all_made(db: &Connection) -> Result<Vec<String>> {
    database::all(db, "list layers", "SELECT key FROM made_layers", |row| row.get(0))
}

/// Their blobs, and the compressed forms that are kept for their sake.
pub(crate) fn blobs(db: &Connection) -> Result<Vec<Digest>> {
    let query = "SELECT blob FROM made_layers
        UNION SELECT blob FROM kept_forms WHERE substr(tar, 8) IN (SELECT key FROM made_layers)";
    database::all(db, "list blobs", query, |row| database::digest(row, 0))
}

#[cfg(test)]
mod tests;
