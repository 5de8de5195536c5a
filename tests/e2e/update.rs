//! `update`: limits and restart policy of a container, running or not.

use std::path::Path;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, daemon};

/// The content of a file of the container's cgroup, by its names in v1 and v2.
#[track_caller]
fn limit(daemon: &Daemon, id: &str, v1: &str, v2: &str) -> String {
    let (controller, _) = v1.split_once('.').unwrap();
    let group = format!("{}/{id}", daemon.cgroup().trim_start_matches('/'));
    let roots = [format!("/sys/fs/cgroup/{controller}"), "/sys/fs/cgroup/cpu,cpuacct".to_owned()];
    let v1 = roots.iter().map(|root| Path::new(root).join(&group).join(v1));
    let v2 = Path::new("/sys/fs/cgroup").join(&group).join(v2);
    let mut texts = v1.chain([v2]).filter_map(|path| std::fs::read_to_string(path).ok());
    texts.next().expect("the controller is there").trim().to_owned()
}

#[track_caller]
fn setting(daemon: &Daemon, name: &str, field: &str) -> String {
    let format = format!("{{{{.HostConfig.{field}}}}}");
    daemon.palan(["inspect", "-f", &format, name]).ok().line().to_owned()
}

#[test]
fn limits_are_set_at_once_and_kept() {
    requires!(root);
    let mut daemon = daemon();
    let id = daemon
        .palan(["run", "-d", "--name", "uu", "--network", "none", "-m", "64m", BUSYBOX, "sleep", "1000"])
        .ok();
    let id = id.line().to_owned();
    let memory = |daemon: &Daemon| limit(daemon, &id, "memory.limit_in_bytes", "memory.max");
    let pids = |daemon: &Daemon| limit(daemon, &id, "pids.max", "pids.max");
    assert_eq!(memory(&daemon), (64 << 20).to_string());
    let updated =
        daemon.palan(["update", "-m", "100m", "--memory-swap", "-1", "--pids-limit", "50", "uu"]).ok();
    assert_eq!((updated.stdout.as_str(), updated.stderr.as_str()), ("uu\n", ""));
    assert_eq!((memory(&daemon), pids(&daemon)), ((100 << 20).to_string(), "50".into()));
    daemon.palan(["update", "--cpus", "0.5", "--cpuset-cpus", "0", "uu"]).ok();
    let quota = limit(&daemon, &id, "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    assert_eq!(limit(&daemon, &id, "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(setting(&daemon, "uu", "Memory"), (100 << 20).to_string());
    assert_eq!(setting(&daemon, "uu", "NanoCpus"), "500000000");
    // No limit is one, too.
    daemon.palan(["update", "--pids-limit", "-1", "uu"]).ok();
    assert_eq!(pids(&daemon), "max");

    // They are those of the next run.
    daemon.kill();
    daemon.restart();
    daemon.palan(["restart", "-t", "0", "uu"]).ok();
    assert_eq!((memory(&daemon), pids(&daemon)), ((100 << 20).to_string(), "max".into()));
    let told = daemon.palan([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "event=update",
        "--format",
        "{{.Action}}",
    ]);
    assert_eq!(told.ok().stdout, "update\nupdate\nupdate\n");

    // A stopped one gets them with its start.
    daemon.palan(["stop", "-t", "0", "uu"]).ok();
    daemon.palan(["update", "--memory", "80m", "uu"]).ok();
    daemon.palan(["start", "uu"]).ok();
    assert_eq!(memory(&daemon), (80 << 20).to_string());
}

#[test]
fn refusals_change_nothing() {
    requires!(root);
    let daemon = daemon();
    let id = daemon
        .palan([
            "run",
            "-d",
            "--name",
            "uu",
            "--network",
            "none",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            BUSYBOX,
            "sleep",
            "1000",
        ])
        .ok();
    daemon.palan(["update", "uu"]).fails(1, "you must provide one or more flags when using this command");
    let refused = |words: &[&str], text: &str| {
        daemon.palan([&["update"], words, &["uu"]].concat()).fails(1, text);
    };
    refused(&["-m", "1m"], "Minimum memory limit allowed is 6MB");
    refused(&["-m", "1g"], "Memory limit should be smaller than already set memoryswap limit");
    refused(&["--cpu-quota", "5000"], "CPU Quota cannot be updated as NanoCPUs has already been set");
    refused(&["--cpuset-cpus", "4096"], "Requested CPUs are not available");
    refused(&["--restart", "sometimes"], "unknown policy 'sometimes'");
    refused(&["--cpu-rt-period", "1000", "--cpu-rt-runtime", "2000"], "real-time");
    // What the kernel refuses: less than what is in use.
    daemon.palan(["exec", "uu", "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=30"]).ok();
    refused(&["-m", "8m"], "Cannot update container");
    let memory = limit(&daemon, id.line(), "memory.limit_in_bytes", "memory.max");
    assert_eq!((memory, setting(&daemon, "uu", "Memory")), ((64 << 20).to_string(), (64 << 20).to_string()));
    let told = daemon.palan(["events", "--since", "1h", "--until", "0s", "--filter", "event=update"]);
    assert_eq!(told.ok().stdout, "");
    daemon.palan(["update", "-m", "8m", "nobody"]).fails(1, "No such container: nobody");
}

#[test]
fn the_restart_policy_of_a_running_container() {
    requires!(root);
    let daemon = daemon();
    let script = "while ! test -e /go; do sleep 0.05; done; rm /go; exit 4";
    for name in ["on", "off"] {
        let policy = if name == "on" { "no" } else { "always" };
        let words = ["run", "-d", "--name", name, "--network", "none", "--restart", policy, BUSYBOX];
        daemon.palan(words.into_iter().chain(["sh", "-c", script])).ok();
    }
    daemon.palan(["update", "--restart", "on-failure:3", "on"]).ok();
    daemon.palan(["update", "--restart", "no", "off"]).ok();
    assert_eq!(setting(&daemon, "on", "RestartPolicy.Name"), "on-failure");
    assert_eq!(setting(&daemon, "on", "RestartPolicy.MaximumRetryCount"), "3");
    for name in ["on", "off"] {
        daemon.palan(["exec", name, "touch", "/go"]).ok();
    }
    let state = |name: &str| {
        daemon.palan(["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", name]).ok().line().to_owned()
    };
    assert!(wait_until(Duration::from_secs(20), || state("on") == "running 1"), "{}", state("on"));
    assert!(wait_until(Duration::from_secs(20), || state("off") == "exited 0"), "{}", state("off"));

    let words = ["create", "--rm", "--name", "rr", "--network", "none", BUSYBOX, "true"];
    daemon.palan(words).ok();
    daemon.palan(["update", "--restart", "always", "rr"]).fails(1, "because AutoRemove is enabled");
}

#[test]
fn limits_hold_over_a_restart_by_policy() {
    requires!(root);
    let daemon = daemon();
    let script = "while ! test -e /go; do sleep 0.05; done; rm /go; exit 4";
    let words =
        ["run", "-d", "--name", "uu", "--network", "none", "--restart", "always", "-m", "64m", BUSYBOX];
    let id = daemon.palan(words.into_iter().chain(["sh", "-c", script])).ok();
    daemon.palan(["update", "-m", "100m", "uu"]).ok();
    daemon.palan(["exec", "uu", "touch", "/go"]).ok();
    let state = || daemon.palan(["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "uu"]).ok();
    assert!(wait_until(Duration::from_secs(20), || state().line() == "running 1"));
    let memory = limit(&daemon, id.line(), "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, (100 << 20).to_string());
}

#[test]
fn updates_at_the_same_time_all_count() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "uu", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let changes = [
        ["--pids-limit", "50"],
        ["--cpu-shares", "77"],
        ["--memory", "64m"],
        ["--restart", "always"],
        ["--cpuset-cpus", "0"],
    ];
    let children = changes.map(|change| {
        let mut command = daemon.command();
        command.arg("update").args(change).arg("uu").stdout(std::process::Stdio::null()).spawn().unwrap()
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let fields = ["PidsLimit", "CpuShares", "Memory", "RestartPolicy.Name", "CpusetCpus"];
    let found = fields.map(|field| setting(&daemon, "uu", field));
    assert_eq!(found, ["50", "77", "67108864", "always", "0"]);
}
