//! Another daemon takes the place of the running one, and no client notices.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::image::{TarBuilder, noise};
use palan_test_support::registry::{Fault, Registry};
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, busybox, daemon};

/// Asks on a connection that is kept; the body of the answer.
fn ask(stream: &mut UnixStream, request: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{request:?}: {error}");
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").map_err(failed)?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(failed)?;
        seen.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&seen).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).map_err(failed)?;
    if !head.starts_with("http/1.1 200") || head.contains("connection: close") {
        return Err(format!("{request:?}: {head}{}", String::from_utf8_lossy(&body)));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// What clients count and complain of.
#[derive(Default)]
struct Tally {
    requests: AtomicU64,
    stop: AtomicBool,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    /// Does something again and again.
    fn repeat(&self, pause: Duration, mut step: impl FnMut() -> Result<(), String>) {
        while !self.stop.load(Ordering::Relaxed) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            if let Err(failure) = step() {
                self.failures.lock().unwrap().push(failure);
            }
            std::thread::sleep(pause);
        }
    }
}

fn expect(daemon: (&str, &std::path::Path), arguments: &[&str], output: &str) -> Result<(), String> {
    let (host, program) = daemon;
    #[expect(clippy::disallowed_methods, reason = "a test starts the product as a user does")]
    let mut command = std::process::Command::new(program);
    command.env("DOCKER_HOST", host).env_remove("PALAN_HOST").env_remove("DOCKER_CONTEXT").args(arguments);
    let run = palan_test_support::daemon::finish(&mut command, None);
    if run.code == 0 && run.stdout == output { Ok(()) } else { Err(run.to_string()) }
}

