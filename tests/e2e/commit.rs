//! What a container changed: `diff`, `commit`, `export`; from `palan` and from the `docker` CLI alike.

use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{PATIENCE, requires, wait_until};
use serde_json::Value;

use crate::images::{BUSYBOX, busybox, daemon, load};

/// A stopped container with this name that ran a script.
#[track_caller]
fn ran(daemon: &Daemon, name: &str, script: &str) {
    daemon.palan(["run", "--name", name, "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
}

fn inspect(daemon: &Daemon, image: &str) -> Value {
    let shown = daemon.palan(["image", "inspect", image]).ok();
    serde_json::from_str::<Value>(&shown.stdout).unwrap()[0].take()
}

#[test]
fn diff_tells_what_changed() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    ran(&daemon, "untouched", "true");
    assert_eq!(daemon.palan(["diff", "untouched"]).ok().stdout, "");
    ran(
        &daemon,
        "changed",
        "echo x > /etc/new; rm /etc/group; chmod 711 /root; mkdir -p /srv/a/b; ln -s b /srv/a/l; touch -d @0 /etc/passwd",
    );
    let expected = "C /etc\nD /etc/group\nA /etc/new\nC /etc/passwd\nC /root\nA /srv\nA /srv/a\nA /srv/a/b\nA /srv/a/l\n";
    assert_eq!(daemon.palan(["diff", "changed"]).ok().stdout, expected);
    assert_eq!(daemon.palan(["container", "diff", "changed"]).ok().stdout, expected);
    assert_eq!(daemon.docker(["diff", "changed"]).ok().stdout, expected);
    daemon.palan(["diff", "nosuch"]).fails(1, "No such container: nosuch");
    // A running one, while it writes.
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "runs",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "echo 1 > /tmp/one; exec sleep 600",
        ])
        .ok();
    let written = || daemon.palan(["diff", "runs"]).ok().stdout == "C /tmp\nA /tmp/one\n";
    assert!(wait_until(PATIENCE, written));
}

#[test]
fn commit_makes_an_image() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    ran(&daemon, "work", "echo inside > /etc/made; rm /etc/group");
    let id = daemon
        .palan(["commit", "-a", "Ada <ada@example.org>", "-m", "by hand", "work", "made:1"])
        .ok()
        .line()
        .to_owned();
    assert!(id.starts_with("sha256:"), "{id}");
    let run = daemon.palan([
        "run",
        "--rm",
        "--network",
        "none",
        "made:1",
        "sh",
        "-c",
        "cat /etc/made; ls /etc/group",
    ]);
    assert!(run.stdout == "inside\n" && run.stderr.contains("No such file"), "{run}");
    let image = inspect(&daemon, "made:1");
    assert_eq!((&image["Author"], &image["Comment"]), (&"Ada <ada@example.org>".into(), &"by hand".into()));
    assert_eq!(image["Id"], id.as_str());
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(image["Parent"], inspect(&daemon, BUSYBOX)["Id"], "it knows what it was made from");
    // What the container ran is the image's command now.
    assert_eq!(image["Config"]["Cmd"][0], "sh");
    let history =
        daemon.palan(["history", "--no-trunc", "--format", "{{.ID}}|{{.CreatedBy}}|{{.Comment}}", "made:1"]);
    let newest = history.ok();
    assert_eq!(
        newest.stdout.lines().next().unwrap(),
        format!("{id}|sh -c echo inside > /etc/made; rm /etc/group|by hand")
    );
    // Nothing changed: nothing is added but a line of history.
    ran(&daemon, "idle", "true");
    daemon.palan(["commit", "-m", "empty", "idle", "idle:1"]).ok();
    let image = inspect(&daemon, "idle:1");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    // Without a name, and from Docker's client.
    let id = daemon.docker(["commit", "work"]).ok().line().to_owned();
    assert_eq!(
        daemon.palan(["run", "--rm", "--network", "none", &id, "cat", "/etc/made"]).ok().line(),
        "inside"
    );
    daemon.palan(["commit", "nosuch", "x"]).fails(1, "No such container: nosuch");
    daemon.palan(["commit", "work", "UPPER"]).fails(1, "must be lowercase");
}

