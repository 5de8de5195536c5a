//! Answers that arrive piece by piece. A body that is dropped (its client is gone) drops the engine's stream, which
//! cancels the work behind it.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::header;
use palan_engine::stream::{BodyReader, Items, body_pipe};
use palan_engine::{Error, Result};
use std::convert::Infallible;
use std::io;

/// The engine's items as a stream.
pub(crate) fn items<T: Send + 'static>(
    mut items: Items<T>,
) -> impl Stream<Item = Result<T>> + Send + 'static {
    stream::poll_fn(move |context| items.poll_next(context))
}

/// A streamed answer; `encode` may leave an item out.
pub(crate) fn respond<T, F>(content_type: &'static str, source: Items<T>, mut encode: F) -> Response
where
    T: Send + 'static,
    F: FnMut(Result<T, Error>) -> Option<Bytes> + Send + 'static,
{
    let chunks = items(source).filter_map(move |item| {
        let chunk = encode(item).map(Ok::<_, Infallible>);
        async move { chunk }
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(chunks)).into_response()
}

/// A streamed archive. What goes wrong in the middle breaks the answer off, so that nobody takes a part for the whole.
pub(crate) fn respond_bytes(content_type: &'static str, source: Items<Bytes>) -> Response {
    let chunks = items(source).map(|chunk| {
        chunk.map_err(|error| {
            tracing::error!("an archive was broken off: {}", error.report());
            io::Error::other(error.report().to_owned())
        })
    });
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(chunks)).into_response()
}

/// A value as a line of JSON.
pub(crate) fn json_line<T: serde::Serialize>(value: &T, line_break: &str) -> Bytes {
    let mut line = palan_docker_api::json::to_vec(value);
    line.extend_from_slice(line_break.as_bytes());
    line.into()
}

/// Feeds a request's body to blocking code. The task ends with the body or when the reader is gone.
pub(crate) fn pipe_body(body: Body) -> BodyReader {
    let (sender, reader) = body_pipe();
    tokio::spawn(async move {
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            if !sender.send(chunk.map_err(io::Error::other)).await {
                break;
            }
        }
    });
    reader
}
