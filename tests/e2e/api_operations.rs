//! Each operation of the API that an engine without a swarm and without plugins has, asked as it wants to be: it does it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::image::TarBuilder;
use palan_test_support::registry::Registry;
use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

/// The operations of `engine-api.yaml` (1.56) but for those of swarm, nodes, services, tasks, secrets, configs and plugins.
const OPERATIONS: &[&str] = &[
    "DELETE /containers/{id}",
    "DELETE /images/{name}",
    "DELETE /networks/{id}",
    "DELETE /volumes/{name}",
    "GET /_ping",
    "GET /containers/json",
    "GET /containers/{id}/archive",
    "GET /containers/{id}/attach/ws",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/export",
    "GET /containers/{id}/json",
    "GET /containers/{id}/logs",
    "GET /containers/{id}/stats",
    "GET /containers/{id}/top",
    "GET /distribution/{name}/json",
    "GET /events",
    "GET /exec/{id}/json",
    "GET /images/get",
    "GET /images/json",
    "GET /images/search",
    "GET /images/{name}/attestations",
    "GET /images/{name}/get",
    "GET /images/{name}/history",
    "GET /images/{name}/json",
    "GET /info",
    "GET /networks",
    "GET /networks/{id}",
    "GET /system/df",
    "GET /version",
    "GET /volumes",
    "GET /volumes/{name}",
    "HEAD /_ping",
    "HEAD /containers/{id}/archive",
    "POST /auth",
    "POST /build",
    "POST /build/prune",
    "POST /commit",
    "POST /containers/create",
    "POST /containers/prune",
    "POST /containers/{id}/attach",
    "POST /containers/{id}/exec",
    "POST /containers/{id}/kill",
    "POST /containers/{id}/pause",
    "POST /containers/{id}/rename",
    "POST /containers/{id}/resize",
    "POST /containers/{id}/restart",
    "POST /containers/{id}/start",
    "POST /containers/{id}/stop",
    "POST /containers/{id}/unpause",
    "POST /containers/{id}/update",
    "POST /containers/{id}/wait",
    "POST /exec/{id}/resize",
    "POST /exec/{id}/start",
    "POST /images/create",
    "POST /images/load",
    "POST /images/prune",
    "POST /images/{name}/push",
    "POST /images/{name}/tag",
    "POST /networks/create",
    "POST /networks/prune",
    "POST /networks/{id}/connect",
    "POST /networks/{id}/disconnect",
    "POST /session",
    "POST /volumes/create",
    "POST /volumes/prune",
    "PUT /containers/{id}/archive",
    "PUT /volumes/{name}",
];

/// What needs more than an engine: it changes a volume of a swarm.
const ELSEWHERE: &[&str] = &["PUT /volumes/{name}"];

/// A client that notes which operations were answered well.
struct Client<'a> {
    daemon: &'a Daemon,
    done: BTreeSet<&'static str>,
    wrong: Vec<String>,
}

impl Client<'_> {
    /// Asks for an operation at its path; the answer's body.
    fn ask(&mut self, operation: &'static str, target: &str, body: &[u8]) -> String {
        let kind = if body.first() == Some(&b'{') { "application/json" } else { "application/x-tar" };
        let headers = format!("Content-Type: {kind}\r\nX-Registry-Auth: e30=\r\n");
        self.ask_with(operation, target, &headers, body)
    }

    /// Asks with headers of one's own.
    fn ask_with(&mut self, operation: &'static str, target: &str, headers: &str, body: &[u8]) -> String {
        assert!(OPERATIONS.contains(&operation), "{operation}");
        let method = operation.split(' ').next().unwrap();
        let mut stream = UnixStream::connect(self.daemon.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let close = if headers.contains("Upgrade") { "" } else { "Connection: close\r\n" };
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: d\r\n{close}{headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 65536];
        // A stream that was handed over, or that only ends with its client, has been answered with its head.
        while answer.windows(4).all(|window| window != b"\r\n\r\n") || !is_stream(&answer) {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).unwrap_or("none");
        let said_error = text.contains("\"errorDetail\"");
        if (status.starts_with('2') || status == "101") && !said_error {
            self.done.insert(operation);
        } else {
            self.wrong.push(format!("{operation} {target}: {text}"));
        }
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }
}

fn is_stream(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 101")
}

/// The value of a field that is a text.
fn field(body: &str, name: &str) -> String {
    let rest = body.split_once(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {body}")).1;
    rest.split_once('"').unwrap().0.to_owned()
}

/// An index that knows one repository and answers once.
fn index() -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let served = std::thread::spawn(move || {
        // The client tries TLS first, and comes again without.
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap_or(0);
            if !request[..count].starts_with(b"GET /v1/search") {
                continue;
            }
            let body = r#"{"num_results":1,"results":[{"name":"tool","description":"d","star_count":1,"is_official":false}]}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + body).as_bytes()).unwrap();
            return;
        }
    });
    (host, served)
}

