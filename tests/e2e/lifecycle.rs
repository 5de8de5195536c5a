//! create, start, stop, kill, restart, wait, rm, ps, inspect, events, stats.

use std::time::{Duration, Instant};

use palan_test_support::daemon::Daemon;
use palan_test_support::{PATIENCE, at_rest, requires, wait_until};
use serde_json::Value;

use crate::images::{BUSYBOX, daemon};

/// Waits until the script of a container has set its trap, of which it says so.
#[track_caller]
fn is_ready(daemon: &Daemon, name: &str) {
    let ready = wait_until(PATIENCE, || daemon.palan(["logs", name]).ok().stdout == "ready\n");
    assert!(ready, "{}", daemon.palan(["logs", name]));
}

#[test]
fn create_start_wait_remove() {
    requires!(root);
    let daemon = daemon();
    let create = ["create", "--name", "job", "--network", "none", BUSYBOX, "sh", "-c", "echo done; exit 7"];
    let id = daemon.palan(create).ok().line().to_owned();
    let status = daemon.palan(["ps", "-a", "--format", "{{.ID}} {{.Names}} {{.Status}}"]).ok();
    assert_eq!(status.line(), format!("{} job Created", &id[..12]));
    assert_eq!(daemon.palan(["start", "job"]).ok().line(), "job");
    assert_eq!(daemon.palan(["wait", "job"]).ok().line(), "7");
    assert_eq!(daemon.palan(["logs", "job"]).ok().stdout, "done\n");
    let attached = daemon.palan(["start", "-a", "job"]);
    assert_eq!((attached.stdout.as_str(), attached.code), ("done\n", 7), "{attached}");
    assert_eq!(daemon.palan(["rm", "job"]).ok().line(), "job");
    daemon.palan(["inspect", "job"]).fails(1, "No such object: job");
}

#[test]
fn stop_kill_restart() {
    requires!(root);
    let daemon = daemon();
    let script = "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    daemon.palan(["run", "-d", "--name", "polite", "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
    is_ready(&daemon, "polite");
    daemon.palan(["stop", "polite"]).ok();
    let code = daemon.palan(["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "polite"]).ok();
    assert_eq!(code.line(), "exited 5");
    daemon.palan(["restart", "polite"]).ok();
    assert_eq!(daemon.palan(["ps", "--format", "{{.Names}}"]).ok().line(), "polite");
    daemon.palan(["kill", "-s", "KILL", "polite"]).ok();
    assert_eq!(daemon.palan(["wait", "polite"]).ok().line(), "137");
    daemon.palan(["kill", "polite"]).fails(1, "is not running");
    // A deaf container is killed when the time is over.
    let deaf = [
        "run",
        "-d",
        "--name",
        "deaf",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        "trap '' TERM; while :; do sleep 1; done",
    ];
    daemon.palan(deaf).ok();
    let begun = Instant::now();
    daemon.palan(["stop", "-t", "1", "deaf"]).ok();
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let code = daemon.palan(["inspect", "-f", "{{.State.ExitCode}}", "deaf"]).ok();
    assert_eq!(code.line(), "137");
}

#[test]
fn a_stop_signal_is_honoured() {
    requires!(root);
    let daemon = daemon();
    let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let run = [
        "run",
        "-d",
        "--name",
        "usr",
        "--stop-signal",
        "USR1",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        script,
    ];
    daemon.palan(run).ok();
    is_ready(&daemon, "usr");
    daemon.palan(["stop", "usr"]).ok();
    assert_eq!(daemon.palan(["inspect", "-f", "{{.State.ExitCode}}", "usr"]).ok().line(), "9");
}

#[test]
fn removing_what_runs_needs_force() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "busy", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon.palan(["rm", "busy"]).fails(1, "cannot remove container \"busy\": container is running: stop the container before removing or force remove");
    assert_eq!(daemon.palan(["rm", "-f", "busy"]).ok().line(), "busy");
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
}

#[test]
fn pause_holds_everything() {
    requires!(root);
    let daemon = daemon();
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "pp",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "while :; do echo x; sleep 0.02; done",
        ])
        .ok();
    let lines = || daemon.palan(["logs", "pp"]).ok().stdout.lines().count();
    assert!(wait_until(PATIENCE, || lines() > 0));
    daemon.palan(["pause", "pp"]).ok();
    assert!(daemon.palan(["ps", "--format", "{{.Status}}"]).ok().line().ends_with("(Paused)"));
    // What was written before may still be on its way.
    let held = at_rest(lines);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(lines(), held);
    daemon.palan(["unpause", "pp"]).ok();
    assert!(wait_until(PATIENCE, || lines() > held));
}

