//! Names, records and removal, and what a kill or power loss leaves of them.

use std::io::{self, Read};

use super::*;
use crate::image::Removed;
use crate::testing::{Header, Tar, TestStore, gzip, image_of};
use crate::{BeginLayer, LayerInfo, LayerRequest};

fn hello(text: &str) -> Vec<u8> {
    Tar::new().directory("etc/").file("etc/hello", text.as_bytes()).finish()
}

/// What a removal leaves that is killed when the image's record is gone and those of its layers are not.
#[test]
fn an_image_that_was_removed_by_half_comes_back_whole() {
    let mut store = TestStore::new();
    let tar = Tar::new().file("a", b"content").finish();
    for _ in 0..2 {
        let image = store.make("app:1", std::slice::from_ref(&tar)).expect("makes");
        assert_eq!(store.check(false).expect("looks").problems, []);
        assert!(store.has_blob(&Digest::of(gzip(&tar))));
        crate::database::delete_image(&mut store.inner.lock().db, &image.id).expect("removes");
        store.reopen();
    }
    assert_eq!(store.names("layers"), [""; 0], "nobody needs it any more");
}

#[test]
fn an_image_from_two_layers() {
    let store = TestStore::new();
    let image = store.make("a:1", &[hello("lower"), hello("upper")]).expect("commits");
    assert_eq!(image.tags, ["a:1".parse().expect("a name")]);
    assert_eq!(image.size, 10);
    assert_eq!(store.file(&image.id, "/etc/hello"), Some(b"upper".to_vec()));
    assert_eq!(store.lower_dirs(&image.id).expect("there").len(), 2);
    assert_eq!(store.resolve("a:1").expect("found").id, image.id);
    assert_eq!(store.resolve(&image.id.to_string()).expect("found").id, image.id);
    assert_eq!(store.resolve(&image.id.digest().short()).expect("found").id, image.id);
    assert_eq!(store.resolve("b").expect_err("absent").to_string(), "No such image: b:latest");
    let history = store.history(&image.id).expect("there");
    assert_eq!(history.iter().map(|line| line.size).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn a_layer_that_is_not_self_contained_is_unpacked_over_its_parents() {
    let store = TestStore::new();
    let base = Tar::new()
        .entry(&Header { mode: 0o700, owner: (3, 4), ..Header::new("./", b'5') }, b"")
        .entry(&Header { mode: 0o750, owner: (1, 2), ..Header::new("usr/", b'5') }, b"")
        .directory("usr/lib/")
        .file("usr/lib/old", b"old")
        .file("usr/lib/gone", b"gone")
        .symlink("lib", "usr/lib")
        .directory("full/")
        .file("full/a", b"a")
        .directory("full/sub/")
        .file("full/sub/b", b"b")
        .finish();
    let top = Tar::new()
        .file("lib/new", b"new")
        .file("lib/.wh.gone", b"")
        .hard_link("copy", "usr/lib/old")
        .file("full/sub/c", b"c")
        .file("full/.wh..wh..opq", b"")
        .finish();
    let image = store.make("chain", &[base.clone(), top.clone()]).expect("commits");
    let view = store.view(&image.id).expect("mounts");
    assert_eq!(view.read("usr/lib/new", 10).expect("through the lower symlink"), b"new");
    assert_eq!(view.symlink_metadata("lib").expect("there").kind, palan_linux::path::FileKind::Symlink);
    assert_eq!(view.read("copy", 10).expect("linked"), b"old");
    assert!(view.read("usr/lib/gone", 10).is_err());
    let usr = view.metadata("usr").expect("there");
    assert_eq!((usr.mode, usr.uid, usr.gid), (0o750, 1, 2), "the lower layer's, not a made-up one");
    assert_eq!(view.metadata("/").map(|root| (root.mode, root.uid)).expect("there"), (0o700, 3));
    assert!(view.read("full/a", 10).is_err() && view.read("full/sub/b", 10).is_err());
    assert_eq!(view.read("full/sub/c", 10).expect("there"), b"c");
    drop(view);
    assert_eq!(store.names("layers").iter().filter(|name| name.starts_with("chain-")).count(), 1);
    // Over other parents it is another layer.
    let other = store.make("other", &[hello("x"), base, top]).expect("commits");
    assert_eq!(store.names("layers").iter().filter(|name| name.starts_with("chain-")).count(), 2);
    store.remove_image("other", false, &|_| Vec::new()).expect("removes");
    assert!(store.image(&other.id).expect("looks").is_none());
    store.settle();
    assert_eq!(store.names("layers").iter().filter(|name| name.starts_with("chain-")).count(), 1);
    assert_eq!(store.file(&image.id, "copy"), Some(b"old".to_vec()));
}

#[test]
fn a_bottom_layer_cannot_lean_on_others() {
    let store = TestStore::new();
    let error = store.make("x", &[Tar::new().hard_link("a", "b").finish()]).expect_err("refused");
    assert!(matches!(error, Error::IncompleteBottom { .. }), "{error}");
    store.collect().expect("collects");
    store.settle();
    assert_eq!(store.names("layers"), [""; 0]);
    // Missing parents are fine at the bottom.
    let image = store.make("y", &[Tar::new().file("a/b", b"c").finish()]).expect("commits");
    assert_eq!(store.file(&image.id, "a/b"), Some(b"c".to_vec()));
}

#[test]
fn layers_that_occur_twice_and_opaque_roots() {
    let store = TestStore::new();
    let (one, two) = (hello("1"), Tar::new().directory("etc/").file("etc/.wh.hello", b"").finish());
    let image = store.make("twice", &[one.clone(), two.clone(), one.clone()]).expect("commits");
    assert_eq!(store.lower_dirs(&image.id).expect("there").len(), 2);
    assert_eq!(store.file(&image.id, "etc/hello"), Some(b"1".to_vec()));
    let gone = store.make("gone", &[one.clone(), two]).expect("commits");
    assert_eq!(store.file(&gone.id, "etc/hello"), None);
    let opaque = Tar::new().file(".wh..wh..opq", b"").file("only", b"this").finish();
    let image = store.make("opaque", &[one, opaque]).expect("commits");
    assert_eq!(store.lower_dirs(&image.id).expect("there").len(), 1);
    assert_eq!(store.file(&image.id, "etc/hello"), None);
    assert_eq!(store.file(&image.id, "only"), Some(b"this".to_vec()));
    let empty = store.make("empty", &[]).expect("commits");
    assert_eq!(store.view(&empty.id).expect("opens").read_dir("/").expect("lists"), []);
}

#[test]
fn a_lying_image_is_refused() {
    let store = TestStore::new();
    let lease = store.lease();
    let blob = gzip(&hello("x"));
    let (descriptor, info) = store.layer(&lease, &blob).expect("brings");
    let good = image_of("a", &[(descriptor.clone(), info)]);
    let check = |change: &dyn Fn(&mut ImageCommit), expected: fn(&Error) -> bool| {
        let mut commit = good.clone();
        change(&mut commit);
        let error = store.commit_image(&commit, &lease).expect_err("refused");
        assert!(expected(&error), "{error}");
    };
    check(&|commit| commit.config.push(b' '), |error| matches!(error, Error::Verify(_)));
    check(&|commit| commit.manifest.truncate(9), |error| matches!(error, Error::Manifest { .. }));
    let other = image_of(
        "a",
        &[(descriptor.clone(), info), (descriptor, LayerInfo { diff_id: Digest::of(b"x"), size: 0 })],
    );
    check(&|commit| *commit = other.clone(), |error| matches!(error, Error::MissingLayer { .. }));
    check(
        &|commit| {
            commit.manifest = String::from_utf8_lossy(&commit.manifest)
                .replace("\"layers\":[{", "\"layers\":[],\"x\":[{")
                .into()
        },
        |error| matches!(error, Error::LayerCount { layers: 0, diff_ids: 1, .. }),
    );
    // The diff-id in the configuration is checked when the layer comes.
    let request = LayerRequest {
        descriptor: palan_oci::Descriptor::of("", &gzip(&hello("y"))),
        diff_id: Some(Digest::of(b"a lie")),
    };
    let BeginLayer::Ready(writer) = store.begin_layer(&request, &lease).expect("begins") else {
        panic!("is new")
    };
    let error = writer.run(&mut &gzip(&hello("y"))[..]).expect_err("refused");
    assert!(matches!(error, Error::WrongDiffId { .. }), "{error}");
    assert_eq!(store.names("blobs/sha256/.ingest"), [""; 0]);
}

#[test]
fn broken_transfers_leave_resumable_parts_only() {
    let mut store = TestStore::new();
    let blob = gzip(&Tar::new().file("big", &noise(300_000)).finish());
    let lease = store.lease();
    // The network fails half-way.
    let half = blob.len() / 2;
    let mut source = Failing { content: &blob[..half] };
    let error = store.layer_from(&lease, &blob, &mut source).expect_err("fails");
    assert!(matches!(error, Error::Source { .. }), "{error}");
    assert_eq!(store.names("layers"), [""; 0]);
    // The process is killed; another one resumes where it stopped.
    drop(lease);
    store.reopen();
    let lease = store.lease();
    let request = LayerRequest { descriptor: palan_oci::Descriptor::of("", &blob), diff_id: None };
    let BeginLayer::Ready(writer) = store.begin_layer(&request, &lease).expect("begins") else {
        panic!("is new")
    };
    assert_eq!(writer.offset(), half as u64);
    assert!(matches!(store.begin_layer(&request, &lease).expect("asks"), BeginLayer::Busy(_)));
    writer.run(&mut &blob[half..]).expect("resumes");
    assert!(matches!(store.begin_layer(&request, &lease).expect("asks"), BeginLayer::Present(_)));
    // Complete, but without an image: after a kill the blob is a part again and nothing is transferred twice.
    drop(lease);
    store.reopen();
    assert_eq!((store.names("layers"), store.names("blobs/sha256")), (Vec::new(), Vec::new()));
    let BeginLayer::Ready(writer) = store.begin_layer(&request, &store.lease()).expect("begins") else {
        panic!("is a part")
    };
    assert_eq!(writer.offset(), blob.len() as u64);
    writer.run(&mut io::empty()).expect("needs no more");
}

#[test]
fn damage_is_told_as_damage_and_not_kept() {
    let store = TestStore::new();
    let blob = gzip(&Tar::new().file("big", &noise(300_000)).finish());
    let lease = store.lease();
    let mut damaged = blob.clone();
    damaged[blob.len() / 2] ^= 1;
    let too_long = [&blob[..], b"x"].concat();
    for wrong in [&damaged[..], &blob[..blob.len() - 1], &too_long] {
        let error = store.layer_from(&lease, &blob, &mut &*wrong).expect_err("refused");
        assert!(matches!(error, Error::Verify(_)), "{error:?}");
        assert_eq!(store.names("layers"), [""; 0]);
    }
    // A part that was damaged on the disk is found out at the end, and the next attempt starts anew.
    let _ = store.layer_from(&lease, &blob, &mut Failing { content: &damaged[..damaged.len() - 10] });
    let request = LayerRequest { descriptor: palan_oci::Descriptor::of("", &blob), diff_id: None };
    let BeginLayer::Ready(writer) = store.begin_layer(&request, &lease).expect("begins") else {
        panic!("is new")
    };
    let offset = usize::try_from(writer.offset()).expect("fits");
    assert!(matches!(writer.run(&mut &blob[offset..]), Err(Error::Verify(_))));
    store.layer(&lease, &blob).expect("from scratch");
}

#[test]
fn bombs_stop() {
    let limits = crate::Limits {
        ratio: 50,
        ratio_threshold: 1 << 20,
        unpacked_bytes: 64 << 20,
        ..crate::Limits::default()
    };
    let store = TestStore::with_limits(limits);
    let bomb = gzip(&Tar::new().file("zeros", &vec![0; 32 << 20]).finish());
    let error = store.layer(&store.lease(), &bomb).expect_err("stops");
    let text = palan_stdx::error_chain::to_string(&error);
    assert!(text.contains("more than 50 times its size"), "{text}");
    let large = Tar::new().file("noise", &noise(1 << 20).repeat(65)).finish();
    let error = store.layer(&store.lease(), &large).expect_err("stops");
    assert!(palan_stdx::error_chain::to_string(&error).contains("more than 67108864 bytes"), "{error:?}");
    let zstd = zstd::stream::encode_all(&vec![0; 32 << 20][..], 1).expect("compresses");
    let error = store.layer(&store.lease(), &zstd).expect_err("stops, or is no archive");
    assert!(matches!(error, Error::Layer { .. }), "{error}");
    assert_eq!((store.names("layers"), store.names("blobs/sha256/.ingest")), (Vec::new(), Vec::new()));
}

#[test]
fn a_full_disk_is_told_and_left_as_it_was() {
    let directory = tempfile::tempdir().expect("temporary");
    let none = rustix::mount::MountFlags::empty();
    let mounted = rustix::mount::mount("tmpfs", directory.path(), "tmpfs", none, c"size=6m,mode=700");
    mounted.expect("needs root");
    let check = || {
        let store = Store::open(directory.path(), crate::Limits::default()).expect("opens");
        let lease = store.lease();
        let blob = gzip(&Tar::new().file("a", &noise(200_000)).file("zeros", &vec![0; 20 << 20]).finish());
        let request = LayerRequest { descriptor: palan_oci::Descriptor::of("", &blob), diff_id: None };
        let BeginLayer::Ready(writer) = store.begin_layer(&request, &lease).expect("begins") else {
            panic!("is new")
        };
        let error = writer.run(&mut &blob[..]).expect_err("there is no space");
        assert!(error.is_disk_full(), "{error:?}");
        let text = palan_stdx::error_chain::to_string(&error);
        assert!(text.contains("\"zeros\": No space left on device"), "{text}");
        let big = gzip(&Tar::new().file("a", &noise(8 << 20)).finish());
        let error =
            store.import(&mut &big[..], &crate::archive::ImportOptions::default()).expect_err("no space");
        assert!(error.is_disk_full(), "{error:?}");
        for place in ["layers", "blobs/sha256", "blobs/sha256/.ingest"] {
            let left = palan_stdx::fs::read_dir(&directory.path().join(place)).expect("lists");
            let left: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
            assert!(left.iter().all(|name| name == ".empty" || name == ".ingest"), "{place}: {left:?}");
        }
        store.settle();
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::DETACH).expect("unmounts");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn compressions_by_content() {
    let store = TestStore::new();
    let tar = hello("same");
    let lease = store.lease();
    let zstd = zstd::stream::encode_all(&tar[..], 3).expect("compresses");
    let halves = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let mut diff_ids = Vec::new();
    for blob in [&tar, &gzip(&tar), &halves, &zstd] {
        diff_ids.push(store.layer(&lease, blob).expect("brings").1.diff_id);
    }
    assert!(diff_ids.iter().all(|diff_id| *diff_id == Digest::of(&tar)));
    // No layer has them, whatever archives that are none may be.
    for (start, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh9", "bzip2"), (b"\x5d\0\0\x80", "lzma")] {
        let error = store.layer(&lease, &[start, &[0; 100]].concat()).expect_err("refused");
        let said = palan_stdx::error_chain::to_string(&error);
        assert!(said.contains(&format!("compressed with {name}")), "{said}");
    }
}

#[test]
fn names_move_and_images_go_as_in_docker() {
    let store = TestStore::new();
    let one = store.make("app:1", &[hello("1")]).expect("commits");
    let two = store.make("app:2", &[hello("2")]).expect("commits");
    let name = |text: &str| text.parse::<Reference>().expect("a name");
    let nobody = |_: &ImageId| Vec::new();
    assert_eq!(store.tag(&one.id, &name("app:2")).expect("tags"), Some(two.id));
    assert!(store.image(&two.id).expect("there").expect("there").tags.is_empty(), "dangling");
    store.tag(&two.id, &name("other.io/app")).expect("tags");
    store.tag(&two.id, &name("app:3")).expect("tags");
    // By name: only the name goes, until it is the last.
    let removed = store.remove_image("app:1", false, &nobody).expect("untags");
    assert_eq!(removed, [Removed::Untagged(name("app:1"), one.id)]);
    let removed = store.remove_image("app:2", false, &nobody).expect("removes");
    let chain = one.config.chain_ids()[0].digest();
    let expected = [
        Removed::Untagged(name("app:2"), one.id),
        Removed::Deleted(one.id.digest()),
        Removed::Deleted(chain),
    ];
    assert_eq!(removed, expected);
    // By id: several repositories need force.
    let conflict =
        store.remove_image(&two.id.digest().short(), false, &nobody).expect_err("refused").to_string();
    let id = two.id.digest().short();
    assert_eq!(
        conflict,
        format!(
            "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
        )
    );
    // Containers.
    let users =
        |running| move |_: &ImageId| vec![ImageUser { container: "0123456789abcdef".to_owned(), running }];
    let message = |name: &str, force, running| {
        store.remove_image(name, force, &users(running)).expect_err("refused").to_string()
    };
    assert_eq!(
        message(&id, true, true),
        format!(
            "conflict: unable to delete {id} (cannot be forced) - image is being used by running container 0123456789ab"
        )
    );
    store.remove_image("app:3", false, &users(true)).expect("one name of two may always go");
    assert_eq!(
        message("other.io/app", false, false),
        format!(
            "conflict: unable to remove repository reference \"other.io/app\" (must force) - container 0123456789ab is using its referenced image {id}"
        )
    );
    assert_eq!(
        message(&id, false, false),
        format!(
            "conflict: unable to delete {id} (must be forced) - image is being used by stopped container 0123456789ab"
        )
    );
    store.remove_image(&id, true, &users(false)).expect("forced");
    store.settle();
    assert_eq!((store.names("layers"), store.names("blobs/sha256")), (Vec::new(), Vec::new()));
    assert!(matches!(store.tag(&one.id, &name("x")), Err(Error::NoSuchImage { .. })));
}

#[test]
fn digests_go_with_the_last_tag() {
    let store = TestStore::new();
    let lease = store.lease();
    let layer = store.layer(&lease, &gzip(&hello("1"))).expect("brings");
    let mut commit = image_of("app:1", &[layer]);
    let digest = Digest::of(b"index");
    let pulled = commit.tags[0].with_digest(digest);
    commit.digests = vec![pulled.clone()];
    let image = store.commit_image(&commit, &lease).expect("commits");
    assert_eq!(image.digests, std::slice::from_ref(&pulled));
    assert_eq!(store.find(&pulled).expect("looks"), Some(image.id));
    let both = format!("app:1@{digest}");
    assert_eq!(store.resolve(&both).expect("the digest decides").id, image.id);
    drop(lease);
    let removed = store.remove_image("app:1", false, &|_| Vec::new()).expect("removes");
    assert_eq!(
        removed[..2],
        [Removed::Untagged(commit.tags[0].clone(), image.id), Removed::Untagged(pulled, image.id)]
    );
    assert!(store.images().expect("lists").is_empty());
}

#[test]
fn a_hold_keeps_layers_beyond_their_image() {
    let mut store = TestStore::new();
    let image = store.make("app", &[hello("1"), hello("2")]).expect("commits");
    store.hold("container", &image.id).expect("holds");
    let lowers = store.lower_dirs(&image.id).expect("there");
    store.remove_image("app", true, &|_| Vec::new()).expect("removes");
    store.reopen();
    assert!(store.images().expect("lists").is_empty());
    assert_eq!(store.held_lower_dirs("container").expect("looks"), Some(lowers.clone()));
    assert!(lowers.iter().all(|lower| lower.join("etc/hello").exists()));
    assert_eq!(store.holds().expect("lists"), [("container".to_owned(), image.id)]);
    store.release("container").expect("releases");
    store.release("container").expect("twice is fine");
    store.settle();
    assert_eq!(store.names("layers"), [""; 0]);
}

#[test]
fn leases_protect_what_has_no_record_yet() {
    let store = TestStore::new();
    let other = store.make("other", &[hello("shared")]).expect("commits");
    let lease = store.lease();
    let layer = store.layer(&lease, &gzip(&hello("shared"))).expect("is here");
    store.remove_image(&other.id.to_string(), false, &|_| Vec::new()).expect("removes");
    store.collect().expect("collects");
    store.settle();
    let image = store.commit_image(&image_of("mine", &[layer]), &lease).expect("the layer is still here");
    assert_eq!(store.file(&image.id, "etc/hello"), Some(b"shared".to_vec()));
}

#[test]
fn every_point_of_a_kill_leaves_whole_images_or_none() {
    let mut store = TestStore::new();
    let kept = store.make("kept", &[hello("1")]).expect("commits");
    let root = store.directory.path().to_owned();
    // The store's own cleaning would take what follows for its work.
    store.settle();
    // An unpack in progress, a removal in progress, a layer and a blob without a record.
    std::fs::create_dir_all(root.join("layers/.tmp-1/deep/er")).expect("creates");
    std::fs::create_dir_all(root.join("layers/.trash-1/deep")).expect("creates");
    std::fs::create_dir_all(root.join("layers").join(Digest::of(b"x").hex())).expect("creates");
    std::fs::write(root.join("blobs/sha256").join(Digest::of(b"blob").hex()), "blob").expect("writes");
    std::fs::write(root.join("blobs/sha256/.ingest/.tmp-1"), "half").expect("writes");
    store.reopen();
    store.settle();
    assert_eq!(store.names("layers").len(), 1);
    assert_eq!(store.names("blobs/sha256").len(), 3);
    assert_eq!(store.names("blobs/sha256/.ingest"), [format!("{}.part", Digest::of(b"blob").hex())]);
    assert_eq!(store.file(&kept.id, "etc/hello"), Some(b"1".to_vec()));
    // A record whose files are gone.
    let lost = store.make("lost", &[hello("2")]).expect("commits");
    let lower = store.lower_dirs(&lost.id).expect("there").remove(0);
    std::fs::remove_dir_all(lower).expect("removes");
    store.reopen();
    assert!(store.image(&lost.id).expect("looks").is_none());
    assert_eq!(store.images().expect("lists").len(), 1);
}

#[test]
fn a_power_loss_takes_what_was_not_synced() {
    let mut store = TestStore::new();
    let synced = store.make("synced", &[hello("1")]).expect("commits");
    store.settle();
    let lost = store.make("lost", &[hello("1"), hello("2")]).expect("commits");
    store.settle();
    let database = rusqlite::Connection::open(store.directory.path().join("images.db")).expect("opens");
    let diff_id = Digest::of(hello("2")).hex();
    database.execute("UPDATE layers SET synced = 0 WHERE key = ?1", [diff_id]).expect("changes");
    database.execute("UPDATE facts SET value = 'another' WHERE name = 'boot'", []).expect("changes");
    drop(database);
    store.reopen();
    assert!(store.image(&lost.id).expect("looks").is_none());
    assert_eq!(store.file(&synced.id, "etc/hello"), Some(b"1".to_vec()));
    assert_eq!(store.names("layers").iter().filter(|name| !name.starts_with('.')).count(), 1);
}

#[test]
fn one_process_at_a_time() {
    let store = TestStore::new();
    let second = Store::open(store.directory.path(), crate::Limits::default());
    assert!(matches!(second, Err(Error::InUse { .. })));
}

#[test]
fn ids_by_their_start() {
    let store = TestStore::new();
    for number in 0..20 {
        store.make("", &[hello(&number.to_string())]).expect("commits");
    }
    let images = store.images().expect("lists");
    assert_eq!(images.len(), 20);
    for image in &images {
        assert_eq!(store.resolve(&image.id.digest().hex()[..20]).expect("unique").id, image.id);
        assert_eq!(store.resolve(&image.id.to_string()[..20]).expect("unique").id, image.id);
    }
    let ambiguous = (0..16)
        .filter(|digit| matches!(store.resolve(&format!("{digit:x}")), Err(Error::AmbiguousId { .. })));
    assert!(ambiguous.count() > 0);
    for name in ["sha256:", "zzz", "*", "Upper", "a b"] {
        assert!(store.resolve(name).is_err(), "{name}");
    }
}

#[test]
fn several_layers_at_once() {
    let store = TestStore::new();
    let blobs: Vec<Vec<u8>> = (0..6)
        .map(|number| gzip(&Tar::new().file(&format!("f{number}"), &noise(200_000)).finish()))
        .collect();
    let lease = store.lease();
    let brought: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            blobs.iter().map(|blob| scope.spawn(|| store.layer(&lease, blob).expect("brings"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let image = store.commit_image(&image_of("six", &brought), &lease).expect("commits");
    assert_eq!(image.size, 6 * 200_000);
    assert_eq!(store.view(&image.id).expect("mounts").read_dir("/").expect("lists").len(), 6);
}

/// Delivers some bytes, then fails like a network.
struct Failing<'a> {
    content: &'a [u8],
}

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.content.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            length => Ok(length),
        }
    }
}

/// Bytes that don't compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}
