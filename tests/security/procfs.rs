//! /proc: something else in its place, and what the specification covers there.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use palan_test_support::bundle::Bundle;
use palan_test_support::race::Exchange;
use palan_test_support::requires;
use serde_json::json;

/// CVE-2019-16884 (runc): a volume on /proc or in it, so that the runtime writes its labels to files of the image.
#[test]
fn nothing_else_is_mounted_on_proc() {
    requires!(root);
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(source.path().join("self/attr/apparmor")).unwrap();
    std::fs::write(source.path().join("self/attr/exec"), "").unwrap();
    for destination in
        ["/proc", "/proc/", "/proc/self", "/proc/sys", "/proc/../proc/irq", "//proc/.", "/proc/1"]
    {
        let mut bundle = Bundle::new(&["true"]);
        bundle.bind(source.path(), destination, &[]);
        let run = bundle.run();
        assert_ne!(run.code, 0, "{destination}: {run}");
    }
    // By way of a link in the image.
    let mut bundle = Bundle::new(&["true"]);
    symlink("/proc/sys", bundle.rootfs().join("innocent")).unwrap();
    bundle.bind(source.path(), "/innocent/kernel", &[]);
    let run = bundle.run();
    assert_ne!(run.code, 0, "{run}");
    let mut bundle = Bundle::new(&["true"]);
    bundle.mount("/proc", "tmpfs", "tmpfs", &[]);
    let run = bundle.run();
    assert_ne!(run.code, 0, "{run}");
    assert_eq!(std::fs::read(source.path().join("self/attr/exec")).unwrap(), b"");
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2025-52881 (runc): /proc is exchanged for a directory of the attacker's while the
/// container is made, so that parameters of the kernel go to a file of his, or his to the kernel. What is told to the kernel
/// is written to a procfs, and the container's own.
#[test]
fn kernel_parameters_are_not_written_to_a_fake_proc() {
    requires!(root);
    let name = "net/ipv4/ip_unprivileged_port_start";
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77"});
    let root = bundle.rootfs();
    let fake = root.join("tmp/fake");
    let file = fake.join("sys").join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "fake").unwrap();
    std::fs::create_dir_all(fake.join("self/attr")).unwrap();
    std::fs::write(fake.join("self/attr/exec"), "fake").unwrap();
    symlink("/tmp/fake", root.join("other")).unwrap();
    let exchange = Exchange::start(&root.join("proc"), &root.join("other"));
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        bundle.run();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "fake");
        assert_eq!(std::fs::read_to_string(fake.join("self/attr/exec")).unwrap(), "fake");
    }
    assert!(exchange.count() > 1000, "{} exchanges are no race", exchange.count());
    drop(exchange);
    let host = std::fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap();
    assert_ne!(host, "77\n");
    // And without anybody in the way.
    for name in ["proc", "other"] {
        let path = root.join(name);
        if path.is_symlink() { std::fs::remove_file(path) } else { std::fs::remove_dir_all(path) }.unwrap();
    }
    std::fs::create_dir(root.join("proc")).unwrap();
    bundle.spec["process"]["args"] = json!(["cat", format!("/proc/sys/{name}")]);
    assert_eq!(bundle.run().ok().stdout, "77\n");
}

/// The same race: wherever in the container a procfs ends up, what the specification covers is covered there.
#[test]
fn a_proc_that_was_moved_aside_is_not_bare() {
    requires!(root);
    // Opening is one look: the names change all the time.
    let script = "for i in 1 2 3; do for p in /proc /other /tmp/fake; do
            { true >> $p/sys/kernel/core_pattern; } 2>/dev/null && echo bare $p
            head -c 1 $p/timer_list 2>/dev/null | grep -q . && echo seen $p
        done; done; true";
    let bundle = Bundle::script(script);
    let root = bundle.rootfs();
    std::fs::create_dir(root.join("tmp/fake")).unwrap();
    symlink("/tmp/fake", root.join("other")).unwrap();
    let exchange = Exchange::start(&root.join("proc"), &root.join("other"));
    let end = Instant::now() + Duration::from_secs(8);
    let mut ran = 0;
    while Instant::now() < end {
        let run = bundle.run();
        ran += usize::from(run.code == 0);
        assert_eq!(run.stdout, "", "container {ran}: {run}");
    }
    assert!(
        ran > 0 && exchange.count() > 1000,
        "{ran} containers, {} exchanges\n{}",
        exchange.count(),
        bundle.run()
    );
}

/// CVE-2025-31133 (runc), CVE-2025-62596 (youki): masks are copies of the container's /dev/null; one that is a symlink to a file
/// in /proc shows that file in the place of the masked one, for writing.
#[test]
fn a_null_device_that_is_a_link_masks_nothing_with_its_target() {
    requires!(root);
    // A parameter that does no harm and is not empty.
    let way = "/proc/sys/kernel/ostype";
    let check = "cat /proc/timer_list /proc/keys /proc/kcore | head -c 100; ls /sys/firmware; grep -c ostype /proc/self/mountinfo";
    // In the image, with nothing mounted on its /dev.
    let mut bundle = Bundle::script(check);
    bundle.unmount("/dev");
    symlink(way, bundle.rootfs().join("dev/null")).unwrap();
    let run = bundle.run();
    assert!(run.stdout.is_empty() || run.stdout.trim() == "0", "{run}");
    // From a volume that is the whole of /dev.
    let dev = tempfile::tempdir().unwrap();
    symlink(way, dev.path().join("null")).unwrap();
    for name in ["pts", "shm", "mqueue"] {
        std::fs::create_dir(dev.path().join(name)).unwrap();
    }
    let mut bundle = Bundle::script(check);
    bundle.unmount("/dev");
    bundle.bind(dev.path(), "/dev", &[]);
    let run = bundle.run();
    assert!(run.stdout.is_empty() || run.stdout.trim() == "0", "{run}");
    // While it is being used.
    let mut bundle = Bundle::script(check);
    bundle.unmount("/dev");
    let dev = bundle.rootfs().join("dev");
    std::fs::write(dev.join("null"), "").unwrap();
    symlink(way, dev.join("other")).unwrap();
    let exchange = Exchange::start(&dev.join("null"), &dev.join("other"));
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        let run = bundle.run();
        assert!(run.stdout.is_empty() || run.stdout.trim() == "0", "{run}");
    }
    assert!(exchange.count() > 1000);
}
