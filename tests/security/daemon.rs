//! Published attacks by images and from inside of containers, replayed: what the host has stays as it was and unseen.

use std::path::{Path, PathBuf};

use palan_test_support::daemon::{Daemon, Run, program};
use palan_test_support::image::{ImageBuilder, TarBuilder, TarHeader, digest};
use palan_test_support::requires;
use serde_json::json;

use palan_tests::images::{BUSYBOX, busybox, busybox_layer, daemon, load};

/// A directory of the host that an attack aims at.
struct Target {
    path: PathBuf,
}

impl Target {
    fn new(daemon: &Daemon) -> Self {
        let path = daemon.scratch().join("target");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("secret"), "of the host").unwrap();
        for name in ["passwd", "group", "hosts"] {
            std::fs::write(path.join(name), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        }
        Self { path }
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }

    #[track_caller]
    fn is_untouched(&self) {
        let mut names: Vec<_> =
            std::fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["group", "hosts", "passwd", "secret"]);
        assert_eq!(std::fs::read_to_string(self.path.join("secret")).unwrap(), "of the host");
    }
}

fn run(daemon: &Daemon, image: &str, flags: &[&str], command: &[&str]) -> Run {
    let fixed = ["run", "--rm", "--network", "none"];
    daemon.palan(fixed.iter().chain(flags).chain(&[image]).chain(command))
}

/// CVE-2026-41579, CVE-2026-47766, CVE-2023-28642, CVE-2025-31133: an image whose directories point elsewhere.
#[test]
fn directories_of_the_image_that_point_to_the_host() {
    requires!(root);
    let daemon = daemon();
    let target = Target::new(&daemon);
    let up = format!("{}{}", "../".repeat(24), target.path().trim_start_matches('/'));
    for name in ["etc", "dev", "proc", "sys", "tmp"] {
        for way in [target.path(), up.clone()] {
            let layer = TarBuilder::new().whiteout(name).symlink(name, &way).finish();
            load(&daemon, busybox().layer(layer), "evil");
            for flags in [&[][..], &["--privileged"], &["--read-only"], &["-u", "alice"], &["--init"]] {
                let run = run(&daemon, "evil", flags, &["sh", "-c", "cat /etc/secret /tmp/secret"]);
                assert!(!run.stdout.contains("of the host"), "{name} → {way}: {run}");
                target.is_untouched();
            }
            let run = run(&daemon, "evil", &["-v", "/etc/volume", "-w", "/tmp/made/here"], &["true"]);
            assert!((0..128).contains(&run.code), "{run}");
            target.is_untouched();
            daemon.palan(["rmi", "-f", "evil"]).ok();
        }
    }
    // What is masked is covered with our null device, whatever the image calls its own.
    let layer = TarBuilder::new()
        .directory("dev/", 0o755)
        .symlink("dev/null", "/proc/sys/kernel/core_pattern")
        .symlink("dev/console", "/proc/sysrq-trigger")
        .finish();
    load(&daemon, busybox().layer(layer), "evil");
    let script = "cat /proc/kcore /proc/timer_list /proc/keys; echo x > /proc/sys/kernel/core_pattern";
    let run = run(&daemon, "evil", &[], &["sh", "-c", script]);
    assert!(run.stdout.is_empty() && run.code != 0, "{run}");
}

/// CVE-2022-23648: `VOLUME /x`, where `/x` is a link, and the volume is filled from where it points.
#[test]
fn a_volume_is_filled_from_the_image_alone() {
    requires!(root);
    let daemon = daemon();
    let target = Target::new(&daemon);
    let up = format!("{}{}", "../".repeat(24), target.path().trim_start_matches('/'));
    for (way, expected) in [("/etc".to_owned(), "group\npasswd\n"), (target.path(), ""), (up, "")] {
        let layer = TarBuilder::new().symlink("x", &way).finish();
        load(&daemon, busybox().layer(layer).config("Volumes", json!({"/x": {}})), "evil");
        let run = run(&daemon, "evil", &[], &["sh", "-c", "ls /x/; cat /x/secret"]);
        // The image's own /etc has the files that are bound into it too.
        let listed: String = run
            .stdout
            .lines()
            .filter(|name| !["hostname", "hosts", "resolv.conf"].contains(name))
            .map(|name| format!("{name}\n"))
            .collect();
        assert_eq!(listed, expected, "{run}");
        target.is_untouched();
        daemon.palan(["rmi", "-f", "evil"]).ok();
    }
}

