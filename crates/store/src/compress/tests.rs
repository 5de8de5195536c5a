//! Images that were made here get compressed layers, once; others keep what they have.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::*;
use crate::testing::{Tar, TestStore, image_of};
use crate::{Image, LayerInfo};

/// Text that no two seeds have in common, and that becomes smaller.
fn text(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut words = Vec::with_capacity(length + 16);
    while words.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words.extend(format!("{:03x} word\n", state >> 20).into_bytes());
    }
    words.truncate(length);
    words
}

/// A layer that is made here, of one file.
fn layer(store: &TestStore, lease: &Lease, name: &str, content: &[u8]) -> (Descriptor, LayerInfo) {
    let layer = store.new_layer().expect("begins");
    layer.root().write(name, content, 0o644).expect("writes");
    let mtime = palan_linux::path::Time { seconds: 1, nanoseconds: 0 };
    layer.root().set_times(name, mtime, mtime).expect("sets");
    let info = store.keep_layer(layer, None, lease).expect("keeps");
    (store.describe(&info.diff_id, lease).expect("describes"), info)
}

/// An image that is made here, of a layer for each file.
fn made(store: &TestStore, tag: &str, files: &[(&str, &[u8])]) -> Image {
    let lease = store.lease();
    let layers: Vec<_> = files.iter().map(|(name, content)| layer(store, &lease, name, content)).collect();
    let commit = crate::image::ImageCommit { made_here: true, ..image_of(tag, &layers) };
    store.commit_image(&commit, &lease).expect("commits")
}

fn content(store: &Store, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_blob(digest).expect("opens").read_to_end(&mut bytes).expect("reads");
    assert_eq!(Digest::of(&bytes), *digest);
    bytes
}

fn manifest(store: &Store, id: &ImageId) -> (Digest, Vec<Descriptor>) {
    let digest = store.image(id).expect("looks").expect("there").manifest;
    (digest, Manifest::parse(&content(store, &digest), None).expect("a manifest").layers)
}

fn inode(store: &TestStore, digest: &Digest) -> u64 {
    fs::metadata(&store.inner.blob_path(digest)).expect("a file").ino()
}

#[track_caller]
fn assert_sound(store: &Store) {
    assert_eq!(store.check(false).expect("checks").problems, []);
}

#[test]
fn layers_are_compressed_once() {
    let mut store = TestStore::new();
    let (one, two) = (text(1, 900_000), text(2, 300_000));
    let image = made(&store, "test", &[("one", &one), ("two", &two), ("again", &one)]);
    let (before, tars) = manifest(&store, &image.id);
    assert!(tars.iter().all(is_plain));
    let lease = store.lease();
    let digest = store.compress_image(&image.id, &lease).expect("compresses").expect("another manifest");
    let (after, layers) = manifest(&store, &image.id);
    assert!(after == digest && after != before);
    for (tar, layer) in tars.iter().zip(&layers) {
        assert_eq!(layer.media_type, media_type::OCI_LAYER_GZIP);
        let compressed = content(&store, &layer.digest);
        assert!(compressed.len() as u64 == layer.size && layer.size * 2 < tar.size);
        let mut decoded = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut decoded).expect("gzip");
        assert_eq!(Digest::of(&decoded), tar.digest);
    }
    assert_eq!(store.compress_image(&image.id, &lease).expect("looks"), None);
    drop(lease);
    store.settle();
    store.collect().expect("collects");
    assert!(!store.has_blob(&before), "nobody needs the first manifest");
    assert_sound(&store);
    store.reopen();
    assert_eq!(manifest(&store, &image.id), (after, layers.clone()));
    // A build that does nothing new, of a program that does not know of it.
    let lease = store.lease();
    let inodes: Vec<u64> = layers.iter().map(|layer| inode(&store, &layer.digest)).collect();
    let infos = tars.iter().map(|tar| (tar.clone(), LayerInfo { diff_id: tar.digest, size: 0 }));
    let commit =
        crate::image::ImageCommit { made_here: true, ..image_of("test", &infos.collect::<Vec<_>>()) };
    assert_eq!(store.commit_image(&commit, &lease).expect("commits").manifest, before);
    assert_eq!(store.compress_image(&image.id, &lease).expect("finds"), Some(after));
    let found: Vec<u64> = layers.iter().map(|layer| inode(&store, &layer.digest)).collect();
    assert_eq!(found, inodes, "nothing was compressed again");
    assert_eq!(store.describe(&tars[0].digest, &lease).expect("describes"), layers[0]);
    drop(lease);
    store.remove_image("test", true, &|_| Vec::new()).expect("removes");
    tars.iter().for_each(|tar| store.release_layer(&tar.digest).expect("releases"));
    store.settle();
    for directory in ["blobs/sha256", "blobs/sha256/.ingest", "layers", "recipes"] {
        assert_eq!(store.names(directory), [""; 0], "{directory}");
    }
}

