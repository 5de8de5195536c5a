//! Directories that become layers, and what is left of those that don't.

use std::ffi::OsStr;
use std::io::Read as _;

use palan_linux::path::FileKind;

use super::*;
use crate::testing::TestStore;

fn content(store: &Store, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_blob(digest).expect("opens").read_to_end(&mut bytes).expect("reads");
    bytes
}

#[test]
fn a_directory_becomes_a_layer_whose_tar_can_be_had() {
    let mut store = TestStore::new();
    let lease = store.lease();
    let layer = store.new_layer().expect("begins");
    let root = layer.root();
    root.create_dir("d", 0o750).expect("creates");
    root.write("d/file", &vec![b'x'; 3_000_000], 0o4755).expect("writes");
    for number in 0..300_usize {
        root.write(format!("d/{number}"), &vec![b'y'; number * 10], 0o644).expect("writes");
    }
    root.create_hard_link("d/file", "link").expect("links");
    root.create_symlink("/etc", "symlink").expect("links");
    root.set_xattr("d/file", OsStr::new("user.a"), b"1").expect("sets");
    let sparse = root.create_file("sparse", 0o600).expect("creates");
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 5_000_000).expect("writes");
    let made = store.keep_layer(layer, None, &lease).expect("keeps");
    let tar = content(&store, &made.diff_id);
    assert_eq!(Digest::of(&tar), made.diff_id);
    // The same files give the same layer, unpacked and packed again.
    let again = store.new_layer().expect("begins");
    crate::tree::unpack(&mut &tar[..], again.root(), &crate::Limits::default()).expect("unpacks");
    assert_eq!(store.keep_layer(again, None, &lease).expect("keeps").diff_id, made.diff_id);
    drop(lease);
    store.settle();
    store.reopen();
    let lease = store.lease();
    assert!(store.layer_dirs(&[made.diff_id], &lease).expect("looks").is_some(), "it survives a restart");
    assert_eq!(content(&store, &made.diff_id), tar);
    drop(lease);
    store.collect().expect("collects");
    assert_eq!(store.made_layers().expect("lists").len(), 1);
    store.release_layer(&made.diff_id).expect("releases");
    store.settle();
    assert_eq!(store.names("layers"), [""; 0]);
    assert_eq!(store.names("recipes"), [""; 0]);
}

#[test]
fn what_hides_nothing_is_no_part_of_a_layer() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let store = TestStore::new();
    let lease = store.lease();
    let base = tempfile::tempdir().expect("temporary");
    let below = RootDir::open(base.path()).expect("opens");
    below.create_dir("old", 0o755).expect("creates");
    below.write("old/gone", b"1", 0o644).expect("writes");
    let layer = store.new_layer().expect("begins");
    let root = layer.root();
    for name in ["old", "new"] {
        root.create_dir(name, 0o755).expect("creates");
        root.set_xattr(name, OsStr::new("trusted.overlay.opaque"), b"y").expect("sets");
    }
    root.create_node("gone", FileKind::CharacterDevice, 0, (0, 0)).expect("creates");
    let made = store.keep_layer(layer, Some(&below), &lease).expect("keeps");
    let view = store.view_layers(&[made.diff_id], &lease).expect("looks").expect("there");
    let opaque = |name: &str| view.xattr(name, OsStr::new("trusted.overlay.opaque")).expect("reads");
    assert!(opaque("old").is_some() && opaque("new").is_none());
    assert!(view.symlink_metadata("gone").is_err(), "a mark over nothing is taken away");
    let tar = content(&store, &made.diff_id);
    let names = String::from_utf8_lossy(&tar);
    assert!(names.contains("old/.wh..wh..opq") && !names.contains("new/.wh..wh..opq"));
    assert!(!names.contains(".wh.gone"));
}

#[test]
fn a_layer_that_is_dropped_leaves_nothing() {
    let store = TestStore::new();
    let mut layer = store.new_layer().expect("begins");
    layer.work().expect("a work directory");
    layer.root().write("f", b"x", 0o644).expect("writes");
    drop(layer);
    assert_eq!(store.names("layers"), [""; 0]);
}

#[test]
fn what_was_made_elsewhere_is_kept_like_what_was_made_here() {
    let mut store = TestStore::new();
    let lease = store.lease();
    let tar = crate::testing::Tar::new().file("f", b"content").finish();
    let (descriptor, info) = store.layer(&lease, &tar).expect("unpacks");
    assert!(store.adopt_layer(&info.diff_id, Some(7), &lease).expect("keeps"));
    assert!(!store.adopt_layer(&Digest::of("none"), None, &lease).expect("looks"));
    drop(lease);
    store.settle();
    store.collect().expect("collects");
    store.reopen();
    let lease = store.lease();
    assert!(store.layer_dirs(&[info.diff_id], &lease).expect("looks").is_some());
    assert_eq!(store.layer_made_at(&info.diff_id).expect("looks"), Some(7));
    assert_eq!(store.describe(&info.diff_id, &lease).expect("describes").digest, descriptor.digest);
    drop(lease);
    store.release_layer(&info.diff_id).expect("releases");
    store.settle();
    for directory in ["layers", "blobs/sha256", "recipes"] {
        assert_eq!(store.names(directory), [""; 0], "{directory}");
    }
}
