//! What keeps content alive that no image record points to yet, or no longer.
//!
//! A [`Lease`] lives in memory: it protects what a transfer in progress has brought so far, and dies with the process,
//! like the transfer. A *hold* is a row in the database: it protects the layers below a container, even when the
//! image is removed by force, until the container is gone.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use palan_oci::Digest;

use crate::durability::Work;
use crate::image::ImageId;
use crate::store::Inner;
use crate::{Result, Store, database};

/// Protects blobs and layers from removal while it lives.
#[derive(Debug)]
pub struct Lease {
    protected: Arc<Mutex<HashSet<Digest>>>,
    /// What counts the handles; `None` only while the last act of one is under way.
    handle: Option<Arc<()>>,
    store: Weak<Inner>,
}

impl Lease {
    /// Protects a blob (by digest) and a layer (by diff-id) with that digest.
    pub fn protect(&self, digest: Digest) {
        self.protected.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
    }

    /// A second handle, also for another thread; the lease lives as long as either.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            protected: Arc::clone(&self.protected),
            handle: self.handle.clone(),
            store: Weak::clone(&self.store),
        }
    }
}

impl Drop for Lease {
    /// What was to be removed and stayed for this lease's sake goes now.
    fn drop(&mut self) {
        if self.handle.take().and_then(Arc::into_inner).is_none() {
            return;
        }
        self.protected.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(inner) = self.store.upgrade()
            && inner.leases.kept_something.swap(false, Ordering::Relaxed)
        {
            inner.background.schedule(&inner, Work { collect: true, ..Work::default() });
        }
    }
}

/// All leases that are alive.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    alive: Mutex<Vec<Weak<Mutex<HashSet<Digest>>>>>,
    /// Something would have been removed if no lease had protected it.
    pub(crate) kept_something: AtomicBool,
}

impl Leases {
    pub(crate) fn create(&self, inner: &Arc<Inner>) -> Lease {
        let protected = Arc::new(Mutex::new(HashSet::new()));
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|lease| lease.strong_count() > 0);
        alive.push(Arc::downgrade(&protected));
        Lease { protected, handle: Some(Arc::new(())), store: Arc::downgrade(inner) }
    }

    /// Everything that any lease protects.
    pub(crate) fn protected(&self) -> HashSet<Digest> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashSet::new();
        for lease in alive.iter().filter_map(Weak::upgrade) {
            all.extend(lease.lock().unwrap_or_else(PoisonError::into_inner).iter().copied());
        }
        all
    }
}

impl Store {
    /// A new lease that protects nothing yet.
    pub fn lease(&self) -> Lease {
        self.inner.leases.create(&self.inner)
    }

    /// Keeps the layers of `image` for `owner` (a container id, say) until [`Store::release`], also across restarts and
    /// a forced removal of the image. An earlier hold of the same owner is replaced. Cheap: one row, no fsync.
    pub fn hold(&self, owner: &str, image: &ImageId) -> Result<()> {
        let mut state = self.inner.lock();
        let layers = state.stack(image)?;
        database::set_hold(&mut state.db, owner, image, &layers)
    }

    /// Ends a hold; unknown owners are fine. Layers that nothing else needs are removed in the background.
    pub fn release(&self, owner: &str) -> Result<()> {
        let mut state = self.inner.lock();
        let Some((image, layers)) = database::hold(&state.db, owner)? else { return Ok(()) };
        database::delete_hold(&mut state.db, owner)?;
        // The usual case: the image is there, and with it all its layers. Looking through all holds takes time.
        let own = database::image(&state.db, &image)?.map_or_else(Vec::new, |image| image.layers);
        if layers.iter().all(|layer| own.contains(layer)) {
            return Ok(());
        }
        if state.remove_unneeded(&self.inner, &layers, &[])? {
            drop(state);
            self.inner.background.schedule(&self.inner, Work::TRASH);
        }
        Ok(())
    }

    /// All holds: owner and image.
    pub fn holds(&self) -> Result<Vec<(String, ImageId)>> {
        let holds = database::holds(&self.inner.lock().db)?;
        Ok(holds.into_iter().map(|(owner, image, _)| (owner, image)).collect())
    }

    /// The layer directories that a hold keeps, topmost first: what `lower_dirs` said when the hold was made.
    pub fn held_lower_dirs(&self, owner: &str) -> Result<Option<Vec<PathBuf>>> {
        let hold = database::hold(&self.inner.lock().db, owner)?;
        Ok(hold.map(|(_, layers)| self.inner.directories(&layers)))
    }
}
