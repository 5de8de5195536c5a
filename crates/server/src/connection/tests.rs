//! Connections with routers made for the tests, so that no engine is needed.

use super::*;
use crate::exchange::{Continues, Rest};
use crate::extract::Version;
use crate::handover::Handed;
use crate::hijack::Hijack;
use axum::Extension;
use axum::routing::{get, post};
use futures_util::stream;
use palan_engine::container::{ClientStream, Framing};
use std::convert::Infallible;
use std::future::pending;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, oneshot};

fn check(bytes: &str, expected: Look) {
    assert_eq!(raw_request(bytes.as_bytes()), expected, "{bytes:?}");
}

#[test]
fn finds_requests_for_a_raw_stream() {
    check("GET /x HTTP/1.1\r\n", Look::Ordinary);
    check("PO", Look::MoreNeeded);
    check("POST /v1.24/containers/a/attach?x=1 HT", Look::MoreNeeded);
    check("POST /containers/a/start HTTP/1.1\r\n", Look::Ordinary);
    check("POST /exec/a/start HTTP/1.1\r\nHost: x\r\n", Look::MoreNeeded);
    check("POST /exec/a/start HTTP/1.1\r\nHost: x\r\n\r\n{}", Look::Raw { line_end: 29 });
    check("POST /containers/a/attach HTTP/1.1\r\nHost: x\r\nupgrade: tcp\r\n\r\n", Look::Ordinary);
    check("POST /containers/a/attach?stdin=1 HTTP/1.1\r\nHost: x\r\n\r\n", Look::Raw { line_end: 44 });
}

#[tokio::test]
async fn replaces_the_status_line_once() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(Stream::Unix(ours), Arc::default());
    connection.raw = true;
    let head = [SWITCHING, b"\r\n"].concat();
    for _ in 0..2 {
        connection.write_all_buf(&mut &head[..]).await.unwrap();
    }
    drop(connection);
    let mut seen = Vec::new();
    theirs.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, [RAW_OK, b"\r\n", SWITCHING, b"\r\n"].concat());
}

#[tokio::test]
async fn a_request_knows_whose_connection_it_is() {
    let whose = |Extension(handle): Extension<ConnectionHandle>| async move { handle.peer().to_string() };
    let (mut client, _daemon) = connect(Router::new().route("/", get(whose)));
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    client.read_to_string(&mut seen).await.unwrap();
    let user = rustix::process::getuid().as_raw();
    assert!(seen.ends_with(&format!("\r\n\r\nuser {user}")), "{seen}");
}

/// A client of a connection that a router serves; keep the daemon, its end is the connection's.
fn connect(router: Router) -> (UnixStream, TestDaemon) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let daemon = TestDaemon::new(router);
    daemon.serve(ours, Arc::default());
    (theirs, daemon)
}

struct TestDaemon {
    service: Service,
    handover: Arc<Handover>,
    end: watch::Sender<End>,
    slots: Arc<Semaphore>,
}

impl TestDaemon {
    fn new(router: Router) -> Self {
        let (end, ended) = watch::channel(End::None);
        let handover = Handover::new();
        let service = Service::new(router, Some(Arc::clone(&handover)), ended);
        Self { service, handover, end, slots: Arc::new(Semaphore::new(1)) }
    }

    fn serve(&self, socket: UnixStream, exchange: Arc<Exchange>) {
        let slot = Arc::clone(&self.slots).try_acquire_owned().unwrap();
        tokio::spawn(serve_connection(Stream::Unix(socket), exchange, self.service.clone(), Arc::new(slot)));
    }

    /// Gives its connection to another daemon.
    async fn hand_over_to(&self, other: &Self) {
        self.end.send_replace(End::Leaving);
        self.handover.wait_for_quiet(Duration::from_secs(10)).await;
        let _ = self.slots.acquire().await.unwrap();
        let mut handed = self.handover.take();
        let Handed { socket, note } = handed.pop().unwrap();
        let exchange =
            if note.resumed { Exchange::resumed(note.ahead) } else { Exchange::with_ahead(note.ahead) };
        let socket = std::os::unix::net::UnixStream::from(socket);
        other.serve(UnixStream::from_std(socket).unwrap(), exchange);
    }
}

