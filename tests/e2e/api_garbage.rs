//! What a client can send that no client should: the daemon answers or hangs up, and goes on for everybody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    // A daemon that neither answers nor hangs up is what these tests look for.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends bytes, as far as they are taken, and returns what comes back until the daemon hangs up.
fn exchange(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = connect(daemon);
    stream.write_all(bytes).ok();
    read_all(stream)
}

fn read_all(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("no answer: {error}"),
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[track_caller]
fn answers(answer: &str, status: u16, text: &str) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text),
        "expected {status} and {text:?}:\n{answer}"
    );
}

#[test]
fn heads_that_are_none() {
    requires!(root);
    let daemon = daemon();
    let long = "x".repeat(1 << 20);
    let many: String = (0..5000).map(|number| format!("X-{number}: y\r\n")).collect();
    for garbage in [
        b"\0\x01\x02\x03".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /{long} HTTP/1.1\r\nHost: d\r\n\r\n").into_bytes(),
        format!("GET /_ping HTTP/1.1\r\nHost: d\r\nX: {long}\r\n\r\n").into_bytes(),
        format!("GET /_ping HTTP/1.1\r\nHost: d\r\n{many}\r\n").into_bytes(),
        format!("POST /containers/{long}/attach HTTP/1.1\r\nHost: d\r\n\r\n").into_bytes(),
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".to_vec(),
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
    ] {
        let mut stream = connect(&daemon);
        stream.write_all(&garbage).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        let answer = read_all(stream);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{:?} was answered by\n{answer}", String::from_utf8_lossy(&garbage[..garbage.len().min(80)]));
        assert_eq!(answer.matches("HTTP/1.1 ").count(), usize::from(!answer.is_empty()), "{answer}");
    }
    daemon.palan(["ps"]).ok();
}

#[test]
fn bodies_that_are_none() {
    requires!(root);
    let daemon = daemon();
    let deep = "[".repeat(200_000);
    let large = format!(r#"{{"Image": "{BUSYBOX}", "Env": ["A={}"]}}"#, "x".repeat(5 << 20));
    let nul = format!(r#"{{"Image": "{BUSYBOX}", "Env": ["A=\u0000"]}}"#);
    let nameless = format!(r#"{{"Image": "{BUSYBOX}", "Env": ["=x"]}}"#);
    let empty = format!(r#"{{"Image": "{BUSYBOX}", "Env": [""]}}"#);
    for (body, text) in [
        ("", "invalid JSON: got EOF while reading request body"),
        ("null", "config cannot be empty in order to create a container"),
        ("{", "invalid JSON"),
        ("[]", "invalid JSON"),
        (deep.as_str(), "invalid JSON"),
        (r#"{"Image": 7}"#, "invalid JSON"),
        (large.as_str(), "the request's body could not be read (limit 4194304 bytes)"),
        (nul.as_str(), "contains a NUL byte"),
        (nameless.as_str(), "invalid environment variable: =x"),
        (empty.as_str(), "invalid environment variable: "),
    ] {
        answers(&exchange(&daemon, &post("/v1.43/containers/create", body.as_bytes())), 400, text);
    }
    // An entry without a value, or a star, takes nothing from the daemon's own environment.
    let named = r#"{"Image": "bb", "Env": ["HOME", "*", "PAL*", "A==b"], "Cmd": ["env"]}"#;
    answers(&exchange(&daemon, &post("/containers/create?name=envs", named.as_bytes())), 201, "Id");
    let printed = daemon.palan(["start", "-a", "envs"]).ok();
    let mut names: Vec<&str> = printed.stdout.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "HOME", "HOSTNAME", "PATH"], "{printed}");
    daemon.palan(["rm", "envs"]).ok();
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
}

/// More than the daemon keeps in memory, without an end: it is refused while it still comes.
#[test]
fn an_endless_body_is_cut_off() {
    requires!(root);
    let daemon = daemon();
    let mut stream = connect(&daemon);
    stream
        .write_all(
            b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let sent = (0..16_384).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 16_384, "1 GiB was taken");
    daemon.palan(["ps"]).ok();
}

/// Clients that stop half-way hold nothing up.
#[test]
fn half_open_connections_are_borne() {
    requires!(root);
    let daemon = daemon();
    let starts: [&[u8]; 5] = [
        b"",
        b"G",
        b"POST /containers/create HTTP/1.1\r\nHost",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ];
    let mut held = Vec::new();
    for _ in 0..60 {
        for start in starts {
            let mut stream = connect(&daemon);
            stream.write_all(start).unwrap();
            held.push(stream);
        }
    }
    assert_eq!(daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, "echo", "on"]).ok().line(), "on");
    drop(held);
    daemon.palan(["ps"]).ok();
}
