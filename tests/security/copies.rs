//! `cp` while somebody in the container exchanges directories for ways out: CVE-2018-15664 (a path resolved, then used),
//! CVE-2026-41568 and CVE-2026-42306 (mount points made for a copy), and libraries of the container that the copy must not load
//! (CVE-2019-14271).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_test_support::daemon::Daemon;
use palan_test_support::image::TarBuilder;
use palan_test_support::race::Exchange;
use palan_test_support::requires;
use palan_tests::images::{BUSYBOX, daemon};

/// How long one race goes on.
const PATIENCE: Duration = Duration::from_secs(6);

/// A container with a volume that has a directory `real` with a `secret` of its own, and a link `way` to the host's.
struct Scene {
    daemon: Daemon,
    data: PathBuf,
    outside: PathBuf,
}

impl Scene {
    fn new(verb: &[&str]) -> Self {
        let daemon = daemon();
        daemon.palan(["volume", "create", "shared"]).ok();
        let data = daemon.data_root().join("volumes/shared/_data");
        let outside = daemon.scratch().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "the host's secret").unwrap();
        std::fs::create_dir(data.join("real")).unwrap();
        std::fs::write(data.join("real/secret"), "its own").unwrap();
        symlink(&outside, data.join("way")).unwrap();
        let flags = ["--name", "cc", "--network", "none", "-v", "shared:/data"];
        // Another volume on what changes places: its mount point is looked for and made there.
        let nested = ["-v", "nested:/data/real/deep/inside", BUSYBOX, "sleep", "1000"];
        daemon.palan(verb.iter().chain(&flags).chain(&nested)).ok();
        Self { daemon, data, outside }
    }

    /// Copies both ways while the two change places.
    fn race(&self) {
        let exchange = Exchange::start(&self.data.join("real"), &self.data.join("way"));
        let tar = TarBuilder::new()
            .file("planted", 0o644, "x")
            .directory("sub", 0o755)
            .file("sub/x", 0o644, "x")
            .finish();
        let (end, mut through) = (Instant::now() + PATIENCE, 0);
        let last = end + Duration::from_secs(54);
        while Instant::now() < end || through == 0 && Instant::now() < last {
            for path in ["/data/real/secret", "/data/way/secret", "/data/real/.", "/data"] {
                let run = self.daemon.palan(["cp", &format!("cc:{path}"), "-"]);
                assert!(!run.stdout.contains("the host's secret"), "{path} leads out");
                through += u32::from(run.stdout.contains("its own"));
            }
            for path in ["/data/real", "/data/way", "/data/real/deep/inside"] {
                // It may find its way gone in the middle.
                let _ = self.daemon.palan_with_input(["cp", "-", &format!("cc:{path}")], &tar);
            }
            assert_eq!(names(&self.outside), ["secret"], "something was made on the host, or removed there");
        }
        assert!(exchange.count() > 1000, "{} exchanges are no race", exchange.count());
        assert!(through > 0, "no copy ever got through");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_running_container_can_not_lead_a_copy_out() {
    requires!(root);
    Scene::new(&["run", "-d"]).race();
}

#[test]
fn nor_can_the_volume_of_a_stopped_one() {
    requires!(root);
    Scene::new(&["create"]).race();
}

/// Nothing of the container is executed or loaded, whatever it calls itself.
#[test]
fn a_copy_runs_nothing_of_the_container() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let script = "mkdir -p /lib/x86_64-linux-gnu /usr/bin; for f in /lib/libnss_files.so.2 /lib/x86_64-linux-gnu/libnss_files.so.2 \
                  /usr/bin/tar /bin/tar /usr/bin/docker-untar /bin/xz; do printf '#!/bin/sh\\ntouch /pwned\\n' > $f; chmod +x $f; done";
    daemon.palan(["exec", "cc", "sh", "-c", script]).ok();
    daemon.palan(["cp", "cc:/etc/passwd", "-"]).ok();
    let tar = TarBuilder::new().file("f", 0o644, "x").finish();
    daemon.palan_with_input(["cp", "-a", "-", "cc:/tmp"], &tar).ok();
    daemon.palan(["exec", "cc", "test", "!", "-e", "/pwned"]).ok();
    assert!(!Path::new("/pwned").exists());
}

/// CVE-2021-41089: a copy that changed the modes of files on the host. And archives whose names and links lead out.
#[test]
fn archives_stay_in_the_container() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["create", "--name", "cc", "--network", "none", BUSYBOX, "true"]).ok();
    let victim = daemon.scratch().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let target = victim.to_str().unwrap().to_owned();
    for tar in [
        TarBuilder::new().file("../../../../../../../../..//palan-planted", 0o4777, "x"),
        TarBuilder::new().symlink("way", &target).file("way/planted", 0o4777, "x"),
        TarBuilder::new().symlink("way", "../../../../../../../../").file(
            &format!("way{target}/planted"),
            0o4777,
            "x",
        ),
        TarBuilder::new().hard_link("x", "../../../../../../../../etc/passwd"),
    ] {
        let _ = daemon.palan_with_input(["cp", "-", "cc:/tmp"], &tar.finish());
        assert!(names(&victim).is_empty() && !Path::new("/palan-planted").exists());
    }
}

/// A client that takes files out of a container gets no way out either.
#[test]
fn what_comes_out_stays_below_the_destination() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let out = daemon.scratch().join("out");
    std::fs::create_dir(&out).unwrap();
    let script = "mkdir /x; cd /x; ln -s /etc way; ln -s ../../.. up; cp /bin/busybox s; chmod 6755 s; mknod null c 1 3; mkfifo pipe";
    daemon.palan(["exec", "cc", "sh", "-c", script]).ok();
    let run = daemon.palan(["cp", "cc:/x", out.to_str().unwrap()]).ok();
    assert!(run.stderr.contains("1 device(s) of the container were left out"), "{run}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::symlink_metadata(out.join("x/s")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7000, 0, "set-id bits would be the host's root's");
    assert!(std::fs::symlink_metadata(out.join("x/null")).is_err());
    assert_eq!(std::fs::read_link(out.join("x/way")).unwrap(), Path::new("/etc"));
}
