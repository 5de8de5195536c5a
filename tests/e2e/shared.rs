//! Namespaces that are the host's, or another container's.

use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options, program};
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, daemon, daemon_with, sh};

/// Where a namespace of the tests' own process is.
fn own(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

/// Starts a container that sleeps.
#[track_caller]
fn start(daemon: &Daemon, name: &str, flags: &[&str]) {
    let first = ["run", "-d", "--name", name, "--network", "none"];
    daemon.palan(first.iter().chain(flags).chain(&[BUSYBOX, "sleep", "1000"])).ok();
}

/// The link of a namespace as seen by the first process of a container.
#[track_caller]
fn namespace(daemon: &Daemon, container: &str, kind: &str) -> String {
    let pid = daemon.palan(["inspect", "-f", "{{.State.Pid}}", container]).ok();
    std::fs::read_link(format!("/proc/{}/ns/{kind}", pid.line())).unwrap().display().to_string()
}

#[test]
fn the_hosts() {
    requires!(root);
    let daemon = daemon();
    let link = |flags: &[&str], kind: &str| sh(&daemon, flags, &format!("readlink /proc/self/ns/{kind}"));
    for (flag, kind) in [("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup")] {
        assert_eq!(link(&[flag, "host"], kind), own(kind), "{flag}");
        assert_ne!(link(&[], kind), own(kind), "{flag}");
    }
    assert_eq!(link(&["--userns", "host"], "user"), own("user"));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(sh(&daemon, &["--uts", "host"], "hostname"), name.trim());
    // Process 1 is the host's, so there is none for --init to be.
    assert_eq!(sh(&daemon, &["--pid", "host", "--init"], "readlink /proc/$$/ns/pid"), own("pid"));
    let refused = |flags: &[&str], text: &str| {
        daemon.palan(["run", "--rm"].iter().chain(flags).chain(&[BUSYBOX])).fails(125, text);
    };
    refused(&["--uts", "host", "-h", "x"], "conflicting options: hostname and the UTS mode");
    refused(&["--ipc", "nosuch"], "invalid IPC mode: nosuch");
    refused(&["--pid", "nosuch"], "--pid: invalid PID mode");
    refused(&["--userns", "private"], "--userns: invalid USER mode");
}

#[test]
fn shared_memory() {
    requires!(root);
    let daemon = daemon();
    assert_eq!(sh(&daemon, &["--ipc", "none"], "test -e /dev/shm || echo none"), "none");
    assert_eq!(
        sh(&daemon, &["--ipc", "private", "--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'"),
        "1024"
    );
    start(&daemon, "donor", &["--ipc", "shareable"]);
    daemon.palan(["exec", "donor", "sh", "-c", "echo hello > /dev/shm/file"]).ok();
    let join = ["--ipc", "container:donor"];
    assert_eq!(sh(&daemon, &join, "cat /dev/shm/file; echo back > /dev/shm/reply"), "hello");
    assert_eq!(daemon.palan(["exec", "donor", "cat", "/dev/shm/reply"]).ok().line(), "back");
    assert_eq!(sh(&daemon, &join, "readlink /proc/self/ns/ipc"), namespace(&daemon, "donor", "ipc"));
    // Its own mounts are nobody else's business.
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains("/dev/shm/file"));
    // A chain, and a mount of one's own at that place.
    start(&daemon, "second", &join);
    assert_eq!(sh(&daemon, &["--ipc", "container:second"], "cat /dev/shm/file"), "hello");
    assert_eq!(sh(&daemon, &["--ipc", "container:second", "--tmpfs", "/dev/shm"], "ls /dev/shm"), "");
    start(&daemon, "closed", &[]);
    let hint = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)";
    daemon.palan(["run", "--rm", "--ipc", "container:closed", BUSYBOX, "true"]).fails(125, hint);
    daemon
        .palan(["run", "--rm", "--ipc", "container:nosuch", BUSYBOX, "true"])
        .fails(125, "No such container: nosuch");
    // By id from then on, whatever the container is called.
    let mode = daemon.palan(["inspect", "-f", "{{.HostConfig.IpcMode}}", "second"]).ok();
    let id = daemon.palan(["inspect", "-f", "{{.Id}}", "donor"]).ok();
    assert_eq!(mode.line(), format!("container:{}", id.line()));
}

