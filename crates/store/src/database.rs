//! The database of images: one connection, used under the store's lock.
//!
//! Everything here is a query or one transaction; what they mean is said where they are called.

use std::collections::HashSet;
use std::path::Path;

use palan_oci::Digest;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use crate::image::ImageId;
use crate::layer::{LayerRecord, Standing};
use crate::{Error, Result};

pub(crate) mod recipe;
pub(crate) mod reserve;

const VERSION: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE layers (
    key TEXT PRIMARY KEY,           -- the directory's name
    diff_id TEXT NOT NULL,
    blob TEXT NOT NULL,             -- what it was unpacked from
    size INTEGER NOT NULL,
    made_up_parents INTEGER NOT NULL,
    opaque_root INTEGER NOT NULL,
    synced INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX layers_by_blob ON layers (blob);
CREATE TABLE images (
    id TEXT PRIMARY KEY,
    manifest TEXT NOT NULL,
    size INTEGER NOT NULL,
    layers TEXT NOT NULL,           -- keys, bottom first, separated by spaces
    last_tagged INTEGER,            -- nanoseconds since 1970
    synced INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE image_blobs (
    image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (image, digest)
) WITHOUT ROWID;
CREATE TABLE names (
    name TEXT PRIMARY KEY,          -- in full, with a tag or a digest
    image TEXT NOT NULL REFERENCES images ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX names_by_image ON names (image);
CREATE TABLE holds (
    owner TEXT PRIMARY KEY,
    image TEXT NOT NULL,
    layers TEXT NOT NULL            -- keys, topmost first, separated by spaces
) WITHOUT ROWID;
";

/// What the `images` table has of one image.
#[derive(Debug, Clone)]
pub(crate) struct ImageRow {
    pub(crate) id: ImageId,
    pub(crate) manifest: Digest,
    pub(crate) size: u64,
    /// Bottom first.
    pub(crate) layers: Vec<String>,
    pub(crate) last_tagged: Option<i64>,
}

/// Records of layers and images that are not marked as synced.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Unsynced {
    pub(crate) layers: HashSet<String>,
    pub(crate) images: HashSet<ImageId>,
}

pub(crate) fn open(path: &Path) -> Result<Connection> {
    let mut db = Connection::open(path).map_err(failed("open the database file"))?;
    let setup = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;";
    db.execute_batch(setup).map_err(failed("set up the connection"))?;
    let version: i64 =
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed("read the version"))?;
    match version {
        VERSION => {}
        0 => write(&mut db, "create the tables", |transaction| {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute_batch(recipe::SCHEMA)?;
            transaction.pragma_update(None, "user_version", VERSION)
        })?,
        1 => write(&mut db, "bring the tables to version 2", |transaction| {
            transaction.execute_batch(recipe::SCHEMA)?;
            transaction.pragma_update(None, "user_version", VERSION)
        })?,
        found => return Err(Error::DatabaseVersion { found, known: VERSION }),
    }
    db.execute_batch(crate::image::parent::SCHEMA).map_err(failed("create the tables"))?;
    db.execute_batch(crate::image::index::SCHEMA).map_err(failed("create the tables"))?;
    db.execute_batch(crate::compress::SCHEMA).map_err(failed("create the tables"))?;
    db.execute_batch(crate::made::SCHEMA).map_err(failed("create the tables"))?;
    Ok(db)
}

/// One transaction; the commit is not synced.
pub(crate) fn write<T>(
    db: &mut Connection,
    action: &'static str,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> Result<T> {
    commit(db, change).map_err(failed(action))
}

/// As [`write()`], for what makes room or leads there: a full disk is no obstacle as long as there is the reserve.
pub(crate) fn write_freeing<T>(
    db: &mut Connection,
    action: &'static str,
    change: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
) -> Result<T> {
    let mut outcome = commit(db, &change);
    let is_full = |error: &rusqlite::Error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    if outcome.as_ref().is_err_and(is_full) && reserve::give_up(db) {
        outcome = commit(db, &change);
    }
    outcome.map_err(failed(action))
}

fn commit<T>(
    db: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let changed = change(&transaction)?;
    crate::fault::point("commit a transaction");
    transaction.commit()?;
    crate::fault::point("go on after a transaction");
    Ok(changed)
}

/// One transaction that is on the disk when this returns: files are deleted on the strength of it.
pub(crate) fn write_durably<T>(
    db: &mut Connection,
    action: &'static str,
    change: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>,
) -> Result<T> {
    db.pragma_update(None, "synchronous", "FULL").map_err(failed(action))?;
    let changed = write_freeing(db, action, change);
    db.pragma_update(None, "synchronous", "NORMAL").map_err(failed(action))?;
    changed
}

// --- Layers --------------------------------------------------------------------------------------------------

const LAYER_COLUMNS: &str = "diff_id, blob, size, made_up_parents, opaque_root";

/// The layer in the directory of that name.
pub(crate) fn layer(db: &Connection, key: &str) -> Result<Option<LayerRecord>> {
    let query = format!("SELECT {LAYER_COLUMNS} FROM layers WHERE key = ?1");
    first(db, "look up a layer", &query, key, layer_record)
}

/// A layer that stands alone and was unpacked from that blob.
pub(crate) fn layer_by_blob(db: &Connection, blob: &Digest) -> Result<Option<LayerRecord>> {
    let query =
        format!("SELECT {LAYER_COLUMNS} FROM layers WHERE blob = ?1 AND key NOT LIKE 'chain-%' LIMIT 1");
    first(db, "look up a layer", &query, &blob.to_string(), layer_record)
}

pub(crate) fn layer_keys(db: &Connection) -> Result<HashSet<String>> {
    all(db, "list layers", "SELECT key FROM layers", |row| row.get(0)).map(|keys| keys.into_iter().collect())
}

/// Whether it is new.
pub(crate) fn insert_layer(
    transaction: &Transaction<'_>,
    key: &str,
    layer: &LayerRecord,
) -> rusqlite::Result<bool> {
    let mut statement =
        transaction.prepare_cached("INSERT OR IGNORE INTO layers VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)")?;
    let inserted = statement.execute(params![
        key,
        layer.diff_id.to_string(),
        layer.blob.to_string(),
        layer.size.cast_signed(),
        layer.standing == Standing::MadeUpParents,
        layer.opaque_root,
    ])?;
    Ok(inserted > 0)
}

pub(crate) fn delete_layer(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM layers WHERE key = ?1", [key]).map(drop)
}

/// Sizes of all layers together.
pub(crate) fn layers_size(db: &Connection) -> Result<u64> {
    let query = "SELECT coalesce(sum(size), 0) FROM layers";
    let sum: i64 = db.query_row(query, [], |row| row.get(0)).map_err(failed("add up the layers"))?;
    Ok(sum.cast_unsigned())
}

/// Forgets a layer whose directory is gone, and all images that need it.
pub(crate) fn drop_layer_and_its_images(db: &mut Connection, key: &str) -> Result<()> {
    let needing: Vec<ImageId> = images(db)?
        .into_iter()
        .filter(|image| image.layers.iter().any(|own| own == key))
        .map(|image| image.id)
        .collect();
    write_freeing(db, "drop a layer that is gone", |transaction| {
        for image in &needing {
            transaction.execute("DELETE FROM images WHERE id = ?1", [image.to_string()])?;
        }
        delete_layer(transaction, key)
    })
}

// --- Images --------------------------------------------------------------------------------------------------

const IMAGE_COLUMNS: &str = "id, manifest, size, layers, last_tagged";

pub(crate) fn image(db: &Connection, id: &ImageId) -> Result<Option<ImageRow>> {
    let query = format!("SELECT {IMAGE_COLUMNS} FROM images WHERE id = ?1");
    first(db, "look up an image", &query, &id.to_string(), image_row)
}

pub(crate) fn images(db: &Connection) -> Result<Vec<ImageRow>> {
    all(db, "list images", &format!("SELECT {IMAGE_COLUMNS} FROM images"), image_row)
}

pub(crate) fn image_ids(db: &Connection) -> Result<Vec<ImageId>> {
    all(db, "list images", "SELECT id FROM images", |row| digest(row, 0).map(ImageId))
}

/// Ids that start with these digits; at most two, which is enough to know that there are several.
pub(crate) fn ids_with_prefix(db: &Connection, hex: &str) -> Result<Vec<ImageId>> {
    // The digits are hexadecimal, so the pattern has no wildcard but its own.
    let mut statement = db
        .prepare_cached("SELECT id FROM images WHERE id GLOB ?1 LIMIT 2")
        .map_err(failed("look up an image"))?;
    let rows = statement
        .query_map([format!("sha256:{hex}*")], |row| digest(row, 0).map(ImageId))
        .and_then(Iterator::collect);
    rows.map_err(failed("look up an image"))
}

pub(crate) fn insert_image(
    transaction: &Transaction<'_>,
    image: &ImageRow,
    blobs: &[Digest],
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO images VALUES (?1, ?2, ?3, ?4, ?5, 0)
         ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest, layers = excluded.layers, size = excluded.size, synced = 0",
    )?;
    statement.execute(params![
        image.id.to_string(),
        image.manifest.to_string(),
        image.size.cast_signed(),
        image.layers.join(" "),
        image.last_tagged,
    ])?;
    let mut statement = transaction.prepare_cached("INSERT OR IGNORE INTO image_blobs VALUES (?1, ?2)")?;
    for blob in blobs {
        statement.execute(params![image.id.to_string(), blob.to_string()])?;
    }
    Ok(())
}

