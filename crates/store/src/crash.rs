//! The store is killed at every step that changes the disk, before every system call that does, and at random moments; and it
//! runs on disks of many sizes that are too small. It has nothing broken afterwards, and the disk is free again.
//!
//! The tests start their own program again as a child that runs [`child`], in a directory on a file system in memory
//! where there is one: what a kill leaves is the same there, and waiting for a disk would take most of the time.

#![allow(clippy::disallowed_methods, reason = "the tests start themselves, and mount")]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use palan_linux::path::RootDir;
use palan_oci::{Digest, Reference};

use crate::archive::{CommitOptions, ImportOptions, SaveItem};
use crate::image::ImageCommit;
use crate::testing::{Tar, TestStore, gzip, image_of};
use crate::tree::Overlaid;
use crate::{Limits, Result, Store};

mod full_disk;
mod kills;

/// Where the child works; without it the child is no child.
const ROOT: &str = "PALAN_CRASH_ROOT";
/// A file that the child makes as large as it can before it removes images.
const FILLER: &str = "PALAN_CRASH_FILLER";

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn one() -> Vec<u8> {
    Tar::new().directory("d").file("d/one", &noise(1, 20_000)).symlink("d/link", "one").finish()
}

/// Layers of three images: one alone, two that share it, one of them over its parents.
fn layers() -> [Vec<u8>; 3] {
    let two = Tar::new().directory("e").file("e/two", &noise(2, 5_000)).file(".wh.gone", b"").finish();
    let three = Tar::new().file("d/three", &noise(3, 5_000)).hard_link("d/hard", "d/one").finish();
    [one(), two, three].map(|tar| gzip(&tar))
}

fn reference(name: &str) -> Reference {
    name.parse().expect("a name")
}

/// Something that changes the disk. What it needs from an earlier one may not be there.
type Step = fn(&TestStore) -> Result<()>;

/// All that changes the disk, one after the other.
const EVERYTHING: &[Step] = &[pull, compact, load, import, commit, build, save, push, remove, collect];

/// Three images by the registry's way, one of them compacted.
fn pull(store: &TestStore) -> Result<()> {
    let [one, two, three] = layers();
    for (tag, blobs) in [("first", &[&one][..]), ("second", &[&one, &two]), ("third", &[&one, &three])] {
        let lease = store.lease();
        let layers: Vec<_> = blobs.iter().map(|blob| store.layer(&lease, blob)).collect::<Result<_>>()?;
        let image = store.commit_image(&image_of(tag, &layers), &lease)?;
        store.tag(&image.id, &reference(&format!("{tag}:again")))?;
    }
    store.settle();
    Ok(())
}

fn compact(store: &TestStore) -> Result<()> {
    // A full disk may refuse this; the blob stays then.
    let _ = store.compact(&Digest::of(&layers()[0]), &Digest::of(one()).hex());
    Ok(())
}

/// An archive of two images. One layer is in the store already, one comes twice.
fn load(store: &TestStore) -> Result<()> {
    let own = Tar::new().directory("f").file("f/own", &noise(5, 70_000)).finish();
    let other = Tar::new().file("g", &noise(6, 3_000)).finish();
    let config = |layers: &[&[u8]]| {
        let diff_ids: Vec<Digest> = layers.iter().map(Digest::of).collect();
        let diff_ids = serde_json::to_string(&diff_ids).expect("serializes");
        format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":{diff_ids}}}}}"#
        )
    };
    let manifest = r#"[{"Config":"x","RepoTags":["loaded:1"],"Layers":["1","2","3"]},
        {"Config":"y","RepoTags":["loaded:2"],"Layers":["2"]}]"#;
    let archive = Tar::new()
        .file("1", &one())
        .file("2", &gzip(&own))
        .file("3", &other)
        .file("x", config(&[&one(), &own, &other]).as_bytes())
        .file("y", config(&[&own]).as_bytes())
        .file("manifest.json", manifest.as_bytes())
        .finish();
    store.load(&mut &*archive, &mut |_| {}).map(drop)
}

fn import(store: &TestStore) -> Result<()> {
    let options = ImportOptions { name: Some(reference("imported:1")), ..ImportOptions::default() };
    let tar = gzip(&Tar::new().file("root", &noise(7, 9_000)).finish());
    store.import(&mut &*tar, &options).map(drop)
}

/// A container of the third image wrote a file and removed another.
fn commit(store: &TestStore) -> Result<()> {
    let Some(parent) = store.find(&reference("third"))? else { return Ok(()) };
    let upper = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(upper.path().join("d")).expect("made");
    std::fs::write(upper.path().join("d/new"), noise(8, 4_000)).expect("written");
    let root = RootDir::open(upper.path()).expect("opens");
    let directory = root.open_dir("d").expect("opens");
    directory
        .create_node("link".as_ref(), palan_linux::path::FileKind::CharacterDevice, 0, (0, 0))
        .expect("made");
    let changes = Overlaid::new(root, store.view(&parent)?, ".mark");
    let options = CommitOptions { name: Some(reference("committed:1")), ..CommitOptions::default() };
    store.commit_container(&parent, &changes, options).map(drop)
}

/// An image of two layers that are made here, compressed for a push.
fn build(store: &TestStore) -> Result<()> {
    let lease = store.lease();
    let mut layers = Vec::new();
    for (name, seed) in [("first", 9), ("second", 10)] {
        let layer = store.new_layer()?;
        layer.root().write(name, &noise(seed, 30_000), 0o644)?;
        let info = store.keep_layer(layer, None, &lease)?;
        layers.push((store.describe(&info.diff_id, &lease)?, info));
    }
    let commit = ImageCommit { made_here: true, ..image_of("built", &layers) };
    let image = store.commit_image(&commit, &lease)?;
    store.compress_image(&image.id, &lease).map(drop)
}

