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