#[test]
fn what_was_not_made_here_keeps_its_bytes() {
    let store = TestStore::new();
    let lease = store.lease();
    let tar = Tar::new().file("f", &text(1, 100_000)).finish();
    let (mut descriptor, info) = store.layer(&lease, &tar).expect("unpacks");
    media_type::OCI_LAYER.clone_into(&mut descriptor.media_type);
    let image = store.commit_image(&image_of("pulled", &[(descriptor, info)]), &lease).expect("commits");
    assert_eq!(store.compress_image(&image.id, &lease).expect("looks"), None);
    // It was made here once, and then came from elsewhere with another manifest.
    let made = made(&store, "made", &[("f", b"content")]);
    let layers = manifest(&store, &made.id).1;
    let info = LayerInfo { diff_id: layers[0].digest, size: 0 };
    let mut commit = image_of("made", &[(layers[0].clone(), info)]);
    commit.manifest.push(b'\n');
    assert_eq!(store.commit_image(&commit, &lease).expect("commits").id, made.id);
    assert_eq!(store.compress_image(&made.id, &lease).expect("looks"), None);
    assert_eq!(manifest(&store, &made.id).0, Digest::of(&commit.manifest));
}

#[test]
fn who_wants_the_same_layer_waits_for_it() {
    let store = TestStore::new();
    let shared = text(3, 2_000_000);
    let own = [text(4, 1000), text(5, 1000), text(6, 1000)];
    let images: Vec<Image> = own
        .iter()
        .enumerate()
        .map(|(number, own)| made(&store, &format!("i{number}"), &[("shared", &shared), ("own", own)]))
        .collect();
    let tar = manifest(&store, &images[0].id).1[0].digest;
    let claim = Busy::claim(&store.inner, tar).expect("free");
    thread::scope(|scope| {
        let pushes: Vec<_> = images
            .iter()
            .map(|image| scope.spawn(|| store.compress_image(&image.id, &store.lease())))
            .collect();
        thread::sleep(Duration::from_millis(50));
        assert!(pushes.iter().all(|push| !push.is_finished()), "somebody else has the layer");
        drop(claim);
        for push in pushes {
            assert!(push.join().expect("ends").expect("compresses").is_some());
        }
    });
    let layers = images.iter().map(|image| manifest(&store, &image.id).1[0].clone());
    let layers: Vec<Descriptor> = layers.collect();
    assert!(layers.iter().all(|layer| *layer == layers[0]));
    assert_eq!(store.names("blobs/sha256/.ingest"), [""; 0]);
    assert_sound(&store);
    // Each of them needs it.
    for (left, tag) in ["i0", "i1", "i2"].into_iter().enumerate() {
        assert!(store.has_blob(&layers[0].digest), "{left}");
        store.remove_image(tag, true, &|_| Vec::new()).expect("removes");
        store.settle();
    }
    assert!(!store.has_blob(&layers[0].digest));
}

