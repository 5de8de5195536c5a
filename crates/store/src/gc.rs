//! Room on the disk: which images go when it runs full.
//!
//! What nothing points to is removed as soon as nothing does (`garbage`). Here it is about images that are there and that nobody
//! uses. They are only removed where the administrator set watermarks: above the high one, those that were tagged longest ago
//! go first, until the disk is below the low one. An image of a container, one that a lease protects, and one that came a moment
//! ago stay.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use palan_oci::Digest;
use palan_stdx::fs;

use crate::content::Busy;
use crate::image::ImageId;
use crate::{Result, Store, database};

/// Images younger than this stay: whoever pulled one is about to run it.
const MIN_AGE: Duration = Duration::from_secs(120);

/// How full the file system of the data root may be, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Above this, images are removed.
    pub high: u8,
    /// Down to this.
    pub low: u8,
}

impl Store {
    /// Removes images that nobody uses while the disk is fuller than it may be; which ones were removed. `in_use` says what
    /// containers need; holds are looked at here.
    pub fn make_room(
        &self,
        watermarks: Watermarks,
        in_use: &dyn Fn(&ImageId) -> bool,
    ) -> Result<Vec<ImageId>> {
        self.make_room_by(watermarks, in_use, &|| self.used_percent())
    }

    fn make_room_by(
        &self,
        watermarks: Watermarks,
        in_use: &dyn Fn(&ImageId) -> bool,
        used_percent: &dyn Fn() -> Result<u8>,
    ) -> Result<Vec<ImageId>> {
        let mut removed = Vec::new();
        if used_percent()? <= watermarks.high {
            return Ok(removed);
        }
        // What nothing points to first: unfinished transfers that nobody resumes are worth less than any image.
        self.collect()?;
        self.remove_parts()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let young = i64::try_from(now.saturating_sub(MIN_AGE).as_nanos()).unwrap_or(i64::MAX);
        let held: HashSet<ImageId> = self.holds()?.into_iter().map(|(_, image)| image).collect();
        let mut candidates = database::images(&self.inner.lock().db)?;
        candidates.retain(|image| image.last_tagged.is_none_or(|tagged| tagged < young));
        candidates.sort_by_key(|image| image.last_tagged);
        for image in candidates {
            self.settle();
            if used_percent()? <= watermarks.low {
                break;
            }
            if held.contains(&image.id) || in_use(&image.id) {
                continue;
            }
            tracing::info!(image = %image.id, "the disk is full: an image that nobody uses is removed");
            self.remove_image(&image.id.to_string(), true, &|_| Vec::new())?;
            removed.push(image.id);
        }
        Ok(removed)
    }

    /// Removes what unfinished transfers left for their next attempt, but for those that go on. Without it they stay a week.
    pub fn remove_parts(&self) -> Result<()> {
        let inner = &self.inner;
        let protected = inner.leases.protected();
        for name in inner.names_in(&inner.ingest)? {
            let part = name.strip_suffix(".part").and_then(|hex| Digest::from_hex(hex).ok());
            let Some(digest) = part.filter(|digest| !protected.contains(digest)) else { continue };
            let Some(_claim) = Busy::claim(inner, digest) else { continue };
            crate::fault::point("remove a part");
            fs::if_exists(fs::remove_file(&inner.part_path(&digest)))?;
        }
        Ok(())
    }

    /// Whether the file system of the data root is fuller than this, in percent.
    pub fn is_fuller_than(&self, percent: u8) -> Result<bool> {
        Ok(self.used_percent()? > percent)
    }

    /// As `df` counts it.
    fn used_percent(&self) -> Result<u8> {
        let root = &self.inner.root;
        let space = rustix::fs::statvfs(root)
            .map_err(|error| palan_stdx::fs::PathError::new("measure the file system of", root, error))?;
        let used = space.f_blocks.saturating_sub(space.f_bfree);
        let percent = used.saturating_mul(100) / (used + space.f_bavail).max(1);
        Ok(u8::try_from(percent).unwrap_or(100))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::{Tar, TestStore};

    #[test]
    fn the_longest_unused_images_go_until_there_is_room() {
        let store = TestStore::new();
        let mut ids = Vec::new();
        for name in ["oldest", "used", "held", "older", "old", "new"] {
            let image = store.make(name, &[Tar::new().file(name, name.as_bytes()).finish()]).expect("makes");
            ids.push(image.id);
        }
        for (age, id) in (0i64..).zip(ids.iter().take(5)) {
            let update = "UPDATE images SET last_tagged = ?2 WHERE id = ?1";
            store.inner.lock().db.execute(update, (id.to_string(), age)).expect("updates");
        }
        store.hold("container", &ids[2]).expect("holds");
        let used = Cell::new(85);
        let watermarks = Watermarks { high: 85, low: 70 };
        let in_use = |id: &ImageId| *id == ids[1];
        let nothing = store.make_room_by(watermarks, &in_use, &|| Ok(used.get())).expect("looks");
        assert_eq!(nothing, [], "not above the mark");
        used.set(95);
        let measure = || {
            let images = store.images().expect("lists").len();
            // Each image is 15 percent.
            Ok(u8::try_from(5 + images * 15).expect("a percentage"))
        };
        let removed = store.make_room_by(watermarks, &in_use, &measure).expect("makes room");
        assert_eq!(removed, [ids[0], ids[3]], "the oldest that nobody uses");
        let removed =
            store.make_room_by(Watermarks { high: 1, low: 0 }, &in_use, &measure).expect("makes room");
        assert_eq!(removed, [ids[4]], "never what is used, held or new");
    }

    #[test]
    fn parts_go_but_for_those_of_a_transfer() {
        let store = TestStore::new();
        let part = |text: &[u8]| {
            let digest = Digest::of(text);
            std::fs::write(store.inner.part_path(&digest), text).expect("writes");
            digest
        };
        let [_idle, busy, leased] = [b"idle".as_slice(), b"busy", b"leased"].map(part);
        let claim = Busy::claim(&store.inner, busy).expect("free");
        let lease = store.lease();
        lease.protect(leased);
        store.remove_parts().expect("removes");
        let mut expected = [busy, leased].map(|digest| format!("{}.part", digest.hex()));
        expected.sort_unstable();
        assert_eq!(store.names("blobs/sha256/.ingest"), expected);
        drop((claim, lease));
        store.make_room_by(Watermarks { high: 0, low: 0 }, &|_| false, &|| Ok(50)).expect("makes room");
        assert_eq!(store.names("blobs/sha256/.ingest"), [""; 0]);
    }

    #[test]
    fn what_only_a_lease_kept_goes_with_the_lease() {
        let store = TestStore::new();
        let image = store.make("test", &[Tar::new().file("f", b"x").finish()]).expect("makes");
        let lease = store.lease();
        for layer in &image.config.rootfs.diff_ids {
            lease.protect(*layer);
        }
        lease.protect(image.id.digest());
        store.remove_image("test", true, &|_| Vec::new()).expect("removes");
        store.settle();
        assert_eq!(store.names("layers").len(), 1, "the lease keeps it");
        drop(lease);
        store.settle();
        assert_eq!(store.names("layers"), [""; 0]);
        assert_eq!(store.names("blobs/sha256"), [""; 0]);
    }
}
