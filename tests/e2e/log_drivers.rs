//! `--log-driver`: what receivers get, what `logs` shows, and what happens when a receiver or the daemon is away.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use palan_test_support::certificates;
use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::{PATIENCE, free_port, requires};

use crate::images::{BUSYBOX, daemon, daemon_with};

/// Runs a container with log options and a script, to its end.
fn run(daemon: &Daemon, options: &[&str], script: &str) {
    let flags = options.iter().flat_map(|option| match option.split_once('=') {
        Some(_) => ["--log-opt", option],
        None => ["--log-driver", option],
    });
    let words = ["run", "--name", "cc", "--network", "none", "-e", "MODE=fast", "-l", "team=a b"];
    daemon.palan(words.into_iter().chain(flags).chain([BUSYBOX, "sh", "-c", script])).ok();
}

fn udp() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 65536];
    let count = socket.recv(&mut buffer).unwrap();
    buffer[..count].to_vec()
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn lines(stream: impl std::io::Read, count: usize) -> Vec<String> {
    BufReader::new(stream).lines().take(count).map(Result::unwrap).collect()
}

#[test]
fn syslog_by_all_its_ways() {
    requires!(root);
    let daemon = daemon();
    let (socket, address) = udp();
    let script = "echo out; echo err >&2; echo out again";
    run(
        &daemon,
        &["syslog", &format!("syslog-address=udp://{address}"), "tag={{.Name}}/{{.ImageName}}"],
        script,
    );
    let mut got: Vec<String> = (0..3).map(|_| String::from_utf8(datagram(&socket)).unwrap()).collect();
    got.sort();
    assert!(got.iter().all(|line| line.contains(&format!(" cc/{BUSYBOX}["))), "{got:?}");
    assert!(got[0].starts_with("<27>") && got[0].ends_with(": err\n"), "{got:?}");
    assert!(got[1].starts_with("<30>") && got[2].starts_with("<30>"), "{got:?}");
    // The local file is what `logs` reads.
    let shown = daemon.palan(["logs", "cc"]).ok();
    assert_eq!((shown.stdout.as_str(), shown.stderr.as_str()), ("out\nout again\n", "err\n"));
    daemon.palan(["rm", "cc"]).ok();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("syslog-address=tcp://{}", listener.local_addr().unwrap());
    run(
        &daemon,
        &["syslog", &address, "syslog-format=rfc5424micro", "syslog-facility=local1"],
        "echo one; echo two",
    );
    let got = lines(accept(&listener), 2);
    assert!(
        got[0].starts_with("<142>1 2") && got[0].ends_with(" - one") && got[1].ends_with(" - two"),
        "{got:?}"
    );
    daemon.palan(["rm", "cc"]).ok();

    let path = daemon.scratch().join("log.sock");
    let listener = UnixListener::bind(&path).unwrap();
    run(&daemon, &["syslog", &format!("syslog-address=unix://{}", path.display())], "echo through");
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(lines(stream, 1)[0].ends_with(": through"));
    daemon.palan(["rm", "cc"]).ok();

    let path = daemon.scratch().join("datagrams.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A container that is gone with its log before anybody could look.
    let option = format!("syslog-address=unixgram://{}", path.display());
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        "--log-driver",
        "syslog",
        "--log-opt",
        &option,
        BUSYBOX,
        "echo",
        "last words",
    ];
    daemon.palan(words).ok();
    let mut buffer = [0; 1024];
    let count = socket.recv(&mut buffer).unwrap();
    assert!(buffer[..count].ends_with(b": last words\n"));
}

#[test]
fn syslog_with_tls() {
    requires!(root);
    let daemon = daemon();
    let (ours, strangers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates::write(ours.path());
    certificates::write(strangers.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("syslog-address=tcp+tls://{}", listener.local_addr().unwrap());
    let authority = format!("syslog-tls-ca-cert={}/ca.pem", ours.path().display());
    run(&daemon, &["syslog", &address, &authority, "syslog-format=rfc5424"], "echo words");
    let got = lines(certificates::accept(&listener, ours.path()), 1);
    // With the length in front.
    let (length, message) = got[0].split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), message.len() + 1, "{got:?}");
    assert!(message.starts_with("<30>1 2") && message.ends_with(" - words"), "{got:?}");
    daemon.palan(["rm", "cc"]).ok();
    // Another one under the same address gets nothing, unless that is wanted.
    run(&daemon, &["syslog", &address, &authority], "echo secret");
    let mut seen = String::new();
    let _ = certificates::accept(&listener, strangers.path()).read_to_string(&mut seen);
    assert_eq!(seen, "");
    daemon.palan(["rm", "cc"]).ok();
    run(&daemon, &["syslog", &address, "syslog-tls-skip-verify=true", "tag=other"], "echo words");
    loop {
        let mut seen = String::new();
        let stream = certificates::accept(&listener, strangers.path());
        let _ = BufReader::new(stream).read_line(&mut seen);
        assert!(!seen.contains("secret"), "{seen}");
        if seen.contains("other[") {
            break;
        }
    }
}