#[test]
fn what_a_killed_push_has_compressed_is_there_for_the_next() {
    let mut store = TestStore::new();
    let image = made(&store, "test", &[("one", &text(1, 300_000)), ("two", &text(2, 300_000))]);
    let tar = manifest(&store, &image.id).1[0].digest;
    let first = store.compress_layer(Some(&image.id), &tar, &store.lease()).expect("compresses");
    store.settle();
    store.collect().expect("collects");
    store.reopen();
    assert!(store.has_blob(&first.digest));
    assert_sound(&store);
    let file = inode(&store, &first.digest);
    store.compress_image(&image.id, &store.lease()).expect("compresses").expect("another manifest");
    assert_eq!((manifest(&store, &image.id).1[0].clone(), inode(&store, &first.digest)), (first, file));
    // Before it was recorded: it is put aside when the store opens, and does not lie there beside its twin.
    let (_, layers) = manifest(&store, &image.id);
    let database = &store.inner.lock().db;
    database.execute("DELETE FROM compressed_layers", []).expect("deletes");
    let part = store.inner.part_path(&layers[1].digest);
    fs::rename(&store.inner.blob_path(&layers[1].digest), &part).expect("moves");
    let second = manifest_tar(&image, 1);
    let again = store.compress(&second, &store.lease()).expect("compresses");
    assert_eq!(again, layers[1], "the same bytes");
    assert!(fs::metadata(&part).is_err());
}

fn manifest_tar(image: &Image, index: usize) -> Digest {
    image.config.rootfs.diff_ids[index]
}

#[test]
fn an_image_that_goes_meanwhile_is_compressed_to_the_end() {
    let store = TestStore::new();
    let image = made(&store, "test", &[("one", &text(1, 300_000))]);
    let lease = store.lease();
    let tar = manifest_tar(&image, 0);
    lease.protect(tar);
    store.remove_image("test", true, &|_| Vec::new()).expect("removes");
    let layer = store.compress_layer(Some(&image.id), &tar, &lease).expect("compresses");
    store.collect().expect("collects");
    assert!(store.has_blob(&layer.digest), "the lease keeps it");
    drop(lease);
    store.release_layer(&tar).expect("releases");
    store.settle();
    store.collect().expect("collects");
    store.settle();
    assert!(!store.has_blob(&layer.digest));
}

#[test]
fn a_compressed_layer_becomes_a_recipe() {
    let mut store = TestStore::new();
    let image = made(&store, "test", &[("one", &text(1, 2_000_000))]);
    store.compress_image(&image.id, &store.lease()).expect("compresses").expect("another manifest");
    let layer = manifest(&store, &image.id).1[0].clone();
    let bytes = content(&store, &layer.digest);
    store.settle();
    store.start_compaction(Duration::ZERO);
    store.wait_for_compaction();
    let names = store.names("blobs/sha256");
    assert!(!names.contains(&layer.digest.hex()), "{names:?}");
    let recipe = fs::metadata(&store.inner.recipe_path(&layer.digest)).expect("a recipe").len();
    assert!(recipe * 20 < layer.size, "{recipe} bytes for {}", layer.size);
    assert!(content(&store, &layer.digest) == bytes);
    assert_sound(&store);
    store.reopen();
    assert!(content(&store, &layer.digest) == bytes);
    assert_eq!(store.compress_image(&image.id, &store.lease()).expect("looks"), None);
}

#[test]
fn a_layer_without_an_image_keeps_its_compressed_form() {
    let mut store = TestStore::new();
    let lease = store.lease();
    let (plain, info) = layer(&store, &lease, "f", &text(8, 200_000));
    let compressed = store.compress_made(&info.diff_id, &lease).expect("compresses");
    assert!(compressed.digest != plain.digest && compressed.media_type == media_type::OCI_LAYER_GZIP);
    drop(lease);
    store.settle();
    store.collect().expect("collects");
    store.reopen();
    let lease = store.lease();
    let before = inode(&store, &compressed.digest);
    assert_eq!(store.compress_made(&info.diff_id, &lease).expect("finds"), compressed);
    assert_eq!(inode(&store, &compressed.digest), before);
    assert_sound(&store);
    drop(lease);
    store.release_layer(&info.diff_id).expect("releases");
    store.settle();
    for directory in ["blobs/sha256", "blobs/sha256/.ingest", "layers", "recipes"] {
        assert_eq!(store.names(directory), [""; 0], "{directory}");
    }
}
