//! Every kind of damage is found, named, and put right from what is left.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use palan_oci::Digest;

use super::Report;
use crate::testing::{Tar, TestStore, gzip, image_of};

fn layer() -> Vec<u8> {
    let content: Vec<u8> = (0..40_000u32).flat_map(|number| (number * 7919).to_le_bytes()).collect();
    Tar::new()
        .directory("d")
        .pax(&[("SCHILY.xattr.user.x", b"y")])
        .file("d/file", &content)
        .symlink("d/link", "file")
        .file("d/.wh.hidden", b"")
        .finish()
}

struct Subject {
    store: TestStore,
    layer: PathBuf,
    blob: Digest,
    key: String,
}

fn subject() -> Subject {
    let store = TestStore::new();
    store.make("broken", &[layer()]).expect("makes");
    store.make("fine", &[Tar::new().directory("other").finish()]).expect("makes");
    store.settle();
    let key = Digest::of(layer()).hex();
    let layer_path = store.directory.path().join("layers").join(&key);
    Subject { layer: layer_path, blob: Digest::of(gzip(&layer())), key, store }
}

#[track_caller]
fn check_clean(store: &TestStore) {
    let report = store.check(false).expect("checks");
    assert_eq!(report.problems, [], "{report:?}");
}

fn first(report: &Report) -> String {
    report.problems.first().map(|problem| format!("{}: {}", problem.object, problem.what)).unwrap_or_default()
}

#[test]
fn a_store_that_is_well_has_no_problems() {
    let subject = subject();
    let report = subject.store.check(false).expect("checks");
    assert_eq!((report.images, report.layers, report.problems.len()), (2, 2, 0), "{report:?}");
    subject.store.compact(&subject.blob, &subject.key).expect("compacts");
    check_clean(&subject.store);
    // Layers over their parents, and layers whose root is opaque.
    let bottom = Tar::new().directory("d").file("d/below", b"x").finish();
    let top =
        Tar::new().file("d/above", b"y").hard_link("d/link", "d/below").file("d/.wh..wh..opq", b"").finish();
    subject.store.make("chain", &[bottom, top]).expect("makes");
    check_clean(&subject.store);
}

/// Found by a power cut: one image brought the layer, another has it in another form, and the first one went.
#[test]
fn a_layer_may_outlive_the_blob_that_it_came_from() {
    let store = TestStore::new();
    let lease = store.lease();
    let tar = Tar::new().directory("d").file("d/f", b"content").finish();
    let plain = store.layer(&lease, &tar).expect("brings");
    let first = store.commit_image(&image_of("first", &[plain]), &lease).expect("commits");
    let packed = store.layer(&lease, &gzip(&tar)).expect("brings");
    store.commit_image(&image_of("second:1", &[packed]), &lease).expect("commits");
    drop(lease);
    store.settle();
    check_clean(&store);
    store.remove_image(&first.id.to_string(), true, &|_| Vec::new()).expect("removes");
    store.settle();
    check_clean(&store);
}

#[test]
fn a_changed_layer_is_unpacked_again_from_its_blob() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 5] = [
        ("other content", |layer| {
            let file = std::fs::File::options().write(true).open(layer.join("d/file")).expect("opens");
            std::os::unix::fs::FileExt::write_at(&file, b"!", 9).expect("writes");
            let times = std::fs::FileTimes::new();
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
            file.set_times(times.set_modified(then)).expect("sets");
        }),
        ("mode", |layer| {
            let mode = std::fs::Permissions::from_mode(0o4755);
            std::fs::set_permissions(layer.join("d/file"), mode).expect("sets");
        }),
        ("gone", |layer| std::fs::remove_file(layer.join("d/link")).expect("removes")),
        ("not part of it", |layer| std::fs::write(layer.join("d/more"), b"").expect("writes")),
        ("gone", |layer| std::fs::remove_file(layer.join("d/hidden")).expect("removes")),
    ];
    for (expected, damage) in damages {
        let subject = subject();
        damage(&subject.layer);
        let found = subject.store.check(false).expect("checks");
        assert!(first(&found).contains(expected) && found.problems.len() == 1, "{expected}: {found:?}");
        let again = subject.store.check(true).expect("checks");
        assert_eq!(again.pull_again, [""; 0], "{expected}: {again:?}");
        check_clean(&subject.store);
    }
}

#[test]
fn what_can_not_be_made_again_is_dropped_and_named() {
    for is_recipe in [false, true] {
        let subject = subject();
        if is_recipe {
            subject.store.compact(&subject.blob, &subject.key).expect("compacts");
            std::fs::write(subject.layer.join("d/file"), b"other content").expect("writes");
        } else {
            let blob = subject.store.directory.path().join("blobs/sha256").join(subject.blob.hex());
            std::fs::write(blob, b"other content").expect("writes");
        }
        let found = subject.store.check(true).expect("checks");
        assert_eq!(found.pull_again, ["docker.io/library/broken:latest"], "{found:?}");
        check_clean(&subject.store);
        subject.store.settle();
        assert!(!subject.layer.exists() && subject.store.images().expect("lists").len() == 1);
        // The next pull brings it.
        subject.store.make("broken", &[layer()]).expect("makes");
        check_clean(&subject.store);
    }
}

#[test]
fn what_nothing_points_to_is_found() {
    let subject = subject();
    let root = subject.store.directory.path();
    let stranger = Digest::of(b"stranger").hex();
    std::fs::write(root.join("blobs/sha256").join(&stranger), b"stranger").expect("writes");
    std::fs::write(root.join("recipes").join(&stranger), b"stranger").expect("writes");
    std::fs::create_dir(root.join("layers").join(&stranger)).expect("creates");
    let found = subject.store.check(false).expect("checks");
    assert_eq!(found.problems.len(), 3, "{found:?}");
    subject.store.check(true).expect("checks");
    check_clean(&subject.store);
}
