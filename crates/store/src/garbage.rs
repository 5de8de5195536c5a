//! Removal of what nothing points to.
//!
//! **Invariant:** a layer is needed while an image lists it, a hold keeps it, a blob is made from it, or a lease protects its
//! diff-id; a blob while an image lists it, a lease protects it, or somebody brings it. All of that is looked up, and the removal decided, under
//! one lock. Records go first and durably, then directories move to the trash, and their content is deleted in the background.

use std::collections::HashSet;

use palan_oci::Digest;
use palan_stdx::fs;

use crate::database::recipe::RecipeRow;
use crate::layer::{chain_key, layer_key};
use crate::store::{EMPTY_LAYER, Inner, State};
use crate::{Result, Store, database};

impl State {
    /// Removes those of these layers and blobs that nothing needs. Whether any layer went to the trash.
    pub(crate) fn remove_unneeded(
        &mut self,
        inner: &Inner,
        layers: &[String],
        blobs: &[Digest],
    ) -> Result<bool> {
        let protected = inner.leases.protected();
        let recorded = if blobs.is_empty() { HashSet::new() } else { database::blobs(&self.db)? };
        let is_unneeded = |blob: &&Digest| {
            !recorded.contains(blob) && !protected.contains(blob) && !inner.busy.contains(blob)
        };
        let blobs: Vec<&Digest> = blobs.iter().filter(is_unneeded).collect();
        let recipes = database::recipe::recipes(&self.db)?;
        let (gone, kept): (Vec<_>, Vec<_>) =
            recipes.into_iter().partition(|recipe| blobs.contains(&&recipe.blob));
        let needed = self.needed_layers(inner, kept)?;
        // Layers that were kept for a recipe's sake alone go with it.
        let candidates: HashSet<&String> = layers.iter().chain(gone.iter().map(|gone| &gone.layer)).collect();
        let unneeded: Vec<&String> =
            candidates.into_iter().filter(|key| !needed.contains(*key) && *key != EMPTY_LAYER).collect();
        if !unneeded.is_empty() || !blobs.is_empty() {
            crate::fault::point("remove records of layers");
            database::write_durably(&mut self.db, "remove layers", |transaction| {
                unneeded.iter().try_for_each(|key| database::delete_layer(transaction, key))?;
                blobs.iter().try_for_each(|blob| database::recipe::delete_recipe(transaction, blob))
            })?;
        }
        for key in &unneeded {
            inner.trash_layer(key)?;
            self.pending.retain(|diff_id, _| layer_key(diff_id) != **key);
        }
        for blob in blobs {
            crate::fault::point("remove a blob");
            fs::remove_file(&inner.blob_path(blob))?;
            crate::fault::point("remove a recipe");
            fs::remove_file(&inner.recipe_path(blob))?;
        }
        Ok(!unneeded.is_empty())
    }

    /// The layers that images, holds, leases and these recipes need.
    fn needed_layers(&self, inner: &Inner, recipes: Vec<RecipeRow>) -> Result<HashSet<String>> {
        let mut needed: HashSet<String> = HashSet::new();
        for image in database::images(&self.db)? {
            needed.extend(image.layers);
        }
        for (_, _, layers) in database::holds(&self.db)? {
            needed.extend(layers);
        }
        needed.extend(recipes.into_iter().map(|recipe| recipe.layer));
        for digest in inner.leases.protected() {
            needed.extend([layer_key(&digest), chain_key(&digest)]);
        }
        Ok(needed)
    }
}

impl Store {
    /// Removes layers and blobs that a transfer brought and no image came of. Call it when a pull or load failed, after
    /// its lease is gone.
    pub fn collect(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        let layers: Vec<String> =
            inner.names_in(&inner.layers)?.into_iter().filter(|name| !name.starts_with('.')).collect();
        let protected = inner.leases.protected();
        state.pending.retain(|diff_id, _| protected.contains(diff_id));
        // A complete blob without an image is a part that needs no more bytes: the next attempt gets it for free.
        let recorded = database::blobs(&state.db)?;
        for name in inner.names_in(&inner.blobs)? {
            let Ok(digest) = Digest::from_hex(&name) else { continue };
            if !recorded.contains(&digest) && !protected.contains(&digest) && !inner.busy.contains(&digest) {
                fs::rename(&inner.blob_path(&digest), &inner.part_path(&digest))?;
            }
        }
        let recipes: Vec<Digest> =
            database::recipe::recipes(&state.db)?.into_iter().map(|recipe| recipe.blob).collect();
        let trashed = state.remove_unneeded(inner, &layers, &recipes)?;
        drop(state);
        inner.background.schedule(inner, false, trashed);
        Ok(())
    }
}
