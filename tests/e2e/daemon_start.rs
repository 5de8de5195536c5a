//! A daemon that cannot start says why in one line and leaves what it found as it was.

use std::path::Path;

use palan_test_support::daemon::{Daemon, Options, Run, finish, program};
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, busybox, daemon, load};

/// Starts a daemon that is expected to give up at once.
#[expect(clippy::disallowed_methods, reason = "a test starts the product as a user does")]
fn start(directory: &Path, settings: &str, flags: &[&str]) -> Run {
    let file = directory.join("refused.json");
    std::fs::write(&file, settings).unwrap();
    let mut command = std::process::Command::new(program());
    command.args(["daemon", "--config-file"]).arg(&file);
    let mut default = |flag: &str, value: String| {
        if !flags.contains(&flag) {
            command.args([flag, &value]);
        }
    };
    default("--data-root", directory.join("refused-data").display().to_string());
    default("--run-root", directory.join("refused-run").display().to_string());
    default("-H", format!("unix://{}", directory.join("refused.sock").display()));
    command.args(flags);
    let run = finish(&mut command, None);
    assert_eq!(run.stderr.lines().count(), 1, "one error, one line\n{run}");
    assert!(!directory.join("refused.sock").exists(), "the socket was left\n{run}");
    run
}

#[test]
fn settings_that_cannot_be_used() {
    requires!(root);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("refused.json").display().to_string();
    for (settings, text) in [
        (r#"{"wings": true}"#, "the following directives don't match any configuration option: wings"),
        (r#"{"bip": 7}"#, "the configuration key \"bip\" must be a string, not 7"),
        (r#"{"mtu": "x"}"#, "the configuration key \"mtu\" must be a non-negative integer, not \"x\""),
        (r#"{"hosts": "x"}"#, "the configuration key \"hosts\" must be an array of strings"),
        (r#"{"log-level": "loud"}"#, "the configuration key \"log-level\" has the value \"loud\""),
        (
            r#"{"storage-driver": "btrfs"}"#,
            "the configuration key \"storage-driver\" has the value \"btrfs\"",
        ),
        ("[1]", "must hold one JSON object"),
        ("{", "is not valid JSON"),
    ] {
        let run = start(directory.path(), settings, &[]);
        assert!(run.stderr.contains(&file), "the file is not named\n{run}");
        run.fails(1, text);
    }
    for (flags, text) in [
        (&["--bip", "1.2.3"][..], "bip: \"1.2.3\" is not an IPv4 address with prefix"),
        (&["--seccomp-profile", "/nonexistent/profile"], "/nonexistent/profile: No such file or directory"),
        (
            &["-H", "tcp://0.0.0.0:1"],
            "without TLS everybody who can reach this address has the rights of root on this host",
        ),
        (&["-H", "unix:///nonexistent/palan.sock"], "unix:///nonexistent/palan.sock"),
    ] {
        start(directory.path(), "{}", flags).fails(1, text);
    }
    assert!(!directory.path().join("refused-data").exists());
}

#[test]
fn data_roots_that_cannot_be_used() {
    requires!(root);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let file = file.display().to_string();
    for root in [file.as_str(), &format!("{file}/below"), "/proc/palan"] {
        start(directory.path(), "{}", &["--data-root", root]).fails(1, root);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    for name in ["palan.db", "images.db"] {
        let root = directory.path().join(format!("garbage-{name}"));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join(name), "no database".repeat(100)).unwrap();
        let root = root.display().to_string();
        start(directory.path(), "{}", &["--data-root", &root]).fails(1, "is not a database");
        let kept = std::fs::read_to_string(format!("{root}/{name}")).unwrap();
        assert!(kept.starts_with("no database"));
    }
}

/// What a second daemon does not find in its own database it would take for remains and remove.
#[test]
fn two_daemons_never_share_a_root() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "kept", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let (data, run) = (daemon.data_root().display().to_string(), daemon.run_root().display().to_string());
    let pid = daemon.pid();
    start(daemon.scratch(), "{}", &["--data-root", &data])
        .fails(1, &format!("the data root {data} is in use by another daemon with process id {pid}"));
    start(daemon.scratch(), "{}", &["--run-root", &run])
        .fails(1, &format!("the run root {run} is in use by another daemon with process id {pid}"));
    start(daemon.scratch(), "{}", &["-H", &daemon.host()]).fails(1, "another daemon is listening there");
    let listed = daemon.palan(["ps", "--format", "{{.Names}} {{.State}}"]).ok();
    assert_eq!(listed.line(), "kept running");
    daemon.palan(["exec", "kept", "true"]).ok();
}

/// In a mount namespace where nothing lies on /sys/fs/cgroup.
#[test]
fn without_cgroups_nothing_runs() {
    requires!(root);
    let bare = r#"awk '$5 ~ "^/sys/fs/cgroup" { print $5 }' /proc/self/mountinfo | sort -r | while read -r at; do
        umount -l "$at" || exit 1
    done && exec "$0" "$@""#;
    let launcher = ["unshare", "--mount", "sh", "-c", bare].map(str::to_owned).to_vec();
    let daemon = Daemon::start_with(Options { launcher, ..Options::default() });
    load(&daemon, busybox(), BUSYBOX);
    for flags in [&["--network", "none"][..], &[], &["--privileged"], &["-m", "64m"]] {
        let arguments = ["run", "--rm"].iter().chain(flags).chain(&[BUSYBOX, "true"]);
        daemon.palan(arguments).fails(125, "no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup");
        assert!(wait_until(PATIENCE, || daemon.palan(["ps", "-aq"]).ok().stdout.is_empty()));
    }
}

#[test]
fn the_daemon_may_open_more_files_than_its_containers() {
    requires!(root);
    let launcher = ["prlimit", "--nofile=1024:4096", "--"].map(str::to_owned).to_vec();
    let daemon = crate::images::daemon_with(Options { launcher, ..Options::default() });
    let limits = |text: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().skip(3).take(2).map(str::to_owned).collect()
    };
    let own = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    assert_eq!(limits(&own), ["4096", "4096"]);
    let inside = crate::images::sh(&daemon, &[], "cat /proc/self/limits");
    assert_eq!(limits(&inside), ["1024", "4096"]);
}
