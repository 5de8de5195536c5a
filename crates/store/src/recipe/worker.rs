//! The thread that turns blobs into recipes behind everybody's back.
//!
//! It starts after a delay, so that a blob which is pushed right after it was pulled is still a file; takes one blob at a
//! time, with the lowest priority that the kernel has for a thread; stands still while anything is brought; and stops within
//! one read when the store is closed. What it has not finished is begun again at the next start.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use palan_linux::path::RootDir;
use palan_linux::scheduling::{SchedulerAttributes, set_io_priority, set_scheduler};
use palan_oci::Digest;
use palan_oci::digest::Hasher;
use palan_oci::media_type::Compression;
use palan_stdx::fs::{self, PathContext as _};

use super::record::{Refusal, record};
use super::{Form, Header, Recipe, RecipeWriter, VERSION, rebuild};
use crate::database::recipe as database;
use crate::store::Inner;
use crate::{Result, Store};

/// Changes with everything that may succeed where an earlier version failed.
const FORMAT: u32 = VERSION << 8 | palan_redeflate::VERSION as u32;
/// A blob of fewer bytes stays.
const SMALL: u64 = 16 * 1024;
/// `SCHED_IDLE` and `IOPRIO_CLASS_IDLE`: only when nobody else wants the CPU or the disk.
const SCHED_IDLE: u32 = 5;
const IOPRIO_CLASS_IDLE: u16 = 3;
/// How often it is looked whether a pull has ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the thread is told what to do.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    orders: Mutex<Orders>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Orders {
    started: bool,
    work: bool,
    idle: bool,
}

impl Compactor {
    /// There may be something to do.
    pub(crate) fn notify(&self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).work = true;
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits for an order, and then for as long as `delay`. `false` when it is over.
    fn wait(&self, delay: Duration) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.idle = true;
        self.changed.notify_all();
        orders = self
            .changed
            .wait_while(orders, |orders| !orders.work && !self.is_stopped())
            .unwrap_or_else(PoisonError::into_inner);
        (orders.idle, orders.work) = (false, false);
        let until = Instant::now() + delay;
        while let (false, Some(left)) = (self.is_stopped(), until.checked_duration_since(Instant::now())) {
            let waited = self.changed.wait_timeout(orders, left);
            orders = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !self.is_stopped()
    }
}

impl Store {
    /// From now on compressed layers are replaced by recipes, `delay` after they are on the disk. Without this call they
    /// stay (the setting `keep-compressed-layers`).
    pub fn start_compaction(&self, delay: Duration) {
        let compactor = Arc::clone(&self.inner.compactor);
        let mut orders = compactor.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut orders.started, true) {
            return;
        }
        orders.work = true;
        drop(orders);
        let store = Arc::downgrade(&self.inner);
        let started = thread::Builder::new()
            .name("compaction".to_owned())
            .spawn(move || run(&store, &compactor, delay));
        if let Err(error) = started {
            tracing::warn!(%error, "cannot start the thread that compacts layers: they stay as they are");
        }
    }

    /// Waits until nothing is left to compact. For tests and measurements.
    pub fn wait_for_compaction(&self) {
        self.settle();
        let compactor = &self.inner.compactor;
        let orders = compactor.orders.lock().unwrap_or_else(PoisonError::into_inner);
        drop(compactor.changed.wait_while(orders, |orders| orders.started && (orders.work || !orders.idle)));
    }

    /// Replaces one blob by its recipe now, on this thread; `Err` with the reason where it stays.
    #[cfg(test)]
    pub(crate) fn compact(&self, blob: &Digest, layer: &str) -> std::result::Result<(), String> {
        let outcome = attempt(&self.inner, blob, layer)
            .map_err(|refusal| palan_stdx::error_chain::to_string(&refusal))?;
        finish(&self.inner, outcome).map_err(|error| palan_stdx::error_chain::to_string(&error))
    }
}

fn run(store: &Weak<Inner>, compactor: &Compactor, delay: Duration) {
    let idle = SchedulerAttributes { policy: SCHED_IDLE, ..SchedulerAttributes::default() };
    if let Err(error) = set_scheduler(0, &idle).and_then(|()| set_io_priority(IOPRIO_CLASS_IDLE, 7)) {
        tracing::debug!(%error, "layers are compacted with ordinary priority");
    }
    while compactor.wait(delay) {
        let Some(inner) = store.upgrade() else { return };
        if let Err(error) = work(&inner) {
            tracing::warn!(error = %palan_stdx::error_chain::to_string(&error), "cannot compact layers");
        }
    }
}