#[test]
fn gelf() {
    requires!(root);
    let daemon = daemon();
    let (socket, address) = udp();
    let address = format!("gelf-address=udp://{address}");
    run(
        &daemon,
        &["gelf", &address, "gelf-compression-type=none", "labels=team", "env=MODE"],
        "echo words >&2",
    );
    let message: serde_json::Value = serde_json::from_slice(&datagram(&socket)).unwrap();
    for (key, value) in [
        ("version", "1.1"),
        ("short_message", "words"),
        ("_container_name", "cc"),
        ("_image_name", BUSYBOX),
        ("_team", "a b"),
        ("_MODE", "fast"),
    ] {
        assert_eq!(message[key], value, "{message}");
    }
    assert_eq!(message["level"], 3);
    daemon.palan(["rm", "cc"]).ok();
    run(&daemon, &["gelf", &address], "echo packed");
    assert_eq!(datagram(&socket)[..2], [0x1f, 0x8b], "gzip");
    daemon.palan(["rm", "cc"]).ok();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    run(
        &daemon,
        &["gelf", &format!("gelf-address=tcp://{}", listener.local_addr().unwrap())],
        "echo one; echo two",
    );
    let messages: Vec<_> = BufReader::new(accept(&listener)).split(0).take(2).map(Result::unwrap).collect();
    let text = |index: usize| {
        serde_json::from_slice::<serde_json::Value>(&messages[index]).unwrap()["short_message"].clone()
    };
    assert_eq!((text(0), text(1)), ("one".into(), "two".into()));
}

#[test]
fn fluentd_with_and_without_answers() {
    requires!(root);
    let daemon = daemon();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("fluentd-address={}", listener.local_addr().unwrap());
    run(&daemon, &["fluentd", &address, "tag=web.{{.Name}}"], "echo words");
    let mut stream = accept(&listener);
    let mut got = vec![0; 2048];
    let count = stream.read(&mut got).unwrap();
    got.truncate(count);
    let has = |got: &[u8], text: &[u8]| got.windows(text.len()).any(|window| window == text);
    assert!(got.starts_with(b"\x93\xa6web.cc\xce"), "{got:?}");
    assert!(
        has(&got, b"\xaecontainer_name\xa3/cc") && has(&got, b"\xa6source\xa6stdout\xa3log\xa5words"),
        "{got:?}"
    );
    drop(stream);
    daemon.palan(["rm", "cc"]).ok();
    run(
        &daemon,
        &[
            "fluentd",
            &address,
            "fluentd-request-ack=true",
            "fluentd-sub-second-precision=true",
            "fluentd-retry-wait=50ms",
            "fluentd-read-timeout=3s",
        ],
        "echo one; echo two",
    );
    // Without an answer the same comes again.
    let mut first = accept(&listener);
    got.resize(4096, 0);
    let count = first.read(&mut got).unwrap();
    assert!(count == 0 || has(&got[..count], b"\xa3log\xa3one"));
    drop(first);
    let mut stream = accept(&listener);
    let mut log = Vec::new();
    loop {
        let mut message = vec![0; 4096];
        let count = stream.read(&mut message).unwrap_or_else(|error| {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "nothing comes after {log:?}");
            0
        });
        if count == 0 {
            // To whom an answer comes too late, that comes again.
            stream = accept(&listener);
            continue;
        }
        let message = &message[..count];
        log.extend_from_slice(message);
        // {"chunk": "…"} → {"ack": "…"}
        let start = message.windows(6).position(|window| window == b"\xa5chunk").unwrap() + 6;
        let answer = [b"\x81\xa3ack", &message[start..]].concat();
        if stream.write_all(&answer).is_ok() && has(message, b"\xa3log\xa3two") {
            break;
        }
    }
    assert!(has(&log, b"\xa3log\xa3one"), "{log:?}");
}

