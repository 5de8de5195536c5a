//! Blobs become recipes and come back, byte by byte; what can't stays.

use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use palan_oci::{Descriptor, Digest};

use crate::testing::{Header, Tar, TestStore, gzip, image_of};
use crate::{Image, LayerInfo, Store};

/// Bytes that no compressor makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A layer with everything that makes a tar differ from a directory.
fn strange_layer() -> Vec<u8> {
    let long = "a/".repeat(90) + "file";
    Tar::new()
        .directory("./a/")
        .file("a/one", &noise(70_000))
        .file("a/twice", b"replaced later")
        .file("a/twice", &noise(1000))
        .file("gone", &noise(5000))
        .entry(&Header { link: b"a/one".to_vec(), size: 70_000, ..Header::new("a/link", b'1') }, b"")
        .symlink("a/symlink", "/etc/passwd")
        .pax(&[("path", long.as_bytes()), ("mtime", b"1600000000.123456789"), ("SCHILY.xattr.user.x", b"y")])
        .file("ignored", &noise(40_000))
        .file(".wh.lower", b"a whiteout with content")
        .file("empty", b"")
        .entry(&Header { device: (1, 3), ..Header::new("null", b'3') }, b"")
        .entry(&Header::new("fifo", b'6'), b"")
        .file("last", &noise(513))
        .directory("gone")
        .finish()
}

fn read(store: &Store, blob: &Digest) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    store.open_blob(blob).expect("opens").read_to_end(&mut content)?;
    Ok(content)
}

fn is_file(store: &TestStore, blob: &Digest) -> bool {
    store.names("blobs/sha256").contains(&blob.hex())
}

/// An image of these blobs, and the directories of its layers.
fn commit(store: &TestStore, tag: &str, blobs: &[Vec<u8>]) -> (Image, Vec<(Descriptor, LayerInfo)>) {
    let lease = store.lease();
    let layers: Vec<_> = blobs.iter().map(|blob| store.layer(&lease, blob).expect("unpacks")).collect();
    (store.commit_image(&image_of(tag, &layers), &lease).expect("commits"), layers)
}

fn commit_one(store: &TestStore, blob: &[u8]) -> (Image, Digest, String) {
    let (image, layers) = commit(store, "test", &[blob.to_vec()]);
    let key = layers[0].1.diff_id.hex();
    (image, Digest::of(blob), key)
}

#[test]
fn exact_bytes_come_back() {
    let trailing = [strange_layer(), vec![0; 3000], b"behind the end".to_vec()].concat();
    for (what, blob) in
        [("plain", strange_layer()), ("gzip", gzip(&strange_layer())), ("with a tail", gzip(&trailing))]
    {
        let mut store = TestStore::new();
        let (image, digest, key) = commit_one(&store, &blob);
        store.compact(&digest, &key).expect(what);
        assert!(!is_file(&store, &digest), "{what}: the blob is gone");
        assert!(read(&store, &digest).expect(what) == blob, "{what}: other bytes");
        assert_eq!(store.open_blob(&digest).expect("opens").size(), blob.len() as u64);
        assert!(store.has_blob(&digest));

        store.reopen();
        assert!(read(&store, &digest).expect(what) == blob, "{what}: other bytes after a restart");
        // A second image of the same layer needs no transfer.
        let again = commit(&store, "again", std::slice::from_ref(&blob)).0;
        assert_eq!(again.id, image.id);

        store.remove_image(&image.id.to_string(), true, &|_| Vec::new()).expect("removes");
        store.settle();
        assert_eq!(store.names("recipes"), [""; 0], "{what}: nothing is left");
        assert_eq!(store.names("layers"), [""; 0], "{what}: nothing is left");
        assert_eq!(store.names("blobs/sha256"), [""; 0], "{what}: nothing is left");
    }
}

#[test]
fn reading_starts_where_an_upload_is_resumed() {
    let store = TestStore::new();
    let blob = gzip(&strange_layer());
    let (_, digest, key) = commit_one(&store, &blob);
    store.compact(&digest, &key).expect("compacts");
    let mut content = store.open_blob(&digest).expect("opens");
    for offset in [50_000, 10, blob.len() - 1, blob.len()] {
        content.seek_to(offset as u64).expect("seeks");
        let mut rest = Vec::new();
        content.read_to_end(&mut rest).expect("reads");
        assert!(rest == blob[offset..], "from {offset}");
    }
}

#[test]
fn a_recipe_is_a_small_part_of_its_blob() {
    let store = TestStore::new();
    let files = (0..400).fold(Tar::new(), |tar, number| {
        tar.file(&format!("usr/share/thing-{number}"), &noise(4000 + number)[number..])
    });
    let blob = gzip(&files.finish());
    let (_, digest, key) = commit_one(&store, &blob);
    store.compact(&digest, &key).expect("compacts");
    let rows = crate::database::recipe::recipes(&store.inner.lock().db).expect("rows");
    assert!(rows[0].bytes * 50 < rows[0].size, "{rows:?}");
}

