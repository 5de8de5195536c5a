//! Attach over a websocket (RFC 6455): a socket pair carries the session, and this carries bytes between it and frames.
//!
//! 1. The handshake is checked and answered like any other upgrade (`hijack`).
//! 2. What the client sends, text or binary, in one frame or many, is input; what comes out of the container are binary frames.
//! 3. A ping is answered. A close is answered and ends the session; so does the end of the container, with status 1000. A client
//!    that breaks the protocol is told 1002.
//!
//! The session ends with the daemon: a supervisor knows no frames.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::error::{ApiError, ApiResult};

/// Bytes taken from the container at once, and the largest frame that is sent.
const PIECE: usize = 32 * 1024;
/// The longest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;
/// Control frames that wait for a client that does not read; more end the session.
const BACKLOG: usize = 16;

/// How long a client may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;

/// Checks a handshake (RFC 6455, 4.2.1); the value of `Sec-WebSocket-Accept`.
///
/// A browser lets any page open a websocket to any address and says so by `Origin`: over TCP it must be our own
/// (`is_local`: the client came by a unix socket, where no page comes from).
pub(crate) fn accept(headers: &HeaderMap, is_local: bool) -> ApiResult<String> {
    let text = |name| {
        headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).unwrap_or_default()
    };
    let has = |name, word: &str| text(name).split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(ApiError::invalid("this endpoint is for websockets: Upgrade must be websocket"));
    }
    if text(header::SEC_WEBSOCKET_VERSION) != "13" {
        return Err(ApiError::new(
            StatusCode::UPGRADE_REQUIRED,
            "only version 13 of the websocket protocol is supported",
        ));
    }
    let key = text(header::SEC_WEBSOCKET_KEY).trim();
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(ApiError::invalid("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let origin = text(header::ORIGIN);
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority.trim_end_matches('/'));
    if !origin.is_empty() && !is_local && !authority.eq_ignore_ascii_case(text(header::HOST)) {
        let message = format!("websockets from the origin {origin:?} are refused: it is not this daemon's");
        return Err(ApiError::new(StatusCode::FORBIDDEN, message));
    }
    Ok(accept_key(key))
}

fn accept_key(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    // The protocol asks for SHA-1, as a mark of understanding and not for security.
    let digest =
        ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    STANDARD.encode(digest)
}

/// Carries bytes between a client and its session until one of them ends.
pub(crate) async fn relay(client: impl AsyncRead + AsyncWrite, session: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (from_session, mut to_session) = session.into_split();
    let (controls, control) = mpsc::channel(BACKLOG);
    let incoming = take_frames(&mut from_client, &mut to_session, controls);
    let outgoing = send_frames(from_session, &mut to_client, control);
    let status = tokio::select! {
        status = incoming => match status {
            Ok(status) => status,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => PROTOCOL_ERROR,
            // The connection is gone.
            Err(error) => return Err(error),
        },
        sent = outgoing => {
            sent?;
            NORMAL
        }
    };
    to_client.write_all(&frame(CLOSE, &status.to_be_bytes())).await?;
    to_client.shutdown().await?;
    // A connection that is closed with input unread is reset, and the client would lose the last frames.
    let mut rest = tokio::io::sink();
    let drained = tokio::time::timeout(LINGER, tokio::io::copy(&mut from_client, &mut rest)).await;
    drained.map_or(Ok(()), |copied| copied.map(drop))
}

/// One frame, not masked: a server's.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(FINAL | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.put_u16(length);
        }
        _ => {
            frame.push(127);
            frame.put_u64(payload.len() as u64);
        }
    }
    frame.extend_from_slice(payload);
    frame
}

async fn send_frames(
    mut from_session: impl AsyncRead + Unpin,
    to_client: &mut (impl AsyncWrite + Unpin),
    mut control: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut piece = BytesMut::with_capacity(PIECE);
    loop {
        piece.clear();
        tokio::select! {
            read = from_session.read_buf(&mut piece) => {
                if read? == 0 {
                    return Ok(());
                }
                to_client.write_all(&frame(BINARY, &piece)).await?;
            }
            Some(frame) = control.recv() => to_client.write_all(&frame).await?,
        }
    }
}

/// Takes frames until the client closes; the status to answer with.
async fn take_frames(
    from_client: &mut (impl AsyncRead + Unpin),
    to_session: &mut (impl AsyncWrite + Unpin),
    controls: mpsc::Sender<Vec<u8>>,
) -> io::Result<u16> {
    let mut is_in_message = false;
    loop {
        let head = Head::read(from_client).await?;
        match head.opcode {
            CLOSE | PING | PONG => {
                if !head.is_final || head.length > MAX_CONTROL as u64 {
                    return Err(wrong("a control frame is fragmented or too long"));
                }
                let mut payload = vec![0; usize::try_from(head.length).unwrap_or(MAX_CONTROL)];
                from_client.read_exact(&mut payload).await?;
                unmask(&mut payload, head.mask, 0);
                if head.opcode == CLOSE {
                    let status = payload.first_chunk().map_or(NORMAL, |status| u16::from_be_bytes(*status));
                    return Ok(status);
                }
                if head.opcode == PING {
                    let full = |_| wrong("too many pings at once");
                    controls.try_send(frame(PONG, &payload)).map_err(full)?;
                }
                continue;
            }
            0 if is_in_message => {}
            TEXT | BINARY if !is_in_message => {}
            _ => return Err(wrong("a frame of an unknown kind, or out of order")),
        }
        is_in_message = !head.is_final;
        let mut left = head.length;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let count = from_client.read(&mut piece[..wanted]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            unmask(&mut piece[..count], head.mask, head.length - left);
            left -= count as u64;
            if to_session.write_all(&piece[..count]).await.is_err() {
                // The container takes no more input; its output may go on.
                left = skip(from_client, left).await?;
            }
        }
    }
}

