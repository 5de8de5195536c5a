//! Accepting connections and speaking HTTP/1.1 on them.
//!
//! Each connection is a task. What it started ends with it: when the client goes away, hyper drops the request's future
//! or the answer's body, and with them the engine's streams.
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
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use palan_engine::Engine;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::dispatch::dispatch;
use crate::listen::{Listener, Listeners};
use crate::metrics::Metrics;
use crate::router::router;

/// How long a client may take for the head of a request, and how long an idle connection is kept (Docker's value).
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a client may take for its part of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a request, with the credentials and filters that stand there.
const MAX_HEAD: usize = 256 << 10;

/// Headers of a request.
const MAX_HEADERS: usize = 100;

/// Connections at a time, of local clients and of others. A client that needs more waits; without a limit one client could use up the descriptors.
const MAX_CONNECTIONS: usize = 4096;

/// How long a TCP connection may be silent before the kernel asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long requests may go on when the daemon ends.
const DRAIN: Duration = Duration::from_millis(500);

/// The wait after a failed accept, mostly for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the API, and the metrics where they are asked for, until `shutdown` becomes true, or its sender is gone.
///
/// Then no connection is accepted any more, idle ones are closed, and running requests get a moment to end. Streams that
/// would go on (events, logs, waits) are left to end with the process: a wait that is dropped while the supervisor
/// still holds its connection would look as if its client had gone.
pub async fn serve(
    engine: Arc<Engine>,
    listeners: Listeners,
    metrics: Option<Listeners>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let api = router(Arc::clone(&engine));
    let Some(scraped) = metrics else { return serve_router(api, listeners, shutdown).await };
    let metrics = Metrics::start(&engine);
    let api = serve_router(metrics.around(api), listeners, shutdown.clone());
    let scraped = serve_router(metrics.router(engine), scraped, shutdown);
    tokio::try_join!(api, scraped).map(|_| ())
}

async fn serve_router(
    router: Router,
    listeners: Listeners,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    // Clients from elsewhere don't take the places of local ones, whatever they do.
    let [local, remote] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let mut accepting = JoinSet::new();
    let mut listeners = listeners;
    for listener in std::mem::take(&mut listeners.listeners) {
        let acceptor = Acceptor::new(listener)?;
        let slots = Arc::clone(if matches!(acceptor, Acceptor::Unix(_)) { &local } else { &remote });
        accepting.spawn(accept_all(acceptor, router.clone(), slots, shutdown.clone()));
    }
    while accepting.join_next().await.is_some() {}
    // The files go before the drain, so that a new daemon can take the place at once.
    drop(listeners);
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let drained = futures_util::future::join(local.acquire_many(all), remote.acquire_many(all));
    let _ = tokio::time::timeout(DRAIN, drained).await;
    Ok(())
}

/// A listening socket in the runtime.
enum Acceptor {
    Unix(UnixListener),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

/// A connection that was accepted, and how it becomes what HTTP is spoken on.
enum Accepted {
    Plain(Stream),
    /// A handshake comes first, and nobody else waits for it.
    Tls(TlsAcceptor, TcpStream),
}

impl Accepted {
    async fn ready(self) -> io::Result<Stream> {
        match self {
            Self::Plain(stream) => Ok(stream),
            Self::Tls(acceptor, stream) => {
                let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
                Ok(Stream::Tls(Box::new(shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)))
            }
        }
    }
}

impl Acceptor {
    fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
            Listener::Tcp(listener, tls) => {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                Ok(Self::Tcp(listener, tls.map(TlsAcceptor::from)))
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| Accepted::Plain(Stream::Unix(stream)))
            }
            Self::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client that vanished is to be noticed while nothing is sent to it.
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
                Ok(match tls {
                    Some(tls) => Accepted::Tls(tls.clone(), stream),
                    None => Accepted::Plain(Stream::Tcp(stream)),
                })
            }
        }
    }
}

async fn accept_all(
    acceptor: Acceptor,
    router: Router,
    slots: Arc<Semaphore>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            () = ended(&mut shutdown) => return,
            accepted = accept_in_slot(&acceptor, &slots) => accepted,
        };
        match accepted {
            Ok((accepted, slot)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                tokio::spawn(async move {
                    match accepted.ready().await {
                        Ok(stream) => serve_connection(stream, router, shutdown).await,
                        Err(error) => tracing::info!("a TLS handshake failed: {error}"),
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("accepting a connection failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_in_slot(
    acceptor: &Acceptor,
    slots: &Arc<Semaphore>,
) -> io::Result<(Accepted, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    Ok((acceptor.accept().await?, slot))
}

pub(crate) async fn serve_connection(stream: Stream, router: Router, mut shutdown: watch::Receiver<bool>) {
    // A duplicate for the supervisors of containers that are waited for; only local clients have one.
    let duplicate = match &stream {
        Stream::Unix(unix) => unix.as_fd().try_clone_to_owned().ok(),
        Stream::Tcp(_) | Stream::Tls(_) => None,
    };
    let handle = ConnectionHandle(duplicate.map(Arc::new));
    let mut connection = Connection { stream, ahead: Bytes::new(), raw: false };
    let looked = tokio::select! {
        looked = tokio::time::timeout(HEAD_TIMEOUT, connection.look_ahead()) => looked,
        () = ended(&mut shutdown) => return,
    };
    if !matches!(looked, Ok(Ok(true))) {
        return;
    }
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(handle.clone());
        let answer = dispatch(router.clone(), request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = ended(&mut shutdown) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Until the daemon is to end.
async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say it, which says it too.
    let _ = shutdown.wait_for(|ended| *ended).await;
}

/// A duplicate of the connection's socket, in the extensions of its requests; none for TCP.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHandle(Option<Arc<OwnedFd>>);

impl ConnectionHandle {
    /// A descriptor to give away.
    pub(crate) fn duplicate(&self) -> Option<OwnedFd> {
        self.0.as_ref()?.try_clone().ok()
    }

    /// Whether it is a unix socket's.
    pub(crate) fn is_local(&self) -> bool {
        self.0.is_some()
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
}

/// The status line that hyper writes, and one of the same length for clients that never asked for an upgrade.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n";
const RAW_OK: &[u8] = b"HTTP/1.1 200 OK, raw bytes ahead\r\n";
const _: () = assert!(SWITCHING.len() == RAW_OK.len());

impl Connection {
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

    /// Reads the start of the first request, and all of its head if it may want a raw stream. False when nothing came.
    async fn look_ahead(&mut self) -> io::Result<bool> {
        let mut buffer = BytesMut::with_capacity(8 << 10);
        loop {
            if self.read_buf(&mut buffer).await? == 0 {
                self.ahead = buffer.freeze();
                return Ok(!self.ahead.is_empty());
            }
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
        }
        self.ahead = buffer.freeze();
        Ok(true)
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
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
        if self.raw {
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
            Stream::Unix(_) | Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
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
