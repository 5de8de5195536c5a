//! What the store takes on the disk, as `du` counts it.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use palan_linux::path::{FileKind, Metadata, RootDir};

use crate::{Result, Store};

/// Things of one kind: how many, and the bytes that the disk gives them (blocks, not lengths).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Blobs, recipes, layers, …
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What `system df` shows of images. All bytes are those of the disk, each inode counted once, directories included, so that
/// [`Usage::total`] is what `du` says of `blobs`, `recipes`, `layers` and `images.db*` together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Content kept as it was transferred: manifests, configurations, layers that have no recipe (yet).
    pub blobs: Taken,
    /// Layers' blobs that are made again when they are wanted: what their recipes take.
    pub recipes: Taken,
    /// The bytes that the blobs of these recipes would take.
    pub replaced: u64,
    /// Unpacked layers.
    pub layers: Taken,
    /// Transfers that did not finish, and unpacks in progress.
    pub unfinished: Taken,
    /// What was removed and is still being deleted.
    pub removed: Taken,
    /// The database with its journal, and the directories between all these.
    pub overhead: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.overhead.saturating_add(self.removed.bytes).saturating_add(self.content())
    }

    /// What would be gone without images and unfinished work; what is gone already does not count.
    pub fn content(&self) -> u64 {
        let parts = [self.blobs, self.recipes, self.layers, self.unfinished];
        parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }
}

impl Store {
    /// Measures what the store takes. Looks at every file: some 100 ms for 100,000 of them.
    pub fn usage(&self) -> Result<Usage> {
        let inner = &self.inner;
        let mut usage = Usage::default();
        let mut seen = HashSet::new();
        let mut take = |path: &Path| -> Result<u64> {
            disk_usage(path, &mut seen)
                .map_err(|source| palan_stdx::fs::PathError::new("measure", path, source).into())
        };
        for (directory, in_use) in [(&inner.blobs, &mut usage.blobs), (&inner.recipes, &mut usage.recipes)] {
            for name in inner.names_in(directory)? {
                let bytes = take(&directory.join(&name))?;
                let kind = if name.starts_with('.') { &mut usage.unfinished } else { &mut *in_use };
                // `.ingest` is there always; what is in it is counted below.
                kind.count += u64::from(name != ".ingest");
                kind.bytes += bytes;
            }
        }
        usage.unfinished.count += inner.names_in(&inner.ingest)?.len() as u64;
        for name in inner.names_in(&inner.layers)? {
            let bytes = take(&inner.layers.join(&name))?;
            match name.strip_prefix('.') {
                Some("empty") => usage.overhead += bytes,
                Some(name) if name.starts_with("trash-") => {
                    usage.removed.count += 1;
                    usage.removed.bytes += bytes;
                }
                Some(_) => {
                    usage.unfinished.count += 1;
                    usage.unfinished.bytes += bytes;
                }
                None => {
                    usage.layers.count += 1;
                    usage.layers.bytes += bytes;
                }
            }
        }
        for name in ["images.db", "images.db-wal", "images.db-shm", "images.db-reserve"] {
            usage.overhead += take(&inner.root.join(name))?;
        }
        for directory in [&inner.root.join("blobs"), &inner.blobs, &inner.recipes, &inner.layers] {
            usage.overhead += palan_stdx::fs::metadata(directory).map(|metadata| blocks(&metadata))?;
        }
        usage.replaced =
            crate::database::recipe::recipes(&inner.lock().db)?.iter().map(|recipe| recipe.size).sum();
        Ok(usage)
    }
}

fn blocks(metadata: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    metadata.blocks() * 512
}

/// Bytes of a file or tree on the disk. Files with several names count where they are seen first; what goes away meanwhile
/// does not count.
fn disk_usage(path: &Path, seen: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(0) };
    let parent = RootDir::open(parent)?;
    let Some(metadata) = parent.as_directory().metadata_if_exists(name)? else { return Ok(0) };
    let mut bytes = metadata.blocks * 512;
    if !metadata.is_dir() {
        return Ok(bytes);
    }
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut pending = match parent.as_directory().open_dir(name) {
        Ok(directory) => vec![directory],
        Err(error) if gone(&error) => return Ok(bytes),
        Err(error) => return Err(error),
    };
    let mut is_first = |metadata: &Metadata| {
        metadata.is_dir() || metadata.links < 2 || seen.insert((metadata.device, metadata.inode))
    };
    while let Some(directory) = pending.pop() {
        for child in directory.entries()? {
            let Some(metadata) = directory.metadata_if_exists(&child.name)? else { continue };
            if is_first(&metadata) {
                bytes += metadata.blocks * 512;
            }
            if metadata.kind == FileKind::Directory {
                match directory.open_dir(&child.name) {
                    Ok(below) => pending.push(below),
                    Err(error) if gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tar, TestStore, gzip};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "test code; the oracle is a program")]
    fn usage_is_what_du_says() {
        let mut store = TestStore::new();
        let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        let layer = Tar::new()
            .directory("a")
            .file("a/big", &content)
            .hard_link("a/again", "a/big")
            .symlink("a/link", "big")
            .finish();
        store.make("test", std::slice::from_ref(&layer)).expect("makes");
        store.settle();
        let du = |store: &TestStore| {
            let mut total = 0;
            for name in [
                "blobs",
                "recipes",
                "layers",
                "images.db",
                "images.db-wal",
                "images.db-shm",
                "images.db-reserve",
            ] {
                let path = store.directory.path().join(name);
                if path.exists() {
                    let output = std::process::Command::new("du").args(["-s", "-B1"]).arg(path).output();
                    let text = String::from_utf8(output.expect("du").stdout).expect("text");
                    total += text.split('\t').next().expect("a number").parse::<u64>().expect("a number");
                }
            }
            total
        };
        let before = store.usage().expect("measures");
        assert_eq!(before.total(), du(&store), "{before:?}");
        assert_eq!((before.layers.count, before.recipes.count, before.blobs.count), (1, 0, 3));
        let blob = palan_oci::Digest::of(gzip(&layer));
        let key = palan_oci::Digest::of(&layer).hex();
        store.compact(&blob, &key).expect("compacts");
        let after = store.usage().expect("measures");
        assert_eq!(after.total(), du(&store), "{after:?}");
        assert_eq!((after.layers.count, after.recipes.count, after.blobs.count), (1, 1, 2));
        // What is being removed takes room, but is freed as far as anybody is told.
        let trash = store.directory.path().join("layers/.trash-x");
        palan_stdx::fs::create_dir(&trash, 0o700).expect("creates");
        palan_stdx::fs::write(&trash.join("big"), [1; 100_000]).expect("writes");
        let removing = store.usage().expect("measures");
        assert_eq!((removing.content(), removing.removed.count), (after.content(), 1));
        assert!(removing.total() >= after.total() + 100_000);
        assert!(after.total() < before.total() && after.replaced > after.recipes.bytes);
        store.reopen();
    }
}