#[test]
fn ten_replacements_under_load_lose_no_request() {
    requires!(root);
    let mut daemon = daemon();
    let registry = Registry::start();
    let layer = |seed| TarBuilder::new().file(&format!("n{seed}"), 0o644, noise(3_000_000, seed)).finish();
    registry.push("slow", "latest", &busybox().layer(layer(1)).layer(layer(2)).build());
    registry.fault_times("/blobs/", Fault::Slow(64 * 1024, Duration::from_millis(60)), 200);
    daemon.palan(["run", "-d", "--name", "keep", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon
        .palan(["run", "-d", "--name", "last", "--network", "none", BUSYBOX, "sh", "-c", "read x", "end"])
        .ok();

    let mut session = daemon.command();
    let script = "while read line; do echo \"got $line\"; test \"$line\" = end && exit 17; done";
    session.args(["run", "-i", "--name", "talk", "--network", "none", BUSYBOX, "sh", "-c", script]);
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = session.stdin.take().unwrap();
    let mut output = BufReader::new(session.stdout.take().unwrap()).lines();
    let count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
    daemon
        .palan(["run", "-d", "--init", "--name", "count", "--network", "none", BUSYBOX, "sh", "-c", count])
        .ok();
    let mut follower = daemon.command();
    let follower = follower.args(["logs", "-f", "count"]).stdout(Stdio::piped()).spawn().unwrap();
    // Waits for a container that runs, and for one that does not yet.
    daemon.palan(["create", "--name", "later", "--network", "none", BUSYBOX, "sh", "-c", "exit 5"]).ok();
    let mut early = UnixStream::connect(daemon.socket()).unwrap();
    early.write_all(b"POST /v1.41/containers/later/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut events = daemon.command();
    events.args([
        "events",
        "--filter",
        "event=create",
        "--filter",
        "container=later2",
        "--filter",
        "container=later",
    ]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let exec = daemon_exec(&daemon);

    let tally = Tally::default();
    let (host, program, socket) = (daemon.host(), palan_test_support::daemon::program(), daemon.socket());
    let cli = (host.as_str(), program.as_path());
    let mut pulling = daemon.command();
    pulling
        .args(["pull", "-q", &format!("{}/slow", registry.host())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let pulling = pulling.spawn().unwrap();
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for paths in [["/_ping", "/v1.41/containers/json?all=1"], ["/v1.41/info", "/v1.44/images/json"]] {
            // One connection for all, and one for each.
            scope.spawn({
                let (tally, socket) = (&tally, &socket);
                move || {
                    let mut stream = UnixStream::connect(socket).unwrap();
                    let mut paths = paths.iter().cycle();
                    tally.repeat(Duration::from_millis(10), || {
                        ask(&mut stream, &format!("GET {}", paths.next().unwrap())).map(drop)
                    });
                }
            });
            scope.spawn({
                let (tally, socket) = (&tally, &socket);
                move || {
                    tally.repeat(Duration::from_millis(10), || {
                        let mut stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
                        paths.iter().try_for_each(|path| ask(&mut stream, &format!("GET {path}")).map(drop))
                    });
                }
            });
        }
        scope.spawn(|| {
            let run = ["run", "--rm", "--network", "none", BUSYBOX, "echo", "hi"];
            tally.repeat(Duration::from_millis(10), || expect(cli, &run, "hi\n"));
        });
        scope.spawn(|| {
            tally.repeat(Duration::from_millis(10), || expect(cli, &["exec", "keep", "echo", "ho"], "ho\n"));
        });
        scope.spawn(|| {
            tally.repeat(Duration::from_millis(20), || expect(cli, &["ps", "-q", "-f", "name=nobody"], ""))
        });
        for number in 0..10 {
            std::thread::sleep(Duration::from_millis(200));
            daemon.replace();
            writeln!(input, "{number}").unwrap();
            assert_eq!(output.next().unwrap().unwrap(), format!("got {number}"));
        }
        std::thread::sleep(Duration::from_millis(200));
        tally.stop.store(true, Ordering::Relaxed);
    });
    let failures = tally.failures.into_inner().unwrap();
    assert_eq!(failures, Vec::<String>::new(), "{}", daemon.log());
    let requests = tally.requests.into_inner();
    println!("{requests} steps in {:?}", begun.elapsed());

    daemon.palan(["stop", "-t", "0", "count"]).ok();
    let followed = follower.wait_with_output().unwrap();
    assert!(followed.status.success(), "{followed:?}");
    assert_eq!(String::from_utf8(followed.stdout).unwrap(), daemon.palan(["logs", "count"]).ok().stdout);
    let pulled = pulling.wait_with_output().unwrap();
    assert!(pulled.status.success(), "{pulled:?}\n{}", daemon.log());
    daemon.palan(["image", "inspect", &format!("{}/slow", registry.host())]).ok();
    registry.heal();
    writeln!(input, "end").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "got end");
    assert_eq!(session.wait().unwrap().code(), Some(17));
    daemon.palan(["start", "later"]).ok();
    let mut answer = String::new();
    let waited = wait_until(Duration::from_secs(10), || {
        let mut piece = [0; 1024];
        let count = early.read(&mut piece).unwrap();
        answer += &String::from_utf8_lossy(&piece[..count]);
        answer.ends_with("0\r\n\r\n")
    });
    assert!(waited && answer.contains("{\"StatusCode\":5}"), "{answer}");
    // An exec session that was made by the first of them.
    assert!(daemon_exec_start(&daemon, &exec).contains("made before"), "{}", daemon.log());
    daemon.palan(["create", "--name", "later2", "--network", "none", BUSYBOX]).ok();
    let mut line = String::new();
    BufReader::new(events.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("later2"), "{line}");
    events.kill().unwrap();
    events.wait().unwrap();
}

/// Makes an exec session.
fn daemon_exec(daemon: &Daemon) -> String {
    let body = r#"{"AttachStdout":true,"Tty":true,"Cmd":["echo","made before"]}"#;
    let answer = post(daemon, "/v1.41/containers/keep/exec", body);
    let id = answer.split("\"Id\":\"").nth(1).and_then(|rest| rest.split('"').next());
    id.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn daemon_exec_start(daemon: &Daemon, id: &str) -> String {
    post(daemon, &format!("/v1.41/exec/{id}/start"), r#"{"Tty":true}"#)
}

/// Asks and reads to the end.
fn post(daemon: &Daemon, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_daemon_that_cannot_start_leaves_the_old_one_going() {
    requires!(root);
    let mut daemon = daemon();
    daemon.palan(["run", "-d", "--name", "keep", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    let before = daemon.pid();
    let mut kept = UnixStream::connect(daemon.socket()).unwrap();
    ask(&mut kept, "GET /_ping").unwrap();
    let exec = daemon_exec(&daemon);
    // Refused before anything is given up, and after everything was.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", busy.local_addr().unwrap());
    for arguments in [&["--replace", "--pidfile", "/nonexistent/pid"][..], &["--replace", "-H", &host]] {
        daemon.replace_in_vain(arguments);
        assert_eq!(daemon.palan(["exec", "keep", "echo", "on"]).ok().line(), "on");
        ask(&mut kept, "GET /_ping").unwrap();
    }
    assert_eq!(daemon.pid(), before);
    assert!(daemon_exec_start(&daemon, &exec).contains("made before"));
    let log = daemon.log();
    assert!(log.contains("another daemon wanted to take over and could not"), "{log}");
    daemon.replace();
    ask(&mut kept, "GET /_ping").unwrap();
    assert_ne!(daemon.pid(), before);
}

#[test]
fn one_that_fails_with_the_data_root_in_its_hands_gives_everything_back() {
    requires!(root);
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let arguments = vec!["--pidfile".to_owned(), pid_file.display().to_string()];
    let mut daemon = Daemon::start_with(Options { arguments, ..Options::default() });
    let mut kept = UnixStream::connect(daemon.socket()).unwrap();
    ask(&mut kept, "GET /_ping").unwrap();
    // Its network comes after its database and its images.
    let settings = directory.path().join("daemon.json");
    let (subnet, cgroup) = (daemon.subnet(), daemon.cgroup());
    let text = format!(r#"{{"bridge": "lo", "bip": "{subnet}", "cgroup-parent": "{cgroup}"}}"#);
    std::fs::write(&settings, text).unwrap();
    let pid = daemon.pid();
    for _ in 0..3 {
        daemon.replace_in_vain(&["--replace", "--config-file", settings.to_str().unwrap()]);
        ask(&mut kept, "GET /_ping").unwrap();
        assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), pid.to_string(), "{}", daemon.log());
    }
    assert_eq!(daemon.pid(), pid);
    daemon.replace();
    ask(&mut kept, "GET /_ping").unwrap();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), daemon.pid().to_string());
}

#[test]
fn without_a_daemon_to_replace_it_starts_as_ever() {
    requires!(root);
    let mut daemon = daemon();
    daemon.terminate();
    assert!(!daemon.socket().exists());
    daemon.restart();
    // A killed daemon's control socket answers nobody.
    daemon.kill();
    daemon.start_replacing();
    assert_eq!(daemon.palan(["ps", "-q"]).ok().line(), "");
}