#[test]
fn processes_of_another_container() {
    requires!(root);
    let mut daemon = daemon();
    start(&daemon, "web", &[]);
    let see = |daemon: &Daemon| sh(daemon, &["--pid", "container:web"], "cat /proc/1/cmdline | tr '\\0' ' '");
    assert_eq!(see(&daemon), "sleep 1000 ");
    assert_eq!(
        sh(&daemon, &["--pid", "container:web", "--init"], "readlink /proc/self/ns/pid"),
        namespace(&daemon, "web", "pid")
    );
    // The same after the daemon was killed: nothing of it is in the daemon's memory.
    daemon.kill();
    daemon.restart();
    assert_eq!(see(&daemon), "sleep 1000 ");
    // What joined ends with what it joined, and is told so as by a kill.
    start(&daemon, "guest", &["--pid", "container:web"]);
    let seen = daemon
        .palan(["exec", "guest", "sh", "-c", "readlink /proc/self/ns/pid; ps | grep -c '[s]leep 1000'"])
        .ok();
    assert_eq!(seen.stdout, format!("{}\n2\n", namespace(&daemon, "web", "pid")));
    // `top` lists a container's own processes.
    assert_eq!(daemon.palan(["top", "guest"]).ok().stdout.lines().count(), 2);
    daemon.palan(["kill", "web"]).ok();
    let code = || daemon.palan(["inspect", "-f", "{{.State.ExitCode}}", "guest"]).ok().line().to_owned();
    assert!(wait_until(Duration::from_secs(10), || code() == "137"), "{}", code());
    let text = "cannot join PID of a non running container: ";
    daemon.palan(["run", "--rm", "--pid", "container:web", BUSYBOX, "true"]).fails(125, text);
    daemon.palan(["start", "guest"]).fails(1, text);
    // With --rm the failed start was its end.
    assert_eq!(daemon.palan(["ps", "-a", "--format", "{{.Names}}"]).ok().stdout, "guest\nweb\n");
}

#[test]
fn a_container_that_ends_without_the_others_process_one() {
    requires!(root);
    let daemon = daemon();
    start(&daemon, "web", &[]);
    // What it leaves behind in the namespace that is not its own is killed with it.
    let script = "sleep 4242 & exit 3";
    let run = daemon.palan([
        "run",
        "--rm",
        "--pid",
        "container:web",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(run.code, 3, "{run}");
    let left = || daemon.palan(["exec", "web", "ps"]).ok().stdout.contains("4242");
    assert!(wait_until(Duration::from_secs(10), || !left()));
}

#[test]
fn under_other_runtimes() {
    requires!(root);
    requires!(program "runc");
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("runtime");
    std::fs::write(&script, format!("#!/bin/sh\nexec {} runtime \"$@\"\n", program().display())).unwrap();
    rustix::fs::chmod(&script, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let settings = format!(
        r#""runtimes": {{"runc": {{"path": "runc"}}, "script": {{"path": "{}"}}}}"#,
        script.display()
    );
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    start(&daemon, "donor", &["--ipc", "shareable"]);
    daemon.palan(["exec", "donor", "sh", "-c", "echo hello > /dev/shm/file"]).ok();
    for runtime in ["runc", "script"] {
        let flags = [
            "--runtime",
            runtime,
            "--ipc",
            "container:donor",
            "--pid",
            "container:donor",
            "--domainname",
            "d.test",
        ];
        let seen = sh(
            &daemon,
            &flags,
            "cat /dev/shm/file; cat /proc/1/cmdline | tr '\\0' ' '; echo; cat /proc/sys/kernel/domainname",
        );
        assert_eq!(seen, "hello\nsleep 1000 \nd.test", "{runtime}");
        assert_eq!(
            sh(&daemon, &["--runtime", runtime, "--group-add", "staff"], "id -G"),
            "0 50",
            "{runtime}"
        );
        let limits = ["--runtime", runtime, "--cpu-quota", "20000", "--sysctl", "net.ipv4.ip_forward=1"];
        assert_eq!(sh(&daemon, &limits, "cat /proc/sys/net/ipv4/ip_forward"), "1", "{runtime}");
        // One of theirs can be joined, too.
        start(&daemon, runtime, &["--runtime", runtime, "--ipc", "shareable"]);
        daemon.palan(["exec", runtime, "sh", "-c", "echo theirs > /dev/shm/file"]).ok();
        let join = format!("container:{runtime}");
        assert_eq!(
            sh(&daemon, &["--ipc", &join, "--pid", &join], "cat /dev/shm/file"),
            "theirs",
            "{runtime}"
        );
    }
}

#[test]
fn what_the_daemon_decides_for_those_that_say_nothing() {
    requires!(root);
    let settings = r#""default-ipc-mode": "shareable", "default-cgroupns-mode": "host""#.to_owned();
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    start(&daemon, "donor", &[]);
    assert_eq!(
        sh(&daemon, &["--ipc", "container:donor"], "readlink /proc/self/ns/ipc"),
        namespace(&daemon, "donor", "ipc")
    );
    assert_eq!(sh(&daemon, &[], "readlink /proc/self/ns/cgroup"), own("cgroup"));
    assert_ne!(sh(&daemon, &["--cgroupns", "private"], "readlink /proc/self/ns/cgroup"), own("cgroup"));
}
