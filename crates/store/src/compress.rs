//! Layers that are kept as plain tars, compressed for those who want them so: registries.
//!
//! ```text
//! image made here, manifest M1 (tars)
//!   │ for each tar, several side by side: open_blob ─▶ gzip, sha256 ─▶ .ingest/.tmp-… ─▶ synced ─▶ <hex> ─▶ row (image, tar ─▶ <hex>)
//!   ▼
//! M2: the same with the compressed layers ─▶ synced ─▶ row: the image's manifest is M2, M1 is not needed any more
//! ```
//!
//! What is compressed is told by who wrote the manifest: a row in `made_images` says that M1 is of this program (`ImageCommit::made_here`). An image that
//! was pulled or loaded has no such row, or one with another manifest, and keeps its bytes. The configuration is not touched, so
//! the image keeps its id.
//!
//! What of a build's cache goes to others is compressed in the same way, without an image: the row in `kept_forms` keeps the compressed form for as
//! long as the layer itself ([`Store::compress_made`]).
//!
//! **Invariant:** content is on the disk before a row names it, and the rows are written without marking the image as not synced: a
//! power loss takes the compressed form at most, never an image that was whole. A kill leaves what is named by a row, so the next push
//! compresses the rest only.
//!
//! **Invariant:** each tar is compressed by one at a time; who wants the same waits, and finds it. The same tar gives the same bytes: blocks of
//! one size go through one encoder. Later the blob may become a recipe like any other (`recipe`), whose proof does not depend on the encoder.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use flate2::write::GzEncoder;
use palan_oci::media_type::{self, Class, Compression};
use palan_oci::{Descriptor, Digest, Manifest};
use palan_stdx::fs::{self, PathContext as _};
use rusqlite::{Connection, Transaction, params};

use crate::archive::Hashing;
use crate::content::Busy;
use crate::image::ImageId;
use crate::{Error, Lease, Result, Store, database};

