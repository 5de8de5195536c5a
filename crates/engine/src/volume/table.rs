//! All volumes in memory, and who may do what to which.
//!
//! - A **claim** is the right to change what a name means: to make, remove, rename, mount or take off the volume. One at a time for
//!   each name; whoever wants it waits, so claims are held for short steps only, never while data is copied. Who waits keeps a
//!   blocking thread from others: so whoever holds a claim needs no second thread, or all would wait for each other.
//! - A **pin** keeps a volume from being removed: by a container in the making, whose mounts nobody sees yet, or by an export or
//!   a clone that reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Volume;

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) by_name: BTreeMap<String, Volume>,
    /// Volumes that the database does not have yet: every container in the making that uses one records it.
    pub(super) unrecorded: BTreeSet<String>,
    /// Who keeps which volume, by name and owner.
    pub(super) pins: Vec<(String, String)>,
    /// For whom a volume with options is mounted.
    pub(super) mounted_for: BTreeMap<String, BTreeSet<String>>,
    claimed: BTreeSet<String>,
}

/// All volumes; the database has the same.
#[derive(Debug)]
pub(crate) struct Volumes {
    table: Mutex<Table>,
    unclaimed: Condvar,
}

impl Volumes {
    /// Those that the database has.
    pub(crate) fn new(volumes: Vec<Volume>) -> Arc<Self> {
        let by_name = volumes.into_iter().map(|volume| (volume.name.clone(), volume)).collect();
        let table = Mutex::new(Table { by_name, ..Table::default() });
        Arc::new(Self { table, unclaimed: Condvar::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody has a claim on any of the names, and takes all of them. Blocking.
    pub(crate) fn claim(self: &Arc<Self>, names: &[&str]) -> Claim {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let table = self.lock();
        let is_taken = |table: &mut Table| names.iter().any(|name| table.claimed.contains(name));
        let mut table = self.unclaimed.wait_while(table, is_taken).unwrap_or_else(PoisonError::into_inner);
        table.claimed.extend(names.iter().cloned());
        drop(table);
        Claim { volumes: Arc::clone(self), names }
    }

    /// Keeps a volume for `owner` until it is [released](Self::unpin); false if there is none.
    pub(crate) fn pin(&self, name: &str, owner: &str) -> bool {
        let mut table = self.lock();
        let is_there = table.by_name.contains_key(name);
        if is_there {
            table.pins.push((name.to_owned(), owner.to_owned()));
        }
        is_there
    }

    /// The owner is done, or its mounts speak for themselves now.
    pub(crate) fn unpin(&self, owner: &str) {
        self.lock().pins.retain(|(_, pinned_by)| pinned_by != owner);
    }

    /// The database has these now.
    pub(crate) fn recorded<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut table = self.lock();
        for name in names {
            table.unrecorded.remove(name);
        }
    }

    /// One volume.
    pub(crate) fn get(&self, name: &str) -> Option<Volume> {
        self.lock().by_name.get(name).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Volume> {
        self.lock().by_name.values().cloned().collect()
    }

    /// Whether there is a volume that is mounted when it is used.
    pub(crate) fn have_options(&self) -> bool {
        self.lock().by_name.values().any(|volume| !volume.options.is_empty())
    }

    /// Puts a volume in, or replaces it.
    pub(super) fn insert(&self, volume: Volume) {
        self.lock().by_name.insert(volume.name.clone(), volume);
    }

    /// Takes volumes out, after the database.
    pub(crate) fn forget(&self, names: &[String]) {
        let mut table = self.lock();
        for name in names {
            table.by_name.remove(name);
            table.unrecorded.remove(name);
        }
    }
}

/// The right to change what some names mean, given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    volumes: Arc<Volumes>,
    names: BTreeSet<String>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.volumes.lock();
        for name in &self.names {
            table.claimed.remove(name);
        }
        drop(table);
        self.volumes.unclaimed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_by_one_at_a_time() {
        let volumes = Volumes::new(Vec::new());
        let first = volumes.claim(&["a", "b"]);
        let (sender, claimed) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn({
            let volumes = Arc::clone(&volumes);
            move || {
                let claim = volumes.claim(&["b", "c"]);
                sender.send(()).expect("somebody listens");
                drop(claim);
            }
        });
        drop(volumes.claim(&["c"]));
        assert!(claimed.try_recv().is_err(), "b is taken");
        drop(first);
        claimed.recv().expect("now it is free");
        waiting.join().expect("ends");
        drop(volumes.claim(&["a", "b", "c"]));
    }

    #[test]
    fn only_what_exists_is_pinned() {
        let volumes = Volumes::new(vec![Volume { name: "data".into(), ..Volume::default() }]);
        assert!(volumes.pin("data", "c1") && !volumes.pin("other", "c1"));
        assert_eq!(volumes.lock().pins.len(), 1);
        volumes.unpin("c1");
        assert!(volumes.lock().pins.is_empty());
    }
}
