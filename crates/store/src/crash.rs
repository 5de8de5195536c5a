//! The store is killed at every step that changes the disk, and at random moments, and has nothing broken afterwards.
//!
//! The tests start their own program again as a child that runs [`child`], in a directory on a file system in memory
//! where there is one: what a kill leaves is the same there, and waiting for a disk would take most of the time.

#![allow(clippy::disallowed_methods, reason = "the tests start themselves, and mount")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::testing::{Tar, TestStore, gzip, image_of};
use crate::{Limits, Store};

const ROOT: &str = "PALAN_CRASH_ROOT";

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

/// Layers of three images: one alone, two that share it, one of them over its parents.
fn layers() -> [Vec<u8>; 3] {
    let one = Tar::new().directory("d").file("d/one", &noise(1, 20_000)).symlink("d/link", "one").finish();
    let two = Tar::new().directory("e").file("e/two", &noise(2, 5_000)).file(".wh.gone", b"").finish();
    let three = Tar::new().file("d/three", &noise(3, 5_000)).hard_link("d/hard", "d/one").finish();
    [one, two, three].map(|tar| gzip(&tar))
}

/// A pull, a load, a name, a compaction, a removal, a collection: all that changes the disk, one after the other.
fn everything(store: &TestStore) -> crate::Result<()> {
    let [one, two, three] = layers();
    let make = |tag: &str, blobs: &[&Vec<u8>]| -> crate::Result<_> {
        let lease = store.lease();
        let layers: Vec<_> = blobs.iter().map(|blob| store.layer(&lease, blob)).collect::<Result<_, _>>()?;
        let image = store.commit_image(&image_of(tag, &layers), &lease)?;
        Ok((image, layers))
    };
    let (first, layers) = make("first", &[&one])?;
    let (second, _) = make("second", &[&one, &two])?;
    make("third", &[&one, &three])?;
    store.tag(&first.id, &"other:name".parse().expect("a name"))?;
    store.settle();
    // A full disk may refuse this; the blob stays then.
    let compacted = store.compact(&layers[0].0.digest, &layers[0].1.diff_id.hex());
    store.hold("container", &second.id)?;
    store.remove_image("second", true, &|_| Vec::new())?;
    store.remove_image(&first.id.to_string(), true, &|_| Vec::new())?;
    {
        let lease = store.lease();
        store.layer(&lease, &gzip(&Tar::new().file("nobody", &noise(4, 90_000)).finish()))?;
    }
    store.collect()?;
    store.release("container")?;
    store.settle();
    drop(compacted);
    Ok(())
}

/// Not a test: what the others start. Without its variable it does nothing.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let root = Path::new(&root);
    let store = TestStore::at(root).expect("opens");
    let outcome = everything(&store);
    if let Err(error) = &outcome {
        assert!(error.is_disk_full(), "{}", palan_stdx::error_chain::to_string(error));
    }
    println!("points passed: {}", crate::fault::count());
}

fn start(root: &Path, fault: u64) -> std::process::Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", "crash::child", "--nocapture"])
        .env(ROOT, root)
        .env("PALAN_STORE_FAULT", fault.to_string())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

fn run(root: &Path, fault: u64) -> Output {
    start(root, fault).wait_with_output().expect("ends")
}

fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("a directory")
}

/// Opens what was left: nothing is broken, nothing lies around, and after the last image nothing is left.
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
    for image in store.images().expect(when) {
        store.remove_image(&image.id.to_string(), true, &|_| Vec::new()).expect(when);
    }
    store.collect().expect(when);
    store.settle();
    let usage = store.usage().expect(when);
    assert_eq!((usage.layers.count, usage.recipes.count, usage.blobs.count), (0, 0, 0), "{when}: {usage:?}");
    let left = palan_stdx::fs::read_dir(&root.join("layers")).expect(when);
    assert_eq!(left.len(), 1, "{when}: only the empty layer stays: {left:?}");
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

#[test]
fn killed_at_every_step() {
    let whole = directory();
    let output = run(whole.path(), 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let points = text.split("points passed: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let points: u64 = points.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{output:?}"));
    assert!(points > 80, "{points} steps");
    check(whole.path(), "without a kill");
    let (next, killed) = (AtomicU64::new(1), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > points {
                        break;
                    }
                    let directory = directory();
                    let output = run(directory.path(), number);
                    killed.fetch_add(u64::from(output.status.signal().is_some()), Ordering::Relaxed);
                    check(directory.path(), &format!("killed at step {number} of {points}"));
                }
            });
        }
    });
    // The background's steps come in between, so the last numbers may not be reached.
    let killed = killed.into_inner();
    assert!(killed + 10 > points, "{killed} kills of {points}");
}

#[test]
fn killed_at_random_moments() {
    let kills =
        std::env::var("PALAN_CRASH_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(40u32);
    let seed = std::env::var("PALAN_CRASH_SEED").ok().and_then(|number| number.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.subsec_nanos().into())
    });
    let begun = Instant::now();
    let whole = directory();
    run(whole.path(), 0);
    let usual = begun.elapsed();
    let mut random = noise(seed | 1, 4 * kills as usize).into_iter();
    // The same directory again and again: what one kill left is what the next one finds.
    let directory = directory();
    for number in 0..kills {
        let mut child = start(directory.path(), 0);
        let share =
            u32::from(random.next().unwrap_or_default()) * 256 + u32::from(random.next().unwrap_or_default());
        std::thread::sleep(usual * share / 65_536);
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().expect("ends");
        if number % 8 == 7 || number + 1 == kills {
            check(directory.path(), &format!("kill {number}, PALAN_CRASH_SEED={seed}"));
        }
    }
}

/// A file system in memory of a given size, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(kilobytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Self(directory);
        disk.mount(&format!("size={kilobytes}k"));
        disk
    }

    fn mount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0.path()).status();
        assert!(status.expect("mount").success(), "mounts");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is still open in there goes with it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_breaks_nothing() {
    for kilobytes in (140..420).step_by(40) {
        let disk = SmallDisk::new(kilobytes);
        let output = run(disk.0.path(), 0);
        let when = format!("{kilobytes} KiB: {}", String::from_utf8_lossy(&output.stdout));
        if !disk.0.path().join("images.db").exists() {
            continue;
        }
        disk.mount("remount,size=8m");
        check(disk.0.path(), &when);
    }
}