/// Changes nothing, and makes blobs from recipes.
fn save(store: &TestStore) -> Result<()> {
    let images = store.images()?.into_iter().map(|image| SaveItem { image: image.id, names: image.tags });
    store.begin_save(&images.collect::<Vec<_>>())?.write(&mut std::io::sink())
}

/// What a push does to the store.
fn push(store: &TestStore) -> Result<()> {
    let Some(id) = store.find(&reference("second"))? else { return Ok(()) };
    let Some(image) = store.image(&id)? else { return Ok(()) };
    store.name_by_digest(&id, &reference(&format!("second@{}", image.manifest)))
}

fn remove(store: &TestStore) -> Result<()> {
    if let Some(filler) = std::env::var_os(FILLER) {
        fill(Path::new(&filler));
    }
    if let Some(second) = store.find(&reference("second"))? {
        store.hold("container", &second)?;
        store.remove_image(&second.to_string(), true, &|_| Vec::new())?;
    }
    for name in ["loaded:1", "first"] {
        if let Some(image) = store.find(&reference(name))? {
            store.remove_image(&image.to_string(), true, &|_| Vec::new())?;
        }
    }
    store.release("container")
}

fn collect(store: &TestStore) -> Result<()> {
    {
        let lease = store.lease();
        store.layer(&lease, &gzip(&Tar::new().file("nobody", &noise(4, 90_000)).finish()))?;
    }
    store.collect()?;
    store.settle();
    Ok(())
}

/// Takes every byte that the disk has left.
fn fill(path: &Path) {
    let file = std::fs::File::create(path).expect("made");
    let mut length = 0;
    for size in [1 << 16, 1 << 12, 512, 1] {
        while file.write_all_at(&vec![1; size], length).is_ok() {
            length += size as u64;
        }
    }
}

/// Not a test: what the others start. Without its variable it does nothing.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let until = Instant::now() + Duration::from_secs(10);
    let store = loop {
        match TestStore::at(Path::new(&root)) {
            Err(error) if error.is_disk_full() => return,
            // See `open`.
            Err(crate::Error::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => break opened.expect("opens"),
        }
    };
    for step in EVERYTHING {
        // Whoever goes on after one refusal meets the next one.
        if let Err(error) = step(&store) {
            let text = palan_stdx::error_chain::to_string(&error);
            assert!(error.is_disk_full(), "{text}");
            println!("refused: {text}");
        }
    }
    store.settle();
    println!("points passed: {}", crate::fault::count());
}

/// Not a test: checks what a child left where only its mount namespace sees it.
#[test]
fn checker() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    check(Path::new(&root), "afterwards");
    println!("checked");
}

/// The child, to be run with other programs around it.
fn command(wrapper: &[&str], root: &Path) -> Command {
    let program = std::env::current_exe().expect("this program");
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command
        .args(["--exact", "crash::child", "--nocapture"])
        .env(ROOT, root)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start(root: &Path, fault: u64) -> std::process::Child {
    command(&[], root).env("PALAN_STORE_FAULT", fault.to_string()).spawn().expect("starts")
}

fn run(root: &Path, fault: u64) -> Output {
    start(root, fault).wait_with_output().expect("ends")
}

fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("a directory")
}

/// Opens what was left: nothing is broken, nothing lies around, and after the last image nothing is left but transfers that may
/// be resumed, which go after a week.
#[track_caller]
fn check(root: &Path, when: &str) {
    let store = open(root);
    store.settle();
    let report = store.check(false).expect(when);
    assert_eq!(report.problems, [], "{when}");
    for image in store.images().expect(when) {
        store.view(&image.id).expect(when);
    }
    store.release("container").expect(when);
    loop {
        let images = store.images().expect(when);
        let is_leaf = |image: &&crate::image::Image| store.children(&image.id).expect(when).is_empty();
        let Some(image) = images.iter().find(is_leaf) else {
            assert_eq!(images.len(), 0, "{when}");
            break;
        };
        store.remove_image(&image.id.to_string(), true, &|_| Vec::new()).expect(when);
    }
    for layer in store.made_layers().expect(when) {
        store.release_layer(&layer.diff_id).expect(when);
    }
    store.collect().expect(when);
    store.settle();
    let usage = store.usage().expect(when);
    assert_eq!((usage.layers.count, usage.recipes.count, usage.blobs.count), (0, 0, 0), "{when}: {usage:?}");
    let left = palan_stdx::fs::read_dir(&root.join("layers")).expect(when);
    assert_eq!(left.len(), 1, "{when}: only the empty layer stays: {left:?}");
    drop(store);

    let parts = parts(root);
    let long_ago = SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    for part in &parts {
        let file = std::fs::File::open(part).expect(when);
        file.set_modified(long_ago).expect(when);
    }
    let store = open(root);
    store.settle();
    let usage = store.usage().expect(when);
    assert_eq!(usage.total(), usage.overhead + usage.unfinished.bytes, "{when}: {usage:?}");
    assert_eq!(usage.unfinished.count, 0, "{when}: {parts:?}");
}

/// Transfers that did not finish.
fn parts(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("blobs/sha256/.ingest")).expect("lists");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// A child that was killed may take a moment to free its lock.
fn open(root: &Path) -> Store {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(root, Limits::default()) {
            Err(crate::Error::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.expect("opens"),
        }
    }
}
