//! The client against a hand-made server: each test says which bytes come back, and sees which were sent.

use super::*;
use crate::filters::Filters;
use crate::types::{AuthConfig, CreateContainerRequest};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Answers connections one after the other; each is a list of answers, one for each request.
struct Server {
    path: PathBuf,
    /// How many connections it is done with.
    closed: Arc<AtomicU32>,
    thread: Option<JoinHandle<Vec<String>>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Server {
    fn start(connections: &[&[&str]]) -> (Self, Client) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("palan-client-{}-{number}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let script: Vec<Vec<String>> =
            connections.iter().map(|c| c.iter().map(|&a| a.to_owned()).collect()).collect();
        let closed = Arc::new(AtomicU32::new(0));
        let done = Arc::clone(&closed);
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answers in script {
                let (mut socket, _) = listener.accept().unwrap();
                for answer in answers {
                    requests.push(read_request(&mut socket));
                    let _ = socket.write_all(answer.as_bytes());
                }
                drop(socket);
                done.fetch_add(1, Ordering::Relaxed);
            }
            requests
        });
        let client = Client::new(Host::Unix(path.clone()));
        (Self { path, closed, thread: Some(thread) }, client)
    }

    fn requests(mut self) -> Vec<String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Head and body, a chunked one as it stands.
