//! Health checks: what they find, where it is shown, and that they go on without a daemon.

use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{PATIENCE, at_rest, requires, wait_until};
use serde_json::{Value, json};

use crate::images::{BUSYBOX, busybox, daemon, load};

/// Runs a container named `name` that sleeps, with these flags.
#[track_caller]
fn run(daemon: &Daemon, name: &str, flags: &[&str]) {
    let always = ["run", "-d", "--name", name, "--network", "none"];
    let words = always.iter().chain(flags).chain(&[BUSYBOX, "sleep", "1000"]);
    daemon.palan(words.collect::<Vec<_>>()).ok();
}

#[track_caller]
fn health(daemon: &Daemon, name: &str) -> Value {
    let inspected = daemon.palan(["inspect", "-f", "{{json .State.Health}}", name]).ok();
    serde_json::from_str(inspected.line()).unwrap()
}

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, status: &str) {
    let is = wait_until(PATIENCE, || health(daemon, name)["Status"] == status);
    assert!(is, "{} instead of {status}", health(daemon, name));
}

#[track_caller]
fn events(daemon: &Daemon, name: &str, kind: &str) -> Vec<String> {
    let container = format!("container={name}");
    let kind = format!("event={kind}");
    let filters = ["events", "--since", "1h", "--until", "0s", "--filter", &container, "--filter", &kind];
    let told = daemon.palan(filters.into_iter().chain(["--format", "{{.Action}}"])).ok();
    told.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_container_becomes_healthy_and_unhealthy() {
    requires!(root);
    let daemon = daemon();
    let check = "test -e /tmp/ok && echo fine || { echo missing; exit 3; }";
    let listed = |filter: &str| {
        daemon.palan(["ps", "--filter", filter, "--format", "{{.Names}} {{.Status}}"]).ok().stdout
    };
    run(&daemon, "starts", &["--health-cmd", check, "--health-interval", "1h"]);
    assert!(listed("health=starting").contains("(health: starting)"), "{}", listed("health=starting"));
    assert_eq!(listed("health=none"), "");
    run(&daemon, "hh", &["--health-cmd", check, "--health-interval", "300ms", "--health-retries", "2"]);
    becomes(&daemon, "hh", "unhealthy");
    assert!(listed("health=unhealthy").contains("(unhealthy)"));
    let found = health(&daemon, "hh");
    assert!(found["FailingStreak"].as_i64() >= Some(2), "{found}");
    assert_eq!((&found["Log"][0]["ExitCode"], &found["Log"][0]["Output"]), (&json!(3), &json!("missing\n")));

    daemon.palan(["exec", "hh", "touch", "/tmp/ok"]).ok();
    becomes(&daemon, "hh", "healthy");
    assert!(listed("health=healthy").contains("(healthy)"));
    assert_eq!(health(&daemon, "hh")["FailingStreak"], 0);
    let many = wait_until(PATIENCE, || {
        health(&daemon, "hh")["Log"]
            .as_array()
            .is_some_and(|log| log.len() == 5 && log.iter().all(|result| result["Output"] == "fine\n"))
    });
    assert!(many, "{}", health(&daemon, "hh"));
    assert_eq!(
        events(&daemon, "hh", "health_status"),
        ["health_status: unhealthy", "health_status: healthy"]
    );
    let created = events(&daemon, "hh", "exec_create");
    assert!(created.contains(&format!("exec_create: /bin/sh -c {check}")), "{created:?}");
    assert!(created.len() > 6 && !events(&daemon, "hh", "exec_die").is_empty());

    // A paused container is not looked at; a stopped one is unhealthy, as in Docker.
    daemon.palan(["pause", "hh"]).ok();
    assert!(listed("name=hh").contains("(Paused)"));
    let probes = || events(&daemon, "hh", "exec_start").len();
    let before = at_rest(probes);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(probes(), before);
    daemon.palan(["unpause", "hh"]).ok();
    becomes(&daemon, "hh", "healthy");
    daemon.palan(["stop", "-t", "0", "hh"]).ok();
    assert_eq!(health(&daemon, "hh")["Status"], "unhealthy");
    assert_eq!(health(&daemon, "hh")["Log"].as_array().map(Vec::len), Some(5));
    daemon.palan(["start", "hh"]).ok();
    becomes(&daemon, "hh", "healthy");
}

#[test]
fn an_images_check_is_run_changed_and_switched_off() {
    requires!(root);
    let daemon = daemon();
    let check = json!({"Test": ["CMD", "test", "-e", "/etc/passwd"], "Interval": 200_000_000, "Retries": 1});
    load(&daemon, busybox().config("Healthcheck", check), "checked");
    let start = |name: &str, flags: &[&str]| {
        let always = ["run", "-d", "--name", name, "--network", "none"];
        let words = always.iter().chain(flags).chain(&["checked", "sleep", "1000"]);
        daemon.palan(words.collect::<Vec<_>>()).ok()
    };
    assert_eq!(start("plain", &[]).stderr, "");
    becomes(&daemon, "plain", "healthy");
    start("off", &["--no-healthcheck"]);
    assert_eq!(health(&daemon, "off"), Value::Null);
    // Only the command is the caller's; interval and retries are the image's.
    start("other", &["--health-cmd", "false"]);
    becomes(&daemon, "other", "unhealthy");
    let merged = daemon.palan(["inspect", "-f", "{{json .Config.Healthcheck}}", "other"]).ok();
    let merged: Value = serde_json::from_str(merged.line()).unwrap();
    assert_eq!(merged, json!({"Test": ["CMD-SHELL", "false"], "Interval": 200_000_000, "Retries": 1}));
}

#[test]
fn a_probe_that_hangs_or_does_not_exist_fails() {
    requires!(root);
    let daemon = daemon();
    let hanging = ["--health-cmd", "echo begun; sleep 900; true", "--health-timeout", "300ms"];
    run(&daemon, "hangs", &[&hanging[..], &["--health-interval", "100ms", "--health-retries", "1"]].concat());
    becomes(&daemon, "hangs", "unhealthy");
    // Of a slow start there may be no output yet.
    let output = "Health check exceeded timeout (300ms): begun\n";
    let told = wait_until(PATIENCE, || {
        let found = health(&daemon, "hangs");
        let results = found["Log"].as_array().unwrap();
        results.iter().any(|result| result["ExitCode"] == -1 && result["Output"] == output)
    });
    assert!(told, "{}", health(&daemon, "hangs"));
    // What a probe had started is gone with it: there is one at most, that of a probe that runs just now.
    let tried =
        wait_until(PATIENCE, || health(&daemon, "hangs")["Log"].as_array().is_some_and(|log| log.len() == 5));
    assert!(tried, "{}", health(&daemon, "hangs"));
    let left = daemon.palan(["exec", "hangs", "sh", "-c", "ps -o args | grep -c '^sleep 90[0]'"]);
    assert!(matches!(left.stdout.trim(), "0" | "1"), "{left}");

    let image = busybox()
        .config("Healthcheck", json!({"Test": ["CMD", "/nope"], "Interval": 100_000_000, "Retries": 1}));
    load(&daemon, image, "broken");
    daemon.palan(["run", "-d", "--name", "absent", "--network", "none", "broken", "sleep", "1000"]).ok();
    becomes(&daemon, "absent", "unhealthy");
    let found = health(&daemon, "absent");
    let output = found["Log"][0]["Output"].as_str().unwrap();
    assert!(output.starts_with("OCI runtime exec failed: ") && output.contains("/nope"), "{output}");
    assert_eq!(found["Log"][0]["ExitCode"], -1);
}

#[test]
fn the_start_period_forgives() {
    requires!(root);
    let daemon = daemon();
    let check = ["--health-cmd", "false", "--health-interval", "1h", "--health-retries", "1"];
    let start = ["--health-start-period", "1h", "--health-start-interval", "100ms"];
    run(&daemon, "young", &[&check[..], &start].concat());
    let tried =
        wait_until(PATIENCE, || health(&daemon, "young")["Log"].as_array().is_some_and(|log| log.len() == 5));
    assert!(tried, "{}", health(&daemon, "young"));
    let found = health(&daemon, "young");
    assert_eq!((&found["Status"], &found["FailingStreak"]), (&json!("starting"), &json!(0)));
}

#[test]
fn an_unhealthy_container_is_killed_or_stopped() {
    requires!(root);
    let daemon = daemon();
    let check = ["--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "2"];
    run(&daemon, "killed", &[&check[..], &["--health-on-failure", "kill"]].concat());
    assert_eq!(daemon.palan(["wait", "killed"]).ok().line(), "137");
    let check =
        ["--health-cmd", "test ! -e /tmp/ready", "--health-interval", "100ms", "--health-retries", "2"];
    let script = "trap 'echo bye; exit 7' TERM; touch /tmp/ready; while :; do sleep 0.05; done";
    let always = ["run", "-d", "--name", "stopped", "--network", "none", "--health-on-failure", "stop"];
    daemon.palan([&always[..], &check, &[BUSYBOX, "sh", "-c", script]].concat()).ok();
    assert_eq!(daemon.palan(["wait", "stopped"]).ok().line(), "7");
    assert_eq!(daemon.palan(["logs", "stopped"]).ok().stdout, "bye\n");
    let refused = daemon.palan(["run", "--health-on-failure", "kill", BUSYBOX, "true"]);
    refused.fails(125, "needs a health check");
}

#[test]
fn probes_go_on_while_the_daemon_is_down() {
    requires!(root);
    let mut daemon = daemon();
    let check = "echo x >> /tmp/probes; test -e /tmp/ok";
    run(&daemon, "on", &["--health-cmd", check, "--health-interval", "200ms", "--health-retries", "1"]);
    run(
        &daemon,
        "dies",
        &[
            "--health-cmd",
            "false",
            "--health-interval",
            "300ms",
            "--health-retries",
            "3",
            "--health-on-failure",
            "kill",
        ],
    );
    becomes(&daemon, "on", "unhealthy");
    let pid = daemon.palan(["inspect", "-f", "{{.State.Pid}}", "on"]).ok().line().to_owned();
    daemon.kill();
    let root = format!("/proc/{pid}/root");
    let probes =
        || std::fs::read_to_string(format!("{root}/tmp/probes")).map_or(0, |text| text.lines().count());
    let before = probes();
    std::fs::write(format!("{root}/tmp/ok"), "").unwrap();
    assert!(wait_until(PATIENCE, || probes() > before + 3));
    daemon.restart();
    becomes(&daemon, "on", "healthy");
    let ended = wait_until(PATIENCE, || {
        daemon.palan(["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "dies"]).ok().line()
            == "exited 137"
    });
    assert!(ended);
    for _ in 0..3 {
        daemon.kill();
        std::thread::sleep(Duration::from_millis(250));
        daemon.restart();
    }
    // Each once, however often the daemon came back.
    assert_eq!(
        events(&daemon, "on", "health_status"),
        ["health_status: unhealthy", "health_status: healthy"]
    );
    assert_eq!(events(&daemon, "dies", "health_status"), ["health_status: unhealthy"]);
    assert_eq!(events(&daemon, "dies", "die"), ["die"]);
    // Stopped, so that the file does not change any more: one start and one end for each probe.
    daemon.palan(["stop", "-t", "0", "on"]).ok();
    let (begun, ended) = (events(&daemon, "on", "exec_start"), events(&daemon, "on", "exec_die"));
    assert_eq!(begun.len(), ended.len());
    let ids = daemon
        .palan([
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "container=on",
            "--filter",
            "event=exec_die",
            "--format",
            "{{.Actor.Attributes.execID}}",
        ])
        .ok();
    let mut ids: Vec<&str> = ids.stdout.lines().collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