#[test]
fn each_operation_is_done() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let mut client = Client { daemon: &daemon, done: BTreeSet::new(), wrong: Vec::new() };
    system(&mut client, &registry);
    images(&mut client, &registry);
    containers(&mut client);
    files(&mut client);
    volumes_and_networks(&mut client);
    removals(&mut client);
    assert!(client.wrong.is_empty(), "{}", client.wrong.join("\n\n"));
    let missing: Vec<_> = OPERATIONS
        .iter()
        .filter(|operation| !client.done.contains(*operation) && !ELSEWHERE.contains(operation))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn system(client: &mut Client<'_>, registry: &Registry) {
    client.ask("GET /_ping", "/_ping", b"");
    client.ask("HEAD /_ping", "/_ping", b"");
    client.ask("GET /info", "/v1.56/info", b"");
    client.ask("GET /version", "/v1.56/version", b"");
    client.ask("GET /system/df", "/v1.56/system/df", b"");
    client.ask("GET /events", "/v1.56/events?since=0&until=1", b"");
    let login =
        format!("{{\"username\":\"u\",\"password\":\"p\",\"serveraddress\":\"{}\"}}", registry.host());
    client.ask("POST /auth", "/v1.56/auth", login.as_bytes());
    let upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: s\r\n";
    client.ask_with("POST /session", "/v1.56/session", upgrade, b"");
}

fn images(client: &mut Client<'_>, registry: &Registry) {
    let host = registry.host();
    client.ask("GET /images/json", "/v1.56/images/json", b"");
    let name = format!("{host}/mine");
    client.ask("POST /images/{name}/tag", &format!("/v1.56/images/{BUSYBOX}/tag?repo={name}&tag=1"), b"");
    client.ask("POST /images/{name}/push", &format!("/v1.56/images/{name}/push?tag=1"), b"");
    client.ask("POST /images/create", &format!("/v1.56/images/create?fromImage={name}&tag=1"), b"");
    client.ask("GET /distribution/{name}/json", &format!("/v1.56/distribution/{name}:1/json"), b"");
    let (index, served) = index();
    client.ask("GET /images/search", &format!("/v1.56/images/search?term={index}/tool"), b"");
    served.join().unwrap();
    client.ask("GET /images/{name}/json", &format!("/v1.56/images/{BUSYBOX}/json"), b"");
    client.ask("GET /images/{name}/attestations", &format!("/v1.56/images/{BUSYBOX}/attestations"), b"");
    client.ask("GET /images/{name}/history", &format!("/v1.56/images/{BUSYBOX}/history"), b"");
    client.ask("GET /images/{name}/get", &format!("/v1.56/images/{BUSYBOX}/get"), b"");
    client.ask("GET /images/get", &format!("/v1.56/images/get?names={BUSYBOX}"), b"");
    let archive = palan_test_support::image::ImageBuilder::new().file("f", 0o644, "x").build();
    client.ask("POST /images/load", "/v1.56/images/load", &archive.docker_archive(&["loaded:1"]));
    client.ask("DELETE /images/{name}", "/v1.56/images/loaded:1", b"");
    let dockerfile = format!("FROM {BUSYBOX}\nRUN true\n");
    let context = TarBuilder::new().file("Dockerfile", 0o644, dockerfile).finish();
    client.ask("POST /build", "/v1.56/build?t=built", &context);
    client.ask("POST /build/prune", "/v1.56/build/prune", b"");
}

