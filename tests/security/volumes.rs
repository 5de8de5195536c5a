//! Volumes whose content changes places with a way out while a part of it is mounted, filled, copied or removed. Who has one
//! container on a volume does that at will.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_test_support::daemon::Daemon;
use palan_test_support::image::TarBuilder;
use palan_test_support::race::Exchange;
use palan_test_support::requires;
use palan_tests::images::{BUSYBOX, busybox, daemon, load};

/// How long one race goes on.
const PATIENCE: Duration = Duration::from_secs(6);

/// A volume with a directory `real` and a link `way` to a directory of the host, which has a secret.
struct Scene {
    daemon: Daemon,
    /// The volume's content, as the host sees it.
    data: PathBuf,
    outside: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let daemon = daemon();
        daemon.palan(["volume", "create", "shared"]).ok();
        let data = daemon.data_root().join("volumes/shared/_data");
        let outside = daemon.scratch().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "the host's secret").unwrap();
        std::fs::create_dir(data.join("real")).unwrap();
        symlink(&outside, data.join("way")).unwrap();
        Self { daemon, data, outside }
    }

    fn exchange(&self) -> Exchange {
        Exchange::start(&self.data.join("real"), &self.data.join("way"))
    }

    /// Does it over and over while the two change places; how often it was done.
    fn race(&self, mut act: impl FnMut(&Daemon, u32)) -> u32 {
        let exchange = self.exchange();
        let (end, mut times) = (Instant::now() + PATIENCE, 0);
        while Instant::now() < end {
            act(&self.daemon, times);
            times += 1;
            let left: Vec<_> = names(&self.outside);
            assert_eq!(left, ["secret"], "something was made on the host, or removed there");
        }
        assert!(exchange.count() > 1000, "{} exchanges are no race", exchange.count());
        times
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// CVE-2023-25809's kin, CVE-2024-23651, CVE-2026-42306: a path below a shared directory is checked and then used. Kubernetes had
/// the same with subPath volumes (CVE-2017-1002101, CVE-2021-25741).
#[test]
fn a_part_that_changes_places_shows_nothing_of_the_host() {
    requires!(root);
    let scene = Scene::new();
    std::fs::write(scene.data.join("real/inside"), "").unwrap();
    let (mut came_up, mut refused) = (0, 0);
    let mount = "type=volume,src=shared,dst=/part,volume-subpath=real";
    scene.race(|daemon, _| {
        let run =
            daemon.palan(["run", "--rm", "--network", "none", "--mount", mount, BUSYBOX, "ls", "/part"]);
        assert!(!run.stdout.contains("secret"), "{run}");
        match run.code {
            0 => {
                assert_eq!(run.stdout, "inside\n");
                came_up += 1;
            }
            _ => {
                assert!(run.stderr.contains("path concatenation escapes the base directory"), "{run}");
                refused += 1;
            }
        }
    });
    assert!(came_up > 0 && refused > 0, "{came_up} came up, {refused} were refused");
}

/// CVE-2022-23648, CVE-2024-45310: what an image has is copied to where a link leads, or files are made there.
#[test]
fn filling_a_part_that_changes_places_writes_nothing_to_the_host() {
    requires!(root);
    let scene = Scene::new();
    let content = TarBuilder::new().directory("data/", 0o777).file("data/planted", 0o666, "x").finish();
    load(&scene.daemon, busybox().layer(content), "full");
    let mount = "type=volume,src=shared,dst=/data,volume-subpath=real";
    let data = scene.data.clone();
    scene.race(|daemon, _| {
        daemon.palan(["run", "--rm", "--network", "none", "--mount", mount, "full", "true"]);
        // Empty again, so that the next one fills it again.
        for place in ["real", "way"] {
            let place = data.join(place);
            if std::fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
                std::fs::remove_file(place.join("planted")).ok();
            }
        }
    });
}

/// CVE-2019-18466 (podman): an export that follows links. And the same for a clone.
#[test]
fn copies_of_a_volume_hold_nothing_of_the_host() {
    requires!(root);
    let scene = Scene::new();
    scene.race(|daemon, times| {
        let exported = daemon.palan(["volume", "export", "shared"]);
        assert!(!exported.stdout.contains("the host's secret"), "the archive has it");
        let name = format!("copy{times}");
        if daemon.palan(["volume", "clone", "shared", &name]).code == 0 {
            let copy = daemon.data_root().join("volumes").join(&name).join("_data");
            for name in names(&copy) {
                let place = copy.join(name);
                let is_directory = std::fs::symlink_metadata(&place).unwrap().is_dir();
                assert!(!is_directory || names(&place).is_empty(), "{}", place.display());
            }
            daemon.palan(["volume", "rm", &name]).ok();
        }
    });
}

/// CVE-2024-23652: what is cleaned up follows a link, and the host's files are gone.
#[test]
fn a_volume_that_is_removed_takes_nothing_of_the_host_along() {
    requires!(root);
    let scene = Scene::new();
    let outside = scene.outside.clone();
    scene.race(|daemon, times| {
        let name = format!("v{times}");
        daemon.palan(["volume", "create", &name]).ok();
        let data = daemon.data_root().join("volumes").join(&name).join("_data");
        std::fs::create_dir_all(data.join("real/deep/deeper")).unwrap();
        symlink(&outside, data.join("way")).unwrap();
        let exchange = Exchange::start(&data.join("real/deep"), &data.join("way"));
        daemon.palan(["volume", "rm", &name]).ok();
        drop(exchange);
    });
}

/// CVE-2021-30465's way in: the place of a mount is in a volume that others write to.
#[test]
fn a_place_within_a_volume_that_changes_places_is_not_the_hosts() {
    requires!(root);
    let scene = Scene::new();
    scene.race(|daemon, _| {
        let run = daemon.palan([
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "shared:/shared",
            "--tmpfs",
            "/shared/real/made:mode=700",
            BUSYBOX,
            "true",
        ]);
        assert!(run.code == 0 || !run.stderr.is_empty(), "{run}");
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let outside = format!("{}/outside", daemon.scratch().display());
        assert!(!table.contains(&outside), "mounted on the host");
    });
}
