//! `GET /containers/{id}/attach/ws`: the websocket that browsers and docker-py attach with.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

struct WebSocket(UnixStream);

fn handshake(daemon: &Daemon, target: &str, more: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "GET /v1.41/containers/{target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        answer.push(byte[0]);
    }
    (stream, String::from_utf8(answer).unwrap())
}

impl WebSocket {
    fn open(daemon: &Daemon, target: &str) -> Self {
        let (stream, answer) = handshake(daemon, target, "Origin: http://localhost\r\n");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(
            answer.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{answer}"
        );
        Self(stream)
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        let mask = [0x11, 0x22, 0x33, 0x44];
        let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.0.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).unwrap();
                u16::from_be_bytes(length).into()
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        (head[0], payload)
    }

    /// All output to the closing frame.
    fn output(&mut self) -> String {
        let mut all = Vec::new();
        loop {
            match self.receive() {
                (BINARY, payload) => all.extend_from_slice(&payload),
                (CLOSE, status) => {
                    assert_eq!(status, 1000_u16.to_be_bytes());
                    return String::from_utf8(all).unwrap();
                }
                (other, _) => panic!("a frame {other:#x}"),
            }
        }
    }
}

#[test]
fn both_directions_and_both_ends() {
    requires!(root);
    let daemon = daemon();
    let script = "read line; echo got $line; echo err >&2; exit 3";
    daemon.palan(["create", "-i", "--name", "cc", "--network", "none", BUSYBOX, "sh", "-c", script]).ok();
    let mut socket = WebSocket::open(&daemon, "cc/attach/ws?stream=1&stdin=1&stdout=1&stderr=1");
    daemon.palan(["start", "cc"]).ok();
    socket.send(0x81, b"some ");
    socket.send(BINARY, b"words\n");
    let output = socket.output();
    assert!(output.contains("got some words\n") && output.contains("err\n"), "{output}");
    assert_eq!(daemon.palan(["wait", "cc"]).ok().line(), "3");
    // The log alone, and only the stream that was asked for.
    let mut log = WebSocket::open(&daemon, "cc/attach/ws?logs=1&stderr=1");
    assert_eq!(log.output(), "err\n");
}

#[test]
fn leaving() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["run", "-dit", "--name", "cc", "--network", "none", BUSYBOX, "cat"]).ok();
    let query = "cc/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x";
    let mut socket = WebSocket::open(&daemon, query);
    socket.send(BINARY, b"hello\n");
    let mut seen = String::new();
    while seen.matches("hello\r\n").count() < 2 {
        seen.push_str(&String::from_utf8(socket.receive().1).unwrap());
    }
    socket.send(0x89, b"ping");
    assert_eq!(socket.receive(), (0x8a, b"ping".to_vec()));
    // The keys, and then a closing frame; neither ends the container.
    socket.send(BINARY, &[1, b'x']);
    while socket.receive().0 != CLOSE {}
    let mut socket = WebSocket::open(&daemon, query);
    socket.send(CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(socket.receive(), (CLOSE, 1001_u16.to_be_bytes().to_vec()));
    assert_eq!(daemon.palan(["inspect", "-f", "{{.State.Running}}", "cc"]).ok().line(), "true");
    // One that breaks the rules is told so.
    let mut socket = WebSocket::open(&daemon, query);
    socket.0.write_all(&[BINARY, 1, b'x']).unwrap();
    loop {
        if let (CLOSE, status) = socket.receive() {
            assert_eq!(status, 1002_u16.to_be_bytes());
            break;
        }
    }
}

#[test]
fn refusals() {
    requires!(root);
    let daemon = daemon();
    let (_, answer) = handshake(&daemon, "nosuch/attach/ws?stream=1", "");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    daemon.palan(["create", "--name", "cc", "--network", "none", BUSYBOX, "true"]).ok();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream
        .write_all(b"GET /containers/cc/attach/ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Upgrade must be websocket"), "{answer}");
}