fn read_request(socket: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes.clone()).unwrap();
    let length =
        head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).unwrap();
    bytes.extend(body);
    if head.contains("Transfer-Encoding: chunked") {
        while !bytes.ends_with(b"\r\n0\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
            bytes.push(byte[0]);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn json(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn first_lines(requests: &[String]) -> Vec<&str> {
    requests.iter().map(|r| r.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap()).collect()
}

#[test]
fn reuses_a_connection_whose_answer_was_read() {
    let (server, client) = Server::start(&[&[
        &json("[]"),
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
    ]]);
    let mut filters = Filters::new();
    filters.add("label", "a=b c");
    let options = ListOptions { all: true, limit: Some(3), filters, ..ListOptions::default() };
    assert_eq!(client.list_containers(&options).unwrap(), []);
    client.start_container("a b", None).unwrap();
    client.stop_container("x", Some("TERM"), Some(0)).unwrap();
    assert_eq!(
        first_lines(&server.requests()),
        [
            "GET /v1.56/containers/json?all=1&limit=3&filters=%7B%22label%22%3A%7B%22a%3Db%20c%22%3Atrue%7D%7D",
            "POST /v1.56/containers/a%20b/start",
            "POST /v1.56/containers/x/stop?signal=TERM&t=0",
        ]
    );
}

#[test]
fn opens_another_connection_when_the_daemon_closed() {
    let close = json("[]").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let (server, client) = Server::start(&[&[&json("[]")], &[&close], &[&json("[]")]]);
    for number in 1..=3 {
        client.list_containers(&ListOptions::default()).unwrap();
        while server.closed.load(Ordering::Relaxed) < number {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn takes_the_version_of_an_older_daemon() {
    let message = r#"{"message":"client version 1.56 is too new. Maximum supported API version is 1.41"}"#;
    let refusal = format!(
        "HTTP/1.1 400 Bad Request\r\nApi-Version: 1.41\r\nContent-Length: {}\r\n\r\n{message}",
        message.len()
    );
    let (server, client) =
        Server::start(&[&[&refusal], &[&json(r#"{"id":"1","warnings":null}"#), &json("{}")]]);
    let created = client.create_container(Some("n"), None, &CreateContainerRequest::default()).unwrap();
    assert_eq!((created.id.as_str(), created.warnings.len()), ("1", 0));
    client.server_version().unwrap();
    assert_eq!(client.version(), ApiVersion::v1(41));
    assert_eq!(
        first_lines(&server.requests()),
        [
            "POST /v1.56/containers/create?name=n",
            "POST /v1.41/containers/create?name=n",
            "GET /v1.41/version"
        ]
    );
}

#[test]
fn a_version_that_the_user_gave_is_kept() {
    let refusal = "HTTP/1.1 400 Bad Request\r\nApi-Version: 1.41\r\nContent-Length: 5\r\n\r\nno \n\n";
    let (server, client) = Server::start(&[&[refusal]]);
    let client = Client::with_version(client.host().clone(), ApiVersion::v1(50));
    let error = client.info().unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (Some(400), "Error response from daemon: no"));
    assert_eq!(first_lines(&server.requests()), ["GET /v1.50/info"]);
}

#[test]
fn errors_carry_the_message_of_the_daemon() {
    let not_found = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n\
                     20\r\n{\"message\":\"No such container: x\r\n3\r\n\"}\n\r\n0\r\n\r\n";
    let (server, client) = Server::start(&[&[not_found, "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"]]);
    let error = client.inspect_container("x", false).unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "Error response from daemon: No such container: x");
    let error = client.info().unwrap_err();
    let text = "Error response from daemon: the daemon answered with status 500 Oops and no message";
    assert_eq!(error.to_string(), text);
    server.requests();
}

#[test]
fn uploads_in_chunks_after_asking_for_the_version() {
    let ping = "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 0\r\n\r\n";
    let answer = json(
        "{\"stream\":\"Loaded image: a\\n\"}\r\n{\"errorDetail\":{\"message\":\"x\"},\"error\":\"x\"}\r\n",
    );
    let (server, client) = Server::start(&[&[ping, &answer]]);
    let lines: Vec<_> =
        client.load_images(&mut &b"tar bytes"[..], true, &[]).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(lines[0].stream, "Loaded image: a\n");
    assert_eq!(lines[1].error, "x");
    let requests = server.requests();
    assert_eq!(first_lines(&requests), ["HEAD /_ping", "POST /v1.44/images/load?quiet=1"]);
    assert!(requests[1].contains("Content-Type: application/x-tar\r\n"));
    assert!(requests[1].ends_with("\r\n\r\n9\r\ntar bytes\r\n0\r\n\r\n"), "{}", requests[1]);
}

#[test]
fn upgrades_and_keeps_what_was_read_ahead() {
    let answer = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\n\
                  Upgrade: tcp\r\n\r\nhello";
    let (server, client) = Server::start(&[&[answer]]);
    let options = AttachOptions { stream: true, stdin: true, stdout: true, ..AttachOptions::default() };
    let mut session = client.attach_container("c", &options).unwrap();
    assert_eq!(session.media_type(), "application/vnd.docker.raw-stream");
    let mut text = String::new();
    session.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let requests = server.requests();
    assert!(
        requests[0].starts_with("POST /v1.56/containers/c/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n")
    );
    assert!(requests[0].contains("Connection: Upgrade\r\nUpgrade: tcp\r\n"));
}

#[test]
fn a_wait_counts_even_if_the_end_of_the_answer_is_missing() {
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{\"StatusCode\":3}\n\r\n";
    let (server, client) =
        Server::start(&[&[cut], &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]]);
    let wait = client.wait_container("c", WaitCondition::NextExit).unwrap();
    // The next connection makes the server close this one.
    let other = client.wait_container("c", WaitCondition::Removed).unwrap();
    assert_eq!(wait.finish().unwrap().status_code, 3);
    assert_eq!(
        server.requests()[0].lines().next(),
        Some("POST /v1.56/containers/c/wait?condition=next-exit HTTP/1.1")
    );
    assert!(matches!(other.finish(), Err(ClientError::Receive { .. })));
}

#[test]
fn nobody_there() {
    let client = Client::new(Host::Unix("/nonexistent/palan.sock".into()));
    let error = client.ping().unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to the daemon at unix:///nonexistent/palan.sock");
    assert!(matches!(error, ClientError::Connect { .. }));
}

#[test]
fn garbage_is_an_error() {
    let endless_head = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(20_000));
    let cases = ["SSH-2.0-OpenSSH\r\n", "", &endless_head];
    for case in cases {
        let (server, client) = Server::start(&[&[case]]);
        assert!(client.ping().is_err(), "{}", &case[..case.len().min(20)]);
        drop(client);
        server.requests();
    }
    let bad_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n";
    let (server, client) = Server::start(&[&[bad_chunk]]);
    assert!(matches!(client.info(), Err(ClientError::Receive { .. })));
    server.requests();
}

#[test]
fn credentials_go_into_the_header() {
    let (server, client) = Server::start(&[&[&json("{\"status\":\"x\"}\r\n")]]);
    let auth = AuthConfig { username: "u".into(), password: "p".into(), ..AuthConfig::default() };
    let options = PullOptions { image: "a/b", tag: "1", auth: Some(&auth), ..PullOptions::default() };
    assert_eq!(client.pull_image(&options).unwrap().count(), 1);
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /v1.56/images/create?fromImage=a%2Fb&tag=1 "));
    assert!(request.contains("\r\nX-Registry-Auth: eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==\r\n"));
}
