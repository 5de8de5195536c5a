//! From an HTTP/1.1 request to a raw connection, on the client's side.
//!
//! 1. `POST <path>` with `Connection: Upgrade`, `Upgrade: h2c`, and the session's headers.
//! 2. `101` and its head; what the daemon sent after it is kept for the next reader. Anything else is an error of the daemon's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// The largest head of an answer, and the most that is read of an error's text.
const MAX_HEAD: usize = 64 << 10;

/// What ends a head.
const END: &[u8] = b"\r\n\r\n";

/// An upgrade that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection broke.
    #[error("the connection to the daemon failed")]
    Io(#[from] io::Error),
    /// What came was no HTTP.
    #[error("the daemon's answer is not HTTP")]
    NotHttp,
    /// The daemon does not want to.
    #[error("{message}")]
    Refused {
        /// The status.
        status: u16,
        /// The daemon's own text.
        message: String,
    },
}

/// A connection of which something was read already.
#[derive(Debug)]
pub struct Upgraded<S> {
    stream: S,
    ahead: BytesMut,
}

impl<S> Upgraded<S> {
    /// Puts bytes before what a stream will give.
    pub fn new(stream: S, ahead: BytesMut) -> Self {
        Self { stream, ahead }
    }
}

/// Asks for the upgrade of a connection. `path` is with the API's version (`/v1.48/grpc`), `headers` are the session's.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
    headers: &[(String, String)],
) -> Result<Upgraded<S>, UpgradeError> {
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        if [name, value].iter().any(|part| part.contains(['\r', '\n', '\0'])) {
            let error = format!("the header {name:?} has characters that no header may have");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error).into());
        }
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut ahead = BytesMut::with_capacity(4096);
    let end = loop {
        if let Some(end) = ahead.windows(END.len()).position(|part| part == END) {
            break end + END.len();
        }
        if ahead.len() > MAX_HEAD || stream.read_buf(&mut ahead).await? == 0 {
            return Err(UpgradeError::NotHttp);
        }
    };
    let head = ahead.split_to(end);
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = status_of(&head).ok_or(UpgradeError::NotHttp)?;
    if status == 101 {
        return Ok(Upgraded { stream, ahead });
    }
    Err(UpgradeError::Refused { status, message: refusal(&mut stream, &head, ahead).await })
}

fn status_of(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

/// The text of an error, which Docker puts in JSON.
async fn refusal<S: AsyncRead + Unpin>(stream: &mut S, head: &str, mut body: BytesMut) -> String {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.unwrap_or(0).min(MAX_HEAD);
    while body.len() < length {
        match stream.read_buf(&mut body).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let json = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let message = json.as_ref().and_then(|json| json.get("message")?.as_str()).map(str::to_owned);
    message.unwrap_or_else(|| format!("the daemon answered {}", head.lines().next().unwrap_or_default()))
}

impl<S: AsyncRead + Unpin> AsyncRead for Upgraded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let taken = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..taken]);
        self.ahead.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Upgraded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(bytes: &'static [u8]) -> Result<Vec<u8>, UpgradeError> {
        let (client, mut daemon) = tokio::io::duplex(1 << 16);
        let daemon = tokio::spawn(async move {
            let mut request = BytesMut::new();
            while !request.ends_with(END) {
                daemon.read_buf(&mut request).await.expect("a request");
            }
            daemon.write_all(bytes).await.expect("an answer");
            String::from_utf8(request.to_vec()).expect("text")
        });
        let upgraded = upgrade(client, "/session", &[("X-Name".to_owned(), "a b".to_owned())]).await;
        let request = daemon.await.expect("the request");
        assert!(request.starts_with("POST /session HTTP/1.1\r\nHost: "), "{request}");
        assert!(request.contains("\r\nX-Name: a b\r\n"), "{request}");
        let mut rest = Vec::new();
        upgraded?.read_to_end(&mut rest).await?;
        Ok(rest)
    }

    #[tokio::test]
    async fn what_comes_after_the_head_is_kept() {
        let rest = answer(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: h2c\r\n\r\nPRI * ").await.expect("an upgrade");
        assert_eq!(rest, b"PRI * ");
    }

    #[tokio::test]
    async fn refusals() {
        let refused =
            answer(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 15\r\n\r\n{\"message\":\"a\"}").await;
        assert_eq!(refused.expect_err("a refusal").to_string(), "a");
        let refused = answer(b"HTTP/1.1 404 Not Found\r\n\r\n").await.expect_err("a refusal").to_string();
        assert_eq!(refused, "the daemon answered HTTP/1.1 404 Not Found");
        assert!(matches!(answer(b"SSH-2.0\r\n\r\n").await, Err(UpgradeError::NotHttp)));
        assert!(matches!(answer(b"").await, Err(UpgradeError::NotHttp)));
        let (client, _daemon) = tokio::io::duplex(64);
        let headers = [("X".to_owned(), "a\r\nY: b".to_owned())];
        assert!(matches!(upgrade(client, "/", &headers).await, Err(UpgradeError::Io(_))));
    }
}
