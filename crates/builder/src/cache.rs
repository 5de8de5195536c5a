//! Which results are known: a directory of small records, from a key to layers.
//!
//! A record is `<first two digits>/<key>`, a line of JSON. When it was used last is its modification time. Records are written beside
//! their place and renamed, without fsync: what a power loss takes is built again. Whatever can't be read is not there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use palan_oci::Digest;
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::fs::{self, PathError};
use serde::{Deserialize, Serialize};

use crate::backend::Snapshot;

/// The version of the records.
const VERSION: u32 = 1;

/// A known result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The result.
    pub snapshot: Snapshot,
    /// What made it: `RUN make`.
    pub description: String,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// A record on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Digest,
    /// What it says.
    pub record: Record,
    /// When it was used last.
    pub used: SystemTime,
}

/// What may stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that layers which only the cache holds may have.
    pub max_bytes: Option<u64>,
    /// Records that were not used for so long go.
    pub max_age: Option<Duration>,
}

/// The records under a directory.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    /// Two writers of one record would use one temporary name.
    writing: Mutex<()>,
}

impl Record {
    /// A result of now.
    pub fn new(snapshot: Snapshot, description: impl Into<String>) -> Self {
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { version: VERSION, snapshot, description: description.into(), created }
    }
}

impl Cache {
    /// Uses a directory, which is made if it is missing.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, PathError> {
        let directory = directory.into();
        fs::create_dir_all(&directory, 0o700)?;
        Ok(Self { directory, writing: Mutex::new(()) })
    }

    /// The record of a key; it counts as used now.
    pub fn get(&self, key: Digest) -> Option<Record> {
        let path = self.path(key);
        let record = read(&path)?;
        // When it was used decides what goes first, nothing else: not worth a failure.
        let _ = fs::open(&path).map(|file| file.set_modified(SystemTime::now()));
        Some(record)
    }

    /// Keeps a record.
    pub fn put(&self, key: Digest, record: &Record) -> Result<(), PathError> {
        let path = self.path(key);
        let content = serde_json::to_vec(record).unwrap_or_default();
        let _alone = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent, 0o700)?;
        }
        atomic_file::write(&path, &content, 0o600, Durability::Process)
    }

    /// Every record that can be read.
    pub fn entries(&self) -> Result<Vec<Entry>, PathError> {
        let mut entries = Vec::new();
        for shard in fs::read_dir(&self.directory)? {
            let Some(files) = fs::if_exists(fs::read_dir(&shard.path())).ok().flatten() else { continue };
            for file in files {
                let key = file.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
                let used = file.metadata().and_then(|metadata| metadata.modified());
                if let (Some(key), Ok(used), Some(record)) = (key, used, read(&file.path())) {
                    entries.push(Entry { key, record, used });
                }
            }
        }
        Ok(entries)
    }

    /// Removes what is over the limits, what was not used for longest first, and returns it. `size` is what a layer takes that
    /// nothing but the cache holds, 0 for others; a layer of several records counts once.
    pub fn prune(
        &self,
        limits: &Limits,
        now: SystemTime,
        size: &dyn Fn(&Digest) -> u64,
    ) -> Result<Vec<Entry>, PathError> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        let mut kept: BTreeSet<Digest> = BTreeSet::new();
        let mut bytes = 0;
        let mut removed = Vec::new();
        for entry in entries {
            let new: BTreeSet<Digest> =
                entry.record.snapshot.layers.iter().copied().filter(|layer| !kept.contains(layer)).collect();
            let more: u64 = new.iter().map(size).sum();
            let age = now.duration_since(entry.used).unwrap_or_default();
            let is_old = limits.max_age.is_some_and(|max| age > max);
            let is_too_much = limits.max_bytes.is_some_and(|max| bytes + more > max);
            if is_old || is_too_much {
                fs::if_exists(fs::remove_file(&self.path(entry.key)))?;
                removed.push(entry);
            } else {
                bytes += more;
                kept.extend(new);
            }
        }
        Ok(removed)
    }

    /// Removes the records that are chosen.
    pub fn remove(&self, is_chosen: &dyn Fn(&Entry) -> bool) -> Result<(), PathError> {
        for entry in self.entries()?.iter().filter(|entry| is_chosen(entry)) {
            fs::if_exists(fs::remove_file(&self.path(entry.key)))?;
        }
        Ok(())
    }

    fn path(&self, key: Digest) -> PathBuf {
        let hex = key.hex();
        self.directory.join(&hex[..2]).join(hex)
    }
}

fn read(path: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record.version == VERSION).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(layers: &[&str]) -> Record {
        Record::new(Snapshot { layers: layers.iter().map(Digest::of).collect() }, "RUN it")
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path().join("build")).expect("a cache");
        (directory, cache)
    }

    #[test]
    fn what_was_put_is_there() {
        let (_directory, cache) = cache();
        let key = Digest::of("key");
        assert_eq!(cache.get(key), None);
        cache.put(key, &record(&["a"])).expect("a record");
        cache.put(key, &record(&["a", "b"])).expect("a record");
        assert_eq!(cache.get(key).expect("a record").snapshot, record(&["a", "b"]).snapshot);
        assert_eq!(cache.entries().expect("entries").len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_not_there() {
        let (_directory, cache) = cache();
        let key = Digest::of("key");
        cache.put(key, &record(&["a"])).expect("a record");
        for content in
            ["", "{", "{\"version\":2,\"snapshot\":{\"layers\":[]},\"description\":\"\",\"created\":0}"]
        {
            fs::write(&cache.path(key), content).expect("a file");
            assert_eq!(cache.get(key), None, "{content}");
        }
        assert!(cache.entries().expect("entries").is_empty());
        cache.put(key, &record(&["a"])).expect("a record");
        assert!(cache.get(key).is_some());
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let (_directory, cache) = cache();
        let now = SystemTime::now();
        for (index, (name, layers)) in
            [("new", &["base", "1"][..]), ("middle", &["base", "2"]), ("old", &["base", "3"])]
                .into_iter()
                .enumerate()
        {
            let key = Digest::of(name);
            cache.put(key, &record(layers)).expect("a record");
            let used = now - Duration::from_secs(3600 * index as u64);
            fs::open(&cache.path(key)).expect("a file").set_modified(used).expect("a time");
        }
        let size = |layer: &Digest| if *layer == Digest::of("base") { 100 } else { 10 };
        let prune = |limits: Limits| cache.prune(&limits, now, &size).expect("pruned").len();
        assert_eq!(prune(Limits::default()), 0);
        assert_eq!(prune(Limits { max_bytes: Some(120), max_age: None }), 1);
        assert!(cache.get(Digest::of("old")).is_none());
        assert_eq!(prune(Limits { max_bytes: None, max_age: Some(Duration::from_secs(60)) }), 1);
        assert!(cache.get(Digest::of("middle")).is_none() && cache.get(Digest::of("new")).is_some());
        assert_eq!(prune(Limits { max_bytes: Some(0), max_age: None }), 1);
    }
}
