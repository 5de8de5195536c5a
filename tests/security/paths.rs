//! Directories and mount points that lead out of the root file system, or that change places with a way out while they are
//! used.

use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use palan_test_support::bundle::Bundle;
use palan_test_support::race::Exchange;
use palan_test_support::requires;

use crate::host::Target;

/// How long one race goes on. Each lasts for some hundred containers.
const PATIENCE: Duration = Duration::from_secs(8);

fn host_mounts() -> Vec<String> {
    // Others come and go on a machine with other tests.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains("palan-race")).map(str::to_owned).collect()
}

/// Runs containers as long as a race takes; those that come up are asked whether something is wrong with what they say, and `after`
/// follows each. One that finds its way gone in the middle may fail; when all is quiet again, none does.
#[track_caller]
fn race(bundle: &Bundle, exchange: Exchange, is_wrong: impl Fn(&str) -> bool, mut after: impl FnMut()) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let run = bundle.run();
        assert!(run.code != 0 || !is_wrong(&run.stdout), "{run}");
        after();
    }
    assert!(exchange.count() > 1000, "{} exchanges are no race", exchange.count());
    drop(exchange);
    let run = bundle.run().ok();
    assert!(!is_wrong(&run.stdout), "{run}");
    after();
}

/// CVE-2026-41579 (runc), CVE-2026-47766 (crun): an image in which `/dev` is a symlink. Devices, and the places for mounts,
/// were made where it leads to, on the host.
#[test]
fn a_dev_that_is_a_link_gets_no_devices_on_the_host() {
    requires!(root);
    let target = Target::new();
    for way in target.ways() {
        for with_tmpfs in [true, false] {
            let mut bundle = Bundle::new(&["true"]);
            if !with_tmpfs {
                // The devices go into the image's own directory.
                bundle.unmount("/dev");
            }
            std::fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
            symlink(&way, bundle.rootfs().join("dev")).unwrap();
            let run = bundle.run();
            target.is_untouched();
            assert_ne!(run.code, 0, "{way:?}: {run}");
            assert!(!run.stderr.is_empty());
        }
    }
}

/// CVE-2023-28642 (runc): an image in which `/proc` or `/sys` is a symlink, so that what is protected there is not what the
/// container sees. CVE-2025-62161, CVE-2025-54867 are youki's of the kind.
#[test]
fn a_proc_or_sys_that_is_a_link_is_not_mounted_over() {
    requires!(root);
    for name in ["proc", "sys"] {
        for way in ["/tmp", "tmp", "../../../../tmp", "/proc/self/root/tmp"] {
            let bundle = Bundle::new(&["true"]);
            std::fs::remove_dir(bundle.rootfs().join(name)).unwrap();
            symlink(way, bundle.rootfs().join(name)).unwrap();
            let run = bundle.run();
            assert_ne!(run.code, 0, "{name} to {way}: {run}");
            let inside = std::fs::read_dir(bundle.rootfs().join("tmp")).unwrap().count();
            assert_eq!(inside, 0, "{name} to {way}");
        }
    }
}

/// CVE-2026-41579: other directories that lead elsewhere. Whatever a mount needs is made inside.
#[test]
fn places_for_mounts_are_not_made_on_the_host() {
    requires!(root);
    let target = Target::new();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "content").unwrap();
    for way in target.ways() {
        let mut bundle = Bundle::script("cat /etc/made/file; cat /etc/passwd");
        std::fs::remove_dir_all(bundle.rootfs().join("etc")).unwrap();
        symlink(&way, bundle.rootfs().join("etc")).unwrap();
        bundle.bind(source.path(), "/etc/made", &["ro"]);
        bundle.bind(&source.path().join("file"), "/etc/passwd", &["ro"]);
        bundle.bind(&source.path().join("file"), "/link", &["ro"]);
        symlink(way.join("link"), bundle.rootfs().join("link")).unwrap();
        let run = bundle.run();
        target.is_untouched();
        assert_eq!(run.ok().stdout, "contentcontent");
    }
}

/// How many mounts a container in a race has: each is a chance of the attacker's.
const CHANCES: usize = 12;

/// Takes out what the last container has had made in the volume, so that the next one has to make it again.
fn clear(volume: &Path, inside: &Path) {
    use rustix::fs::{Mode, OFlags};
    for place in [volume.join("a"), volume.join("b"), inside.to_owned()] {
        // Not by the link, even if it comes just now.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(directory) = rustix::fs::open(&place, flags, Mode::empty()) else { continue };
        let place = format!("/proc/self/fd/{}", directory.as_raw_fd());
        for entry in std::fs::read_dir(place).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
    }
}

/// CVE-2021-30465 (runc): who shares a volume exchanges a directory on the way to a mount's destination for a symlink to a
/// directory of the host. Every container that comes up has its mounts where it was told, and the host has none.
///
/// CVE-2024-45310 (runc): the same race, for the directories and files that are made for mounts: none appears outside.
#[test]
fn nothing_is_mounted_or_made_outside_of_a_volume_in_which_a_directory_becomes_a_link() {
    requires!(root);
    let target = Target::new();
    let volume = tempfile::tempdir().unwrap();
    std::fs::create_dir(volume.path().join("a")).unwrap();
    symlink(target.path(), volume.path().join("b")).unwrap();
    let source = tempfile::Builder::new().prefix("palan-race").tempdir().unwrap();
    let marker = source.path().file_name().unwrap().to_str().unwrap().to_owned();
    std::fs::write(source.path().join("file"), "").unwrap();
    let mut bundle = Bundle::script(&format!("grep -c {marker} /proc/self/mountinfo"));
    let inside = bundle.rootfs().join(target.path().strip_prefix("/").unwrap());
    bundle.bind(volume.path(), "/volume", &[]);
    for number in 0..CHANCES / 2 {
        bundle.bind(source.path(), &format!("/volume/a/{number}/made"), &[]);
        bundle.bind(&source.path().join("file"), &format!("/volume/a/file{number}"), &[]);
    }
    let exchange = Exchange::start(&volume.path().join("a"), &volume.path().join("b"));
    let mut made_inside = false;
    let is_wrong = |seen: &str| seen != format!("{CHANCES}\n");
    race(&bundle, exchange, is_wrong, || {
        made_inside |= inside.exists();
        clear(volume.path(), &inside);
    });
    target.is_untouched();
    assert_eq!(host_mounts(), [""; 0]);
    assert!(made_inside, "no container has ever followed the link: that was no race");
}

/// CVE-2021-30465 again: the destination itself is exchanged for a link to a file of the host.
#[test]
fn a_destination_that_becomes_a_link_is_not_followed_out() {
    requires!(root);
    let target = Target::new();
    let volume = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    let file = source.path().join("palan-race-file");
    std::fs::write(&file, "content").unwrap();
    std::fs::write(volume.path().join("a"), "").unwrap();
    symlink(target.path().join("secret"), volume.path().join("b")).unwrap();
    let mut bundle = Bundle::script("grep -c palan-race-file /proc/self/mountinfo");
    bundle.bind(volume.path(), "/volume", &[]);
    for _ in 0..CHANCES {
        bundle.bind(&file, "/volume/a", &["ro"]);
    }
    let exchange = Exchange::start(&volume.path().join("a"), &volume.path().join("b"));
    race(&bundle, exchange, |seen| seen != format!("{CHANCES}\n"), || {});
    target.is_untouched();
    assert_eq!(host_mounts(), [""; 0]);
}
