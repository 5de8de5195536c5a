//! The daemon is killed at the worst moments; nothing that a user would miss is missing.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use palan_test_support::image::{TarBuilder, noise};
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::{free_port, requires, wait_until};

use crate::images::{BUSYBOX, busybox, daemon};

#[test]
fn killed_with_twenty_containers_a_pull_an_attached_session_and_an_exit() {
    requires!(root);
    let mut daemon = daemon();
    let registry = Registry::start();
    registry.push(
        "slow",
        "latest",
        &busybox().layer(TarBuilder::new().file("n", 0o644, noise(4_000_000, 1)).finish()).build(),
    );
    registry.fault_times("/blobs/", Fault::Slow(64 * 1024, Duration::from_millis(30)), 100);

    for number in 0..20 {
        let name = format!("c{number}");
        daemon
            .palan([
                "run",
                "-d",
                "--name",
                &name,
                "--network",
                "none",
                BUSYBOX,
                "sh",
                "-c",
                "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done",
            ])
            .ok();
    }
    // Ends while the daemon is down.
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "ends",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "while ! test -e /go; do sleep 0.02; done; echo bye; exit 42",
        ])
        .ok();
    // An attached session with both directions.
    let mut session = daemon
        .command()
        .args([
            "run",
            "-i",
            "--name",
            "talk",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "while read line; do echo \"got $line\"; test \"$line\" = end && exit 17; done",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = session.stdin.take().unwrap();
    let mut output = BufReader::new(session.stdout.take().unwrap()).lines();
    writeln!(input, "before").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got before");
    let mut pulling = daemon.command();
    pulling.args(["pull", &format!("{}/slow", registry.host())]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut pulling = pulling.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let touch = daemon.palan(["exec", "ends", "true"]);
    touch.ok();
    let inside = daemon.palan(["inspect", "-f", "{{.State.Pid}}", "ends"]).ok().line().to_owned();

    daemon.kill();
    std::fs::write(format!("/proc/{inside}/root/go"), "").unwrap();
    pulling.wait().unwrap();
    // The session goes on with no daemon there.
    writeln!(input, "while down").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got while down");
    std::thread::sleep(Duration::from_millis(300));

    daemon.restart();
    writeln!(input, "end").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got end");
    drop(input);
    let code = session.wait().unwrap();
    assert_eq!(code.code(), Some(17), "{}", daemon.log());

    // The session's end came from its supervisor, which tells the new daemon, too.
    let running = || daemon.palan(["ps", "--format", "{{.Names}}"]).ok();
    let is_known =
        palan_test_support::wait_until(Duration::from_secs(30), || running().stdout.lines().count() == 20);
    assert!(is_known, "{}", running());
    let ended = daemon.palan(["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "ends"]).ok();
    assert_eq!(ended.line(), "exited 42");
    assert_eq!(daemon.palan(["logs", "ends"]).ok().stdout, "bye\n");
    let died = daemon.palan([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "container=ends",
        "--filter",
        "event=die",
        "--format",
        "{{.Actor.Attributes.exitCode}}",
    ]);
    assert_eq!(died.ok().line(), "42");
    for number in 0..20 {
        let logs = daemon.palan(["logs", &format!("c{number}")]).ok().stdout;
        let wrong = logs.lines().zip(1u32..).find(|(line, number)| line.parse() != Ok(*number));
        assert_eq!(wrong, None, "c{number}");
    }
    registry.heal();
    daemon.palan(["pull", &format!("{}/slow", registry.host())]).ok();
    daemon.palan(["exec", "c3", "true"]).ok();
    daemon.palan(["stop", "-t", "0", "c3"]).ok();
}

#[test]
fn of_a_million_lines_none_is_missing_or_doubled() {
    requires!(root);
    let mut daemon = daemon();
    daemon
        .palan(["run", "-d", "--name", "mm", "--network", "none", BUSYBOX, "sh", "-c", "seq 1 1000000"])
        .ok();
    let mut attached = daemon.command();
    let script = "sleep 4; seq 1 1000000";
    attached.args(["run", "--name", "aa", "--network", "none", BUSYBOX, "sh", "-c", script]);
    let attached = attached.stdout(Stdio::piped()).spawn().unwrap();
    let running = wait_until(Duration::from_secs(20), || {
        daemon.palan(["ps", "--format", "{{.Names}}"]).ok().stdout.contains("aa")
    });
    assert!(running);
    // Until the CLI has the answer to its start.
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..3 {
        daemon.kill();
        std::thread::sleep(Duration::from_millis(50));
        daemon.restart();
    }
    let output = attached.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    daemon.palan(["wait", "mm"]).ok();
    for text in [
        String::from_utf8(output.stdout).unwrap(),
        daemon.palan(["logs", "mm"]).ok().stdout,
        daemon.palan(["logs", "aa"]).ok().stdout,
    ] {
        let wrong = text.lines().zip(1u32..).find(|(line, number)| line.parse() != Ok(*number));
        assert_eq!(wrong, None);
        assert_eq!(text.lines().count(), 1_000_000);
    }
}

#[test]
fn a_published_port_stays_open() {
    requires!(root);
    let mut daemon = daemon();
    let port = free_port();
    daemon
        .palan([
            "run",
            "-d",
            "--name",
            "ww",
            "-p",
            &format!("{port}:8080"),
            BUSYBOX,
            "sh",
            "-c",
            "while :; do echo hi | nc -l -p 8080; done",
        ])
        .ok();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answers = || {
        wait_until(Duration::from_secs(30), || {
            use std::io::Read;
            let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500))
            else {
                return false;
            };
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok();
            text == "hi\n"
        })
    };
    assert!(answers());
    daemon.kill();
    assert!(answers(), "while the daemon is down");
    daemon.restart();
    assert!(answers(), "after the restart");
    let second = daemon.palan(["run", "-d", "-p", &format!("{port}:80"), BUSYBOX, "true"]);
    second.fails(125, "port is already allocated");
}

#[test]
fn auto_remove_happens_though_the_daemon_was_away() {
    requires!(root);
    let mut daemon = daemon();
    daemon.palan(["run", "-d", "--rm", "--name", "brief", "--network", "none", BUSYBOX, "sleep", "1"]).ok();
    daemon.kill();
    std::thread::sleep(Duration::from_millis(1500));
    daemon.restart();
    let gone = wait_until(Duration::from_secs(30), || daemon.palan(["ps", "-aq"]).ok().stdout.is_empty());
    assert!(gone);
}

#[test]
fn a_killed_supervisor_takes_its_container_along() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "oo", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let pid = daemon.palan(["inspect", "-f", "{{.State.Pid}}", "oo"]).ok().line().to_owned();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    let recorded = wait_until(Duration::from_secs(30), || {
        daemon.palan(["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "oo"]).ok().line()
            == "exited 137"
    });
    assert!(recorded);
    let root = format!("/proc/{pid}/root");
    assert!(wait_until(Duration::from_secs(30), || !std::path::Path::new(&root).exists()));
    daemon.palan(["start", "oo"]).ok();
}
