//! Which image another was made from, here. An image that was pulled or loaded has no parent, as in Docker.
//!
//! The link is a row beside the images and goes with the child; a parent's id may outlive the parent (removed by force).

use rusqlite::{Connection, OptionalExtension as _};

use super::ImageId;
use crate::{Error, Result, Store, database};

/// Only ever added to the tables that are there, so an older program that does not know it is not disturbed.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS parents (
    image TEXT PRIMARY KEY REFERENCES images ON DELETE CASCADE,
    parent TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parents_by_parent ON parents (parent);
";

impl Store {
    /// The image that this one was made from, while it is there.
    pub fn parent(&self, id: &ImageId) -> Result<Option<ImageId>> {
        let state = self.inner.lock();
        let Some(parent) = parent_of(&state.db, id)? else { return Ok(None) };
        Ok(database::image(&state.db, &parent)?.map(|row| row.id))
    }

    /// The images that were made from this one.
    pub fn children(&self, id: &ImageId) -> Result<Vec<ImageId>> {
        children_of(&self.inner.lock().db, id)
    }

    /// Every image that was made from another, with that.
    pub fn parents(&self) -> Result<Vec<(ImageId, ImageId)>> {
        let state = self.inner.lock();
        pairs(&state.db, "SELECT image, parent FROM parents ORDER BY image", &[])
    }

    pub(crate) fn set_parent(&self, id: &ImageId, parent: &ImageId) -> Result<()> {
        if id == parent {
            return Ok(());
        }
        database::write(&mut self.inner.lock().db, "record an image's parent", |transaction| {
            let query = "INSERT OR REPLACE INTO parents VALUES (?1, ?2)";
            transaction.execute(query, [id.to_string(), parent.to_string()]).map(drop)
        })
    }
}

pub(crate) fn parent_of(db: &Connection, id: &ImageId) -> Result<Option<ImageId>> {
    let query = "SELECT parent FROM parents WHERE image = ?1";
    let found: Option<String> =
        db.query_row(query, [id.to_string()], |row| row.get(0)).optional().map_err(failed)?;
    Ok(found.and_then(|text| text.parse().ok()))
}

pub(crate) fn children_of(db: &Connection, id: &ImageId) -> Result<Vec<ImageId>> {
    let query = "SELECT image, parent FROM parents WHERE parent = ?1 ORDER BY image";
    Ok(pairs(db, query, &[&id.to_string()])?.into_iter().map(|(child, _)| child).collect())
}

fn pairs(db: &Connection, query: &str, values: &[&str]) -> Result<Vec<(ImageId, ImageId)>> {
    let mut statement = db.prepare_cached(query).map_err(failed)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    });
    let rows: Vec<(String, String)> = rows.and_then(Iterator::collect).map_err(failed)?;
    Ok(rows
        .into_iter()
        .filter_map(|(image, parent)| Some((image.parse().ok()?, parent.parse().ok()?)))
        .collect())
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Database { action: "look up an image's parent", source }
}
