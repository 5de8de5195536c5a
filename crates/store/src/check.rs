//! `system fsck`: is everything in the store what it should be?
//!
//! What is looked at, in this order:
//!
//! 1. **Images:** configuration, manifest, the blobs of their layers and the layers' directories are there.
//! 2. **Blobs:** each has its digest. Those kept as recipes are made again for that, which reads the content of their layers.
//! 3. **Layers:** each is unpacked once more from its blob and compared, entry by entry with all metadata.
//! 4. **What nothing points to:** blobs, recipes and directories without a record.
//!
//! With repair, what is broken is put right from what is not: a layer from its blob. Where the blob is broken too, the
//! images that need it are dropped, and the report says what must be pulled again. Without repair nothing is changed.
//!
//! The check runs beside pulls and removals: what went away meanwhile is no problem, and what is new is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use palan_linux::path::RootDir;
use palan_oci::digest::Hasher;
use palan_oci::{Digest, ImageConfig, Manifest};
use palan_stdx::fs;

use crate::database::ImageRow;
use crate::image::ImageId;
use crate::layer::chain_key;
use crate::{Result, Store, database};

mod tree;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `image …`, `blob …`, `layer …`, `file …`.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// What was done about it; `None` without repair.
    pub repaired: Option<String>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Images looked at.
    pub images: u64,
    /// Blobs looked at, recipes included.
    pub blobs: u64,
    /// Layers looked at.
    pub layers: u64,
    /// In the order they were found.
    pub problems: Vec<Problem>,
    /// Names of images that were dropped (their ids where they had none).
    pub pull_again: Vec<String>,
}

/// A check in progress.
struct Check<'s> {
    store: &'s Store,
    repair: bool,
    report: Report,
    broken_blobs: BTreeSet<Digest>,
    /// Images that can't stay, and why.
    broken_images: BTreeMap<ImageId, String>,
}

impl Store {
    /// Checks the whole store. Reads every byte, and needs room for the largest layer once more.
    pub fn check(&self, repair: bool) -> Result<Report> {
        let mut check = Check {
            store: self,
            repair,
            report: Report::default(),
            broken_blobs: BTreeSet::new(),
            broken_images: BTreeMap::new(),
        };
        check.images()?;
        check.blobs()?;
        check.layers()?;
        check.drop_images()?;
        check.orphans()?;
        if repair {
            self.collect()?;
        }
        Ok(check.report)
    }
}