#[test]
fn instructions_change_the_image() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    daemon
        .palan([
            "create",
            "--name",
            "work",
            "--network",
            "none",
            "-e",
            "A=container",
            "-l",
            "own=1",
            BUSYBOX,
            "sleep",
            "1",
        ])
        .ok();
    let changes = [
        "CMD [\"echo\", \"changed\"]",
        "ENV B=two C=\"three words\"",
        "EXPOSE 80 443/udp",
        "LABEL made=yes",
        "ONBUILD RUN true",
        "STOPSIGNAL SIGINT",
        "USER alice",
        "VOLUME /data",
        "WORKDIR /srv",
        "HEALTHCHECK NONE",
    ];
    for (program, name) in [("palan", "one:1"), ("docker", "two:1")] {
        let mut arguments = vec!["commit"];
        for change in changes {
            arguments.extend(["-c", change]);
        }
        arguments.extend(["work", name]);
        let run = if program == "palan" { daemon.palan(arguments) } else { daemon.docker(arguments) };
        run.ok();
        let config = inspect(&daemon, name)["Config"].take();
        assert_eq!(config["Cmd"], serde_json::json!(["echo", "changed"]));
        let env: Vec<&str> = config["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(
            env.contains(&"A=container") && env.contains(&"B=two") && env.contains(&"C=three words"),
            "{env:?}"
        );
        assert_eq!(config["ExposedPorts"], serde_json::json!({"443/udp": {}, "80/tcp": {}}));
        assert_eq!(config["Labels"], serde_json::json!({"made": "yes", "own": "1"}));
        assert_eq!(config["OnBuild"], serde_json::json!(["RUN true"]));
        assert_eq!((&config["StopSignal"], &config["User"]), (&"SIGINT".into(), &"alice".into()));
        assert_eq!(
            (&config["Volumes"], &config["WorkingDir"]),
            (&serde_json::json!({"/data": {}}), &"/srv".into())
        );
    }
    daemon.palan(["run", "--rm", "--network", "none", "one:1"]).ok();
    daemon.palan(["commit", "-c", "RUN true", "work"]).fails(1, "RUN is not a valid change command");
}

/// Frozen while its files are read, running again afterwards; and not frozen when that is not wanted.
#[test]
fn a_running_container_is_frozen_meanwhile() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "runs", "--network", "none", BUSYBOX, "sleep", "600"]).ok();
    daemon.palan(["commit", "runs", "frozen:1"]).ok();
    daemon.palan(["commit", "--no-pause", "runs", "live:1"]).ok();
    let state = daemon.palan(["inspect", "-f", "{{.State.Status}}", "runs"]).ok();
    assert_eq!(state.line(), "running");
    let until = in_a_second();
    let events = daemon
        .palan([
            "events",
            "--since",
            "1",
            "--until",
            &until,
            "-f",
            "container=runs",
            "--format",
            "{{.Action}}",
        ])
        .ok();
    let actions: Vec<&str> = events.stdout.lines().collect();
    assert_eq!(actions, ["create", "start", "pause", "unpause", "commit", "commit"]);
    // Somebody else's pause stays.
    daemon.palan(["pause", "runs"]).ok();
    daemon.palan(["commit", "runs"]).ok();
    let state = daemon.palan(["inspect", "-f", "{{.State.Status}}", "runs"]).ok();
    assert_eq!(state.line(), "paused");
}