/// CVE-2026-55686: `WORKDIR` by way of links.
#[test]
fn a_working_directory_is_made_inside() {
    requires!(root);
    let daemon = daemon();
    let target = Target::new(&daemon);
    let up = format!("{}{}", "../".repeat(24), target.path().trim_start_matches('/'));
    for way in [target.path(), up, "/proc/self/root".to_owned(), "/proc/1/cwd".to_owned()] {
        let layer = TarBuilder::new().symlink("way", &way).finish();
        let image = busybox().layer(layer).config("WorkingDir", json!("/way/made/here"));
        load(&daemon, image.config("User", json!("alice")), "evil");
        let run = run(&daemon, "evil", &[], &["pwd"]);
        assert!(run.code == 0 || !run.stderr.is_empty(), "{run}");
        target.is_untouched();
        daemon.palan(["rmi", "-f", "evil"]).ok();
    }
    assert!(!Path::new("/made").exists());
}

/// CVE-2024-40635, CVE-2026-30892, CVE-2026-46680: no text becomes root that does not say root.
#[test]
fn users_never_fall_back_to_root() {
    requires!(root);
    let daemon = daemon();
    let layer = TarBuilder::new()
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\nmany:x:4294967296:0::/:/bin/sh\nless:x:-1:0::/:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\n50:x:0:\n")
        .finish();
    load(&daemon, busybox().layer(layer), "users");
    for user in [
        "4294967296",
        "4294967295",
        "2147483648",
        "1000000000000",
        "18446744073709551616",
        "-1",
        "+0",
        "0x0",
        "0b0",
        "many",
        "less",
        "nobody",
        " 0",
        "0 ",
        "root ",
        "0:0x0",
        "0:-1",
        "0:4294967296",
        "0:nogroup",
    ] {
        let refused = run(&daemon, "users", &["-u", user], &["id"]);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "-u {user:?}: {refused}");
        let named = user.trim_start_matches("0:");
        assert!(refused.stderr.contains(named), "the error does not name {named:?}: {refused}");
    }
    let image = ImageBuilder::new().layer(busybox_layer()).config("User", json!("0x0"));
    load(&daemon, image, "badly");
    let refused = run(&daemon, "badly", &[], &["/bin/id"]);
    assert!(refused.code != 0 && refused.stderr.contains("unable to find user 0x0"), "{refused}");
    for (user, expected) in
        [("1000", "1000 0"), ("1000:50", "1000 50"), ("2147483647", "2147483647 0"), ("007", "7 0")]
    {
        let run = run(&daemon, "users", &["-u", user], &["sh", "-c", "echo $(id -u) $(id -g)"]);
        assert_eq!(run.ok().line(), expected, "-u {user}");
    }
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", "users", "sleep", "1000"]).ok();
    for user in ["0x0", "-1", "4294967296", "many"] {
        let refused = daemon.palan(["exec", "-u", user, "cc", "id"]);
        assert!(refused.code != 0 && !refused.stdout.contains("uid="), "exec -u {user:?}: {refused}");
    }
    assert_eq!(daemon.palan(["exec", "-u", "1000", "cc", "id", "-u"]).ok().line(), "1000");
}

