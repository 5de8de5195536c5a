//! Accepting connections, until the daemon ends or another one takes over.
//!
//! Each connection is a task. What it started ends with it: when the client goes away, hyper drops the request's future
//! or the answer's body, and with them the engine's streams.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use palan_engine::Engine;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::connection::{Service, Stream, ended, serve_connection};
use crate::exchange::Exchange;
use crate::handover::{self, End, Handed, Handover};
use crate::listen::{Listener, Listeners};
use crate::metrics::Metrics;
use crate::router::router;

/// How long a client may take for its part of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at a time, of local clients and of others. A client that needs more waits; without a limit one client could use up the descriptors.
const MAX_CONNECTIONS: usize = 4096;

/// How long a TCP connection may be silent before the kernel asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long requests may go on when the daemon ends.
const DRAIN: Duration = Duration::from_millis(500);

/// How long they may go on when another daemon takes over, while all others wait.
const LEAVE: Duration = Duration::from_secs(10);

/// How long connections may take to leave once no request is under way. Some never do: with TLS, or with a client that does not read.
const LEAVE_DRAIN: Duration = Duration::from_secs(1);

/// The wait after a failed accept, mostly for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the API, and the metrics where they are asked for, until `end` says otherwise, or its sender is gone. First of all come the
/// connections that another daemon handed over.
///
/// Then no connection is accepted any more, idle ones are closed or handed over, and running requests get a moment to end. Streams that
/// would go on (events, logs, waits) are left to end with the process: a wait that is dropped while the supervisor
/// still holds its connection would look as if its client had gone.
pub async fn serve(
    engine: Arc<Engine>,
    listeners: &mut Listeners,
    metrics: Option<&mut Listeners>,
    handover: Arc<Handover>,
    handed: Vec<Handed>,
    end: watch::Receiver<End>,
) -> io::Result<()> {
    let api = router(Arc::clone(&engine));
    let Some(scraped) = metrics else {
        return Door::new(api, Some(handover), end).serve(listeners, handed).await;
    };
    let metrics = Metrics::start(&engine);
    let api = Door::new(metrics.around(api), Some(handover), end.clone());
    let pages = Door::new(metrics.router(engine), None, end);
    tokio::try_join!(api.serve(listeners, handed), pages.serve(scraped, Vec::new())).map(|_| ())
}

/// What all connections of some sockets have in common.
struct Door {
    service: Service,
    /// Clients from elsewhere don't take the places of local ones, whatever they do.
    local: Arc<Semaphore>,
    remote: Arc<Semaphore>,
}

impl Door {
    fn new(router: Router, handover: Option<Arc<Handover>>, end: watch::Receiver<End>) -> Arc<Self> {
        let [local, remote] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        Arc::new(Self { service: Service::new(router, handover, end), local, remote })
    }

    async fn serve(self: Arc<Self>, listeners: &mut Listeners, handed: Vec<Handed>) -> io::Result<()> {
        for handed in handed {
            if listeners.would_accept(&handed.socket) {
                self.take_over(handed).await;
            } else {
                tracing::info!("a connection to an address that is not served any more is closed");
            }
        }
        let mut accepting = JoinSet::new();
        for listener in listeners.duplicates()? {
            let acceptor = Acceptor::new(listener)?;
            accepting.spawn(Arc::clone(&self).accept_all(acceptor));
        }
        while accepting.join_next().await.is_some() {}
        let patience = if self.service.is_leaving() {
            if let Some(handover) = self.service.handover() {
                handover.wait_for_quiet(LEAVE).await;
            }
            LEAVE_DRAIN
        } else {
            // The files go before the drain, so that a new daemon can take the place at once.
            listeners.close();
            DRAIN
        };
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let drained = futures_util::future::join(self.local.acquire_many(all), self.remote.acquire_many(all));
        let _ = tokio::time::timeout(patience, drained).await;
        Ok(())
    }

    /// Goes on with a connection that another daemon had.
    async fn take_over(&self, handed: Handed) {
        let slots = if handover::is_unix(&handed.socket) { &self.local } else { &self.remote };
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
        let Handed { socket, note } = handed;
        let stream = match stream(socket) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!("a connection could not be taken over: {error}"),
        };
        let exchange =
            if note.resumed { Exchange::resumed(note.ahead) } else { Exchange::with_ahead(note.ahead) };
        tokio::spawn(serve_connection(stream, exchange, self.service.clone(), Arc::new(slot)));
    }

    async fn accept_all(self: Arc<Self>, acceptor: Acceptor) {
        let mut end = self.service.end.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = ended(&mut end) => return,
                accepted = self.accept_in_slot(&acceptor) => accepted,
            };
            match accepted {
                Ok((accepted, slot)) => {
                    let service = self.service.clone();
                    tokio::spawn(async move {
                        match accepted.ready().await {
                            Ok(stream) => {
                                serve_connection(stream, Arc::default(), service, Arc::new(slot)).await;
                            }
                            Err(error) => tracing::info!("a TLS handshake failed: {error}"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("accepting a connection failed: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept_in_slot(&self, acceptor: &Acceptor) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
        let slots = if matches!(acceptor, Acceptor::Unix(_)) { &self.local } else { &self.remote };
        let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
        Ok((acceptor.accept().await?, slot))
    }
}

fn stream(socket: OwnedFd) -> io::Result<Stream> {
    if handover::is_unix(&socket) {
        let socket = StdUnixStream::from(socket);
        socket.set_nonblocking(true)?;
        return UnixStream::from_std(socket).map(Stream::Unix);
    }
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket).map(Stream::Tcp)
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

#[cfg(test)]
mod tests;
