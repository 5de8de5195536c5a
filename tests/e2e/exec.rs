//! `palan exec`: another process beside the first.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, daemon};

#[test]
fn runs_beside_with_its_own_streams_and_code() {
    requires!(root);
    let daemon = daemon();
    daemon
        .palan(["run", "-d", "--name", "cc", "-e", "FROM=run", "--network", "none", BUSYBOX, "sleep", "1000"])
        .ok();
    let run = daemon.palan(["exec", "cc", "sh", "-c", "echo out; echo err >&2; exit 4"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.code), ("out\n", "err\n", 4), "{run}");
    let run = daemon.palan_with_input(["exec", "-i", "cc", "cat"], b"through");
    assert_eq!(run.ok().stdout, "through");
    let run = daemon.palan([
        "exec",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "-u",
        "alice",
        "cc",
        "sh",
        "-c",
        "echo $FROM $A $PWD $(id -u)",
    ]);
    assert_eq!(run.ok().line(), "run 1 /tmp 1000");
    // As with Docker, the text comes on the session's own stream.
    let run = daemon.palan(["exec", "cc", "nosuch"]);
    assert!(run.code == 127 && run.stdout.contains("executable file not found in $PATH"), "{run}");
    let run = daemon.palan(["exec", "cc", "/etc/passwd"]);
    assert!(run.code == 126 && run.stdout.contains("permission denied"), "{run}");
    let run = daemon.palan(["exec", "cc", "/etc"]);
    assert!(run.code == 126 && run.stdout.contains("is a directory: permission denied"), "{run}");
    let run = daemon.palan(["exec", "-w", "/nosuch", "cc", "true"]);
    assert!(run.code == 127 && run.stdout.contains("no such file or directory"), "{run}");
    // Who is asked for is looked up before the runtime hears of it.
    let run = daemon.palan(["exec", "-u", "nosuch", "cc", "true"]);
    let text = "unable to find user nosuch: no matching entries in passwd file";
    assert!(run.code == 126 && run.stdout.starts_with(text), "{run}");
    let caps = daemon.palan(["exec", "cc", "grep", "-E", "Cap(Eff|Inh)|Seccomp:", "/proc/self/status"]).ok();
    assert_eq!(caps.stdout, "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n");
}

/// Arguments of `ps` that we know ourselves, and others that the host's knows.
#[test]
fn processes_in_any_columns() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let table = |arguments: &[&str]| {
        let output = daemon.palan([&["top", "cc"], arguments].concat()).ok().stdout;
        output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let lines = table(&[]);
    assert!(lines.len() == 2 && lines[0] == "UID PID PPID C STIME TTY TIME CMD", "{lines:?}");
    assert_eq!(table(&["-o", "user,args"]), ["USER CMD", "root sleep 1000"]);
    let lines = table(&["-eopid,user,cls"]);
    assert!(lines.len() == 2 && lines[0] == "PID USER CLS" && lines[1].ends_with(" root TS"), "{lines:?}");
    let lines = table(&["-ax", "-o", "pid", "-o", "comm"]);
    assert!(lines.len() == 2 && lines[0] == "PID COMMAND" && lines[1].ends_with(" sleep"), "{lines:?}");
    daemon.palan(["top", "cc", "-eo", "user,nice,cls"]).fails(1, "Couldn't find PID field in ps output");
    daemon.palan(["top", "cc", "-eo", "comm=PID,cls"]).fails(1, "specifying \"comm=PID\" is not allowed");
    daemon.palan(["top", "cc", "--nonsense"]).fails(1, "ps: error: unknown gnu long option");
}

#[test]
fn needs_a_running_container() {
    requires!(root);
    let daemon = daemon();
    let id = daemon.palan(["create", "--name", "cc", "--network", "none", BUSYBOX]).ok().line().to_owned();
    daemon.palan(["exec", "cc", "true"]).fails(1, &format!("container {id} is not running"));
    daemon.palan(["exec", "nosuch", "true"]).fails(1, "No such container: nosuch");
}

#[test]
fn detached_and_many() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon.palan(["exec", "-d", "cc", "sh", "-c", "echo here > /tmp/mark"]).ok();
    let appeared =
        wait_until(PATIENCE, || daemon.palan(["exec", "cc", "cat", "/tmp/mark"]).stdout == "here\n");
    assert!(appeared);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let daemon = &daemon;
            scope.spawn(move || {
                for round in 0..5 {
                    let text = format!("{number}-{round}");
                    assert_eq!(daemon.palan(["exec", "cc", "echo", &text]).ok().line(), text);
                }
            });
        }
    });
}

/// CVE-2024-21626: a working directory outside of the container through a leaked descriptor.
#[test]
fn a_working_directory_outside_is_refused() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    for number in 3..24 {
        let directory = format!("/proc/self/fd/{number}");
        let run =
            daemon.palan(["exec", "-w", &directory, "cc", "sh", "-c", "ls ../../../../etc/debian_version"]);
        assert_ne!(run.code, 0, "{run}");
        let run = daemon.palan([
            "run",
            "--rm",
            "--network",
            "none",
            "-w",
            &directory,
            BUSYBOX,
            "sh",
            "-c",
            "ls ../../../../etc/debian_version",
        ]);
        assert_ne!(run.code, 0, "{run}");
    }
}

/// docker-py reads the head of an answer through a buffer and the rest from the bare socket.
#[test]
fn output_does_not_come_with_the_head() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let post = |path: &str, headers: &str, body: &str| {
        let mut socket = UnixStream::connect(daemon.socket()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket
    };
    let slowly = || {
        let mut made = String::new();
        let command = r#"{"AttachStdout":true,"Tty":true,"Cmd":["echo","out"]}"#;
        post("/containers/cc/exec", "Connection: close\r\n", command).read_to_string(&mut made).unwrap();
        let id = made.split_once("\"Id\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap();
        let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
        let begun = Instant::now();
        let mut socket = post(&format!("/exec/{id}/start"), upgrade, r#"{"Detach":false,"Tty":true}"#);
        // The client is slow: all that was sent by now comes with the first read.
        std::thread::sleep(Duration::from_millis(200));
        let mut first = [0; 8192];
        let length = socket.read(&mut first).unwrap();
        let first = String::from_utf8_lossy(&first[..length]).into_owned();
        // Output waits for a client for half a second, so one that was slower has shown nothing.
        (begun.elapsed() < Duration::from_millis(450)).then_some((socket, first))
    };
    let (mut socket, first) =
        (0..20).find_map(|_| slowly()).expect("a client that is slow, but not too slow");
    assert!(first.starts_with("HTTP/1.1 101 ") && first.ends_with("\r\n\r\n"), "{first:?}");
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "out\r\n");
}