#[test]
fn a_layer_over_its_parents_is_content_too() {
    let store = TestStore::new();
    let bottom = gzip(&Tar::new().directory("d").file("d/below", &noise(30_000)).finish());
    // No entry for `d`, a hard link to a file of the layer below.
    let top = gzip(&Tar::new().file("d/above", &noise(50_000)).hard_link("d/link", "d/below").finish());
    let (image, layers) = commit(&store, "chain", &[bottom, top.clone()]);
    let chain = image.config.chain_ids()[1].digest();
    let digest = layers[1].0.digest;
    store.compact(&digest, &format!("chain-{}", chain.hex())).expect("compacts");
    assert!(!is_file(&store, &digest));
    assert!(read(&store, &digest).expect("reads") == top);

    // Over other parents the blob is unpacked once more, and the recipe's layer outlives its own image.
    let other = gzip(&Tar::new().directory("d").file("d/below", &noise(100)).finish());
    let (second, _) = commit(&store, "second", &[other, top.clone()]);
    store.remove_image(&image.id.to_string(), true, &|_| Vec::new()).expect("removes");
    store.settle();
    assert!(read(&store, &digest).expect("reads") == top);
    assert_eq!(store.file(&second.id, "d/above").expect("a file"), noise(50_000));
    store.remove_image(&second.id.to_string(), true, &|_| Vec::new()).expect("removes");
    store.settle();
    assert_eq!(store.names("layers"), [""; 0]);
}

#[test]
fn what_can_not_be_proven_stays() {
    let store = TestStore::new();
    let zstd = zstd::encode_all(&strange_layer()[..], 3).expect("compresses");
    let small = gzip(&Tar::new().file("f", b"small").finish());
    let replaced = gzip(&Tar::new().file("f", &noise(90_000)).file("f", b"").finish());
    for (blob, reason) in [(zstd, "zstd"), (small, "too small"), (replaced, "as large as the blob")] {
        let (_, digest, key) = commit_one(&store, &blob);
        let refused = store.compact(&digest, &key).expect_err(reason);
        assert!(refused.contains(reason), "{refused}");
        assert!(is_file(&store, &digest), "{reason}");
        assert!(read(&store, &digest).expect("reads") == blob);
    }
    assert_eq!(store.names("recipes"), [""; 0]);
}

#[test]
fn a_changed_layer_is_noticed_before_the_last_byte() {
    let store = TestStore::new();
    let blob = gzip(&strange_layer());
    let (_, digest, key) = commit_one(&store, &blob);
    store.compact(&digest, &key).expect("compacts");
    let file = store.directory.path().join("layers").join(&key).join("a/one");
    let file = std::fs::File::options().write(true).open(file).expect("opens");
    file.write_all_at(b"!", 60_000).expect("writes");
    let error = read(&store, &digest).expect_err("is wrong");
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
}

#[test]
fn every_step_that_was_not_finished_is_ended_at_the_next_start() {
    let mut store = TestStore::new();
    let blob = gzip(&strange_layer());
    let (_, digest, key) = commit_one(&store, &blob);
    let root = store.directory.path().to_owned();
    let (kept, recipe) =
        (root.join("blobs/sha256").join(digest.hex()), root.join("recipes").join(digest.hex()));
    // Killed after the recipe had its name, before the row.
    std::fs::write(&recipe, b"anything").expect("writes");
    std::fs::write(root.join("recipes/.tmp-x"), b"anything").expect("writes");
    store.reopen();
    assert_eq!(store.names("recipes"), [""; 0]);
    assert!(is_file(&store, &digest));
    // Killed after the row, before the blob was removed.
    store.compact(&digest, &key).expect("compacts");
    std::fs::write(&kept, &blob).expect("writes");
    store.reopen();
    assert!(!is_file(&store, &digest));
    assert!(read(&store, &digest).expect("reads") == blob);
    // An older database.
    store.inner.lock().db.execute("DELETE FROM recipes", []).expect("deletes");
    store.reopen();
    assert!(read(&store, &digest).expect("reads") == blob);
}

#[test]
fn it_happens_behind_everybodys_back_and_not_during_a_transfer() {
    let store = TestStore::new();
    let blob = gzip(&strange_layer());
    let (_, digest, _) = commit_one(&store, &blob);
    let transfer = crate::content::Busy::claim(&store.inner, Digest::of(b"something")).expect("claims");
    store.start_compaction(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(500));
    assert!(is_file(&store, &digest), "it waits for the transfer");
    drop(transfer);
    store.wait_for_compaction();
    assert!(!is_file(&store, &digest));
    let second = gzip(&Tar::new().file("f", &noise(100_000)).finish());
    let (_, digest, _) = commit_one(&store, &second);
    store.wait_for_compaction();
    assert!(!is_file(&store, &digest), "a later image too");
    assert!(read(&store, &digest).expect("reads") == second);
}
