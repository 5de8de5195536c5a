//! Directories and mount points that lead out of the root file system, or that change places with a way out while they are
//! used.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
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

/// A volume in which `a` is a directory and `b` a symlink to `way`, for [`Exchange`].
fn volume(way: &Path) -> tempfile::TempDir {
    let volume = tempfile::tempdir().unwrap();
    std::fs::create_dir(volume.path().join("a")).unwrap();
    symlink(way, volume.path().join("b")).unwrap();
    volume
}

/// Runs containers as long as a race takes; returns how many ran, and what those said that should not have run so.
#[track_caller]
fn race(bundle: &Bundle, exchange: &Exchange, is_wrong: impl Fn(&str) -> bool) -> usize {
    let end = Instant::now() + PATIENCE;
    let mut ran = 0;
    while Instant::now() < end {
        let run = bundle.run();
        if run.code == 0 {
            ran += 1;
            assert!(!is_wrong(&run.stdout), "container {ran}: {run}");
        }
    }
    assert!(exchange.count() > 1000, "{} exchanges are no race", exchange.count());
    assert!(ran > 0, "no container ran at all: {}", bundle.run());
    ran
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

/// CVE-2021-30465 (runc): who shares a volume exchanges a directory on the way to a mount's destination for a symlink to the
/// host's root. Every container that comes up has its mount where it was told, and the host has none.
#[test]
fn a_mount_does_not_follow_a_link_out_of_the_volume() {
    requires!(root);
    let volume = volume(Path::new("/"));
    let source = tempfile::Builder::new().prefix("palan-race").tempdir().unwrap();
    let marker = source.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mut bundle =
        Bundle::script(&format!("grep -c {marker} /proc/self/mountinfo; find / -xdev -name canary"));
    std::fs::write(source.path().join("canary"), "").unwrap();
    bundle.bind(volume.path(), "/volume", &[]);
    bundle.bind(source.path(), "/volume/a/x", &[]);
    std::fs::create_dir(volume.path().join("a/x")).unwrap();
    let exchange = Exchange::start(&volume.path().join("a"), &volume.path().join("b"));
    race(&bundle, &exchange, |seen| !seen.starts_with("1\n"));
    drop(exchange);
    assert_eq!(host_mounts(), [""; 0]);
    assert!(!Path::new("/x").exists());
}

/// CVE-2024-45310 (runc): the same race, for the directories and files that are made for mounts: none appears outside.
#[test]
fn no_empty_file_is_made_outside_of_the_volume() {
    requires!(root);
    let target = Target::new();
    let volume = volume(target.path());
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "").unwrap();
    let mut bundle = Bundle::new(&["true"]);
    bundle.bind(volume.path(), "/volume", &[]);
    bundle.bind(source.path(), "/volume/a/made/here", &[]);
    bundle.bind(&source.path().join("file"), "/volume/a/file/here", &[]);
    let exchange = Exchange::start(&volume.path().join("a"), &volume.path().join("b"));
    race(&bundle, &exchange, |_| false);
    drop(exchange);
    target.is_untouched();
    // It was a race: the link led to the same path inside.
    let inside = bundle.rootfs().join(target.path().strip_prefix("/").unwrap());
    let made: Vec<PathBuf> = [volume.path().join("a"), volume.path().join("b"), inside]
        .into_iter()
        .filter(|place| !place.is_symlink() && place.join("made").exists())
        .collect();
    assert!(!made.is_empty());
}

/// CVE-2021-30465 again, with a file in the place of a directory's last part: the destination itself is exchanged.
#[test]
fn a_destination_that_changes_is_not_followed_out() {
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
    bundle.bind(&file, "/volume/a", &["ro"]);
    let exchange = Exchange::start(&volume.path().join("a"), &volume.path().join("b"));
    race(&bundle, &exchange, |seen| seen != "1\n");
    drop(exchange);
    target.is_untouched();
    assert_eq!(host_mounts(), [""; 0]);
}