async fn skip(from_client: &mut (impl AsyncRead + Unpin), mut left: u64) -> io::Result<u64> {
    let mut piece = [0; 4096];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let count = from_client.read(&mut piece[..wanted]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count as u64;
    }
    Ok(left)
}

/// The head of a frame.
struct Head {
    is_final: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
}

impl Head {
    async fn read(source: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut start = [0; 2];
        source.read_exact(&mut start).await?;
        if start[0] & 0x70 != 0 {
            return Err(wrong("an extension that was not agreed on"));
        }
        if start[1] & MASKED == 0 {
            return Err(wrong("a client's frames must be masked"));
        }
        let length = match start[1] & !MASKED {
            126 => source.read_u16().await?.into(),
            127 => source.read_u64().await?,
            length => length.into(),
        };
        if length > i64::MAX.unsigned_abs() {
            return Err(wrong("a frame is too long"));
        }
        let mut mask = [0; 4];
        source.read_exact(&mut mask).await?;
        Ok(Self { is_final: start[0] & FINAL != 0, opcode: start[0] & 0x0f, length, mask })
    }
}

/// Undoes the mask of a piece of a payload that begins `offset` bytes into it.
fn unmask(piece: &mut [u8], mask: [u8; 4], offset: u64) {
    let start = usize::try_from(offset % 4).unwrap_or(0);
    for (byte, key) in piece.iter_mut().zip(mask.iter().cycle().skip(start)) {
        *byte ^= key;
    }
}

fn wrong(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let basic = [
            ("host", "127.0.0.1:2375"),
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in basic.iter().chain(pairs) {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn handshakes() {
        // The example of RFC 6455, 1.3.
        assert_eq!(accept(&headers(&[]), true).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for wrong in [
            ("upgrade", "tcp"),
            ("connection", "close"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "x"),
        ] {
            assert!(accept(&headers(&[wrong]), true).is_err(), "{wrong:?}");
        }
        let foreign = [("origin", "https://evil.example")];
        assert!(accept(&headers(&foreign), true).is_ok() && accept(&headers(&foreign), false).is_err());
        assert!(accept(&headers(&[("origin", "http://127.0.0.1:2375")]), false).is_ok());
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first];
        match u8::try_from(payload.len()) {
            Ok(length @ 0..=125) => frame.push(MASKED | length),
            _ => {
                frame.push(MASKED | 126);
                frame.put_u16(u16::try_from(payload.len()).unwrap());
            }
        }
        frame.extend_from_slice(&mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask, 0);
        frame.extend_from_slice(&payload);
        frame
    }

    /// What the session gets, and what the client gets, when the client sends all this and the session then ends.
    async fn exchange(sent: &[u8], answer: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (session, mut container) = UnixStream::pair().unwrap();
        let relaying = tokio::spawn(relay(server, session));
        client.write_all(sent).await.unwrap();
        container.write_all(answer).await.unwrap();
        let (mut input, mut output) = (Vec::new(), Vec::new());
        if sent.last().is_some() {
            // Until all of it has arrived, or the session is over.
            let mut buffer = [0; 1024];
            while let Ok(Ok(count)) =
                tokio::time::timeout(std::time::Duration::from_millis(200), container.read(&mut buffer)).await
            {
                if count == 0 {
                    break;
                }
                input.extend_from_slice(&buffer[..count]);
            }
        }
        container.shutdown().await.unwrap();
        client.read_to_end(&mut output).await.unwrap();
        drop(client);
        let _ = relaying.await.unwrap();
        (input, output)
    }

    #[tokio::test]
    async fn frames_become_bytes_and_back() {
        let long = vec![b'x'; 300];
        let sent = [
            masked(BINARY, b"a"),
            masked(0, b"b"),
            masked(FINAL | PING, b"!"),
            masked(FINAL, b"c"),
            masked(FINAL | TEXT, &long),
        ];
        let (input, output) = exchange(&sent.concat(), b"out").await;
        assert_eq!(input, [b"abc", &long[..]].concat());
        let (pong, binary) = (frame(PONG, b"!"), frame(BINARY, b"out"));
        let close = frame(CLOSE, &NORMAL.to_be_bytes());
        let either = [[&pong[..], &binary, &close].concat(), [&binary[..], &pong, &close].concat()];
        assert!(either.contains(&output), "{output:?}");
    }

    #[tokio::test]
    async fn endings() {
        let close = masked(FINAL | CLOSE, &1001_u16.to_be_bytes());
        let (_, output) = exchange(&close, b"").await;
        assert_eq!(output, frame(CLOSE, &1001_u16.to_be_bytes()));
        let broken = frame(CLOSE, &PROTOCOL_ERROR.to_be_bytes());
        for sent in
            [frame(BINARY, b"not masked"), masked(FINAL | 3, b"x"), masked(FINAL, b"x"), masked(PING, b"")]
        {
            let (input, output) = exchange(&sent, b"").await;
            assert!(input.is_empty());
            assert_eq!(output, broken, "{sent:?}");
        }
    }
}