/// Reads until what came ends so.
async fn read_until(client: &mut UnixStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        match client.read_u8().await {
            Ok(byte) => seen.push(byte),
            Err(error) => panic!("{end:?} did not come: {error}: {}", String::from_utf8_lossy(&seen)),
        }
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_connection_between_two_requests_goes_to_another_daemon() {
    let (mut client, old) = connect(sessions());
    let mut daemons = vec![old];
    for request in ["GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", ""] {
        client.write_all(request.as_bytes()).await.unwrap();
        if !request.is_empty() {
            read_until(&mut client, "\r\n\r\nOK").await;
        }
        // What is there of the next request goes along.
        client.write_all(b"GET /_pi").await.unwrap();
        let new = TestDaemon::new(sessions());
        tokio::time::sleep(Duration::from_millis(20)).await;
        daemons.last().unwrap().hand_over_to(&new).await;
        daemons.push(new);
        client.write_all(b"ng HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let answer = read_until(&mut client, "\r\n\r\nOK").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_runs_is_answered_before() {
    let router = Router::new().route(
        "/slow",
        post(|| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "done"
        }),
    );
    let (mut client, old) = connect(router.clone());
    client.write_all(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((old.handover.under_way(), old.handover.quiet().await), (1, 0));
    let new = TestDaemon::new(router);
    old.hand_over_to(&new).await;
    assert_eq!(old.handover.under_way(), 0);
    read_until(&mut client, "done").await;
    client.write_all(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    read_until(&mut client, "done").await;
}

/// Counts from the number in its query, for ever.
fn counting() -> Router {
    let count = |uri: http::Uri| async move {
        let first: u32 = uri.query().unwrap_or("0").parse().unwrap();
        let next = Arc::new(std::sync::atomic::AtomicU32::new(first));
        let sent = Arc::clone(&next);
        let numbers = stream::unfold(next, |next| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some((Ok::<_, Infallible>(format!("{number}\n")), next))
        });
        let rest = Continues::by(move |_| {
            Rest::Elsewhere(format!("/count?{}", sent.load(std::sync::atomic::Ordering::Relaxed)))
        });
        rest.mark(axum::response::IntoResponse::into_response(Body::from_stream(numbers)))
    };
    Router::new().route("/count", get(count))
}

#[tokio::test]
async fn an_answer_is_gone_on_with_by_others() {
    let (mut client, old) = connect(counting());
    client.write_all(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut seen = read_until(&mut client, "0\n\r\n").await;
    let mut daemons = vec![old];
    for end in ["50\n\r\n", "100\n\r\n", "150\n\r\n"] {
        let new = TestDaemon::new(counting());
        daemons.last().unwrap().hand_over_to(&new).await;
        daemons.push(new);
        seen += &read_until(&mut client, end).await;
    }
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("ransfer-Encoding: chunked"), "{head}");
    let chunks: Vec<&str> = body.split("\r\n").collect();
    let numbers = chunks.chunks_exact(2).map(|chunk| chunk[1].trim_end().parse::<u32>().unwrap());
    assert!(numbers.eq(0..=150), "{body}");
    // One that can't go on ends the answer.
    let new = TestDaemon::new(Router::new());
    daemons.last().unwrap().hand_over_to(&new).await;
    let rest = read_until(&mut client, "0\r\n\r\n").await;
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    client.write_all(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
}

/// Says what it got, gives it back, and ends.
async fn echo(client: ClientStream) -> palan_engine::Result<()> {
    let socket = std::os::unix::net::UnixStream::from(client.socket);
    let mut socket = UnixStream::from_std(socket).unwrap();
    let mut bytes = client.buffered;
    socket.read_to_end(&mut bytes).await.unwrap();
    socket.write_all(&[b"got ", &bytes[..]].concat()).await.unwrap();
    Ok(())
}

fn sessions() -> Router {
    let handler =
        |version: Version, hijack: Hijack| async move { hijack.answer(version, Framing::Multiplexed, echo) };
    Router::new().route("/containers/{name}/attach", post(handler)).route("/_ping", get(|| async { "OK" }))
}

/// Sends pieces one after the other, then the end of the input, and reads the status line, the media type and the rest.
async fn session(pieces: &[&str]) -> (String, String, String) {
    let (mut client, _daemon) = connect(sessions());
    for piece in pieces {
        client.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(client.read_u8().await.unwrap());
    }
    client.shutdown().await.unwrap();
    let head = String::from_utf8(bytes).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    let status = head.lines().next().unwrap().to_owned();
    let media_type =
        head.lines().find_map(|l| l.strip_prefix("Content-Type: ")).unwrap_or_default().to_owned();
    (status, media_type, rest)
}

#[tokio::test]
async fn sessions_get_the_socket_with_what_was_read_ahead() {
    let upgrade = "Host: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let request =
        |version: &str| format!("POST {version}/containers/a/attach?stdin=1 HTTP/1.1\r\n{upgrade}early");
    let (status, media_type, rest) = session(&[&request("")]).await;
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(media_type, "application/vnd.docker.multiplexed-stream");
    assert_eq!(rest, "got early");
    let (_, media_type, rest) = session(&[&request("/v1.41"), " late"]).await;
    assert_eq!(media_type, "application/vnd.docker.raw-stream");
    assert_eq!(rest, "got early late");
}

#[tokio::test]
async fn old_clients_get_a_raw_stream_behind_a_200() {
    let pieces = ["POST /v1.24/contain", "ers/a/attach HTTP/1.1\r\nHost: x\r\n", "\r\ninput"];
    for split in [&pieces[..], &[&pieces.concat()]] {
        let (status, media_type, rest) = session(split).await;
        assert_eq!(status, "HTTP/1.1 200 OK, raw bytes ahead");
        assert_eq!(media_type, "application/vnd.docker.raw-stream");
        assert_eq!(rest, "got input");
    }
}

#[tokio::test]
async fn a_later_request_without_upgrade_gets_output_as_a_body() {
    let pieces =
        ["GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", "POST /containers/a/attach HTTP/1.1\r\nHost: x\r\n\r\n"];
    let (mut client, _daemon) = connect(sessions());
    for piece in pieces {
        client.write_all(piece.as_bytes()).await.unwrap();
    }
    let mut seen = Vec::new();
    while !contains(&seen, b"transfer-encoding: chunked") && !contains(&seen, b"Transfer-Encoding: chunked") {
        assert!(client.read_buf(&mut seen).await.unwrap() > 0, "{}", String::from_utf8_lossy(&seen));
    }
    assert!(contains(&seen, b"200 OK\r\n"));
}

/// Tells when it is dropped.
struct Guard(Option<oneshot::Sender<()>>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.take().map(|sender| sender.send(()));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_stream() {
    let (sender, dropped) = oneshot::channel();
    let guard = Arc::new(std::sync::Mutex::new(Some(Guard(Some(sender)))));
    let endless = move || {
        let guard = guard.lock().unwrap().take();
        async move {
            Body::from_stream(stream::once(async move {
                let _guard = guard;
                pending::<Result<Bytes, Infallible>>().await
            }))
        }
    };
    let (mut client, _daemon) = connect(Router::new().route("/events", get(endless)));
    client.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // The head comes although there is nothing to say yet.
    let mut head = [0; 15];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    drop(client);
    dropped.await.unwrap();
}

#[tokio::test]
async fn local_connections_can_be_given_away() {
    let handler = |Extension(handle): Extension<ConnectionHandle>| async move {
        let socket = std::os::unix::net::UnixStream::from(handle.duplicate().unwrap());
        tokio::spawn(async move {
            let mut socket = UnixStream::from_std(socket).unwrap();
            socket.write_all(b"from elsewhere").await.unwrap();
        });
        pending::<&'static str>().await
    };
    let (mut client, _daemon) = connect(Router::new().route("/wait", post(handler)));
    client.write_all(b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let mut seen = [0; 14];
    client.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"from elsewhere");
}

#[tokio::test]
async fn garbage_is_refused() {
    for garbage in ["\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n"] {
        let (mut client, _daemon) = connect(sessions());
        client.write_all(garbage.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert!(seen.starts_with(b"HTTP/1.1 400 "), "{garbage:?}: {}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn an_answer_without_chunks_is_gone_on_with_without() {
    let (mut client, old) = connect(counting());
    client.write_all(b"GET /count HTTP/1.0\r\n\r\n").await.unwrap();
    let mut seen = read_until(&mut client, "\n5\n").await;
    let new = TestDaemon::new(counting());
    old.hand_over_to(&new).await;
    seen += &read_until(&mut client, "\n100\n").await;
    let (_, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(body.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..=100), "{body}");
}

#[tokio::test]
async fn a_request_that_came_too_early_in_part_is_not_torn() {
    let router = Router::new().route(
        "/slow",
        post(|_: String| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "done"
        }),
    );
    for early in ["", "POST /sl"] {
        let (mut client, old) = connect(router.clone());
        let request = "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        client.write_all(format!("{request}{early}").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        old.end.send_replace(End::Leaving);
        read_until(&mut client, "done").await;
        let _ = old.slots.acquire().await.unwrap();
        let handed = old.handover.take();
        assert_eq!(handed.len(), usize::from(early.is_empty()), "{early:?}");
    }
}