/// CVE-2024-9676: a `passwd` that is no file is not waited for.
#[test]
fn a_passwd_that_is_no_file() {
    requires!(root);
    let daemon = daemon();
    let target = Target::new(&daemon);
    let fifo = TarHeader::new("etc/passwd", b'6', 0o644);
    let device = TarHeader { device: (1, 5), ..TarHeader::new("etc/passwd", b'3', 0o644) };
    let secret = format!("{}/passwd", target.path());
    for layer in [
        TarBuilder::new().entry(&fifo, b""),
        TarBuilder::new().entry(&device, b""),
        TarBuilder::new().whiteout("etc/passwd").symlink("etc/passwd", &secret),
        TarBuilder::new().whiteout("etc/passwd").symlink("etc/passwd", "passwd"),
        TarBuilder::new().whiteout("etc/passwd").directory("etc/passwd/", 0o755),
    ] {
        load(&daemon, busybox().layer(layer.finish()), "evil");
        let refused = run(&daemon, "evil", &["-u", "alice"], &["id"]);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{refused}");
        assert_eq!(
            run(&daemon, "evil", &["-u", "7"], &["grep", "Uid:", "/proc/self/status"]).ok().line(),
            "Uid:\t7\t7\t7\t7"
        );
        daemon.palan(["rmi", "-f", "evil"]).ok();
    }
}

/// CVE-2026-57231: entries of an image that are no assignments take nothing from the host.
#[test]
fn the_environment_is_the_images_alone() {
    requires!(root);
    let daemon = Daemon::start();
    let entries = ["FOO", "*", "=", "=x", "", "HOME", "PALAN*", "A=1", "B=\0C=2", "PATH=/bin"];
    load(&daemon, ImageBuilder::new().layer(busybox_layer()).config("Env", json!(entries)), "evil");
    let printed = run(&daemon, "evil", &[], &["env"]).ok();
    let mut lines: Vec<&str> = printed.stdout.lines().filter(|line| !line.starts_with("HOSTNAME=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1", "HOME=/root", "PATH=/bin"], "{printed}");
}

/// CVE-2019-5736: a program of the host that the container could write to.
#[test]
fn the_hosts_program_cannot_be_reached() {
    requires!(root);
    let daemon = daemon();
    let before = digest(&std::fs::read(program()).unwrap());
    let probe = std::env::var("PALAN_DEMO_PROGRAMS").expect("run the tests by `cargo xtask test`");
    let probe = format!("{probe}/probe:/probe:ro");
    let layer = TarBuilder::new().file("entry", 0o755, "#!/proc/self/exe\n").finish();
    load(&daemon, busybox().layer(layer).config("Entrypoint", json!(["/entry"])), "evil");
    for flags in [&[][..], &["--init"], &["--privileged"]] {
        let run = run(&daemon, "evil", flags, &[]);
        assert_ne!(run.code, 0, "{run}");
        assert!(run.stdout.is_empty(), "{run}");
    }
    // What runs as process 1 is the image's own, or our init, which no path leads to.
    for flags in [&["--init", "-v", probe.as_str()][..], &["--init", "--privileged", "-v", &probe]] {
        let written = run(&daemon, BUSYBOX, flags, &["/probe", "write-to", "/proc/1/exe"]);
        assert_ne!(written.code, 0, "{written}");
        assert!(!written.stdout.contains("allowed"), "{written}");
    }
    daemon
        .palan(["run", "-d", "--name", "cc", "--network", "none", "--entrypoint", "sleep", "evil", "1000"])
        .ok();
    let refused = daemon.palan(["exec", "cc", "/entry"]);
    assert_ne!(refused.code, 0, "{refused}");
    // Nothing but the three streams is open (ls's own directory is the fourth), nor does anything lead outside.
    let open = daemon.palan(["exec", "cc", "ls", "/proc/self/fd", "/proc/1/fd"]).ok();
    assert_eq!(open.stdout, "/proc/1/fd:\n0\n1\n2\n\n/proc/self/fd:\n0\n1\n2\n3\n", "{open}");
    assert_eq!(digest(&std::fs::read(program()).unwrap()), before);
}