impl Check<'_> {
    fn problem(&mut self, object: String, what: impl Into<String>, repair: &str) {
        let what = what.into();
        tracing::warn!(%object, what, "the store has a problem");
        let repaired = (self.repair && !repair.is_empty()).then(|| repair.to_owned());
        self.report.problems.push(Problem { object, what, repaired });
    }

    fn images(&mut self) -> Result<()> {
        let rows = database::images(&self.store.inner.lock().db)?;
        self.report.images = rows.len() as u64;
        for row in rows {
            if let Some(what) = self.missing_in(&row)? {
                self.broken_images.insert(row.id, what);
            }
        }
        Ok(())
    }

    /// The first thing that an image lacks.
    fn missing_in(&self, row: &ImageRow) -> Result<Option<String>> {
        let inner = &self.store.inner;
        let config = self.store.read_blob(&row.id.digest()).ok();
        let Some(config) = config.and_then(|content| ImageConfig::parse(&content).ok()) else {
            return Ok(Some("its configuration is gone or broken".to_owned()));
        };
        if !inner.has_blob(&row.manifest) {
            return Ok(Some(format!("its manifest {} is gone", row.manifest)));
        }
        if config.rootfs.diff_ids.len() != row.layers.len() {
            return Ok(Some("its record and its configuration name different layers".to_owned()));
        }
        let manifest = self.store.read_blob(&row.manifest).ok();
        let manifest = manifest.and_then(|content| Manifest::parse(&content, None).ok());
        let listed = manifest.map(|manifest| manifest.layers).unwrap_or_default();
        for (index, key) in row.layers.iter().enumerate() {
            let Some(layer) = database::layer(&inner.lock().db, key)? else {
                return Ok(Some(format!("its layer {key} has no record")));
            };
            if fs::metadata(&inner.layers.join(key)).is_err() {
                return Ok(Some(format!("its layer {key} is gone")));
            }
            // The layer may have been unpacked from the blob of another image, which is gone with it.
            let has_own = listed.get(index).is_some_and(|listed| inner.has_blob(&listed.digest));
            if !has_own && !inner.has_blob(&layer.blob) {
                return Ok(Some(format!("the blob {} of its layer is gone", layer.blob)));
            }
        }
        Ok(None)
    }

    fn blobs(&mut self) -> Result<()> {
        let needed = database::blobs(&self.store.inner.lock().db)?;
        for digest in needed {
            if !self.store.has_blob(&digest) {
                // Another blob of the same layer is here in its place, or `images` has found it.
                continue;
            }
            self.report.blobs += 1;
            let Err(what) = self.read_blob(&digest) else { continue };
            if !self.store.has_blob(&digest) {
                continue;
            }
            self.broken_blobs.insert(digest);
            self.problem(format!("blob {digest}"), what, "removed");
        }
        Ok(())
    }

    fn read_blob(&self, digest: &Digest) -> Result<(), String> {
        let mut content =
            self.store.open_blob(digest).map_err(|error| palan_stdx::error_chain::to_string(&error))?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match content.read(&mut buffer).map_err(|error| palan_stdx::error_chain::to_string(&error))? {
                0 => break,
                length => hasher.update(&buffer[..length]),
            }
        }
        let actual = hasher.finish();
        if actual == *digest { Ok(()) } else { Err(format!("its content is that of {actual}")) }
    }

    fn layers(&mut self) -> Result<()> {
        let inner = &self.store.inner;
        let keys: BTreeSet<String> = database::layer_keys(&inner.lock().db)?.into_iter().collect();
        for key in keys {
            let Some(record) = database::layer(&inner.lock().db, &key)? else { continue };
            let directory = inner.layers.join(&key);
            // Without its blob there is nothing to compare with: a container stands on the layer of an image that was removed.
            // Where an image needs the blob, `images` has found that.
            if fs::metadata(&directory).is_err() || !inner.has_blob(&record.blob) {
                continue;
            }
            self.report.layers += 1;
            let lease = self.store.lease();
            lease.protect(record.diff_id);
            if let Some(chain) = key.strip_prefix("chain-").and_then(|hex| Digest::from_hex(hex).ok()) {
                lease.protect(chain);
            }
            let difference = match self.unpack_again(&key) {
                Ok(None) => continue,
                Ok(Some(fresh)) => {
                    let compared = RootDir::open(&directory)
                        .map_err(std::io::Error::from)
                        .and_then(|kept| tree::first_difference(&kept, &RootDir::open(&fresh)?));
                    match compared {
                        Ok(None) => {
                            inner.discard(&fresh);
                            continue;
                        }
                        Ok(Some(difference)) => {
                            self.problem(format!("layer {key}"), difference, "unpacked again from its blob");
                            if self.repair {
                                inner.trash_layer(&key)?;
                                inner.rename_layer(&fresh, &key)?;
                            } else {
                                inner.discard(&fresh);
                            }
                            continue;
                        }
                        Err(error) => {
                            inner.discard(&fresh);
                            error.to_string()
                        }
                    }
                }
                Err(error) => palan_stdx::error_chain::to_string(&error),
            };
            self.problem(
                format!("layer {key}"),
                format!("it can't be compared with its blob: {difference}"),
                "removed with the images that need it",
            );
            self.break_images_with(&key)?;
            if self.repair {
                database::drop_layer_and_its_images(&mut inner.lock().db, &key)?;
                // A container may stand on it; a broken layer must not be found by the next pull all the same.
                inner.trash_layer(&key)?;
            }
        }
        Ok(())
    }

    /// The layer as its blob says, in a directory of its own; `None` if it is not needed any more.
    fn unpack_again(&self, key: &str) -> Result<Option<std::path::PathBuf>> {
        let inner = &self.store.inner;
        let Some(record) = database::layer(&inner.lock().db, key)? else { return Ok(None) };
        if !key.starts_with("chain-") {
            return inner.unpack_alone(&record).map(Some);
        }
        let parents = self.parents_of(key)?;
        let Some(parents) = parents else { return Ok(None) };
        let temporary = format!(".tmp-{}", crate::store::random_name());
        inner.unpack_over_parents(&record, &temporary, parents)?;
        Ok(Some(inner.layers.join(temporary)))
    }

    /// The directories below a layer that stands on particular ones, topmost first.
    fn parents_of(&self, key: &str) -> Result<Option<Vec<std::path::PathBuf>>> {
        let inner = &self.store.inner;
        let state = inner.lock();
        for image in database::images(&state.db)? {
            if let Some(place) = image.layers.iter().position(|own| own == key) {
                let opaque =
                    |key: &str| Ok(database::layer(&state.db, key)?.is_some_and(|layer| layer.opaque_root));
                return Ok(Some(inner.directories(&crate::image::stack(&image.layers[..place], opaque)?)));
            }
        }
        Ok(None)
    }

    fn break_images_with(&mut self, key: &str) -> Result<()> {
        let images = database::images(&self.store.inner.lock().db)?;
        for image in images {
            if image.layers.iter().any(|own| own == key) {
                self.broken_images.entry(image.id).or_insert_with(|| format!("its layer {key} is broken"));
                let names = database::names_of(&self.store.inner.lock().db, &image.id)?;
                self.note_names(image.id, names);
            }
        }
        Ok(())
    }

    fn note_names(&mut self, id: ImageId, names: Vec<String>) {
        let names = if names.is_empty() { vec![id.to_string()] } else { names };
        for name in names {
            if !self.report.pull_again.contains(&name) {
                self.report.pull_again.push(name);
            }
        }
    }

    /// Images that lack something, or whose blobs are not what their digests say.
    fn drop_images(&mut self) -> Result<()> {
        let inner = &self.store.inner;
        for blob in self.broken_blobs.clone() {
            let images = database::images_with_blob(&inner.lock().db, &blob)?;
            for id in images {
                self.broken_images.entry(id).or_insert_with(|| format!("its blob {blob} is broken"));
            }
            if self.repair {
                let mut state = inner.lock();
                database::write_durably(&mut state.db, "remove a recipe", |transaction| {
                    database::recipe::delete_recipe(transaction, &blob)
                })?;
                fs::remove_file(&inner.blob_path(&blob))?;
                fs::remove_file(&inner.recipe_path(&blob))?;
            }
        }
        for (id, what) in std::mem::take(&mut self.broken_images) {
            // With a broken layer it was dropped before, and its names are noted.
            if database::image(&inner.lock().db, &id)?.is_some() {
                let names = database::names_of(&inner.lock().db, &id)?;
                self.note_names(id, names);
            }
            self.problem(format!("image {id}"), what, "dropped: pull it again");
            if self.repair {
                let mut state = inner.lock();
                state.syncing.forget_image(&id);
                database::delete_image(&mut state.db, &id)?;
            }
        }
        Ok(())
    }

    fn orphans(&mut self) -> Result<()> {
        let inner = &self.store.inner;
        let mut found = Vec::new();
        {
            let state = inner.lock();
            let protected = inner.leases.protected();
            let blobs = database::blobs(&state.db)?;
            let is_free = |digest: &Digest| {
                !blobs.contains(digest) && !protected.contains(digest) && !inner.busy.contains(digest)
            };
            for (kind, directory) in [("blob", &inner.blobs), ("recipe", &inner.recipes)] {
                for name in inner.names_in(directory)?.into_iter().filter(|name| !name.starts_with('.')) {
                    if Digest::from_hex(&name).map_or(true, |digest| is_free(&digest)) {
                        found.push((format!("{kind} {name}"), directory.join(name)));
                    }
                }
            }
            let layers = database::layer_keys(&state.db)?;
            let leased: Vec<String> =
                protected.iter().flat_map(|digest| [digest.hex(), chain_key(digest)]).collect();
            for name in inner.names_in(&inner.layers)?.into_iter().filter(|name| !name.starts_with('.')) {
                if !layers.contains(&name) && !leased.contains(&name) {
                    found.push((format!("directory {name}"), inner.layers.join(name)));
                }
            }
        }
        for (object, path) in found {
            self.problem(object, "nothing points to it", "removed");
            if self.repair {
                if path.starts_with(&inner.layers) {
                    inner.trash_layer(&path.file_name().unwrap_or_default().to_string_lossy())?;
                } else {
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