/// Removes the record of an image. After a power cut it may be there again; [`crate::durability`] says why it is whole or dropped
/// then.
pub(crate) fn delete_image(db: &mut Connection, id: &ImageId) -> Result<()> {
    write_freeing(db, "remove an image", |transaction| {
        transaction.execute("DELETE FROM images WHERE id = ?1", [id.to_string()]).map(drop)
    })
}

/// The images that need a blob.
pub(crate) fn images_with_blob(db: &Connection, blob: &Digest) -> Result<Vec<ImageId>> {
    let mut statement = db
        .prepare_cached("SELECT image FROM image_blobs WHERE digest = ?1")
        .map_err(failed("look up a blob's images"))?;
    let rows = statement
        .query_map([blob.to_string()], |row| digest(row, 0).map(ImageId))
        .and_then(Iterator::collect);
    rows.map_err(failed("look up a blob's images"))
}

/// All blobs that images, and layers that were made here, need.
pub(crate) fn blobs(db: &Connection) -> Result<HashSet<Digest>> {
    let blobs = all(db, "list blobs", "SELECT DISTINCT digest FROM image_blobs", |row| digest(row, 0))?;
    Ok(blobs.into_iter().chain(crate::made::blobs(db)?).collect())
}

/// The blobs of one image that no other needs.
pub(crate) fn own_blobs(db: &Connection, id: &ImageId) -> Result<Vec<Digest>> {
    let query = "SELECT digest FROM image_blobs AS own WHERE image = ?1
        AND NOT EXISTS (SELECT 1 FROM image_blobs AS other WHERE other.digest = own.digest AND other.image <> ?1)";
    let mut statement = db.prepare_cached(query).map_err(failed("list blobs"))?;
    let rows = statement.query_map([id.to_string()], |row| digest(row, 0)).and_then(Iterator::collect);
    rows.map_err(failed("list blobs"))
}

