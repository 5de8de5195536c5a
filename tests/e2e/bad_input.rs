//! Everything that must fail: with one clear error that names the object and the cause, leaving nothing behind.

use palan_test_support::daemon::{Daemon, Options, Run};
use palan_test_support::image::{Compression, ImageBuilder, TarBuilder, TarHeader};
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, busybox, daemon, load};
use crate::small_disk::SmallDisk;

fn refuses(daemon: &Daemon, flags: &[&str], code: i32, text: &str) {
    let arguments = ["run", "--rm"].iter().chain(flags);
    let run: Run = daemon.palan(arguments);
    run.fails(code, text);
}

#[test]
fn flags_and_names() {
    requires!(root);
    let daemon = daemon();
    for (flags, text) in [
        (&["-m", "1k", BUSYBOX, "true"][..], "Minimum memory limit allowed is 6MB"),
        (
            &["-m", "many", BUSYBOX, "true"],
            "invalid argument \"many\" for \"-m, --memory\" flag: invalid size: 'many'",
        ),
        (&["-p", "99999:1", BUSYBOX, "true"], "99999"),
        (&["-p", "80:99999", BUSYBOX, "true"], "99999"),
        (
            &["--name", "a b", BUSYBOX, "true"],
            "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        ),
        (&["-v", "relative:also/relative", BUSYBOX, "true"], "invalid"),
        (&["--cap-add", "FLY", BUSYBOX, "true"], "FLY"),
        (&["--network", "nosuch", BUSYBOX, "true"], "network nosuch not found"),
        (&["--cpus", "1000", BUSYBOX, "true"], "range of CPUs is from 0.01 to"),
        (&["--security-opt", "wings=on", BUSYBOX, "true"], "wings"),
        (&["--entrypoint", "", BUSYBOX], "no command specified"),
    ] {
        refuses(&daemon, flags, 125, text);
    }
    let long = format!("x:{}", "t".repeat(200));
    for (name, text) in [
        ("UPPER/Case", "invalid reference format: repository name (Case) must be lowercase"),
        (long.as_str(), "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("x@sha256:123", "invalid"),
    ] {
        let run = daemon.palan(["run", "--rm", name, "true"]);
        assert_eq!(run.code, 125, "{run}");
        assert!(run.stderr.contains(text), "{run}");
    }
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
}

#[test]
fn a_full_disk_is_said_and_everything_can_still_be_removed() {
    requires!(root);
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(scratch.path(), 48) else {
        palan_test_support::skip::note("a_full_disk", "cannot mount an ext4 image: no loop device");
        return;
    };
    let daemon = Daemon::start_with(Options { data_root: Some(disk.path()), ..Options::default() });
    load(&daemon, busybox(), BUSYBOX);
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "writer",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "yes > /fill; echo full; sleep 1000",
        ])
        .ok();
    assert!(wait_until(PATIENCE, || disk.free() == 0));
    let image =
        ImageBuilder::new().file("big", 0o644, palan_test_support::image::noise(8_000_000, 3)).build();
    let run = daemon.palan_with_input(["load"], &image.docker_archive(&["big:latest"]));
    run.fails(1, "No space left on device");
    daemon.palan(["ps"]).ok();
    daemon.palan(["stop", "-t", "0", "writer"]).ok();
    daemon.palan(["rm", "writer"]).ok();
    // Its files are deleted in the background.
    assert!(wait_until(PATIENCE, || disk.free() > 1000));
    daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, "echo", "again"]).ok();
    daemon.palan(["rmi", BUSYBOX]).ok();
    drop(daemon);
}

/// Loads a one-layer image with this tar as its layer.
fn load_layer(daemon: &Daemon, tar: Vec<u8>) -> Run {
    let archive = ImageBuilder::new().layer(tar).build().docker_archive(&["evil:latest"]);
    daemon.palan_with_input(["load"], &archive)
}

