//! One connection: the socket, the bytes read ahead, request writing and head parsing.

use super::response::Head;
use super::{ClientError, Request, RequestBody, Tls, resolve};
use crate::host::Host;
use std::fmt::Write as _;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
const CHUNK: usize = 64 * 1024;

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    /// To a unix socket, or to `ssh`.
    Unix(UnixStream),
    /// To a TCP port.
    Tcp(TcpStream),
}

impl Socket {
    /// A second handle of the same socket.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
        })
    }

    /// Closes one or both directions, for every handle.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.shutdown(how),
            Self::Tcp(socket) => socket.shutdown(how),
        }
    }

    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.set_nonblocking(on),
            Self::Tcp(socket) => socket.set_nonblocking(on),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write_vectored(parts),
            Self::Tcp(socket) => socket.write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// A socket with its read-ahead.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    /// Where the unread part of the buffer starts.
    start: usize,
}

impl Connection {
    pub(super) fn open(host: &Host, tls: Option<&Tls>) -> Result<Self, ClientError> {
        let socket = match (host, tls) {
            (Host::Unix(path), _) => UnixStream::connect(path).map(Socket::Unix),
            (Host::Ssh(host), _) => host.connect().map(Socket::Unix),
            (Host::Tcp { host, port }, None) => {
                connect_tcp(&resolve::addresses(host, *port)?).map(Socket::Tcp)
            }
            (Host::Tcp { host: name, port }, Some(tls)) => {
                let socket = connect_tcp(&resolve::addresses(name, *port)?);
                let socket = socket.map_err(|source| ClientError::Connect { host: host.clone(), source })?;
                let shaken = tls.connect(name, socket).map(Socket::Unix);
                return match shaken {
                    Ok(socket) => Ok(Self { socket, buffer: Vec::new(), start: 0 }),
                    Err(source) => Err(ClientError::Handshake { host: host.clone(), source }),
                };
            }
        };
        let socket = socket.map_err(|source| ClientError::Connect { host: host.clone(), source })?;
        Ok(Self { socket, buffer: Vec::new(), start: 0 })
    }

    /// Whether an idle connection still stands and nothing has arrived on it.
    pub(super) fn is_quiet(&self) -> bool {
        if self.start < self.buffer.len() || self.socket.set_nonblocking(true).is_err() {
            return false;
        }
        let mut probe = [0];
        let read = match &self.socket {
            Socket::Unix(socket) => (&*socket).read(&mut probe),
            Socket::Tcp(socket) => (&*socket).read(&mut probe),
        };
        let quiet = matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).is_ok() && quiet
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket and the bytes that were read beyond the head.
    pub(super) fn into_parts(mut self) -> (Socket, Vec<u8>) {
        let ahead = self.buffer.split_off(self.start);
        (self.socket, ahead)
    }

    pub(super) fn write_request(
        &mut self,
        prefix: &str,
        request: &mut Request<'_>,
        host: &Host,
        user_agent: &str,
    ) -> Result<(), ClientError> {
        let head = request_head(prefix, request, host, user_agent);
        let name = request.name();
        let failed = |source| ClientError::Send { request: name.clone(), source };
        match &mut request.body {
            RequestBody::Empty => self.socket.write_all(head.as_bytes()).map_err(failed),
            RequestBody::Json(body) => {
                // One write, so that a small request is one packet.
                self.socket.write_all(&[head.as_bytes(), body].concat()).map_err(failed)
            }
            RequestBody::Stream { reader, .. } => {
                self.socket.write_all(head.as_bytes()).map_err(failed)?;
                let mut buffer = vec![0; CHUNK];
                loop {
                    let n = match reader.read(&mut buffer) {
                        Ok(n) => n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        Err(e) => return Err(ClientError::Upload(e)),
                    };
                    let size = format!("{n:x}\r\n");
                    let chunk = [size.as_bytes(), &buffer[..n], b"\r\n"].concat();
                    self.socket.write_all(&chunk).map_err(failed)?;
                    if n == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads the head of the answer, skipping `100 Continue`.
    pub(super) fn read_head(&mut self, request: &Request<'_>) -> Result<Head, ClientError> {
        let name = || request.name();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            match parsed.parse(&self.buffer[self.start..]) {
                Ok(httparse::Status::Complete(length)) => {
                    let head = Head::from_parsed(&parsed);
                    self.start += length;
                    if head.status() == 100 {
                        continue;
                    }
                    return Ok(head);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() - self.start > MAX_HEAD => {
                    return Err(ClientError::Protocol {
                        request: name(),
                        problem: "its head is too long".to_owned(),
                    });
                }
                Ok(httparse::Status::Partial) => match self.fill() {
                    Ok(0) => {
                        let source = io::ErrorKind::UnexpectedEof.into();
                        return Err(ClientError::Receive { request: name(), source });
                    }
                    Ok(_) => {}
                    Err(source) => return Err(ClientError::Receive { request: name(), source }),
                },
                Err(e) => return Err(ClientError::Protocol { request: name(), problem: e.to_string() }),
            }
        }
    }

    /// Reads more into the buffer; 0 at the end of the stream.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let old = self.buffer.len();
        self.buffer.resize(old + 8 * 1024, 0);
        let read = read_retrying(&mut self.socket, &mut self.buffer[old..]);
        self.buffer.truncate(old + read.as_ref().map_or(0, |n| *n));
        read
    }

    /// Reads body bytes: first what was read ahead, then from the socket directly.
    pub(super) fn read_body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let ahead = &self.buffer[self.start..];
        if ahead.is_empty() {
            return read_retrying(&mut self.socket, out);
        }
        let n = ahead.len().min(out.len());
        out[..n].copy_from_slice(&ahead[..n]);
        self.start += n;
        Ok(n)
    }

    /// Reads a line of at most `limit` bytes, without its line break.
    pub(super) fn read_line(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        loop {
            let ahead = &self.buffer[self.start..];
            if let Some(end) = ahead.iter().position(|b| *b == b'\n') {
                let line = ahead[..end].strip_suffix(b"\r").unwrap_or(&ahead[..end]).to_vec();
                self.start += end + 1;
                return Ok(line);
            }
            if ahead.len() > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the chunked body is too long",
                ));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn read_retrying(socket: &mut Socket, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn connect_tcp(addresses: &[std::net::SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                // A request is one write and then waits: nothing is gained by delaying it.
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn request_head(prefix: &str, request: &Request<'_>, host: &Host, user_agent: &str) -> String {
    let authority = match host {
        Host::Unix(_) | Host::Ssh(_) => "localhost".to_owned(),
        Host::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Host::Tcp { host, port } => format!("{host}:{port}"),
    };
    let (method, path) = (request.method, &request.path);
    let mut head =
        format!("{method} {prefix}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {user_agent}\r\n");
    for (name, value) in &request.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    match &request.body {
        RequestBody::Empty if matches!(method, "GET" | "HEAD") => {}
        RequestBody::Empty => head.push_str("Content-Length: 0\r\n"),
        RequestBody::Json(body) => {
            let _ = write!(head, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        RequestBody::Stream { content_type, .. } => {
            let _ = write!(head, "Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n");
        }
    }
    head.push_str("\r\n");
    head
}