#[test]
fn inspect_and_ps_speak_dockers_json() {
    requires!(root);
    let daemon = daemon();
    let run = [
        "run",
        "-d",
        "--name",
        "jj",
        "-e",
        "K=v",
        "-m",
        "32m",
        "-v",
        "/tmp:/t:ro",
        "--network",
        "none",
        BUSYBOX,
        "sleep",
        "99",
    ];
    let id = daemon.palan(run).ok().line().to_owned();
    let json: Value = serde_json::from_str(&daemon.palan(["inspect", "jj"]).ok().stdout).unwrap();
    let it = &json[0];
    assert_eq!(it["Id"], id);
    assert_eq!(it["Name"], "/jj");
    assert_eq!(it["Path"], "sleep");
    assert_eq!(it["Args"], serde_json::json!(["99"]));
    assert_eq!(it["State"]["Status"], "running");
    assert_eq!(it["State"]["Running"], true);
    assert!(it["State"]["Pid"].as_u64().unwrap() > 1);
    assert_eq!(it["HostConfig"]["Memory"], 32 << 20);
    assert_eq!(it["HostConfig"]["NetworkMode"], "none");
    assert_eq!(it["HostConfig"]["Binds"], serde_json::json!(["/tmp:/t:ro"]));
    assert_eq!(it["Mounts"][0]["Destination"], "/t");
    assert_eq!(it["Mounts"][0]["RW"], false);
    assert_eq!(it["Config"]["Image"], BUSYBOX);
    assert!(it["Config"]["Env"].as_array().unwrap().contains(&"K=v".into()));
    let row: Value = serde_json::from_str(daemon.palan(["ps", "--format", "json"]).ok().line()).unwrap();
    assert_eq!(row["Names"], "jj");
    assert_eq!(row["Image"], BUSYBOX);
    assert_eq!(row["State"], "running");
}

#[test]
fn events_tell_the_story() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "--rm", "--name", "story", "--network", "none", BUSYBOX, "true"]).ok();
    let events = daemon.palan([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "container=story",
        "--format",
        "{{.Action}}",
    ]);
    let events = events.ok();
    let actions: Vec<&str> = events.stdout.lines().collect();
    assert_eq!(actions, ["create", "attach", "start", "die", "destroy"]);
}

#[test]
fn stats_count() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "ss", "-m", "64m", BUSYBOX, "sleep", "1000"]).ok();
    let stats = daemon.palan(["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}"]).ok();
    assert!(stats.line().starts_with("ss "), "{stats}");
    assert!(stats.line().ends_with("/ 64MiB 1"), "{stats}");
}

#[test]
fn names_are_unique_and_prefixes_resolve() {
    requires!(root);
    let daemon = daemon();
    let id = daemon.palan(["create", "--name", "one", "--network", "none", BUSYBOX]).ok().line().to_owned();
    let again = daemon.palan(["create", "--name", "one", "--network", "none", BUSYBOX]);
    again.fails(1, &format!(
        "Conflict. The container name \"/one\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    ));
    assert_eq!(daemon.palan(["rm", &id[..10]]).ok().line(), &id[..10]);
    daemon.palan(["create", "--name", "one", "--network", "none", BUSYBOX]).ok();
    daemon.palan(["rename", "one", "two"]).ok();
    daemon.palan(["rm", "two"]).ok();
    daemon.palan(["rm", "two"]).fails(1, "No such container: two");
}
