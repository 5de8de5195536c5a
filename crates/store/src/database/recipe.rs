//! Which blobs are kept as recipes, and which were found not to be provable.

use palan_oci::Digest;
use rusqlite::{Connection, Transaction, params};

use super::{all, digest, write, write_durably};
use crate::Result;

/// Version 2 of the database.
pub(super) const SCHEMA: &str = "
CREATE TABLE recipes (
    blob TEXT PRIMARY KEY,
    layer TEXT NOT NULL,            -- the directory that has the content
    size INTEGER NOT NULL,          -- of the blob
    bytes INTEGER NOT NULL          -- of the recipe
) WITHOUT ROWID;
CREATE TABLE kept_blobs (
    blob TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    format INTEGER NOT NULL         -- what was tried: another version may succeed
) WITHOUT ROWID;
CREATE TABLE shared_layers (key TEXT PRIMARY KEY) WITHOUT ROWID;
";

/// A blob that is made again when it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecipeRow {
    pub(crate) blob: Digest,
    pub(crate) layer: String,
    pub(crate) size: u64,
    pub(crate) bytes: u64,
}

pub(crate) fn recipes(db: &Connection) -> Result<Vec<RecipeRow>> {
    all(db, "list recipes", "SELECT blob, layer, size, bytes FROM recipes", |row| {
        Ok(RecipeRow {
            blob: digest(row, 0)?,
            layer: row.get(1)?,
            size: row.get::<_, i64>(2)?.cast_unsigned(),
            bytes: row.get::<_, i64>(3)?.cast_unsigned(),
        })
    })
}

/// The blob is about to be removed on the strength of this.
pub(crate) fn insert_recipe(db: &mut Connection, recipe: &RecipeRow) -> Result<()> {
    write_durably(db, "record a recipe", |transaction| put_recipe(transaction, recipe))
}

pub(crate) fn put_recipe(transaction: &Transaction<'_>, recipe: &RecipeRow) -> rusqlite::Result<()> {
    let values =
        params![recipe.blob.to_string(), recipe.layer, recipe.size.cast_signed(), recipe.bytes.cast_signed()];
    transaction.execute("INSERT OR REPLACE INTO recipes VALUES (?1, ?2, ?3, ?4)", values).map(drop)
}

pub(crate) fn delete_recipe(transaction: &Transaction<'_>, blob: &Digest) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM recipes WHERE blob = ?1", [blob.to_string()])?;
    transaction.execute("DELETE FROM kept_blobs WHERE blob = ?1", [blob.to_string()]).map(drop)
}

/// Layers on the disk whose files were not compared with those of others yet.
pub(crate) fn unshared(db: &Connection) -> Result<Vec<String>> {
    let query = "SELECT key FROM layers WHERE synced = 1 AND key NOT IN (SELECT key FROM shared_layers)";
    all(db, "list layers", query, |row| row.get(0))
}

/// Layers whose files were.
pub(crate) fn shared(db: &Connection) -> Result<Vec<String>> {
    all(db, "list layers", "SELECT key FROM shared_layers", |row| row.get(0))
}

pub(crate) fn insert_shared(db: &mut Connection, key: &str) -> Result<()> {
    write(db, "note that a layer's files are shared", |transaction| {
        transaction.execute("DELETE FROM shared_layers WHERE key NOT IN (SELECT key FROM layers)", [])?;
        let query = "INSERT OR IGNORE INTO shared_layers SELECT key FROM layers WHERE key = ?1";
        transaction.execute(query, [key]).map(drop)
    })
}

/// Notes why a blob stays.
pub(crate) fn insert_kept(db: &mut Connection, blob: &Digest, reason: &str, format: u32) -> Result<()> {
    write(db, "note that a blob stays", |transaction| {
        let values = params![blob.to_string(), reason, format];
        transaction.execute("INSERT OR REPLACE INTO kept_blobs VALUES (?1, ?2, ?3)", values).map(drop)
    })
}

/// Layers on the disk whose blobs an image needs, and that were not tried yet: blob and directory.
pub(crate) fn untried(db: &Connection, format: u32) -> Result<Vec<(Digest, String)>> {
    // Those that were unpacked from the blob, and those that were compressed to it (`compress`), alone or over their parents.
    let query = format!(
        "WITH forms AS (
            SELECT blob, key, size FROM layers WHERE synced = 1
            UNION SELECT compressed.blob, min(key), layers.size FROM compressed_layers AS compressed
                JOIN layers ON layers.diff_id = compressed.tar WHERE synced = 1 GROUP BY compressed.blob)
         SELECT blob, key FROM forms
         WHERE (EXISTS (SELECT 1 FROM image_blobs WHERE digest = forms.blob)
                OR EXISTS (SELECT 1 FROM kept_forms AS kept JOIN made_layers ON key = substr(tar, 8) WHERE kept.blob = forms.blob))
            AND NOT EXISTS (SELECT 1 FROM recipes WHERE recipes.blob = forms.blob)
            AND NOT EXISTS (SELECT 1 FROM kept_blobs AS kept WHERE kept.blob = forms.blob AND kept.format = {format})
         ORDER BY size DESC"
    );
    all(db, "list layers", &query, |row| Ok((digest(row, 0)?, row.get(1)?)))
}
