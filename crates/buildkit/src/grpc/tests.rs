//! Calls of all shapes over a pipe in memory, and what goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::*;
use crate::message::session::BytesMessage;

/// Says how many calls are alive.
#[derive(Default)]
struct Echo {
    alive: Arc<AtomicUsize>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn piece(data: impl Into<Bytes>) -> BytesMessage {
    BytesMessage { data: data.into() }
}

impl Service for Echo {
    fn call(self: Arc<Self>, mut call: Call) -> Handled {
        self.alive.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(Arc::clone(&self.alive));
        Box::pin(async move {
            let _alive = alive;
            match call.method.as_str() {
                "/e/Unary" => {
                    let name = text(&call.metadata, "name").unwrap_or_default().to_owned();
                    call.unary(|question: BytesMessage| async move {
                        Ok(piece([name.as_bytes(), &question.data].concat()))
                    })
                    .await
                }
                "/e/Stream" => {
                    while let Some(message) = call.incoming.next::<BytesMessage>().await? {
                        call.outgoing.send(&message).await?;
                    }
                    Ok(())
                }
                "/e/Many" => {
                    for number in 0..u8::MAX {
                        call.outgoing.send(&piece(vec![number; 20_000])).await?;
                    }
                    Ok(())
                }
                "/e/Fail" => {
                    let mut status = Status::new(Code::FailedPrecondition, "é: 100%\nof it");
                    crate::errdefs::add_vertex(&mut status, "sha256:ab");
                    Err(status)
                }
                "/e/Never" => std::future::pending().await,
                "/e/Deaf" => {
                    drop(call.outgoing);
                    while call.incoming.next::<BytesMessage>().await?.is_some() {}
                    Ok(())
                }
                other => Err(Status::unimplemented(other)),
            }
        })
    }
}

async fn start() -> (Channel, Arc<AtomicUsize>, JoinHandle<Result<(), Status>>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    let echo = Echo::default();
    let alive = Arc::clone(&echo.alive);
    let served = tokio::spawn(serve(server, Arc::new(echo)));
    let (channel, driver) = Channel::connect(client).await.expect("a connection");
    tokio::spawn(driver);
    (channel, alive, served)
}

async fn until_none(alive: &AtomicUsize) {
    while alive.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn one_message_each_way() {
    let (channel, _, _) = start().await;
    let answer: BytesMessage =
        channel.unary("/e/Unary", metadata(&[("name", "x")]), &piece("y")).await.expect("an answer");
    assert_eq!(answer.data, "xy");
    // More than a window, which flow control lets through in parts.
    let large = piece(vec![7; 5 << 20]);
    let answer: BytesMessage = channel.unary("/e/Unary", Metadata::new(), &large).await.expect("an answer");
    assert_eq!(answer, large);
}

#[tokio::test]
async fn streams() {
    let (channel, alive, _) = start().await;
    let ClientCall { outgoing, mut incoming } =
        channel.call("/e/Stream", Metadata::new()).await.expect("a call");
    for number in 0..50_u8 {
        outgoing.send(&piece(vec![number; 3000])).await.expect("room");
        let echoed = incoming.next::<BytesMessage>().await.expect("an echo");
        assert_eq!(echoed, Some(piece(vec![number; 3000])));
    }
    drop(outgoing);
    assert_eq!(incoming.next::<BytesMessage>().await, Ok(None));
    let mut many = channel.ask("/e/Many", Metadata::new(), &piece("")).await.expect("a call");
    let mut count = 0;
    while many.next::<BytesMessage>().await.expect("a message").is_some() {
        count += 1;
    }
    assert_eq!(count, 255);
    until_none(&alive).await;
}

#[tokio::test]
async fn waiting_can_be_given_up_and_taken_up_again() {
    let (channel, _, _) = start().await;
    let ClientCall { outgoing, mut incoming } =
        channel.call("/e/Stream", Metadata::new()).await.expect("a call");
    for step in 0..3 {
        tokio::select! {
            biased;
            _ = incoming.next::<BytesMessage>() => panic!("nothing was sent"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        outgoing.send(&piece(vec![step])).await.expect("room");
        assert_eq!(incoming.next::<BytesMessage>().await, Ok(Some(piece(vec![step]))));
    }
}

#[tokio::test]
async fn errors_come_whole() {
    let (channel, _, _) = start().await;
    let error = channel.unary::<_, BytesMessage>("/e/Fail", Metadata::new(), &piece("")).await;
    let error = error.expect_err("a failure");
    assert_eq!((error.code, error.message.as_str()), (Code::FailedPrecondition, "é: 100%\nof it"));
    assert_eq!(crate::errdefs::vertex(&error).as_deref(), Some("sha256:ab"));
    let error = channel.unary::<_, BytesMessage>("/e/Nothing", Metadata::new(), &piece("")).await;
    let error = error.expect_err("no such call");
    assert_eq!(
        (error.code, error.to_string().as_str()),
        (Code::Unimplemented, "unknown method Nothing for service e")
    );
}

#[tokio::test]
async fn a_caller_that_goes_ends_the_call() {
    let (channel, alive, served) = start().await;
    for method in ["/e/Never", "/e/Stream", "/e/Many", "/e/Deaf"] {
        let call = channel.call(method, Metadata::new()).await.expect("a call");
        while alive.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(call);
        until_none(&alive).await;
    }
    let never = channel.call("/e/Never", Metadata::new()).await.expect("a call");
    while alive.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    served.abort();
    until_none(&alive).await;
    let ClientCall { mut incoming, outgoing: _outgoing } = never;
    assert!(incoming.next::<BytesMessage>().await.is_err());
}

#[tokio::test]
async fn limits_of_time() {
    let (channel, alive, _) = start().await;
    let limit = Duration::from_millis(20);
    let asked = channel.unary_within::<_, BytesMessage>(limit, "/e/Never", Metadata::new(), &piece("")).await;
    assert_eq!(asked.expect_err("too late").code, Code::DeadlineExceeded);
    until_none(&alive).await;
    // The callee keeps it, too.
    let mut answers =
        channel.ask("/e/Never", metadata(&[("grpc-timeout", "20m")]), &piece("")).await.expect("a call");
    let error = answers.next::<BytesMessage>().await.expect_err("too late");
    assert_eq!(error.code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn peers_that_speak_something_else() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"",
    ] {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(serve(server, Arc::new(Echo::default())));
        client.write_all(bytes).await.expect("a write");
        client.shutdown().await.expect("an end");
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(10), served).await;
        assert!(ended.is_ok(), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_read() {
    let (client, server) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(server, Arc::new(Echo::default())));
    let (mut requests, connection) = h2::client::handshake(client).await.expect("a connection");
    tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://x{path}");
        let request = http::Request::post(uri).header("content-type", "application/grpc");
        request.body(()).expect("a request")
    };
    for (prefix, code) in [([0, 1, 0, 0, 1], "8"), ([1, 0, 0, 0, 0], "12"), ([0, 0, 0, 0, 2], "13")] {
        let (head, mut stream) = requests.send_request(request("/e/Unary"), false).expect("a call");
        stream.send_data(Bytes::copy_from_slice(&prefix), true).expect("room");
        let mut body = head.await.expect("a head").into_body();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.expect("trailers").expect("a status");
        assert_eq!(trailers["grpc-status"], code);
    }
    let mut plain = request("/e/Unary");
    plain.headers_mut().clear();
    let (head, _stream) = requests.send_request(plain, true).expect("a request");
    assert_eq!(head.await.expect("an answer").status(), 415);
}

#[test]
fn lists_in_metadata() {
    let check = |values: &[&str], encoded: &[&str], is_encoded: bool| {
        let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut metadata = Metadata::new();
        encode_list(&mut metadata, "x", &values);
        let sent: Vec<_> = metadata.get_all("x").iter().map(|value| value.to_str().expect("text")).collect();
        assert_eq!(sent, encoded);
        assert_eq!(metadata.contains_key("x-encoded"), is_encoded);
        assert_eq!(decode_list(&metadata, "x"), values);
    };
    check(&["a b", "%41+", "!x"], &["a b", "%41+", "!x"], false);
    check(&["ä b+", "%"], &["%C3%A4+b%2B", "%25"], true);
    check(&[], &[], false);
    assert_eq!(percent_decode("%4"), "%4");
    assert_eq!(percent_decode("%é1"), "%é1");
}
