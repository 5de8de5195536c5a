//! What survives a power loss, and why no pull waits for the disk.
//!
//! A kill needs no care: what a process wrote is in the page cache and stays. Against a power loss, content must be on
//! the disk before anything trusts it. Waiting for that costs seconds for a large image, so it happens behind
//! the user's back:
//!
//! 1. Layers and blobs are written and renamed; the record is committed with `synced = 0`. The image can be used.
//! 2. In the background one `syncfs` writes out everything, files and database alike, and then `synced` becomes 1.
//! 3. At the next open the kernel's boot id is compared. In the same boot nothing was lost, and step 2 is done again.
//!    In another boot, records that are not synced, and all that depends on them, are dropped: they are not
//!    half there, they are gone, and the next pull brings them. Their blobs become parts, whose digest is checked from the first
//!    byte again.
//!
//! A removal goes the other way round: its transaction is synced (`synchronous = FULL`) before a file is deleted, so
//! that no power loss brings back the record of an image whose files are gone. What was recorded and never marked as synced
//! needs no such care ([`Syncing`]) if no record that may come back needs the same: whatever state of the database comes back has it as not
//! synced, and drops it. So an image that is
//! removed right after its pull does not wait for the pull's data to be written.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::database::Unsynced;
use crate::image::ImageId;
use crate::store::{Inner, State};
use crate::{Result, Store, database};

/// Where records are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Syncing {
    /// What this process recorded and never marked as synced.
    fresh: Unsynced,
    /// What is being written. Removed records leave it: recorded anew, they are of files that are not written yet.
    batch: Unsynced,
    /// A record that may be on the disk was removed without a durable write: a power cut can bring it back, with all it needs. Until the
    /// next durable write nothing may go without one.
    owes_write: bool,
    /// The sync that is going on pays it.
    pays: bool,
}

impl Default for Syncing {
    /// What the process before this one owed, nobody knows.
    fn default() -> Self {
        Self { fresh: Unsynced::default(), batch: Unsynced::default(), owes_write: true, pays: false }
    }
}

impl Syncing {
    /// Notes records that were not there before.
    pub(crate) fn recorded(&mut self, layers: Vec<String>, image: Option<ImageId>) {
        self.fresh.layers.extend(layers);
        self.fresh.images.extend(image);
    }

    /// Notes that an image is removed; whether its record was fresh.
    pub(crate) fn forget_image(&mut self, id: &ImageId) -> bool {
        self.batch.images.remove(id);
        let was_fresh = self.fresh.images.remove(id);
        if !was_fresh {
            (self.owes_write, self.pays) = (true, false);
        }
        was_fresh
    }

    /// Whether files may be deleted without a durable write, as far as records that were removed earlier are concerned.
    pub(crate) fn owes_nothing(&self) -> bool {
        !self.owes_write
    }

    /// Notes a durable write: with it, everything before it is durable.
    pub(crate) fn wrote_durably(&mut self) {
        self.owes_write = false;
    }

    /// Notes that a layer is removed; whether its record was fresh.
    pub(crate) fn forget_layer(&mut self, key: &str) -> bool {
        self.batch.layers.remove(key);
        self.fresh.layers.remove(key)
    }
}

impl State {
    /// Call it before the file system is synced.
    fn begin_sync(&mut self) -> Result<()> {
        self.syncing.batch = database::unsynced(&self.db)?;
        self.syncing.pays = true;
        Ok(())
    }

    /// Call it when the file system is synced.
    fn end_sync(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.syncing.batch);
        if std::mem::take(&mut self.syncing.pays) {
            self.syncing.wrote_durably();
        }
        self.syncing.fresh.layers.retain(|key| !batch.layers.contains(key));
        self.syncing.fresh.images.retain(|id| !batch.images.contains(id));
        database::mark_synced(&mut self.db, &batch)
    }
}

/// Work behind the user's back, done by a thread that lives while there is some.
#[derive(Debug, Default)]
pub(crate) struct Background {
    orders: Mutex<Orders>,
    done: Condvar,
}

/// What is to be done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Work {
    /// Write what was committed to the disk.
    pub(crate) sync: bool,
    /// Delete what is in the trash.
    pub(crate) trash: bool,
    /// Remove what nothing points to.
    pub(crate) collect: bool,
}

impl Work {
    pub(crate) const SYNC: Self = Self { sync: true, trash: false, collect: false };
    pub(crate) const TRASH: Self = Self { sync: false, trash: true, collect: false };

    fn is_any(self) -> bool {
        self.sync || self.trash || self.collect
    }
}

#[derive(Debug, Default)]
struct Orders {
    work: Work,
    running: bool,
}

impl Background {
    pub(crate) fn schedule(&self, inner: &Arc<Inner>, more: Work) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.work.sync |= more.sync;
        orders.work.trash |= more.trash;
        orders.work.collect |= more.collect;
        if orders.running || !orders.work.is_any() {
            return;
        }
        let inner = Arc::clone(inner);
        let started =
            thread::Builder::new().name("store".to_owned()).spawn(move || inner.background.run(&inner));
        match started {
            Ok(_) => orders.running = true,
            Err(error) => {
                tracing::warn!(%error, "cannot start the store's background thread; the next change tries again")
            }
        }
    }

    fn run(&self, inner: &Arc<Inner>) {
        loop {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            let Work { sync, trash, collect } = std::mem::take(&mut orders.work);
            if !(sync || trash || collect) {
                orders.running = false;
                self.done.notify_all();
                return;
            }
            drop(orders);
            if collect {
                report("remove what nothing points to", inner.collect());
            }
            if trash {
                report("empty the trash", inner.empty_trash());
                database::reserve::make(&inner.root);
            }
            if sync {
                report("write images to the disk", inner.sync());
            }
        }
    }

    /// Starts nothing until [`Background::resume`]; orders are kept.
    #[cfg(test)]
    fn pause(&self) {
        self.wait();
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).running = true;
    }

    #[cfg(test)]
    fn resume(&self) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).running = false;
    }

    fn wait(&self) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.done.wait_while(orders, |orders| orders.running));
    }
}

impl Store {
    /// Waits until everything that was committed is on the disk and everything that was removed is gone. For an orderly
    /// shutdown, and for tests.
    pub fn settle(&self) {
        self.inner.background.wait();
    }
}

impl Inner {
    fn sync(&self) -> Result<()> {
        self.lock().begin_sync()?;
        let root = palan_stdx::fs::open(&self.root)?;
        rustix::fs::syncfs(&root)
            .map_err(|error| palan_stdx::fs::PathError::new("sync the file system of", &self.root, error))?;
        crate::fault::point("note that images are on the disk");
        self.lock().end_sync()?;
        self.compactor.notify();
        Ok(())
    }

    fn empty_trash(&self) -> Result<()> {
        for name in self.names_in(&self.layers)?.iter().filter(|name| name.starts_with(".trash-")) {
            crate::fault::point("delete a directory in the trash");
            palan_linux::path::remove_tree(&self.layers.join(name))?;
        }
        Ok(())
    }
}

fn report(action: &'static str, result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(error = %palan_stdx::error_chain::to_string(&error), "cannot {action}");
    }
}

#[cfg(test)]
mod tests;
