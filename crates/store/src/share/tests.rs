//! Files are kept once, and no container sees it.

#![allow(clippy::disallowed_methods, reason = "a test makes a file system")]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use palan_oci::Digest;

use super::Shared;
use crate::testing::{Header, Tar, TestStore};

fn content() -> Vec<u8> {
    (0..50_000u32).flat_map(|number| (number * 7919).to_le_bytes()).collect()
}

/// The same file, and some that differ in one thing each.
fn layers() -> [Vec<u8>; 2] {
    let layer = |mode: u32, last: u8| {
        let mut other = content();
        other.push(last);
        let size = content().len() as u64;
        Tar::new()
            .directory("d")
            .file("d/same", &content())
            .entry(&Header { mode, size, ..Header::new("d/mode", b'0') }, &content())
            .file("d/content", &other)
            .file("d/small", b"small")
            .hard_link("d/second", "d/same-again")
            .finish()
    };
    // A hard link needs its target: put it first.
    let with_target = |mode, last| {
        let target = Tar::new().directory("d").file("d/same-again", &content()).unfinished();
        [target, layer(mode, last)].concat()
    };
    [with_target(0o644, 1), with_target(0o755, 2)]
}

fn share(store: &TestStore) -> Shared {
    store.settle();
    store.inner.share_layers(&|| false).expect("shares")
}

fn inode(store: &TestStore, layer: &[u8], path: &str) -> u64 {
    let layer = store.directory.path().join("layers").join(Digest::of(layer).hex());
    std::fs::metadata(layer.join(path)).expect("is there").ino()
}

#[test]
fn identical_files_become_one_where_nothing_can_be_cloned() {
    let store = TestStore::new();
    let [one, two] = layers();
    for (tag, layer) in [("one", &one), ("two", &two)] {
        store.make(tag, std::slice::from_ref(layer)).expect("makes");
    }
    let before = store.usage().expect("measures");
    let directory = store.directory.path().join("layers").join(Digest::of(&two).hex()).join("d");
    let times = std::fs::metadata(&directory).expect("is there").mtime_nsec();
    let shared = share(&store);
    // On a file system that clones this would be more.
    if shared.files == 1 {
        assert_eq!(inode(&store, &one, "d/same"), inode(&store, &two, "d/same"));
        assert_ne!(inode(&store, &one, "d/mode"), inode(&store, &two, "d/mode"), "another mode");
        assert_ne!(inode(&store, &one, "d/same-again"), inode(&store, &two, "d/same-again"), "two names");
        let after = store.usage().expect("measures");
        assert!(after.layers.bytes + 150_000 < before.layers.bytes, "{before:?} {after:?}");
    }
    assert_ne!(inode(&store, &one, "d/content"), inode(&store, &two, "d/content"), "other content");
    assert_eq!(std::fs::metadata(&directory).expect("is there").mtime_nsec(), times);
    assert_eq!(store.check(false).expect("checks").problems, []);
    assert_eq!(share(&store), Shared::default(), "once is enough");
    // One goes, the other stays whole.
    store.remove_image("one", true, &|_| Vec::new()).expect("removes");
    store.settle();
    assert_eq!(store.check(false).expect("checks").problems, []);
}

/// A file in this directory, mounted as a btrfs.
struct Btrfs(tempfile::TempDir);

impl Btrfs {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let (disk, place) = (directory.path().join("disk"), directory.path().join("mounted"));
        std::fs::create_dir(&place).expect("creates");
        std::fs::File::create(&disk).and_then(|file| file.set_len(256 << 20)).expect("a disk");
        let run = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let made = run("mkfs.btrfs", &[Path::new("-q"), &disk])
            && run("mount", &[Path::new("-o"), Path::new("loop"), &disk, &place]);
        made.then_some(Self(directory))
    }

    fn place(&self) -> std::path::PathBuf {
        self.0.path().join("mounted")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.place()).status();
    }
}

#[test]
fn blocks_are_shared_where_the_file_system_can() {
    let Some(disk) = Btrfs::new() else {
        // mkfs.btrfs (Debian: btrfs-progs), btrfs in the kernel, and a free loop device are needed.
        assert!(std::env::var_os("PALAN_FORBID_SKIPS").is_none(), "no btrfs can be made here");
        return;
    };
    let used = || {
        // Space counts as free when the transaction that freed it is committed.
        let _ = Command::new("sync").arg("-f").arg(disk.place()).status();
        let space = rustix::fs::statvfs(disk.place()).expect("measures");
        (space.f_blocks - space.f_bfree) * space.f_frsize
    };
    let store = TestStore::at(&disk.place()).expect("opens");
    let [one, two] = layers();
    for (tag, layer) in [("one", &one), ("two", &two)] {
        store.make(tag, std::slice::from_ref(layer)).expect("makes");
    }
    store.settle();
    let before = used();
    let shared = share(&store);
    assert_eq!(shared.files, 2, "the same content, whatever the mode");
    assert!(used() + 300_000 < before, "{before} {}", used());
    assert_ne!(inode(&store, &one, "d/same"), inode(&store, &two, "d/same"), "they stay two files");
    assert_eq!(store.check(false).expect("checks").problems, []);
}
