//! Speaking HTTP/1.1 on a connection, for as long as this daemon has it (`exchange` says when it may go to another one).
//!
//! **Clients without `Upgrade`.** Before 2016 `attach` and `exec start` answered `200 OK` and the connection was raw from
//! there on; some clients still ask that way, and hyper can't give a connection away after a 200. So the first request
//! of a connection is looked at before hyper gets it: if it is one of these and asks for no upgrade, the header is put
//! in, and the status line of the `101` answer is replaced on its way out ([`Connection::raw`]). Everything else is the
//! same path.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use palan_oci::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_rustls::server::TlsStream;

use crate::dispatch::dispatch;
use crate::exchange::{Exchange, Leave};
use crate::handover::{End, HandedNote, Handover, Traffic};

/// How long a client may take for the head of a request, and how long an idle connection is kept (Docker's value).
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest head of a request, with the credentials and filters that stand there.
const MAX_HEAD: usize = 256 << 10;

/// Headers of a request.
const MAX_HEADERS: usize = 100;

/// What serves all connections of a door.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    router: Router,
    /// Where connections go when another daemon takes over; nowhere if absent.
    handover: Option<Arc<Handover>>,
    traffic: Traffic,
    pub(crate) end: watch::Receiver<End>,
}

impl Service {
    pub(crate) fn new(router: Router, handover: Option<Arc<Handover>>, end: watch::Receiver<End>) -> Self {
        let traffic = handover.as_ref().map(|handover| handover.traffic.clone()).unwrap_or_default();
        Self { router, handover, traffic, end }
    }

    /// Whether another daemon takes over.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.end.borrow() == End::Leaving
    }

    pub(crate) fn handover(&self) -> Option<&Handover> {
        self.handover.as_deref()
    }

    /// Where this connection can be put aside now.
    fn aside(&self, handle: &ConnectionHandle) -> Option<(&Handover, OwnedFd)> {
        let handover = self.handover.as_deref().filter(|_| self.is_leaving())?;
        Some((handover, handle.socket.as_ref()?.try_clone().ok()?))
    }
}

/// A connection's place among those that are served. A request may keep it for what goes on after the connection.
pub(crate) type Slot = Arc<OwnedSemaphorePermit>;