/// Only ever added to the tables that are there, so an older program that does not know it is not disturbed.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS made_images (
    image TEXT PRIMARY KEY REFERENCES images ON DELETE CASCADE,
    manifest TEXT NOT NULL          -- of this program; the image may have come with another one since
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compressed_layers (
    tar TEXT PRIMARY KEY,           -- a layer's diff-id
    blob TEXT NOT NULL,             -- the same, compressed here; of use while it is here
    size INTEGER NOT NULL           -- of the blob
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kept_forms (
    tar TEXT PRIMARY KEY,           -- a layer that was made here and is kept for its own sake
    blob TEXT NOT NULL              -- the same, compressed here, kept with it
) WITHOUT ROWID;
";

/// Layers that are compressed side by side, at most.
const MAX_THREADS: usize = 4;
/// What the encoder gets at once.
const BLOCK: usize = 256 * 1024;

impl Store {
    /// Compresses the layers of an image that was made here, and gives the image a manifest that names them. The new manifest's digest; none if there is
    /// nothing to do. What it names is protected by `lease`, also if the image is removed meanwhile. Takes as long as an encoder needs.
    pub fn compress_image(&self, id: &ImageId, lease: &Lease) -> Result<Option<Digest>> {
        // Protected before they are looked up, so that they can't go between the two.
        lease.protect(id.digest());
        let Some(image) = self.image(id)? else { return Ok(None) };
        // Nobody needs this one when there is another: it is not for the caller to keep.
        let first = self.lease();
        first.protect(image.manifest);
        if made_manifest(&self.inner.lock().db, id)? != Some(image.manifest) {
            return Ok(None);
        }
        let content = self.read_blob(&image.manifest)?;
        let mut manifest = Manifest::parse(&content, None)
            .map_err(|source| Error::Manifest { digest: image.manifest, source })?;
        manifest.layers = self.stored_layers(&image, lease)?;
        let mut plain: Vec<Digest> = Vec::new();
        for layer in manifest.layers.iter().filter(|layer| is_plain(layer)) {
            if !plain.contains(&layer.digest) {
                plain.push(layer.digest);
            }
        }
        if plain.is_empty() {
            return Ok(None);
        }
        let compressed = self.compress_layers(Some(id), &plain, lease)?;
        for layer in manifest.layers.iter_mut().filter(|layer| is_plain(layer)) {
            let Some(known) = compressed.get(&layer.digest) else { continue };
            (layer.digest, layer.size) = (known.digest, known.size);
            layer.media_type.clone_from(&known.media_type);
        }
        let content = crate::archive::to_json(&manifest);
        let digest = Digest::of(&content);
        lease.protect(digest);
        self.put_blob(&content)?;
        self.sync_blob(&digest)?;
        self.remove_part(&digest)?;
        drop(first);
        self.replace_manifest(id, &image.manifest, &digest)?;
        Ok(Some(digest))
    }

    /// A layer as it is transferred, compressed if it was made here. `lease` protects it, and its compressed form stays as long as the layer
    /// is kept for its own sake.
    pub fn compress_made(&self, diff_id: &Digest, lease: &Lease) -> Result<Descriptor> {
        let known = self.describe(diff_id, lease)?;
        let is_made = is_plain(&known) && known.digest == *diff_id && self.layer_made_at(diff_id)?.is_some();
        if is_made { self.compress_layer(None, diff_id, lease) } else { Ok(known) }
    }

    /// These layers as they are transferred, in their order: those that were never compressed are now. They stay as long as `lease`, and are
    /// for whoever writes a manifest that shall not change.
    pub fn compressed_layers(&self, diff_ids: &[Digest], lease: &Lease) -> Result<Vec<Descriptor>> {
        let mut layers: Vec<Descriptor> =
            diff_ids.iter().map(|diff_id| self.describe(diff_id, lease)).collect::<Result<_>>()?;
        let mut plain: Vec<Digest> = Vec::new();
        for layer in layers.iter().filter(|layer| is_plain(layer)) {
            if !plain.contains(&layer.digest) {
                plain.push(layer.digest);
            }
        }
        let compressed = self.compress_layers(None, &plain, lease)?;
        for layer in layers.iter_mut().filter(|layer| is_plain(layer)) {
            if let Some(known) = compressed.get(&layer.digest) {
                layer.clone_from(known);
            }
        }
        Ok(layers)
    }

    /// A layer in the form in which it was compressed here, if it is here. `lease` protects it.
    pub(crate) fn compressed_form(&self, tar: &Digest, lease: &Lease) -> Result<Option<Descriptor>> {
        let state = self.inner.lock();
        let query = "SELECT blob, size FROM compressed_layers WHERE tar = ?1";
        let known =
            database::first(&state.db, "look up a compressed layer", query, &tar.to_string(), |row| {
                Ok((database::digest(row, 0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            })?;
        let Some((blob, size)) = known else { return Ok(None) };
        lease.protect(blob);
        Ok(self.inner.has_blob(&blob).then(|| descriptor(blob, size)))
    }

    /// By tars. The first failure ends it.
    fn compress_layers(
        &self,
        image: Option<&ImageId>,
        tars: &[Digest],
        lease: &Lease,
    ) -> Result<HashMap<Digest, Descriptor>> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(tars.len());
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::with_capacity(tars.len()));
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(tar) = tars.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.compress_layer(image, tar, lease);
                        if outcome.is_err() {
                            next.store(tars.len(), Ordering::Relaxed);
                        }
                        let outcome = outcome.map(|layer| (*tar, layer));
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                    }
                });
            }
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }

    /// For an image, or for the layer's own sake.
    fn compress_layer(&self, image: Option<&ImageId>, tar: &Digest, lease: &Lease) -> Result<Descriptor> {
        let inner = &self.inner;
        loop {
            if let Some(known) = self.compressed_form(tar, lease)? {
                self.record_compressed(image, tar, &known)?;
                return Ok(known);
            }
            let Some(claim) = Busy::claim(inner, *tar) else {
                inner.busy.wait_until_free(tar);
                continue;
            };
            // Whoever had it before may have done it since it was looked up.
            if self.compressed_form(tar, lease)?.is_some() {
                continue;
            }
            let made = self.compress(tar, lease)?;
            self.record_compressed(image, tar, &made)?;
            drop(claim);
            inner.compactor.notify();
            return Ok(made);
        }
    }

    fn compress(&self, tar: &Digest, lease: &Lease) -> Result<Descriptor> {
        let inner = &self.inner;
        let temporary = inner.ingest.join(format!(".tmp-{}", crate::store::random_name()));
        let compressed = self.compress_to(tar, &temporary).and_then(|made| {
            lease.protect(made.digest);
            crate::fault::point("name a compressed layer");
            fs::rename(&temporary, &inner.blob_path(&made.digest))?;
            self.sync_blobs()?;
            self.remove_part(&made.digest)?;
            Ok(made)
        });
        if compressed.is_err() {
            // The error to tell is the one at hand.
            let _ = fs::remove_file(&temporary);
        }
        compressed
    }

    fn compress_to(&self, tar: &Digest, path: &Path) -> Result<Descriptor> {
        let mut source = self.open_blob(tar)?;
        crate::fault::point("create a compressed layer");
        let mut encoder = GzEncoder::new(Hashing::create(path)?, flate2::Compression::default());
        let mut block = vec![0; BLOCK];
        loop {
            let length =
                fill(&mut source, &mut block).map_err(|source| Error::Source { digest: *tar, source })?;
            encoder.write_all(&block[..length]).path_context("write", path)?;
            if length < block.len() {
                break;
            }
        }
        let (file, hasher) = encoder.finish().path_context("write", path)?.into_parts();
        file.sync_all().path_context("sync", path)?;
        let size = hasher.length();
        Ok(descriptor(hasher.finish(), size))
    }

    /// From here on the blob is the image's, or the layer's, if that is still there.
    fn record_compressed(&self, image: Option<&ImageId>, tar: &Digest, made: &Descriptor) -> Result<()> {
        let mut state = self.inner.lock();
        let is_there = match image {
            Some(image) => database::image(&state.db, image)?.is_some(),
            None => crate::made::is_kept(&state.db, tar)?,
        };
        if !is_there {
            return Ok(());
        }
        crate::fault::point("record a compressed layer");
        database::write(&mut state.db, "record a compressed layer", |transaction| {
            match image {
                Some(image) => put_image_blob(transaction, image, &made.digest)?,
                None => {
                    let query = "INSERT OR REPLACE INTO kept_forms VALUES (?1, ?2)";
                    transaction.execute(query, [tar.to_string(), made.digest.to_string()]).map(drop)?;
                }
            }
            let values = params![tar.to_string(), made.digest.to_string(), made.size.cast_signed()];
            transaction.execute("INSERT OR REPLACE INTO compressed_layers VALUES (?1, ?2, ?3)", values)?;
            let stale = "DELETE FROM compressed_layers WHERE blob NOT IN (SELECT digest FROM image_blobs)
                AND blob NOT IN (SELECT blob FROM kept_forms)";
            transaction.execute(stale, []).map(drop)
        })
    }

    /// Gives an image another manifest, unless it has got one since.
    fn replace_manifest(&self, image: &ImageId, old: &Digest, new: &Digest) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.lock();
        if database::image(&state.db, image)?.is_none_or(|row| row.manifest != *old) {
            return Ok(());
        }
        crate::fault::point("record another manifest");
        database::write(&mut state.db, "record another manifest", |transaction| {
            put_image_blob(transaction, image, new)?;
            let query = "UPDATE images SET manifest = ?2 WHERE id = ?1";
            transaction.execute(query, [image.to_string(), new.to_string()])?;
            // A registry may have it: then it has a name.
            let query = "DELETE FROM image_blobs WHERE image = ?1 AND digest = ?2
                AND NOT EXISTS (SELECT 1 FROM names WHERE name LIKE '%@' || ?2)";
            transaction.execute(query, [image.to_string(), old.to_string()]).map(drop)
        })?;
        state.remove_unneeded(inner, &[], &[*old]).map(drop)
    }

    /// A process that was killed may have come so far before it was recorded.
    fn remove_part(&self, digest: &Digest) -> Result<()> {
        let part = self.inner.part_path(digest);
        if fs::metadata(&part).is_ok()
            && let Some(_claim) = Busy::claim(&self.inner, *digest)
        {
            crate::fault::point("remove a part");
            fs::if_exists(fs::remove_file(&part))?;
        }
        Ok(())
    }

    pub(crate) fn sync_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.inner.blob_path(digest);
        fs::open(&path)?.sync_all().path_context("sync", &path)?;
        self.sync_blobs()
    }

    fn sync_blobs(&self) -> Result<()> {
        let path = &self.inner.blobs;
        let directory = fs::open(path)?;
        Ok(File::sync_all(&directory).path_context("sync", path)?)
    }
}