fn work(inner: &Arc<Inner>) -> Result<()> {
    let untried = database::untried(&inner.lock().db, FORMAT)?;
    for (blob, layer) in untried {
        if fs::metadata(&inner.blob_path(&blob)).is_err() {
            continue;
        }
        let outcome = attempt(inner, &blob, &layer);
        if inner.compactor.is_stopped() {
            return Ok(());
        }
        match outcome {
            Ok(recipe) => finish(inner, recipe)?,
            Err(refusal) => {
                let reason = palan_stdx::error_chain::to_string(&refusal);
                let mut state = inner.lock();
                // A full disk or a layer that went meanwhile says nothing about the blob.
                let is_there = fs::metadata(&inner.layers.join(&layer)).is_ok();
                if is_there && !is_disk_full(&refusal) {
                    tracing::debug!(%blob, reason, "a compressed layer stays");
                    database::insert_kept(&mut state.db, &blob, &reason, FORMAT)?;
                }
            }
        }
    }
    let is_over = || {
        while !inner.compactor.is_stopped() && inner.busy.is_any() {
            thread::sleep(PATIENCE);
        }
        inner.compactor.is_stopped()
    };
    let shared = inner.share_layers(&is_over)?;
    if shared.files > 0 {
        tracing::debug!(files = shared.files, bytes = shared.bytes, "files of several layers are kept once");
    }
    Ok(())
}

fn is_disk_full(refusal: &Refusal) -> bool {
    let Refusal::Io(error) = refusal else { return false };
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A recipe that is proven and has no name yet.
struct Proven {
    file: Temporary,
    row: database::RecipeRow,
}

/// A file that is removed unless it gets a name.
struct Temporary(std::path::PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone if it got its name; what can't be removed is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a recipe and proves it.
fn attempt(inner: &Inner, blob: &Digest, layer: &str) -> std::result::Result<Proven, Refusal> {
    let path = inner.blob_path(blob);
    let open = || fs::open(&path).map_err(io::Error::other);
    let file = open()?;
    let size = file.metadata()?.len();
    if size < SMALL {
        return Err(Refusal::Small);
    }
    let mut start = [0; 4];
    file.read_exact_at(&mut start, 0)?;
    let form = match Compression::detect(&start) {
        Compression::None => Form::Plain,
        Compression::Gzip => Form::Gzip,
        Compression::Zstd => return Err(Refusal::Compression("zstd")),
    };
    let header = Header { version: VERSION, blob: *blob, size, form, layer: layer.to_owned() };
    let temporary = Temporary(inner.recipes.join(format!(".tmp-{}", crate::store::random_name())));
    crate::fault::point("create a recipe");
    let mut writer = RecipeWriter::create(&temporary.0, &header, size / 2).map_err(io::Error::other)?;
    let root = || RootDir::open(inner.layers.join(layer)).map_err(io::Error::from);
    record(Polite { source: file, inner }, form, root()?, &inner.limits, &mut writer)?;
    let bytes = writer.length();
    let recipe = writer.into_file();
    recipe.sync_all()?;
    let mut rebuilt = Polite { source: rebuild::stream_of(&Recipe::read(recipe)?, root()?)?, inner };
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match rebuilt.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    if hasher.length() != size || hasher.finish() != *blob {
        return Err(Refusal::Differs);
    }
    let row = database::RecipeRow { blob: *blob, layer: layer.to_owned(), size, bytes };
    Ok(Proven { file: temporary, row })
}

/// Names the recipe, records it, removes the blob: in this order.
fn finish(inner: &Inner, proven: Proven) -> Result<()> {
    let Proven { file, row } = proven;
    let path = inner.recipe_path(&row.blob);
    crate::fault::point("name a recipe");
    fs::rename(&file.0, &path)?;
    sync_directory(&inner.recipes)?;
    let mut state = inner.lock();
    let needed = crate::database::blobs(&state.db)?.contains(&row.blob)
        && crate::database::layer(&state.db, &row.layer)?.is_some();
    if !needed || inner.busy.contains(&row.blob) {
        crate::fault::point("remove a recipe");
        return Ok(fs::remove_file(&path)?);
    }
    crate::fault::point("record a recipe");
    database::insert_recipe(&mut state.db, &row)?;
    crate::fault::point("remove a blob");
    fs::remove_file(&inner.blob_path(&row.blob))?;
    tracing::debug!(blob = %row.blob, size = row.size, recipe = row.bytes, "a compressed layer is kept as a recipe");
    Ok(())
}

fn sync_directory(path: &Path) -> Result<()> {
    let directory = fs::open(path)?;
    Ok(File::sync_all(&directory).path_context("sync", path)?)
}

/// A reader that waits while anything is brought, and ends when the store is closed.
struct Polite<'a, R> {
    source: R,
    inner: &'a Inner,
}

impl<R: Read> Read for Polite<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.inner.compactor.is_stopped() && self.inner.busy.is_any() {
            thread::sleep(PATIENCE);
        }
        if self.inner.compactor.is_stopped() {
            return Err(io::Error::other("the store is closed"));
        }
        self.source.read(buffer)
    }
}
