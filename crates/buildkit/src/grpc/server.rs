//! The side that is called.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::task::JoinSet;

use super::stream::{Incoming, Outgoing, pump};
use super::{
    AnyIo, CONNECTION_WINDOW, Code, FRAME_BUDGET, Io, MAX_FRAME, MAX_METADATA, MAX_STREAMS, STREAM_WINDOW,
    Status,
};
use crate::wire::Message;

/// A call to be answered.
#[derive(Debug)]
pub struct Call {
    /// `/service/Method`.
    pub method: String,
    /// What the caller says besides messages.
    pub metadata: HeaderMap,
    /// What it sends.
    pub incoming: Incoming,
    /// What is sent to it.
    pub outgoing: Outgoing,
}

/// What answers a call. It is dropped when the caller goes.
pub type Handled = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// What answers calls.
pub trait Service: Send + Sync + 'static {
    /// Answers a call; what it returns ends it.
    fn call(self: Arc<Self>, call: Call) -> Handled;
}

impl fmt::Debug for dyn Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Service")
    }
}

impl Call {
    /// The only message of a call that has one.
    pub async fn question<M: Message>(&mut self) -> Result<M, Status> {
        match self.incoming.next().await? {
            Some(message) => Ok(message),
            None => Err(Status::new(Code::Internal, format!("{} came without a message", self.method))),
        }
    }

    /// Answers a call of one message with one message.
    pub async fn unary<Q, A, F>(mut self, answer: impl FnOnce(Q) -> F + Send) -> Result<(), Status>
    where
        Q: Message,
        A: Message + Sync,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let question = self.question().await?;
        let answer = answer(question).await?;
        self.outgoing.send(&answer).await
    }
}

/// Speaks HTTP/2 on a connection, as server, until it ends. When this is dropped, all calls are.
pub async fn serve(io: impl Io, service: Arc<dyn Service>) -> Result<(), Status> {
    let io: AnyIo = Box::new(io);
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_frame_size(MAX_FRAME)
        .data_frame_budget(FRAME_BUDGET)
        .max_header_list_size(MAX_METADATA);
    let mut connection = builder.handshake::<AnyIo, Bytes>(io).await?;
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    calls.spawn(answer(request, respond, Arc::clone(&service)));
                }
                None => return Ok(()),
            },
            // Ended calls are forgotten.
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: Arc<dyn Service>,
) {
    let (parts, body) = request.into_parts();
    let is_grpc = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let mut response = Response::new(());
    if parts.method != Method::POST || !is_grpc {
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let _ = respond.send_response(response, true);
        return;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // At once, so that from here on a reset of the stream is seen by whatever sends.
    let Ok(stream) = respond.send_response(response, false) else { return };
    let limit = super::text(&parts.headers, "grpc-timeout").and_then(timeout);
    let (outgoing, frames) = Outgoing::new();
    // A call may send nothing, or give its sender up before it ends.
    let kept = outgoing.clone();
    let call = Call {
        method: parts.uri.path().to_owned(),
        metadata: parts.headers,
        incoming: Incoming::of_request(body),
        outgoing,
    };
    let handled = service.call(call);
    let mut sending = pin!(pump(stream, frames));
    let outcome = tokio::select! {
        outcome = within(limit, handled) => outcome,
        // The caller is gone.
        _ = &mut sending => return,
    };
    drop(kept);
    if let Ok(mut stream) = sending.await {
        let _ = stream.send_trailers(Status::trailers(&outcome));
    }
}

async fn within(limit: Option<Duration>, handled: Handled) -> Result<(), Status> {
    let Some(limit) = limit else { return handled.await };
    let exceeded = || Status::new(Code::DeadlineExceeded, "the time limit of the call is over");
    tokio::time::timeout(limit, handled).await.unwrap_or_else(|_| Err(exceeded()))
}

/// `500m`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count = digits.parse::<u64>().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}