/// Notes that this program wrote an image's manifest.
pub(crate) fn put_made(
    transaction: &Transaction<'_>,
    image: &ImageId,
    manifest: &Digest,
) -> rusqlite::Result<()> {
    let query = "INSERT OR REPLACE INTO made_images VALUES (?1, ?2)";
    transaction.execute(query, [image.to_string(), manifest.to_string()]).map(drop)
}

/// The compressed form that is kept for a layer's own sake.
pub(crate) fn kept_form(db: &Connection, tar: &Digest) -> Result<Option<Digest>> {
    let query = "SELECT blob FROM kept_forms WHERE tar = ?1";
    database::first(db, "look up a compressed layer", query, &tar.to_string(), |row| database::digest(row, 0))
}

pub(crate) fn release_form(transaction: &Transaction<'_>, tar: &Digest) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM kept_forms WHERE tar = ?1", [tar.to_string()]).map(drop)
}

fn made_manifest(db: &Connection, image: &ImageId) -> Result<Option<Digest>> {
    let query = "SELECT manifest FROM made_images WHERE image = ?1";
    database::first(db, "look up an image", query, &image.to_string(), |row| database::digest(row, 0))
}

pub(crate) fn put_image_blob(
    transaction: &Transaction<'_>,
    image: &ImageId,
    blob: &Digest,
) -> rusqlite::Result<()> {
    let query = "INSERT OR IGNORE INTO image_blobs VALUES (?1, ?2)";
    transaction.execute(query, [image.to_string(), blob.to_string()]).map(drop)
}

fn is_plain(layer: &Descriptor) -> bool {
    matches!(layer.class(), Class::Layer { compression: Compression::None, foreign: false })
}

fn descriptor(digest: Digest, size: u64) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size)
}

/// Reads until the buffer is full or the source at its end.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests;
