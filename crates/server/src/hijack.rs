//! Attach and exec: the answer is sent, then the socket leaves HTTP and is handed to the supervisor.
//!
//! 1. The handler asks the engine for a ticket; a refusal is an ordinary error answer.
//! 2. The answer `101` is flushed; hyper gives the connection back with the bytes it had read ahead.
//! 3. The client reads the head of the answer. Until then nothing else is sent, since many clients would lose it.
//! 4. The ticket is delivered with the socket and these bytes: from here the daemon has no part in the session.
//!
//! A connection with TLS stays with the daemon, which carries the bytes between it and a socket pair; so does one that becomes a
//! websocket.
//!
//! A later request of a connection that asks for no upgrade can't get the socket (see `connection`); its output
//! comes as the body of a 200 by way of a socket pair, and there is no input.

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::OwnedFd;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use palan_docker_api::stream::media_type;
use palan_docker_api::versions;
use palan_engine::container::{ClientStream, Framing};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::connection::{Connection, InSlot, Taken};
use crate::error::{ApiError, ApiResult};
use crate::extract::Version;
use crate::websocket;

/// The right to take the connection, if the client asked for it, and its slot, which it keeps until the session has begun.
#[derive(Debug)]
pub(crate) struct Hijack(Option<OnUpgrade>, Option<InSlot>);

impl<S: Sync> FromRequestParts<S> for Hijack {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let asked = parts.headers.contains_key(header::UPGRADE);
        let slot = parts.extensions.get::<InSlot>().cloned();
        Ok(Self(parts.extensions.remove::<OnUpgrade>().filter(|_| asked), slot))
    }
}

impl Hijack {
    /// Answers a websocket's handshake with `accept`, and calls `deliver` with one end of a socket pair, whose bytes come from and
    /// go to the websocket.
    pub(crate) fn answer_websocket<D, F>(self, accept: &str, deliver: D) -> ApiResult
    where
        D: FnOnce(ClientStream) -> F + Send + 'static,
        F: Future<Output = palan_engine::Result<()>> + Send + 'static,
    {
        let Some(upgrade) = self.0 else {
            return Err(ApiError::invalid(
                "this connection can't become a websocket: ask for it in the first request",
            ));
        };
        let (session, client) = stream_and_pair()?;
        let slot = self.1;
        tokio::spawn(async move {
            let relayed = match take_connection(upgrade).await {
                Ok(connection) => {
                    tokio::spawn(async move {
                        report(deliver(client).await);
                        drop(slot);
                    });
                    websocket::relay(connection, session).await.map_err(Into::into)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = relayed {
                tracing::debug!("a websocket ended: {error}");
            }
        });
        let headers = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ];
        Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
    }

    /// Answers, and calls `serve` with the connection, on which HTTP/2 is spoken from here on, by either side first.
    pub(crate) fn answer_h2c<D, F>(self, headers: &HeaderMap, serve: D) -> ApiResult
    where
        D: FnOnce(Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let protocol = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if protocol.is_empty() {
            return Err(ApiError::invalid("no upgrade proto in request"));
        }
        if !protocol.eq_ignore_ascii_case("h2c") {
            return Err(ApiError::invalid(format!("protocol {protocol} not supported")));
        }
        let Some(upgrade) = self.0 else {
            return Err(ApiError::invalid("this connection can't be upgraded to h2c"));
        };
        tokio::spawn(async move {
            match take_connection(upgrade).await {
                Ok(connection) => serve(connection).await,
                Err(error) => tracing::debug!("a client left before its connection was upgraded: {error}"),
            }
        });
        let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "h2c")];
        Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
    }

    /// Answers, and calls `deliver` with the connection once the answer is out.
    pub(crate) fn answer<D, F>(self, version: Version, framing: Framing, deliver: D) -> ApiResult
    where
        D: FnOnce(ClientStream) -> F + Send + 'static,
        F: Future<Output = palan_engine::Result<()>> + Send,
    {
        let Some(upgrade) = self.0 else { return answer_with_body(deliver) };
        let slot = self.1;
        tokio::spawn(async move {
            match take_socket(upgrade).await {
                Ok(stream) => {
                    stream.wait_for_head_to_be_read().await;
                    report(deliver(stream).await);
                }
                Err(error) => tracing::debug!("a client left before its session began: {error}"),
            }
            drop(slot);
        });
        let multiplexed = framing == Framing::Multiplexed && versions::has_multiplexed_media_type(version.0);
        let media_type = if multiplexed { media_type::MULTIPLEXED } else { media_type::RAW };
        let headers =
            [(header::CONTENT_TYPE, media_type), (header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
        Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
    }
}

fn report(delivered: palan_engine::Result<()>) {
    if let Err(error) = delivered {
        tracing::debug!("an attached session could not begin: {}", error.report());
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The connection, once HTTP is over, with what was read of it.
async fn take_connection(upgrade: OnUpgrade) -> Result<Connection, Failure> {
    let upgraded = upgrade.await?;
    let parts = upgraded
        .downcast::<TokioIo<Connection>>()
        .map_err(|_| "the connection is of another kind than ours")?;
    let mut connection = parts.io.into_inner();
    // hyper's own read-ahead comes first: it was taken from ours.
    connection.put_back(parts.read_buf);
    Ok(connection)
}

/// A socket to give away: the connection's own, or one end of a pair where the connection is encrypted.
async fn take_socket(upgrade: OnUpgrade) -> Result<ClientStream, Failure> {
    match take_connection(upgrade).await?.into_socket()? {
        Taken::Socket(socket, ahead) => Ok(ClientStream { socket, buffered: ahead.into() }),
        Taken::Encrypted(mut connection) => {
            let (mut session, client) = UnixStream::pair()?;
            tokio::spawn(async move {
                // Whoever ends first is told to the other; why it ended is nobody's business.
                let _ = tokio::io::copy_bidirectional(&mut *connection, &mut session).await;
            });
            Ok(ClientStream { socket: client.into_std()?.into(), buffered: Vec::new() })
        }
    }
}

/// A socket pair: one end to carry bytes here, the other for the session.
fn stream_and_pair() -> ApiResult<(UnixStream, ClientStream)> {
    let no_pair =
        |e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot make a socket pair: {e}"));
    let (ours, theirs) = UnixStream::pair().map_err(no_pair)?;
    let socket = OwnedFd::from(theirs.into_std().map_err(no_pair)?);
    Ok((ours, ClientStream { socket, buffered: Vec::new() }))
}

/// Output only, as the body of the answer.
fn answer_with_body<D, F>(deliver: D) -> ApiResult
where
    D: FnOnce(ClientStream) -> F + Send + 'static,
    F: Future<Output = palan_engine::Result<()>> + Send,
{
    let (ours, client) = stream_and_pair()?;
    tokio::spawn(async move { report(deliver(client).await) });
    let chunks = stream::try_unfold(ours, |mut socket| async move {
        let mut chunk = BytesMut::with_capacity(32 << 10);
        let n = socket.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((n > 0).then(|| (Bytes::from(chunk), socket)))
    });
    Ok(([(header::CONTENT_TYPE, media_type::RAW)], Body::from_stream(chunks)).into_response())
}
