//! The side that calls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::stream::{Incoming, Outgoing, frame, pump, send_all};
use super::{
    AnyIo, CONNECTION_WINDOW, Code, FRAME_BUDGET, Io, MAX_FRAME, MAX_METADATA, MAX_STREAMS, STREAM_WINDOW,
    Status,
};
use crate::wire::Message;

/// A connection to call on. Clones share it; it is closed when the last one and the last call are gone.
#[derive(Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Channel")
    }
}

/// The connection itself: it must be polled (in a task) for calls to make progress, and ends with the connection.
pub struct Driver(Connection<AnyIo, Bytes>);

impl fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Driver")
    }
}

impl Future for Driver {
    type Output = Result<(), Status>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(Status::from)
    }
}

/// A call with streams.
#[derive(Debug)]
pub struct Call {
    /// Dropped when all is sent.
    pub outgoing: Outgoing,
    /// Dropping it ends the call.
    pub incoming: Incoming,
}

impl Channel {
    /// Speaks HTTP/2 on a connection, as client.
    pub async fn connect(io: impl Io) -> Result<(Self, Driver), Status> {
        let io: AnyIo = Box::new(io);
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_frame_size(MAX_FRAME)
            .data_frame_budget(FRAME_BUDGET)
            .max_header_list_size(MAX_METADATA)
            .enable_push(false);
        let (requests, connection) = builder.handshake(io).await?;
        Ok((Self { requests }, Driver(connection)))
    }

    /// A call with one message in each direction.
    pub async fn unary<Q: Message, A: Message>(
        &self,
        method: &str,
        metadata: HeaderMap,
        question: &Q,
    ) -> Result<A, Status> {
        let mut answers = self.ask(method, metadata, question).await?;
        let Some(answer) = answers.next().await? else {
            return Err(Status::new(Code::Internal, format!("{method} ended without an answer")));
        };
        // What failed after the answer failed.
        match answers.next::<A>().await? {
            None => Ok(answer),
            Some(_) => Err(Status::new(Code::Internal, format!("{method} gave more than one answer"))),
        }
    }

    /// The same, with a limit, which the callee is told.
    pub async fn unary_within<Q: Message, A: Message>(
        &self,
        limit: Duration,
        method: &str,
        mut metadata: HeaderMap,
        question: &Q,
    ) -> Result<A, Status> {
        let milliseconds = limit.as_millis().min(99_999_999);
        if let Ok(value) = HeaderValue::from_str(&format!("{milliseconds}m")) {
            metadata.insert("grpc-timeout", value);
        }
        let asked = tokio::time::timeout(limit, self.unary(method, metadata, question));
        asked.await.unwrap_or_else(|_| {
            Err(Status::new(Code::DeadlineExceeded, format!("{method} was not answered within {limit:?}")))
        })
    }

    /// A call with one message to the callee, and any number from it.
    pub async fn ask<Q: Message>(
        &self,
        method: &str,
        metadata: HeaderMap,
        question: &Q,
    ) -> Result<Incoming, Status> {
        let (head, mut stream) = self.start(method, metadata).await?;
        // The callee may have answered, and wants to read no more; what it answered says why.
        if send_all(&mut stream, frame(question)).await.is_ok() {
            let _ = stream.send_data(Bytes::new(), true);
        }
        Ok(Incoming::of_response(head, None))
    }

    /// A call with streams in both directions.
    pub async fn call(&self, method: &str, metadata: HeaderMap) -> Result<Call, Status> {
        let (head, stream) = self.start(method, metadata).await?;
        let (outgoing, frames) = Outgoing::new();
        let sending = tokio::spawn(async move {
            if let Ok(mut stream) = pump(stream, frames).await {
                let _ = stream.send_data(Bytes::new(), true);
            }
        });
        Ok(Call { outgoing, incoming: Incoming::of_response(head, Some(sending.abort_handle())) })
    }

    async fn start(
        &self,
        method: &str,
        metadata: HeaderMap,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), Status> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = format!("http://localhost{method}")
            .parse()
            .map_err(|_| Status::new(Code::Internal, format!("{method} is no name of a call")))?;
        *request.headers_mut() = metadata;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let mut requests = self.requests.clone().ready().await?;
        Ok(requests.send_request(request, false)?)
    }
}
