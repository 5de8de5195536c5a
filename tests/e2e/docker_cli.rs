//! The unmodified `docker` CLI against Palan: what its users type must work as they are used to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use palan_test_support::registry::Registry;
use palan_test_support::{PATIENCE, free_port, requires, wait_until};
use serde_json::Value;

use crate::images::{BUSYBOX, busybox, daemon};

#[test]
fn the_daily_commands() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let version: Value =
        serde_json::from_str(&daemon.docker(["version", "--format", "json"]).ok().stdout).unwrap();
    assert_eq!(version["Server"]["Os"], "linux");
    daemon.docker(["info"]).ok();
    let run = daemon.docker([
        "run",
        "--rm",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.code), ("out\n", "err\n", 3), "{run}");
    daemon
        .docker(["run", "--rm", "--network", "none", BUSYBOX, "nosuch"])
        .fails(127, "executable file not found");
    let port = free_port();
    let serve = "while :; do echo hi | nc -l -p 8080; done";
    daemon
        .docker(["run", "-d", "--name", "web", "-p", &format!("{port}:8080"), BUSYBOX, "sh", "-c", serve])
        .ok();
    let fetched = wait_until(PATIENCE, || {
        let Ok(mut stream) =
            TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1))
        else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok();
        text == "hi\n"
    });
    assert!(fetched);
    let ps = daemon.docker(["ps"]).ok();
    assert!(ps.stdout.contains("web") && ps.stdout.contains(&format!("0.0.0.0:{port}->8080/tcp")), "{ps}");
    assert_eq!(daemon.docker(["exec", "web", "echo", "inside"]).ok().line(), "inside");
    let run = daemon.docker(["exec", "web", "sh", "-c", "exit 6"]);
    assert_eq!(run.code, 6);
    daemon.docker(["stats", "--no-stream"]).ok();
    daemon.docker(["top", "web"]).ok();
    assert_eq!(daemon.docker(["stop", "-t", "0", "web"]).ok().line(), "web");
    assert_eq!(daemon.docker(["start", "web"]).ok().line(), "web");
    assert_eq!(daemon.docker(["restart", "-t", "0", "web"]).ok().line(), "web");
    assert_eq!(daemon.docker(["inspect", "-f", "{{.State.Status}}", "web"]).ok().line(), "running");
    assert_eq!(daemon.docker(["rm", "-f", "web"]).ok().line(), "web");
    let images = daemon.docker(["images"]).ok();
    assert!(images.stdout.contains(BUSYBOX), "{images}");
    daemon.docker(["tag", BUSYBOX, "second:tag"]).ok();
    daemon.docker(["history", BUSYBOX]).ok();
    daemon.docker(["image", "inspect", "second:tag"]).ok();
    daemon.docker(["rmi", "second:tag"]).ok();
    daemon.docker(["volume", "ls"]).ok();
    daemon.docker(["network", "ls"]).ok();
    // The CLI sends whole seconds.
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let until = until.to_string();
    let events =
        daemon.docker(["events", "--since", "1h", "--until", &until, "--filter", "container=web"]).ok();
    assert!(events.stdout.contains("container start") && events.stdout.contains("container die"), "{events}");
}

#[test]
fn input_and_following() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let mut command = daemon.docker_command();
    command.args(["run", "--rm", "-i", "--network", "none", BUSYBOX, "sh", "-c", "cat; echo end"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"some input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "some input\nend\n");
    daemon
        .docker([
            "run",
            "-d",
            "--name",
            "ff",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "for i in 1 2 3; do echo $i; sleep 0.1; done",
        ])
        .ok();
    assert_eq!(daemon.docker(["logs", "-f", "ff"]).ok().stdout, "1\n2\n3\n");
    let attached = daemon.docker(["start", "-a", "ff"]).ok();
    assert_eq!(attached.stdout, "1\n2\n3\n");
    assert_eq!(daemon.docker(["wait", "ff"]).ok().line(), "0");
}

#[test]
fn pull_and_load() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let registry = Registry::start();
    registry.push("app", "latest", &busybox().file("app", 0o644, "app").build());
    let name = format!("{}/app", registry.host());
    let pulled = daemon.docker(["pull", &name]).ok();
    assert!(
        pulled.stdout.contains("Pull complete") && pulled.stdout.contains("Status: Downloaded newer image"),
        "{pulled}"
    );
    assert_eq!(daemon.docker(["run", "--rm", "--network", "none", &name, "cat", "/app"]).ok().line(), "app");
    let archive = daemon.scratch().join("loaded.tar");
    std::fs::write(
        &archive,
        busybox().config("Cmd", "loaded".into()).build().docker_archive(&["loaded:latest"]),
    )
    .unwrap();
    let loaded = daemon.docker(["load", "-i", &archive.display().to_string()]).ok();
    assert_eq!(loaded.line(), "Loaded image: loaded:latest");
}

#[test]
fn an_attached_session_goes_on_while_the_daemon_is_away() {
    requires!(root);
    requires!(program "docker");
    let mut daemon = daemon();
    let script = "while read line; do echo \"got $line\"; test \"$line\" = end && exit 0; done";
    let mut command = daemon.docker_command();
    command.args(["run", "-i", "--name", "talk", "--network", "none", BUSYBOX, "sh", "-c", script]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(input, "one").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got one");
    // Output does not cross the daemon, so it may come before the CLI has the answer to its start.
    std::thread::sleep(Duration::from_secs(3));
    daemon.kill();
    writeln!(input, "two").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got two");
    daemon.restart();
    writeln!(input, "end").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got end");
    child.wait().unwrap();
}
