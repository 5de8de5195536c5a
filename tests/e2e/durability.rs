//! Images survive what happens to hosts: the daemon killed at any moment of whatever it does with them, and a full disk.
//! (`palan_store`'s own tests kill it at every system call; `cargo xtask powercut` cuts the power.)

#![expect(clippy::print_stdout, reason = "seeds and counts, for whoever runs it with --nocapture")]
#![expect(clippy::disallowed_methods, reason = "a list for the message of a failure")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use palan_test_support::daemon::{Daemon, Options, Run, finish};
use palan_test_support::image::{Compression, Flavour, Image, ImageBuilder, TarBuilder, noise};
use palan_test_support::registry::Registry;
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, daemon};
use crate::small_disk::SmallDisk;

/// A layer that others have, and two of its own.
fn image(seed: u64, flavour: Flavour) -> Image {
    let layer = |seed| {
        TarBuilder::new().directory("d/", 0o755).file("d/noise", 0o644, noise(1_500_000, seed)).finish()
    };
    ImageBuilder::new()
        .flavour(flavour)
        .compression(Compression::Gzip)
        .layer(crate::images::busybox_layer())
        .layer(layer(seed))
        .layer(layer(seed + 1))
        .config("Cmd", serde_json::json!(["true"]))
        .build()
}

/// How many kills: `PALAN_CRASH_KILLS`, or a few.
fn kills(few: u32) -> u32 {
    std::env::var("PALAN_CRASH_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(few)
}

/// Numbers from 0 to 1, from `PALAN_CRASH_SEED` or another seed each time.
struct Moments {
    seed: u64,
    random: std::vec::IntoIter<u8>,
}

impl Moments {
    fn new(count: u32) -> Self {
        let seed = std::env::var("PALAN_CRASH_SEED").ok().and_then(|number| number.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.subsec_nanos().into())
        });
        println!("PALAN_CRASH_SEED={seed}");
        Self { seed, random: noise(2 * count as usize, seed | 1).into_iter() }
    }

    fn next(&mut self) -> f64 {
        let mut byte = || f64::from(self.random.next().unwrap_or_default());
        (byte() + byte() / 256.0) / 256.0
    }
}

/// Starts a command, kills the daemon at a moment of it, and starts the daemon again. How the command ended.
fn kill_during(daemon: &mut Daemon, arguments: &[&str], after: Duration) -> Option<i32> {
    let mut command = daemon.command();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    std::thread::sleep(after);
    daemon.kill();
    let code = client.wait().unwrap().code();
    daemon.restart();
    code
}

fn timed(action: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    action();
    begun.elapsed()
}

#[track_caller]
fn assert_whole(daemon: &Daemon, when: &str) {
    let checked = daemon.palan(["system", "fsck"]);
    assert!(checked.code == 0 && checked.stdout.is_empty(), "{when}: {checked}{}", daemon.log());
}

#[test]
fn pushes_are_killed_and_the_registry_has_whole_images() {
    requires!(root);
    let kills = kills(10);
    let mut moments = Moments::new(kills);
    let (mut daemon, other) = (Daemon::start(), Daemon::start());
    let (source, registry) = (Registry::start(), Registry::start());
    registry.separate_repositories();
    let image = image(10, Flavour::Oci);
    let name = format!("{}/team/app:1", registry.host());
    let from = source.push("source/app", "1", &image);
    daemon.palan(["pull", "-q", &from]).ok();
    daemon.palan(["tag", &from, &name]).ok();
    daemon.palan(["rmi", &from]).ok();
    let mut usual = timed(|| drop(daemon.palan(["push", &name]).ok()));
    let (mut cut, mut finished) = (0, 0);
    for number in 0..kills {
        let when = format!("kill {number}, PALAN_CRASH_SEED={}", moments.seed);
        registry.forget_content();
        let code = kill_during(&mut daemon, &["push", &name], usual.mul_f64(moments.next() * 1.1));
        if code == Some(0) {
            finished += 1
        } else {
            cut += 1
        }
        // The manifest is there last, or not at all.
        if let Some((_, manifest)) = registry.manifest("team/app", "1") {
            assert_eq!(manifest, image.manifest, "{when}");
            for (digest, content) in image.blobs() {
                assert!(registry.blob(&digest).is_some_and(|blob| blob == content), "{when}: {digest}");
            }
        } else {
            assert_ne!(code, Some(0), "{when}");
        }
        if number % 10 == 9 || number + 1 == kills {
            assert_whole(&daemon, &when);
        }
        // The quickest, when the host is busy.
        usual = usual.min(timed(|| drop(daemon.palan(["push", "-q", &name]).ok())));
        assert_eq!(
            registry.manifest("team/app", "1").map(|(_, body)| body),
            Some(image.manifest.clone()),
            "{when}"
        );
    }
    println!("{cut} pushes were cut short, {finished} had ended");
    other.palan(["pull", "-q", &name]).ok();
    assert_whole(&other, "pulled elsewhere");
}