#[test]
fn journald() {
    requires!(root);
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("journal.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // The daemon sees this socket where systemd's is.
    let script = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket && \
         mount --bind {} /run/systemd/journal/socket && exec \"$@\"",
        path.display()
    );
    let launcher = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).into();
    let settings = Some("\"log-driver\": \"journald\", \"log-opts\": {\"tag\": \"t-{{.Name}}\"}".to_owned());
    let daemon = daemon_with(Options { launcher, settings, ..Options::default() });
    run(&daemon, &["labels=team"], "echo words");
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer).unwrap();
    let entry = String::from_utf8_lossy(&buffer[..count]).into_owned();
    for line in [
        "CONTAINER_NAME=cc",
        "CONTAINER_TAG=t-cc",
        "SYSLOG_IDENTIFIER=t-cc",
        "TEAM=a b",
        "MESSAGE=words",
        "PRIORITY=6",
    ] {
        assert!(entry.lines().any(|own| own == line), "{line} in {entry}");
    }
    assert_eq!(
        daemon.palan(["inspect", "-f", "{{.HostConfig.LogConfig.Type}}", "cc"]).ok().line(),
        "journald"
    );
    assert_eq!(daemon.palan(["logs", "cc"]).ok().stdout, "words\n");
}

/// Neither a receiver that is away nor the death of the daemon loses a line.
#[test]
fn nothing_is_lost() {
    requires!(root);
    let mut daemon = daemon();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let option = format!("syslog-address=tcp://{address}");
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i.; sleep 0.2; done";
    let words = [
        "run",
        "-d",
        "--name",
        "cc",
        "--network",
        "none",
        "--log-driver",
        "syslog",
        "--log-opt",
        &option,
        BUSYBOX,
        "sh",
        "-c",
        script,
    ];
    daemon.palan(words).ok();
    std::thread::sleep(Duration::from_millis(300));
    daemon.kill();
    std::thread::sleep(Duration::from_millis(300));
    daemon.restart();
    let listener = TcpListener::bind(address).unwrap();
    let mut stream = BufReader::new(accept(&listener));
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let number = line.trim_end().rsplit("line ").next().unwrap().to_owned();
        if !seen.contains(&number) {
            seen.push(number);
        }
    }
    assert_eq!(seen, (1..=10).map(|number| format!("{number}.")).collect::<Vec<_>>());
    daemon.palan(["wait", "cc"]).ok();
    assert_eq!(daemon.palan(["logs", "cc"]).ok().stdout.lines().count(), 10);
}

#[test]
fn local_and_attributes_and_refusals() {
    requires!(root);
    let daemon = daemon();
    run(&daemon, &["local", "max-size=1m"], "echo local");
    assert_eq!(daemon.palan(["logs", "cc"]).ok().stdout, "local\n");
    daemon.palan(["rm", "cc"]).ok();
    run(
        &daemon,
        &[
            "json-file",
            "labels=team",
            "env-regex=^MO",
            "tag={{.Name}}",
            "mode=non-blocking",
            "max-buffer-size=1m",
        ],
        "echo x",
    );
    assert_eq!(daemon.palan(["logs", "--details", "cc"]).ok().stdout, "MODE=fast,tag=cc,team=a+b x\n");
    let path = daemon.palan(["inspect", "-f", "{{.LogPath}}", "cc"]).ok().line().to_owned();
    let line = std::fs::read_to_string(path).unwrap();
    assert!(
        line.contains(r#""stream":"stdout","attrs":{"MODE":"fast","tag":"cc","team":"a b"},"time":""#),
        "{line}"
    );
    daemon.palan(["rm", "cc"]).ok();
    run(&daemon, &["none"], "echo x");
    daemon.palan(["logs", "cc"]).fails(1, "configured logging driver does not support reading");
    let refused = |flags: &[&str], text: &str| {
        let words = ["run", "--rm", "--network", "none"].iter().chain(flags).chain(&[BUSYBOX, "true"]);
        daemon.palan(words).fails(125, text);
    };
    refused(&["--log-driver", "nosuch"], "no log driver named 'nosuch' is registered");
    refused(&["--log-opt", "max-sze=1"], "unknown log opt 'max-sze' for json-file log driver");
    refused(&["--log-driver", "gelf"], "gelf-address is a required parameter");
    refused(&["--log-driver", "syslog", "--log-opt", "syslog-facility=x"], "invalid syslog facility");
    refused(&["--log-opt", "mode=x"], "logger: logging mode not supported: x");
}
