//! Attach and exec: the answer is sent, then the socket leaves HTTP and is handed to the supervisor.
//!
//! 1. The handler asks the engine for a ticket; a refusal is an ordinary error answer.
//! 2. The answer `101` is flushed; hyper gives the connection back with the bytes it had read ahead.
//! 3. The client reads the head of the answer. Until then nothing else is sent, since many clients would lose it.
//! 4. The ticket is delivered with the socket and these bytes: from here the daemon has no part in the session.
//!
//! A later request of a connection that asks for no upgrade can't get the socket (see `connection`); its output
//! comes as the body of a 200 by way of a socket pair, and there is no input.

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::OwnedFd;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::IntoResponse;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::request::Parts;
use http::{StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use palan_docker_api::stream::media_type;
use palan_docker_api::versions;
use palan_engine::container::{ClientStream, Framing};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::connection::Connection;
use crate::error::{ApiError, ApiResult};
use crate::extract::Version;

/// The right to take the connection, if the client asked for it.
#[derive(Debug)]
pub(crate) struct Hijack(Option<OnUpgrade>);

impl<S: Sync> FromRequestParts<S> for Hijack {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let asked = parts.headers.contains_key(header::UPGRADE);
        Ok(Self(parts.extensions.remove::<OnUpgrade>().filter(|_| asked)))
    }
}

impl Hijack {
    /// Answers, and calls `deliver` with the connection once the answer is out.
    pub(crate) fn answer<D, F>(self, version: Version, framing: Framing, deliver: D) -> ApiResult
    where
        D: FnOnce(ClientStream) -> F + Send + 'static,
        F: Future<Output = palan_engine::Result<()>> + Send,
    {
        let Some(upgrade) = self.0 else { return answer_with_body(deliver) };
        tokio::spawn(async move {
            match take_socket(upgrade).await {
                Ok(stream) => {
                    stream.wait_for_head_to_be_read().await;
                    report(deliver(stream).await);
                }
                Err(error) => tracing::debug!("a client left before its session began: {error}"),
            }
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

async fn take_socket(upgrade: OnUpgrade) -> Result<ClientStream, Box<dyn std::error::Error + Send + Sync>> {
    let upgraded = upgrade.await?;
    let parts = upgraded
        .downcast::<TokioIo<Connection>>()
        .map_err(|_| "the connection is of another kind than ours")?;
    let (socket, ahead) = parts.io.into_inner().into_socket()?;
    // hyper's own read-ahead comes first: it was taken from ours.
    let buffered = parts.read_buf.chain(ahead).copy_to_bytes_all();
    Ok(ClientStream { socket, buffered })
}

/// All bytes of a buffer.
trait CopyAll: Buf + Sized {
    fn copy_to_bytes_all(mut self) -> Vec<u8> {
        let length = self.remaining();
        self.copy_to_bytes(length).into()
    }
}

impl<B: Buf> CopyAll for B {}

/// Output only, as the body of the answer.
fn answer_with_body<D, F>(deliver: D) -> ApiResult
where
    D: FnOnce(ClientStream) -> F + Send + 'static,
    F: Future<Output = palan_engine::Result<()>> + Send,
{
    let no_pair =
        |e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot make a socket pair: {e}"));
    let (ours, theirs) = UnixStream::pair().map_err(no_pair)?;
    let socket = OwnedFd::from(theirs.into_std().map_err(no_pair)?);
    tokio::spawn(async move { report(deliver(ClientStream { socket, buffered: Vec::new() }).await) });
    let chunks = stream::try_unfold(ours, |mut socket| async move {
        let mut chunk = BytesMut::with_capacity(32 << 10);
        let n = socket.read_buf(&mut chunk).await?;
        Ok::<_, std::io::Error>((n > 0).then(|| (Bytes::from(chunk), socket)))
    });
    Ok(([(header::CONTENT_TYPE, media_type::RAW)], Body::from_stream(chunks)).into_response())
}