#[test]
fn hostile_layers_stay_inside() {
    requires!(root);
    let daemon = Daemon::start();
    let canary = daemon.scratch().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    let outside = canary.display().to_string();
    let up = format!("{}{}", "../".repeat(24), outside.trim_start_matches('/'));
    let hostile = [
        TarBuilder::new().file(&up, 0o644, "overwritten"),
        TarBuilder::new().file(&outside, 0o644, "overwritten"),
        TarBuilder::new().symlink("way", &daemon.scratch().display().to_string()).file(
            "way/canary",
            0o644,
            "overwritten",
        ),
        TarBuilder::new().symlink("way", &"../".repeat(24)).file(
            &format!("way{outside}"),
            0o644,
            "overwritten",
        ),
        TarBuilder::new().hard_link("link", &up).file("link", 0o644, "overwritten"),
        TarBuilder::new().hard_link("link", &outside),
        TarBuilder::new().whiteout(&up),
        TarBuilder::new().symlink("way", &daemon.scratch().display().to_string()).whiteout("way/canary"),
        TarBuilder::new().symlink("way", &daemon.scratch().display().to_string()).opaque("way"),
    ];
    for tar in hostile {
        // Refused, or resolved inside: both are right; touching the host is not.
        load_layer(&daemon, tar.finish());
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
        daemon.palan(["rmi", "-f", "evil:latest"]);
    }
}

#[test]
fn broken_and_lying_archives() {
    requires!(root);
    let daemon = Daemon::start();
    let good = TarBuilder::new().file("a", 0o644, "content").finish();
    load_layer(&daemon, good.clone()).ok();
    daemon.palan(["rmi", "evil:latest"]).ok();
    load_layer(&daemon, good[..700].to_vec()).fails(1, "");
    let mut corrupt = good;
    corrupt[10] ^= 0xff;
    load_layer(&daemon, corrupt).fails(1, "");
    daemon.palan_with_input(["load"], b"neither a tar nor anything else").fails(1, "");
    daemon.palan_with_input(["load"], b"").fails(1, "");
    // The layer is not the one that the configuration promises.
    let promised = ImageBuilder::new().file("a", 0o644, "promised").build();
    let mut archive = promised.docker_archive(&["evil:latest"]);
    let at = archive.windows(8).position(|window| window == b"promised");
    if let Some(at) = at {
        archive[at..at + 8].copy_from_slice(b"replaced");
        daemon.palan_with_input(["load"], &archive).fails(1, "");
    }
    assert_eq!(daemon.palan(["images", "-aq"]).ok().stdout, "");
}

#[test]
fn a_bomb_stops() {
    requires!(root);
    let daemon = Daemon::start();
    // A file that claims 1 TiB in a PAX header, and a stream of zeros that compresses a thousandfold.
    let claim = TarBuilder::new().pax(&[("size", b"1099511627776")]).file("huge", 0o644, "x").finish();
    load_layer(&daemon, claim).fails(1, "");
    assert_eq!(daemon.palan(["images", "-aq"]).ok().stdout, "");
}

#[test]
fn a_million_whiteouts_take_linear_time() {
    requires!(root);
    let daemon = Daemon::start();
    let mut tar = TarBuilder::new().directory("d/", 0o755);
    for _ in 0..1_000_000 {
        tar = tar.entry(&TarHeader::new("d/.wh..wh..opq", b'0', 0o644), b"");
    }
    let image = ImageBuilder::new().compression(Compression::Gzip).layer(tar.finish()).build();
    let archive = daemon.scratch().join("whiteouts.tar");
    std::fs::write(&archive, image.docker_archive(&["evil:latest"])).unwrap();
    daemon.palan(["load", "-i", &archive.display().to_string()]).ok();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test starts the product as a user does")]
fn a_client_without_a_daemon_or_permission() {
    requires!(root);
    let daemon = Daemon::start();
    let mut command = daemon.command();
    command.env("DOCKER_HOST", "unix:///nonexistent/palan.sock").arg("ps");
    let run = palan_test_support::daemon::finish(&mut command, None);
    run.fails(1, "unix:///nonexistent/palan.sock");
    std::fs::set_permissions(daemon.scratch(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = daemon.scratch().join("palan");
    // By another program: a process that another test forks meanwhile would hold the file open for writing, and it could not be executed.
    let mut copy = std::process::Command::new("cp");
    palan_test_support::daemon::finish(copy.arg(palan_test_support::daemon::program()).arg(&program), None)
        .ok();
    let mut unprivileged = std::process::Command::new(&program);
    unprivileged.env("DOCKER_HOST", daemon.host()).arg("ps");
    std::os::unix::process::CommandExt::uid(&mut unprivileged, 65534);
    std::os::unix::process::CommandExt::gid(&mut unprivileged, 65534);
    let run = palan_test_support::daemon::finish(&mut unprivileged, None);
    run.fails(1, "permission denied");
}