// --- Names ---------------------------------------------------------------------------------------------------

pub(crate) fn name(db: &Connection, name: &str) -> Result<Option<ImageId>> {
    let query = "SELECT image FROM names WHERE name = ?1";
    first(db, "look up a name", query, name, |row| digest(row, 0).map(ImageId))
}

/// The names of an image, sorted.
pub(crate) fn names_of(db: &Connection, id: &ImageId) -> Result<Vec<String>> {
    let mut statement = db
        .prepare_cached("SELECT name FROM names WHERE image = ?1 ORDER BY name")
        .map_err(failed("list names"))?;
    let rows = statement.query_map([id.to_string()], |row| row.get(0)).and_then(Iterator::collect);
    rows.map_err(failed("list names"))
}

/// All names with their images.
pub(crate) fn names(db: &Connection) -> Result<Vec<(String, ImageId)>> {
    all(db, "list names", "SELECT name, image FROM names ORDER BY name", |row| {
        Ok((row.get(0)?, ImageId(digest(row, 1)?)))
    })
}

/// Gives a name to an image; the image that had it before, if another.
pub(crate) fn set_name(
    transaction: &Transaction<'_>,
    name: &str,
    id: &ImageId,
) -> rusqlite::Result<Option<ImageId>> {
    let before = transaction
        .prepare_cached("SELECT image FROM names WHERE name = ?1")?
        .query_row([name], |row| digest(row, 0).map(ImageId))
        .optional()?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO names VALUES (?1, ?2)")?
        .execute([name, &id.to_string()])?;
    Ok(before.filter(|before| before != id))
}

pub(crate) fn set_last_tagged(
    transaction: &Transaction<'_>,
    id: &ImageId,
    time: i64,
) -> rusqlite::Result<()> {
    let query = "UPDATE images SET last_tagged = ?2 WHERE id = ?1";
    transaction.execute(query, params![id.to_string(), time]).map(drop)
}

pub(crate) fn delete_names(db: &mut Connection, names: &[String]) -> Result<()> {
    write_freeing(db, "remove names", |transaction| {
        for name in names {
            transaction.execute("DELETE FROM names WHERE name = ?1", [name])?;
        }
        Ok(())
    })
}

// --- Holds ---------------------------------------------------------------------------------------------------

pub(crate) fn set_hold(db: &mut Connection, owner: &str, image: &ImageId, layers: &[String]) -> Result<()> {
    write(db, "hold an image", |transaction| {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO holds VALUES (?1, ?2, ?3)")?
            .execute([owner, &image.to_string(), &layers.join(" ")])
            .map(drop)
    })
}