fn containers(client: &mut Client<'_>) {
    let create = format!(
        "{{\"Image\":\"{BUSYBOX}\",\"Cmd\":[\"sh\",\"-c\",\"echo on; cat\"],\"OpenStdin\":true,\"Tty\":true,\
         \"HostConfig\":{{\"NetworkMode\":\"none\"}}}}"
    );
    client.ask("POST /containers/create", "/v1.56/containers/create?name=one", create.as_bytes());
    client.ask("POST /containers/{id}/start", "/v1.56/containers/one/start", b"");
    client.ask("GET /containers/json", "/v1.56/containers/json", b"");
    client.ask("GET /containers/{id}/json", "/v1.56/containers/one/json", b"");
    client.ask("GET /containers/{id}/top", "/v1.56/containers/one/top", b"");
    client.ask("GET /containers/{id}/logs", "/v1.56/containers/one/logs?stdout=1", b"");
    client.ask("GET /containers/{id}/stats", "/v1.56/containers/one/stats?stream=0&one-shot=1", b"");
    client.ask("POST /containers/{id}/resize", "/v1.56/containers/one/resize?h=24&w=80", b"");
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let attach = "/v1.56/containers/one/attach?stream=1&stdout=1";
    client.ask_with("POST /containers/{id}/attach", attach, upgrade, b"");
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let attach = "/v1.56/containers/one/attach/ws?stream=1&stdout=1";
    client.ask_with("GET /containers/{id}/attach/ws", attach, websocket, b"");
    let exec = br#"{"Cmd":["cat"],"AttachStdin":true,"AttachStdout":true,"Tty":true}"#;
    let exec = field(&client.ask("POST /containers/{id}/exec", "/v1.56/containers/one/exec", exec), "Id");
    let start = format!("/v1.56/exec/{exec}/start");
    client.ask("POST /exec/{id}/start", &start, br#"{"Detach":true,"Tty":true}"#);
    client.ask("POST /exec/{id}/resize", &format!("/v1.56/exec/{exec}/resize?h=24&w=80"), b"");
    client.ask("GET /exec/{id}/json", &format!("/v1.56/exec/{exec}/json"), b"");
    client.ask("POST /containers/{id}/update", "/v1.56/containers/one/update", br#"{"CpuShares":512}"#);
    client.ask("POST /containers/{id}/rename", "/v1.56/containers/one/rename?name=two", b"");
    client.ask("POST /containers/{id}/pause", "/v1.56/containers/two/pause", b"");
    client.ask("POST /containers/{id}/unpause", "/v1.56/containers/two/unpause", b"");
    client.ask("POST /containers/{id}/restart", "/v1.56/containers/two/restart?t=0", b"");
    client.ask("POST /containers/{id}/kill", "/v1.56/containers/two/kill", b"");
    client.ask("POST /containers/{id}/wait", "/v1.56/containers/two/wait", b"");
    client.ask("POST /containers/{id}/start", "/v1.56/containers/two/start", b"");
    client.ask("POST /containers/{id}/stop", "/v1.56/containers/two/stop?t=0", b"");
}

fn files(client: &mut Client<'_>) {
    let content = TarBuilder::new().file("new", 0o644, "new").finish();
    client.ask("PUT /containers/{id}/archive", "/v1.56/containers/two/archive?path=/", &content);
    client.ask("HEAD /containers/{id}/archive", "/v1.56/containers/two/archive?path=/new", b"");
    client.ask("GET /containers/{id}/archive", "/v1.56/containers/two/archive?path=/new", b"");
    client.ask("GET /containers/{id}/changes", "/v1.56/containers/two/changes", b"");
    client.ask("GET /containers/{id}/export", "/v1.56/containers/two/export", b"");
    client.ask("POST /commit", "/v1.56/commit?container=two&repo=committed", b"{}");
}

fn volumes_and_networks(client: &mut Client<'_>) {
    client.ask("POST /volumes/create", "/v1.56/volumes/create", br#"{"Name":"vol"}"#);
    client.ask("GET /volumes", "/v1.56/volumes", b"");
    client.ask("GET /volumes/{name}", "/v1.56/volumes/vol", b"");
    client.ask("POST /networks/create", "/v1.56/networks/create", br#"{"Name":"n","Internal":true}"#);
    client.ask("GET /networks", "/v1.56/networks", b"");
    client.ask("GET /networks/{id}", "/v1.56/networks/n", b"");
    let create =
        format!("{{\"Image\":\"{BUSYBOX}\",\"Cmd\":[\"true\"],\"HostConfig\":{{\"NetworkMode\":\"n\"}}}}");
    client.ask("POST /containers/create", "/v1.56/containers/create?name=net", create.as_bytes());
    client.ask("POST /networks/create", "/v1.56/networks/create", br#"{"Name":"m","Internal":true}"#);
    client.ask("POST /networks/{id}/connect", "/v1.56/networks/m/connect", br#"{"Container":"net"}"#);
    client.ask("POST /networks/{id}/disconnect", "/v1.56/networks/m/disconnect", br#"{"Container":"net"}"#);
}

fn removals(client: &mut Client<'_>) {
    client.ask("DELETE /containers/{id}", "/v1.56/containers/net", b"");
    client.ask("POST /containers/prune", "/v1.56/containers/prune", b"");
    client.ask("DELETE /volumes/{name}", "/v1.56/volumes/vol", b"");
    client.ask("DELETE /networks/{id}", "/v1.56/networks/n", b"");
    client.ask("POST /volumes/prune", "/v1.56/volumes/prune", b"");
    client.ask("POST /networks/prune", "/v1.56/networks/prune", b"");
    client.ask("POST /images/prune", "/v1.56/images/prune", b"");
}
