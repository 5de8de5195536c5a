//! Doors with a router made for the tests, so that no engine is needed.

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn the_end_of_the_daemon_closes_idle_connections_and_removes_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let mut listeners = Listeners::new();
    listeners.add_unix(&path, None).unwrap();
    let (sender, end) = watch::channel(End::None);
    let router = Router::new().route("/_ping", get(|| async { "OK" }));
    let serving =
        tokio::spawn(async move { Door::new(router, None, end).serve(&mut listeners, Vec::new()).await });
    // Connections are accepted in order, so this one is once the next has its answer.
    let mut silent = UnixStream::connect(&path).await.unwrap();
    let mut busy = UnixStream::connect(&path).await.unwrap();
    busy.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"OK") {
        busy.read_buf(&mut seen).await.unwrap();
    }
    sender.send(End::Ending).unwrap();
    serving.await.unwrap().unwrap();
    assert!(!path.exists());
    assert_eq!(busy.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

/// A connection as another daemon would hand it over.
async fn handed(listener: &TcpListener) -> (Handed, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let socket = socket.into_std().unwrap().into();
    (Handed { socket, note: handover::HandedNote::default() }, client)
}

#[tokio::test]
async fn connections_to_a_port_that_is_closed_are_not_taken_over() {
    let [gone, kept] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let kept_address = kept.local_addr().unwrap();
    let mut listeners = Listeners::with_offers(vec![crate::listen::Offer {
        host: format!("tcp://{kept_address}"),
        socket: kept.try_clone().unwrap().into(),
    }]);
    listeners.add_host(&format!("tcp://{kept_address}"), None, &crate::listen::Protection::Unsaid).unwrap();
    let tokio = |listener: std::net::TcpListener| {
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    };
    let (gone, mut refused) = handed(&tokio(gone)).await;
    let (kept, mut served) = handed(&tokio(kept)).await;
    let (sender, end) = watch::channel(End::None);
    let router = Router::new().route("/_ping", get(|| async { "OK" }));
    let serving =
        tokio::spawn(
            async move { Door::new(router, None, end).serve(&mut listeners, vec![gone, kept]).await },
        );
    assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
    served.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"OK") {
        assert_ne!(served.read_buf(&mut seen).await.unwrap(), 0);
    }
    sender.send(End::Ending).unwrap();
    serving.await.unwrap().unwrap();
}
