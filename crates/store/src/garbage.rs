//! Removal of what nothing points to.
//!
//! **Invariant:** a layer is needed while an image lists it, a hold keeps it, it was made here and not released, a blob is made from it, or a lease protects its
//! diff-id; a blob while an image lists it, a lease protects it, or somebody brings it. All of that is looked up, and the removal decided, under
//! one lock. Records go first, and durably unless [`crate::durability`] has a reason, then directories and large blobs move to the trash, whose content is deleted in the
//! background: the kernel takes milliseconds to give the blocks of a large file back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use palan_oci::Digest;
use palan_stdx::fs;
use rusqlite::Transaction;

use crate::database::recipe::RecipeRow;
use crate::durability::Work;
use crate::layer::{chain_key, layer_key};
use crate::store::{EMPTY_LAYER, Inner, State};
use crate::{Result, Store, database};

/// A blob of fewer bytes is not kept for a next attempt, and is removed at once.
const SMALL: u64 = 64 * 1024;

impl State {
    /// Removes those of these layers and blobs that nothing needs. Whether anything went to the trash.
    pub(crate) fn remove_unneeded(
        &mut self,
        inner: &Inner,
        layers: &[String],
        blobs: &[Digest],
    ) -> Result<bool> {
        self.remove_those_unneeded(inner, layers, blobs, false)
    }

    /// As [`State::remove_unneeded`], of an image whose record was fresh. Waits for the disk only if a layer is not.
    pub(crate) fn remove_unneeded_of_fresh(
        &mut self,
        inner: &Inner,
        layers: &[String],
        blobs: &[Digest],
    ) -> Result<bool> {
        self.remove_those_unneeded(inner, layers, blobs, true)
    }

    fn remove_those_unneeded(
        &mut self,
        inner: &Inner,
        layers: &[String],
        blobs: &[Digest],
        image_was_fresh: bool,
    ) -> Result<bool> {
        let protected = inner.leases.protected();
        let recorded = if blobs.is_empty() { HashSet::new() } else { database::blobs(&self.db)? };
        let is_unneeded = |blob: &&Digest| {
            let is_used = protected.contains(blob) || inner.busy.contains(blob);
            if is_used && !recorded.contains(blob) {
                inner.leases.kept_something.store(true, Ordering::Relaxed);
            }
            !recorded.contains(blob) && !is_used
        };
        let blobs: Vec<&Digest> = blobs.iter().filter(is_unneeded).collect();
        let recipes = database::recipe::recipes(&self.db)?;
        let (gone, kept): (Vec<_>, Vec<_>) =
            recipes.into_iter().partition(|recipe| blobs.contains(&&recipe.blob));
        let needed = self.needed_layers(kept)?;
        let leased: HashSet<String> =
            protected.iter().flat_map(|digest| [layer_key(digest), chain_key(digest)]).collect();
        // Layers that were kept for a recipe's sake alone go with it.
        let candidates: HashSet<&String> = layers.iter().chain(gone.iter().map(|gone| &gone.layer)).collect();
        let (leased, unneeded): (Vec<&String>, Vec<&String>) = candidates
            .into_iter()
            .filter(|key| !needed.contains(*key) && *key != EMPTY_LAYER)
            .partition(|key| leased.contains(*key));
        if !leased.is_empty() {
            inner.leases.kept_something.store(true, Ordering::Relaxed);
        }
        if !unneeded.is_empty() || !blobs.is_empty() {
            crate::fault::point("remove records of layers");
            let mut are_fresh = true;
            for key in &unneeded {
                are_fresh &= self.syncing.forget_layer(key);
            }
            let change = |transaction: &Transaction<'_>| {
                unneeded.iter().try_for_each(|key| database::delete_layer(transaction, key))?;
                blobs.iter().try_for_each(|blob| database::recipe::delete_recipe(transaction, blob))
            };
            if image_was_fresh && are_fresh && gone.is_empty() && self.syncing.owes_nothing() {
                database::write_freeing(&mut self.db, "remove layers", change)?;
            } else {
                database::write_durably(&mut self.db, "remove layers", change)?;
                self.syncing.wrote_durably();
            }
        }
        let mut trashed = !unneeded.is_empty();
        for key in &unneeded {
            inner.trash_layer(key)?;
            self.pending.retain(|diff_id, _| layer_key(diff_id) != **key);
        }
        for blob in blobs {
            trashed |= inner.remove_blob(blob)?;
            crate::fault::point("remove a recipe");
            fs::remove_file(&inner.recipe_path(blob))?;
        }
        Ok(trashed)
    }

    /// The layers that images, holds and these recipes need.
    fn needed_layers(&self, recipes: Vec<RecipeRow>) -> Result<HashSet<String>> {
        let mut needed: HashSet<String> = HashSet::new();
        for image in database::images(&self.db)? {
            needed.extend(image.layers);
        }
        for (_, _, layers) in database::holds(&self.db)? {
            needed.extend(layers);
        }
        needed.extend(recipes.into_iter().map(|recipe| recipe.layer));
        needed.extend(crate::made::all_made(&self.db)?);
        Ok(needed)
    }
}

impl Store {
    /// Removes layers and blobs that a transfer brought and no image came of. Call it when a pull or load failed, after
    /// its lease is gone.
    pub fn collect(&self) -> Result<()> {
        self.inner.collect()
    }
}

impl Inner {
    /// Takes a blob away. Whether it went to the trash.
    fn remove_blob(&self, blob: &Digest) -> Result<bool> {
        let path = self.blob_path(blob);
        let Some(metadata) = fs::if_exists(fs::metadata(&path))? else { return Ok(false) };
        if metadata.len() < SMALL {
            crate::fault::point("remove a blob");
            fs::remove_file(&path)?;
            return Ok(false);
        }
        crate::fault::point("move a blob to the trash");
        self.trash(&path)?;
        Ok(true)
    }

    pub(crate) fn collect(self: &Arc<Self>) -> Result<()> {
        let mut state = self.lock();
        let layers: Vec<String> =
            self.names_in(&self.layers)?.into_iter().filter(|name| !name.starts_with('.')).collect();
        let protected = self.leases.protected();
        state.pending.retain(|diff_id, _| protected.contains(diff_id));
        // A complete layer without an image is a part that needs no more bytes: the next attempt gets it for free. What is
        // small is fetched again as fast.
        let recorded = database::blobs(&state.db)?;
        for name in self.names_in(&self.blobs)? {
            let Ok(digest) = Digest::from_hex(&name) else { continue };
            if recorded.contains(&digest) {
                continue;
            }
            if protected.contains(&digest) || self.busy.contains(&digest) {
                self.leases.kept_something.store(true, Ordering::Relaxed);
            } else {
                crate::fault::point("make a blob a part again");
                let path = self.blob_path(&digest);
                if fs::metadata(&path)?.len() < SMALL {
                    fs::remove_file(&path)?;
                } else {
                    fs::rename(&path, &self.part_path(&digest))?;
                }
            }
        }
        let recipes: Vec<Digest> =
            database::recipe::recipes(&state.db)?.into_iter().map(|recipe| recipe.blob).collect();
        let trashed = state.remove_unneeded(self, &layers, &recipes)?;
        drop(state);
        self.background.schedule(self, Work { trash: trashed, ..Work::default() });
        Ok(())
    }
}