/// CVE-2026-31431: kernel crypto sockets. busybox has no program that opens one.
#[test]
fn sockets_that_no_container_needs() {
    requires!(root);
    let daemon = daemon();
    let probe = std::env::var("PALAN_DEMO_PROGRAMS").expect("run the tests by `cargo xtask test`");
    let probe = format!("{probe}/probe:/probe:ro");
    let open = |flags: &[&str], family: &str| {
        let flags: Vec<&str> = flags.iter().copied().chain(["-v", &probe]).collect();
        run(&daemon, BUSYBOX, &flags, &["/probe", "socket", family]).line().to_owned()
    };
    for family in ["alg", "vsock"] {
        assert_eq!(open(&[], family), "Address family not supported by protocol (os error 97)", "{family}");
        let with_network = open(&["--cap-add", "NET_ADMIN"], family);
        assert_eq!(with_network, "Address family not supported by protocol (os error 97)", "{family}");
    }
    // Without the filter it is the kernel's own answer.
    let vsock = rustix::net::AddressFamily::from_raw(40);
    if rustix::net::socket(vsock, rustix::net::SocketType::STREAM, None).is_ok() {
        assert_eq!(open(&["--security-opt", "seccomp=unconfined"], "vsock"), "allowed");
    }
    for family in ["inet", "unix"] {
        assert_eq!(open(&[], family), "allowed", "{family}");
    }
}

/// Device nodes of an image are files like others; what they lead to is decided by the container's allow-list.
#[test]
fn device_nodes_of_an_image() {
    requires!(root);
    let daemon = daemon();
    let device = |name, kind, device| TarHeader { device, ..TarHeader::new(name, kind, 0o666) };
    let layer = TarBuilder::new()
        .entry(&device("memory", b'3', (1, 1)), b"")
        .entry(&device("disk", b'4', (254, 0)), b"")
        .entry(&device("kmsg", b'3', (1, 11)), b"")
        .entry(&device("zero", b'3', (1, 5)), b"")
        .entry(&device("fifo", b'6', (0, 0)), b"")
        .finish();
    load(&daemon, busybox().layer(layer), "devices");
    let script = "for name in memory disk kmsg; do dd if=/$name of=/out bs=16 count=1 2>&1 | head -1; done
        head -c 4 /zero | wc -c; test -p /fifo && echo pipe";
    let run = run(&daemon, "devices", &[], &["sh", "-c", script]).ok();
    let refused = |name| format!("dd: can't open '/{name}': Operation not permitted\n");
    let expected = format!("{}{}{}4\npipe", refused("memory"), refused("disk"), refused("kmsg"));
    assert_eq!(run.line(), expected, "{run}");
}

/// CVE-2025-62518: a size in an extended header wins over the one in the header; whoever takes the other one finds an
/// entry that others don't see.
#[test]
fn sizes_that_disagree_smuggle_nothing() {
    requires!(root);
    let daemon = daemon();
    let hidden = TarBuilder::new().file("hidden", 0o644, "x".repeat(512)).finish();
    let length = hidden.len().to_string();
    let layer = TarBuilder::new()
        .pax(&[("size", length.as_bytes())])
        .file("outer", 0o644, "")
        .raw(&hidden)
        .file("behind", 0o644, "")
        .finish();
    load(&daemon, busybox().layer(layer), "nested");
    let listed = run(&daemon, "nested", &[], &["sh", "-c", "ls /hidden /outer /behind; wc -c < /outer"]);
    assert_eq!(listed.stdout, format!("/behind\n/outer\n{length}\n"), "{listed}");
    // Malformed sizes are errors, never skipped.
    for size in ["-1", "1 ", "0x10", "18446744073709551616", "9223372036854775808"] {
        let layer = TarBuilder::new().pax(&[("size", size.as_bytes())]).file("outer", 0o644, "").finish();
        let archive = ImageBuilder::new().layer(layer).build().docker_archive(&["evil:latest"]);
        let run = daemon.palan_with_input(["load"], &archive);
        assert!(run.code == 1 && run.stderr.contains("the archive is malformed"), "{size:?}: {run}");
    }
}