/// Whether there was one.
pub(crate) fn delete_hold(db: &mut Connection, owner: &str) -> Result<bool> {
    write_freeing(db, "release an image", |transaction| {
        Ok(transaction.prepare_cached("DELETE FROM holds WHERE owner = ?1")?.execute([owner])? > 0)
    })
}

/// Owner, image and layers (topmost first) of every hold.
pub(crate) fn holds(db: &Connection) -> Result<Vec<(String, ImageId, Vec<String>)>> {
    all(db, "list holds", "SELECT owner, image, layers FROM holds", |row| {
        Ok((row.get(0)?, ImageId(digest(row, 1)?), words(row, 2)?))
    })
}

/// Image and layers (topmost first) of one hold.
pub(crate) fn hold(db: &Connection, owner: &str) -> Result<Option<(ImageId, Vec<String>)>> {
    let query = "SELECT image, layers FROM holds WHERE owner = ?1";
    first(db, "look up a hold", query, owner, |row| Ok((ImageId(digest(row, 0)?), words(row, 1)?)))
}

// --- Syncing -------------------------------------------------------------------------------------------------

/// In another boot than the last one, forgets what was not synced. Whether anything was.
pub(crate) fn forget_unsynced_of_another_boot(db: &mut Connection, boot: &str) -> Result<bool> {
    let query = "SELECT value FROM facts WHERE name = ?1";
    let last: Option<String> = first(db, "read the boot id", query, "boot", |row| row.get(0))?;
    if last.as_deref() == Some(boot) {
        return Ok(false);
    }
    let lost =
        all(db, "list layers", "SELECT key FROM layers WHERE synced = 0", |row| row.get::<_, String>(0))?;
    for key in &lost {
        drop_layer_and_its_images(db, key)?;
    }
    write_freeing(db, "note the boot id", |transaction| {
        let images = transaction.execute("DELETE FROM images WHERE synced = 0", [])?;
        transaction.execute("INSERT OR REPLACE INTO facts VALUES ('boot', ?1)", [boot])?;
        Ok(images > 0 || !lost.is_empty())
    })
}

pub(crate) fn unsynced(db: &Connection) -> Result<Unsynced> {
    Ok(Unsynced {
        layers: all(db, "list layers", "SELECT key FROM layers WHERE synced = 0", |row| row.get(0))?
            .into_iter()
            .collect(),
        images: all(db, "list images", "SELECT id FROM images WHERE synced = 0", |row| {
            digest(row, 0).map(ImageId)
        })?
        .into_iter()
        .collect(),
    })
}

pub(crate) fn has_unsynced(db: &Connection) -> Result<bool> {
    let unsynced = unsynced(db)?;
    Ok(!unsynced.layers.is_empty() || !unsynced.images.is_empty())
}

pub(crate) fn mark_synced(db: &mut Connection, done: &Unsynced) -> Result<()> {
    write(db, "mark images as synced", |transaction| {
        for key in &done.layers {
            transaction.execute("UPDATE layers SET synced = 1 WHERE key = ?1", [key])?;
        }
        for id in &done.images {
            transaction.execute("UPDATE images SET synced = 1 WHERE id = ?1", [id.to_string()])?;
        }
        Ok(())
    })
}

// --- Rows ----------------------------------------------------------------------------------------------------

fn layer_record(row: &Row<'_>) -> rusqlite::Result<LayerRecord> {
    let standing = if row.get(3)? { Standing::MadeUpParents } else { Standing::SelfContained };
    Ok(LayerRecord {
        diff_id: digest(row, 0)?,
        blob: digest(row, 1)?,
        size: row.get::<_, i64>(2)?.cast_unsigned(),
        standing,
        opaque_root: row.get(4)?,
    })
}

fn image_row(row: &Row<'_>) -> rusqlite::Result<ImageRow> {
    Ok(ImageRow {
        id: ImageId(digest(row, 0)?),
        manifest: digest(row, 1)?,
        size: row.get::<_, i64>(2)?.cast_unsigned(),
        layers: words(row, 3)?,
        last_tagged: row.get(4)?,
    })
}

pub(crate) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| {
        let error = FromSqlError::Other(Box::new(error));
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

fn words(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    Ok(row.get_ref(column)?.as_str()?.split_whitespace().map(str::to_owned).collect())
}

pub(crate) fn first<T>(
    db: &Connection,
    action: &'static str,
    query: &str,
    key: &str,
    map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>> {
    let mut statement = db.prepare_cached(query).map_err(failed(action))?;
    statement.query_row([key], map).optional().map_err(failed(action))
}

pub(crate) fn all<T>(
    db: &Connection,
    action: &'static str,
    query: &str,
    map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = db.prepare_cached(query).map_err(failed(action))?;
    let rows = statement.query_map([], map).and_then(Iterator::collect);
    rows.map_err(failed(action))
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Database { action, source }
}