/// A daemon that is killed within a commit leaves no container frozen.
/// Each is of one moment: while one is made, the container does not go on for the other.
#[test]
fn several_commits_at_once_are_whole() {
    requires!(root);
    let daemon = daemon();
    // Both files always say the same, but for the moment in between.
    let script = "n=0; while :; do n=$((n + 1)); echo $n > /one; echo $n > /two; done";
    daemon.palan(["run", "-d", "--name", "both", "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
    assert!(wait_until(PATIENCE, || daemon.palan(["diff", "both"]).ok().stdout.contains("A /two")));
    let images: Vec<String> = (0..6).map(|number| format!("both:{number}")).collect();
    std::thread::scope(|scope| {
        for image in &images {
            scope.spawn(|| daemon.palan(["commit", "both", image]).ok());
        }
    });
    assert_eq!(daemon.palan(["inspect", "-f", "{{.State.Status}}", "both"]).ok().line(), "running");
    for image in &images {
        let said =
            daemon.palan(["run", "--rm", "--network", "none", image, "cat", "/one", "/two"]).ok().stdout;
        let numbers: Vec<u64> = said.lines().map(|line| line.parse().unwrap_or_default()).collect();
        // Frozen before, between or within the two writes.
        let is_one_moment = match numbers[..] {
            [one, two] => one > 0 && (one == two || one == two + 1),
            [one] => one > 0,
            _ => false,
        };
        assert!(is_one_moment, "{image}: {said:?}");
    }
    daemon.palan(["rm", "-f", "both"]).ok();
}

#[test]
fn a_killed_daemon_leaves_nothing_frozen() {
    requires!(root);
    let mut daemon = daemon();
    let fill = "for n in 1 2 3 4 5 6; do dd if=/dev/urandom of=/tmp/$n bs=1M count=40 2>/dev/null; done; echo full; exec sleep 600";
    let run = ["run", "-d", "--name", "runs", "--network", "none", BUSYBOX, "sh", "-c", fill];
    let id = daemon.palan(run).ok().line().to_owned();
    assert!(wait_until(Duration::from_secs(60), || daemon.palan(["logs", "runs"]).ok().stdout == "full\n"));
    let status =
        |daemon: &Daemon| daemon.palan(["inspect", "-f", "{{.State.Status}}", "runs"]).ok().line().to_owned();
    let note = daemon.run_root().join("containers").join(&id).join("frozen-for-commit");
    // Where the commit has ended before the daemon, another one is tried.
    let is_within = (0..5).any(|_| {
        let mut commit = daemon.command().args(["commit", "runs", "never:1"]).spawn().unwrap();
        let is_frozen = || note.exists() && status(&daemon) == "paused";
        let seen = wait_until(PATIENCE, || is_frozen() || commit.try_wait().unwrap().is_some());
        assert!(seen, "{}", status(&daemon));
        daemon.kill();
        let is_within = note.exists();
        commit.wait().unwrap();
        daemon.restart();
        assert!(wait_until(PATIENCE, || status(&daemon) == "running"), "{}", status(&daemon));
        if !is_within {
            daemon.palan(["rmi", "never:1"]).ok();
        }
        is_within
    });
    assert!(is_within, "the commits end too soon");
    daemon.palan(["inspect", "never:1"]).fails(1, "No such object: never:1");
}

fn in_a_second() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (since.as_secs() + 1).to_string()
}

#[test]
fn export_is_the_whole_tree() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    ran(&daemon, "work", "echo inside > /etc/made; rm /etc/group; ln /etc/made /etc/again");
    let file = daemon.scratch().join("tree.tar").display().to_string();
    daemon.palan(["export", "-o", &file, "work"]).ok();
    let list = names(&file);
    for name in ["bin/busybox", "etc/made", "etc/again", "etc/passwd", ".dockerenv"] {
        assert!(list.iter().any(|own| own == name), "{name} is missing in {list:?}");
    }
    assert!(!list.iter().any(|own| own == "etc/group"), "{list:?}");
    let second = daemon.scratch().join("again.tar").display().to_string();
    daemon.docker(["export", "-o", &second, "work"]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&second).unwrap());
    daemon.palan(["import", &file, "tree:1"]).ok();
    let shown = daemon.palan(["run", "--rm", "--network", "none", "tree:1", "/bin/cat", "/etc/again"]).ok();
    assert_eq!(shown.line(), "inside");
    daemon
        .palan(["export", "-o", "/nonexistent/x", "work"])
        .fails(1, "invalid output path: stat /nonexistent");
    daemon.palan(["export", "nosuch"]).fails(1, "No such container: nosuch");
}

#[expect(clippy::disallowed_methods, reason = "an outside reader of archives")]
fn names(file: &str) -> Vec<String> {
    let mut tar = std::process::Command::new("tar");
    let listed = palan_test_support::daemon::finish(tar.args(["-tf", file]), None).ok();
    listed.stdout.lines().map(|name| name.trim_end_matches('/').to_owned()).collect()
}

/// An image that others were made from stays for them, and goes with the last.
#[test]
fn parents_stay_for_their_children() {
    requires!(root);
    let daemon = Daemon::start();
    load(&daemon, busybox(), BUSYBOX);
    let base = daemon.palan(["images", "-q", "--no-trunc", BUSYBOX]).ok().line().to_owned();
    ran(&daemon, "work", "touch /one");
    daemon.palan(["commit", "work", "child:1"]).ok();
    daemon.palan(["rm", "work"]).ok();
    daemon.palan(["rmi", &base]).fails(1, "cannot be forced) - image has dependent child images");
    assert_eq!(daemon.palan(["rmi", BUSYBOX]).ok().stdout, "Untagged: bb:latest\n");
    // Nameless and behind another: only shown with -a.
    assert_eq!(daemon.palan(["images", "-q"]).ok().stdout.lines().count(), 1);
    assert_eq!(daemon.palan(["images", "-qa"]).ok().stdout.lines().count(), 2);
    daemon.palan(["image", "prune", "-f"]).ok();
    let removed = daemon.palan(["rmi", "child:1"]).ok();
    assert!(removed.stdout.contains(&format!("Deleted: {base}\n")), "{removed}");
    assert_eq!(daemon.palan(["images", "-qa"]).ok().stdout, "");
}