#[test]
fn everything_is_killed_and_images_are_whole_or_absent() {
    requires!(root);
    let kills = kills(18);
    let mut moments = Moments::new(kills);
    let mut daemon = daemon();
    let (registry, target) = (Registry::start(), Registry::start());
    let pulled = registry.push("team/app", "1", &image(20, Flavour::Docker));
    let pushed = format!("{}/team/app:1", target.host());
    let archive = daemon.scratch().join("image.tar").display().to_string();
    std::fs::write(&archive, image(30, Flavour::Oci).docker_archive(&["loaded:1", "loaded:2"])).unwrap();
    let script = "dd if=/dev/urandom of=/made bs=64k count=20; rm /etc/passwd";
    daemon.palan(["run", "--name", "work", "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
    let operations: [&[&str]; 6] = [
        &["pull", "-q", &pulled],
        &["load", "-q", "-i", &archive],
        &["commit", "work", "made:1"],
        &["push", "-q", &pushed],
        &["rmi", "-f", "loaded:1", "loaded:2", "made:1", &pulled, &pushed],
        &["image", "prune", "-af"],
    ];
    let prepare = |daemon: &Daemon, number: usize| {
        // What is to be made goes first, and what is to be used is there.
        match number {
            0 => drop(daemon.palan(["rmi", "-f", &pulled, &pushed])),
            1 => drop(daemon.palan(["rmi", "-f", "loaded:1", "loaded:2"])),
            2 => drop(daemon.palan(["rmi", "-f", "made:1"])),
            _ => {
                target.forget_content();
                for operation in &operations[..3] {
                    daemon.palan(*operation).ok();
                }
                daemon.palan(["tag", &pulled, &pushed]).ok();
            }
        }
    };
    let mut usual = Vec::new();
    for (number, operation) in operations.iter().enumerate() {
        prepare(&daemon, number);
        usual.push(timed(|| drop(daemon.palan(*operation).ok())));
    }
    let mut cut = [0; 6];
    for kill in 0..kills {
        let number = kill as usize % operations.len();
        prepare(&daemon, number);
        let after = usual[number].mul_f64(moments.next() * 1.1);
        let code = kill_during(&mut daemon, operations[number], after);
        cut[number] += u32::from(code != Some(0));
        assert_whole(
            &daemon,
            &format!("{:?}, kill {kill}, PALAN_CRASH_SEED={}", operations[number], moments.seed),
        );
    }
    println!("cut short: pull, load, commit, push, rmi, prune: {cut:?}");
    daemon.palan(["rm", "work"]).ok();
    daemon.palan(["image", "prune", "-af"]).ok();
    let left = || std::fs::read_dir(daemon.data_root().join("layers")).unwrap().count();
    assert!(wait_until(PATIENCE, || left() == 1), "only the empty layer stays");
}

/// On ext4, since its own ideas of space are others than those of a file system in memory.
#[test]
fn a_full_disk_refuses_images_and_keeps_those_that_are_there() {
    requires!(root);
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(scratch.path(), 96) else {
        palan_test_support::skip::note(
            "a_full_disk_refuses_images",
            "cannot mount an ext4 image: no loop device",
        );
        return;
    };
    let daemon = Daemon::start_with(Options { data_root: Some(disk.path()), ..Options::default() });
    daemon.palan(["images"]).ok();
    let empty = disk.free();
    crate::images::load(&daemon, crate::images::busybox(), BUSYBOX);
    let registry = Registry::start();
    let large = |seed| {
        let tar = TarBuilder::new().file("noise", 0o644, noise(9_000_000, seed)).finish();
        ImageBuilder::new().compression(Compression::Gzip).layer(tar)
    };
    let kept = registry.push("team/kept", "1", &large(1).build());
    daemon.palan(["pull", "-q", &kept]).ok();
    let script = "dd if=/dev/urandom of=/made bs=64k count=100 2>/dev/null";
    daemon.palan(["run", "--name", "work", "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
    let refused = registry.push("team/refused", "1", &large(2).build());
    let archive = scratch.path().join("image.tar").display().to_string();
    std::fs::write(&archive, large(3).build().docker_archive(&["loaded:1"])).unwrap();
    let tree = scratch.path().join("tree.tar").display().to_string();
    std::fs::write(&tree, TarBuilder::new().file("noise", 0o644, noise(9_000_000, 4)).finish()).unwrap();

    let images = || daemon.palan(["images", "-aq", "--no-trunc"]).ok().stdout;
    let before = images();
    let ballast = disk.path().join("ballast");
    // Less room than any of them needs: at once, half-way, at the end.
    for megabytes in [1, 5, 8] {
        std::fs::remove_file(&ballast).ok();
        // Blocks of files that were just removed are freed a moment later.
        std::thread::sleep(Duration::from_millis(200));
        // A reserve that was given up comes back with the next change.
        daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, "true"]).ok();
        let reserve = disk.path().join("reserve");
        assert!(wait_until(PATIENCE, || reserve.exists()));
        let trash = disk.path().join("containers/.trash");
        let is_emptied = || std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_none());
        assert!(wait_until(PATIENCE, is_emptied));
        take_all_but(&disk, &ballast, megabytes << 20);
        let left = disk.free();
        let full = |run: Run| {
            let told =
                ["o space left on device", "disk is full"].iter().any(|text| run.stderr.contains(text));
            assert!(run.code == 1 && told, "{run}");
            assert_eq!(images(), before);
            assert!(
                wait_until(PATIENCE, || disk.free() + 64 > left),
                "{} of {left} blocks are free again",
                disk.free()
            );
        };
        full(daemon.palan(["pull", "-q", &refused]));
        full(daemon.palan(["load", "-q", "-i", &archive]));
        full(daemon.palan(["import", &tree, "imported:1"]));
        if megabytes < 8 {
            full(daemon.palan(["commit", "work", "made:1"]));
        }
        std::fs::remove_file(&ballast).unwrap();
        assert_whole(&daemon, "with room again");
        take_all_but(&disk, &ballast, 0);
        // What is there works without any room.
        daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, "true"]);
        let saved = finish(daemon.command().args(["save", &kept, "-o", &format!("{archive}.saved")]), None);
        saved.ok();
    }
    // The last byte is taken, and what makes room works.
    // What the last container had may go at this very moment.
    assert!(disk.free() < 64, "{} blocks", disk.free());
    daemon.palan(["rmi", &kept]).ok();
    daemon.palan(["rm", "work"]).ok();
    daemon.palan(["image", "prune", "-af"]).ok();
    std::fs::remove_file(&ballast).unwrap();
    assert_whole(&daemon, "when all is gone");
    // Logs of the databases stay as long as they have become.
    let blocks = || empty.saturating_sub(disk.free());
    let free = wait_until(PATIENCE, || blocks() < 1024);
    let mut list = std::process::Command::new("du");
    assert!(
        free,
        "{} blocks are not free again\n{}",
        blocks(),
        finish(list.arg("-a").arg(disk.path()), None)
    );
    drop(daemon);
}

/// A file that takes what there is beyond `left` bytes.
fn take_all_but(disk: &SmallDisk, ballast: &std::path::Path, left: u64) {
    let facts = rustix::fs::statvfs(disk.path()).unwrap();
    let length = (facts.f_bavail * facts.f_frsize).saturating_sub(left);
    let file = std::fs::File::create(ballast).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    // Some of what is said to be free goes to the file's own map.
    let taken = (0..64).find(|less| {
        rustix::fs::fallocate(&file, flags, 0, length.saturating_sub(less << 14).max(1)).is_ok()
    });
    assert!(taken.is_some(), "{length} bytes could not be taken");
    if left == 0 {
        use std::os::unix::fs::FileExt as _;
        let mut end = file.metadata().unwrap().len();
        for size in [1 << 16, 1 << 12, 1 << 10] {
            while file.write_all_at(&vec![1; size], end).is_ok() {
                end += size as u64;
            }
        }
        rustix::fs::fsync(&file).ok();
    }
}