/// The slot of a request's connection.
#[derive(Debug, Clone)]
pub(crate) struct InSlot(#[expect(dead_code, reason = "held for its slot alone")] Slot);

pub(crate) async fn serve_connection(stream: Stream, exchange: Arc<Exchange>, service: Service, slot: Slot) {
    let mut end = service.end.clone();
    let handle = ConnectionHandle::of(&stream);
    let mut connection = Connection::new(stream, Arc::clone(&exchange));
    let looked = tokio::select! {
        biased;
        () = ended(&mut end) => {
            if let Some((handover, socket)) = service.aside(&handle) {
                leave(handover, socket, exchange.leave());
            }
            return;
        }
        looked = tokio::time::timeout(HEAD_TIMEOUT, connection.look_ahead()) => looked,
    };
    if !matches!(looked, Ok(Ok(true))) {
        return;
    }
    let answering = service_fn({
        let (exchange, handle, slot) = (Arc::clone(&exchange), handle.clone(), Arc::downgrade(&slot));
        let (router, traffic) = (service.router.clone(), service.traffic.clone());
        move |request: hyper::Request<Incoming>| {
            let mut request = exchange.begin(&traffic, request.map(Body::new));
            request.extensions_mut().insert(handle.clone());
            request.extensions_mut().insert(traffic.clone());
            if let Some(slot) = slot.upgrade() {
                request.extensions_mut().insert(InSlot(slot));
            }
            let (answer, exchange) = (dispatch(router.clone(), request), Arc::clone(&exchange));
            async move { Ok::<_, std::convert::Infallible>(exchange.answer(answer.await).await) }
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(connection), answering)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let outcome = tokio::select! {
        // First, so that no request begins afterwards.
        biased;
        () = ended(&mut end) => {
            match service.aside(&handle) {
                Some((handover, socket)) => {
                    let mut quiet = handover.quiet_now();
                    let mut is_frozen = false;
                    loop {
                        tokio::select! {
                            biased;
                            () = exchange.may_leave() => match exchange.leave() {
                                Leave::Held => {
                                    handover.hold(&exchange);
                                    drop(slot);
                                    break serving.await;
                                }
                                Leave::Stay => {
                                    serving.as_mut().graceful_shutdown();
                                    break serving.await;
                                }
                                way => return leave(handover, socket, way),
                            },
                            outcome = serving.as_mut() => break outcome,
                            () = told(&mut quiet), if !is_frozen => {
                                is_frozen = true;
                                exchange.freeze();
                            }
                        }
                    }
                }
                None => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        }
        outcome = serving.as_mut() => outcome,
    };
    if let Err(error) = outcome {
        tracing::debug!("a connection ended: {error}");
    }
}

fn leave(handover: &Handover, socket: OwnedFd, way: Leave) {
    match way {
        Leave::Free(ahead) => handover.put(socket, HandedNote { ahead, resumed: false }),
        Leave::Resumed(ahead) => handover.put(socket, HandedNote { ahead, resumed: true }),
        Leave::Held | Leave::Stay => {}
    }
}

/// Until nothing is under way any more that others can't go on with.
async fn told(quiet: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say it.
    let _ = quiet.wait_for(|quiet| *quiet).await;
}

/// Until the daemon is to end, or to leave.
pub(crate) async fn ended(end: &mut watch::Receiver<End>) {
    // An error means that nobody is left who could say it, which says it too.
    let _ = end.wait_for(|end| *end != End::None).await;
}

/// A duplicate of the connection's socket, in the extensions of its requests; none where the bytes are encrypted.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHandle {
    socket: Option<Arc<OwnedFd>>,
    is_local: bool,
    peer: Arc<str>,
}

impl ConnectionHandle {
    fn of(stream: &Stream) -> Self {
        let socket = match stream {
            Stream::Unix(unix) => unix.as_fd().try_clone_to_owned().ok(),
            Stream::Tcp(tcp) => tcp.as_fd().try_clone_to_owned().ok(),
            Stream::Tls(_) => None,
        };
        let is_local = matches!(stream, Stream::Unix(_));
        Self { socket: socket.map(Arc::new), is_local, peer: stream.peer().into() }
    }

    /// Who is at the other end: a user of this host, or who has a certificate. Of others nothing is known.
    pub(crate) fn peer(&self) -> Arc<str> {
        Arc::clone(&self.peer)
    }

    /// A descriptor to give to the supervisor of a container that is waited for; only local clients have one.
    pub(crate) fn duplicate(&self) -> Option<OwnedFd> {
        self.socket.as_ref().filter(|_| self.is_local)?.try_clone().ok()
    }

    /// Whether it is a unix socket's.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }
}

/// An accepted socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection without HTTP.
pub(crate) enum Taken {
    /// A socket to give away, and what was read of it.
    Socket(OwnedFd, Bytes),
    /// One whose bytes only this process understands.
    Encrypted(Box<Connection>),
}

/// What hyper speaks on.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    /// What was read before hyper got the connection.
    ahead: Bytes,
    /// The client expects a raw stream behind a 200.
    raw: bool,
    /// Another daemon has sent the head of the answer: what hyper writes is dropped up to its end.
    headless: bool,
    exchange: Arc<Exchange>,
}

/// The status line that hyper writes, and one of the same length for clients that never asked for an upgrade.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n";
const RAW_OK: &[u8] = b"HTTP/1.1 200 OK, raw bytes ahead\r\n";
const _: () = assert!(SWITCHING.len() == RAW_OK.len());

impl Connection {
    fn new(stream: Stream, exchange: Arc<Exchange>) -> Self {
        let ahead = exchange.known();
        Self { stream, ahead: ahead.into(), raw: false, headless: exchange.is_resumed(), exchange }
    }

    /// The socket and what was read of it, once HTTP is over.
    pub(crate) fn into_socket(self) -> io::Result<Taken> {
        let socket = match self.stream {
            Stream::Unix(stream) => stream.into_std()?.into(),
            Stream::Tcp(stream) => stream.into_std()?.into(),
            Stream::Tls(_) => return Ok(Taken::Encrypted(Box::new(self))),
        };
        Ok(Taken::Socket(socket, self.ahead))
    }

    /// Puts bytes that were read in front of what comes next.
    pub(crate) fn put_back(&mut self, read: Bytes) {
        if self.ahead.is_empty() {
            self.ahead = read;
        } else if !read.is_empty() {
            self.ahead = [read, std::mem::take(&mut self.ahead)].concat().into();
        }
    }

    /// Reads the start of the first request, and all of its head if it may want a raw stream. False when nothing came. May be broken
    /// off: what it has read is in the exchange.
    async fn look_ahead(&mut self) -> io::Result<bool> {
        if self.headless {
            return Ok(true);
        }
        let mut buffer = Vec::from(std::mem::take(&mut self.ahead));
        loop {
            match raw_request(&buffer) {
                Look::MoreNeeded if buffer.len() < MAX_HEAD => {}
                Look::MoreNeeded | Look::Ordinary => break,
                Look::Raw { line_end } => {
                    let rest = buffer.split_off(line_end);
                    buffer.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: tcp\r\n");
                    buffer.extend_from_slice(&rest);
                    self.raw = true;
                    break;
                }
            }
            buffer.reserve(8 << 10);
            if self.read_buf(&mut buffer).await? == 0 {
                break;
            }
        }
        self.ahead = buffer.into();
        Ok(!self.ahead.is_empty())
    }
}

/// What the start of a connection is.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    MoreNeeded,
    Ordinary,
    /// A request for a raw stream without an upgrade; where its first line ends.
    Raw {
        line_end: usize,
    },
}

fn raw_request(bytes: &[u8]) -> Look {
    let method = b"POST ";
    if bytes.is_empty() {
        return Look::MoreNeeded;
    }
    if !bytes.starts_with(&method[..bytes.len().min(method.len())]) {
        return Look::Ordinary;
    }
    let Some(line_end) = bytes.iter().position(|b| *b == b'\n').map(|n| n + 1) else {
        return Look::MoreNeeded;
    };
    let target = bytes[..line_end].split(|b| *b == b' ').nth(1).unwrap_or_default();
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    let is_stream = path.ends_with(b"/attach") || (path.ends_with(b"/start") && contains(path, b"/exec/"));
    if !is_stream {
        return Look::Ordinary;
    }
    let Some(head) = head_of(bytes) else { return Look::MoreNeeded };
    let mut lines = head.split(|b| *b == b'\n').skip(1);
    let upgrades = lines.any(|line| line.len() > 8 && line[..8].eq_ignore_ascii_case(b"upgrade:"));
    if upgrades { Look::Ordinary } else { Look::Raw { line_end } }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn head_of(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(&bytes[..end])
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..n]);
            self.ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if buffer.filled().len() > before {
            self.exchange.read(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.headless && !bytes.is_empty() {
            // hyper has the whole head in one piece before it writes any of it.
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
            self.headless = head.is_none();
            return Poll::Ready(Ok(head.unwrap_or(bytes.len())));
        }
        if self.raw && bytes.starts_with(SWITCHING) {
            let replaced = [RAW_OK, &bytes[SWITCHING.len()..]].concat();
            let n = ready!(self.stream.poll_write(context, &replaced))?;
            self.raw = false;
            return Poll::Ready(Ok(n));
        }
        self.stream.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.raw || self.headless {
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return self.poll_write(context, first);
        }
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(_) | Stream::Tcp(_) => {}
            Stream::Tls(stream) => ready!(Pin::new(stream).poll_flush(context))?,
        }
        self.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Stream {
    fn peer(&self) -> String {
        match self {
            Self::Unix(unix) => match rustix::net::sockopt::socket_peercred(unix) {
                Ok(credentials) => format!("user {}", credentials.uid.as_raw()),
                Err(_) => String::new(),
            },
            Self::Tls(tls) => {
                let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
                let own = certificates.first();
                own.map(|own| format!("certificate {}", Digest::of(own))).unwrap_or_default()
            }
            Self::Tcp(_) => String::new(),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }
}

#[cfg(test)]
mod tests;
