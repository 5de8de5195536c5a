//! Answers: the head, the body as a `Read`, and the raw stream after an upgrade.

use super::connection::{Connection, Socket};
use super::{ClientError, Inner, MAX_ERROR_BODY, error_message};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// The longest line of a chunked body's framing.
const MAX_CHUNK_LINE: usize = 4096;

/// The status line and the headers.
#[derive(Debug, Clone)]
pub struct Head {
    status: u16,
    reason: String,
    keep_alive: bool,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn from_parsed(parsed: &httparse::Response<'_, '_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = parsed.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect();
        Self {
            status: parsed.code.unwrap_or(0),
            reason: parsed.reason.unwrap_or_default().to_owned(),
            keep_alive: parsed.version == Some(1),
            headers,
        }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// An answer whose body is still to be read. Dropped unread, its connection is closed and the daemon stops sending.
#[derive(Debug)]
pub struct Response {
    head: Head,
    body: Body,
}

impl Response {
    pub(super) fn new(
        method: &str,
        request: String,
        head: Head,
        connection: Connection,
        pool: Arc<Inner>,
    ) -> Self {
        let framing = framing(method, &head);
        let reusable = head.keep_alive
            && !matches!(framing, Framing::UntilClose)
            && !head.header("Connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let mut body =
            Body { request, framing, connection: Some(connection), pool: reusable.then_some(pool) };
        body.finish_if_done();
        Self { head, body }
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The status line and the headers.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The body.
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Reads an error answer.
    pub(super) fn into_error(self) -> ClientError {
        let mut bytes = Vec::new();
        // What can't be read any more is not worth hiding the status for.
        let _ = self.body.take(MAX_ERROR_BODY).read_to_end(&mut bytes);
        let Head { status, reason, .. } = self.head;
        ClientError::Api { status, message: error_message(status, &reason, &bytes) }
    }

    pub(super) fn into_upgraded(mut self) -> Upgraded {
        let media_type = self.head.header("Content-Type").unwrap_or_default().to_owned();
        let parts = self.body.connection.take().map(Connection::into_parts);
        Upgraded { parts, media_type }
    }
}

/// How the end of a body is found.
#[derive(Debug)]
enum Framing {
    Done,
    Length(u64),
    /// Bytes left of the current chunk; `None` before the first.
    Chunked(Option<u64>),
    UntilClose,
}

fn framing(method: &str, head: &Head) -> Framing {
    if method == "HEAD" || matches!(head.status, 204 | 304) {
        return Framing::Done;
    }
    if head.status == 101 {
        return Framing::UntilClose;
    }
    if head.header("Transfer-Encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked(None);
    }
    match head.header("Content-Length").map(str::parse) {
        Some(Ok(0)) => Framing::Done,
        Some(Ok(length)) => Framing::Length(length),
        _ => Framing::UntilClose,
    }
}

/// The body of an answer, as it arrives.
pub struct Body {
    request: String,
    framing: Framing,
    /// `None` once the body is done.
    connection: Option<Connection>,
    /// Where the connection goes afterwards, if it may be used again.
    pool: Option<Arc<Inner>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("request", &self.request)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// A handle by which another thread ends the reading.
    pub fn abort_handle(&self) -> io::Result<AbortHandle> {
        let socket = self.connection.as_ref().map(|c| c.socket().try_clone()).transpose()?;
        Ok(AbortHandle { socket })
    }

    fn finish_if_done(&mut self) {
        if matches!(self.framing, Framing::Done)
            && let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.take())
        {
            pool.keep(connection);
        }
    }

    fn read_chunked(&mut self, left: Option<u64>, out: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        let left = match left {
            Some(left) => left,
            None => {
                let size = chunk_size(&connection.read_line(MAX_CHUNK_LINE)?)?;
                if size == 0 {
                    while !connection.read_line(MAX_CHUNK_LINE)?.is_empty() {}
                    self.framing = Framing::Done;
                    return Ok(0);
                }
                size
            }
        };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let n = connection.read_body(&mut out[..wanted])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left - n as u64;
        if left == 0 && !connection.read_line(2)?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is longer than it says"));
        }
        self.framing = Framing::Chunked((left > 0).then_some(left));
        Ok(n)
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let Some(connection) = &mut self.connection else { return Ok(0) };
        let n = match self.framing {
            Framing::Done => 0,
            Framing::UntilClose => connection.read_body(out)?,
            Framing::Chunked(left) => self.read_chunked(left, out)?,
            Framing::Length(left) => {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
                let n = connection.read_body(&mut out[..wanted])?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let left = left - n as u64;
                self.framing = if left == 0 { Framing::Done } else { Framing::Length(left) };
                n
            }
        };
        self.finish_if_done();
        Ok(n)
    }
}

fn chunk_size(line: &[u8]) -> io::Result<u64> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a chunk of the body has no valid size");
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let text = std::str::from_utf8(digits).map_err(|_| wrong())?;
    u64::from_str_radix(text, 16).map_err(|_| wrong())
}

/// Ends the reading of a [`Body`] from another thread.
#[derive(Debug)]
pub struct AbortHandle {
    socket: Option<Socket>,
}

impl AbortHandle {
    /// Closes the connection; the reader sees the end of the stream or an error.
    pub fn abort(&self) {
        if let Some(socket) = &self.socket {
            // It fails only when the connection is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A raw duplex stream: attach and exec sessions.
///
/// Reading gives what was read ahead first. For two directions at once use [`Upgraded::into_parts`] and
/// [`Socket::try_clone`].
#[derive(Debug)]
pub struct Upgraded {
    parts: Option<(Socket, Vec<u8>)>,
    media_type: String,
}

impl Upgraded {
    /// What the stream holds: [`crate::stream::media_type`].
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The socket, and the bytes that arrived with the head of the answer and come before the socket's.
    pub fn into_parts(self) -> Option<(Socket, Vec<u8>)> {
        self.parts
    }

    /// A second handle of the socket, for the other direction.
    pub fn try_clone_socket(&self) -> io::Result<Socket> {
        match &self.parts {
            Some((socket, _)) => socket.try_clone(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Tells the other side that no more input comes; output goes on.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match &self.parts {
            Some((socket, _)) => socket.shutdown(Shutdown::Write),
            None => Ok(()),
        }
    }
}

impl Read for Upgraded {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some((socket, ahead)) = &mut self.parts else { return Ok(0) };
        if ahead.is_empty() {
            return socket.read(out);
        }
        let n = ahead.len().min(out.len());
        out[..n].copy_from_slice(&ahead[..n]);
        ahead.drain(..n);
        Ok(n)
    }
}

impl Write for Upgraded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.parts {
            Some((socket, _)) => socket.write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upgraded {
    /// The socket's descriptor, for polling; check the read-ahead first.
    pub fn socket_fd(&self) -> Option<BorrowedFd<'_>> {
        self.parts.as_ref().map(|(socket, _)| socket.as_fd())
    }
}
