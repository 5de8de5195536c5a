//! How far one connection is, so that it can be given to another daemon without the client noticing.
//!
//! ```text
//!            head of a request            end of the answer          all of it is with the kernel
//!   Free ────────────────────────▶ Busy ────────────────────▶ Flushing ────────────────────────▶ Free
//!                                   │ 101
//!                                   ▼
//!                               Upgrading (the socket leaves HTTP)
//! ```
//!
//! A connection may leave in two states:
//!
//! - **Free**: with what the client has sent of its next request.
//! - **Busy** with an answer that another daemon can go on with ([`Continues`]), between two chunks of it: the answer is *frozen*,
//!   nothing more is taken from its source, and once hyper has written what it had, the connection is *settled*. It leaves with the head
//!   of a request that brings the rest.
//!
//! Whoever drives the connection and whoever changes this state are one task; only bodies may be dropped elsewhere.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header, request};
use hyper::body::{Frame, SizeHint};
use jiff::Timestamp;
use palan_docker_api::auth;
use tokio::sync::Notify;

use crate::handover::{Request, Traffic};
use crate::unread::Left;

/// The most that is kept of a request that has not arrived whole.
const MAX_AHEAD: usize = 256 << 10;

/// Who has the rest of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Any daemon, as the answer to a request for this target.
    Elsewhere(String),
    /// The container's supervisor, which has a duplicate of the connection and ends the answer.
    Held,
    /// This daemon, in a moment.
    Here,
}

/// An answer that others than this daemon can go on with. The function is given the target of its request.
#[derive(Clone)]
pub(crate) struct Continues(Arc<dyn Fn(&str) -> Rest + Send + Sync>);

impl std::fmt::Debug for Continues {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Continues")
    }
}

impl Continues {
    /// The same request brings the rest.
    pub(crate) fn same() -> Self {
        Self::by(|target| Rest::Elsewhere(target.to_owned()))
    }

    pub(crate) fn by(rest: impl Fn(&str) -> Rest + Send + Sync + 'static) -> Self {
        Self(Arc::new(rest))
    }

    /// Marks an answer.
    pub(crate) fn mark(self, mut response: Response) -> Response {
        response.extensions_mut().insert(self);
        response
    }
}

/// The target of a request for what is from a time on, with these parameters left out.
pub(crate) fn since(target: &str, time: Timestamp, without: &[&str]) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let others = query.split('&').filter(|pair| !pair.is_empty());
    let others = others.filter(|pair| name(pair) != "since" && !without.contains(&name(pair).as_str()));
    let since = format!("since={}.{:09}", time.as_second(), time.subsec_nanosecond());
    let pairs: Vec<&str> = others.chain([since.as_str()]).collect();
    format!("{path}?{}", pairs.join("&"))
}

/// What becomes of a connection when another daemon takes over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It goes, with these bytes in front of what the client sends.
    Free(Vec<u8>),
    /// It goes, and the answer to this request is the rest of the one that was begun.
    Resumed(Vec<u8>),
    /// A supervisor ends its answer, and it stays as long as this daemon lives.
    Held,
    /// Something of its last request was not read: nobody else could tell where the next one begins.
    Stay,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Free,
    Busy,
    Flushing,
    Upgrading,
}

#[derive(Debug, Default)]
struct State {
    progress: Progress,
    /// What was read since the last request began.
    ahead: Vec<u8>,
    /// The head of a request that this daemon made up and that hyper has not read.
    resumed: Option<Vec<u8>>,
    /// The answer under way is the rest of one that another daemon began.
    is_rest: bool,
    /// What of the last request's body was not read.
    left: Left,
    /// What the last request's head was followed by so far, and how long its body is, where both are known: more than that is the next
    /// request's, which then only this daemon has.
    behind: Option<(u64, u64)>,
    request: Option<Again>,
    continues: Option<Continues>,
    leaving: bool,
    /// Who has the rest of the answer, once it is frozen.
    rest: Option<Rest>,
    settled: bool,
    traffic: Option<Request>,
}

impl State {
    fn is_frozen(&self) -> bool {
        self.rest.is_some() && self.progress == Progress::Busy
    }

    /// Who has the rest of the answer under way; `None` if this daemon alone knows it.
    fn rest(&self) -> Option<Rest> {
        let continues = self.continues.as_ref()?;
        let target = self.request.as_ref().map(|again| again.target.to_string())?;
        Some((continues.0)(&target)).filter(|rest| *rest != Rest::Here)
    }

    /// Some of a request came before the one ahead of it was answered.
    fn has_pipelined(&self) -> bool {
        self.behind.is_some_and(|(seen, body)| seen > body)
    }

    fn freeze(&mut self) {
        if self.leaving && self.progress == Progress::Busy {
            self.rest = self.rest();
        }
    }
}

/// How many bytes follow the first head; unknown where lines end in another way than everybody's.
fn behind_head(bytes: &[u8]) -> Option<usize> {
    // Empty lines may come in front of it.
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let end = bytes[begin..].windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(bytes.len() - begin - end - 4)
}

/// What a request needs to be asked again.
#[derive(Debug)]
struct Again {
    method: Method,
    target: Uri,
    /// Before 1.1 the rest has no chunks either.
    version: Version,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Again {
    fn of(parts: &request::Parts) -> Self {
        let names = [HeaderName::from_bytes(auth::HEADER.as_bytes()).ok(), Some(header::ACCEPT)];
        let headers = names
            .into_iter()
            .flatten()
            .filter_map(|name| parts.headers.get(&name).cloned().map(|value| (name, value)));
        Self {
            method: parts.method.clone(),
            target: parts.uri.clone(),
            version: parts.version,
            headers: headers.collect(),
        }
    }

    fn head(&self, target: &str) -> Vec<u8> {
        let (method, version) = (&self.method, self.version);
        let mut head = format!("{method} {target} {version:?}\r\nHost: palan\r\n").into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    state: Mutex<State>,
    changed: Notify,
}

impl Exchange {
    /// Of a connection whose client has sent `ahead` already.
    pub(crate) fn with_ahead(ahead: Vec<u8>) -> Arc<Self> {
        let exchange = Self::default();
        exchange.lock().ahead = ahead;
        Arc::new(exchange)
    }

    /// Of a connection whose answer goes on with the one to this request.
    pub(crate) fn resumed(head: Vec<u8>) -> Arc<Self> {
        let exchange = Self::default();
        exchange.lock().resumed = Some(head);
        Arc::new(exchange)
    }

    /// What hyper is to read first.
    pub(crate) fn known(&self) -> Vec<u8> {
        let state = self.lock();
        state.resumed.clone().unwrap_or_else(|| state.ahead.clone())
    }

    /// Whether the answer that comes is the rest of one that another daemon began.
    pub(crate) fn is_resumed(&self) -> bool {
        self.lock().resumed.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes came from the client.
    pub(crate) fn read(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.progress == Progress::Busy
            && let Some((seen, _)) = &mut state.behind
        {
            *seen += bytes.len() as u64;
        }
        if matches!(state.progress, Progress::Free | Progress::Flushing) && state.ahead.len() <= MAX_AHEAD {
            state.ahead.extend_from_slice(bytes);
        }
    }

    /// All that was to be written is with the kernel.
    pub(crate) fn flushed(&self) {
        let mut state = self.lock();
        if state.progress == Progress::Flushing {
            state.progress = Progress::Free;
            self.changed.notify_one();
        } else if state.is_frozen() && !state.settled {
            state.settled = true;
            self.changed.notify_one();
        }
    }

    /// The head of a request is there.
    pub(crate) fn begin(
        self: &Arc<Self>,
        traffic: &Traffic,
        request: axum::extract::Request,
    ) -> axum::extract::Request {
        let (mut parts, body) = request.into_parts();
        let mut state = self.lock();
        state.progress = Progress::Busy;
        let ahead = std::mem::take(&mut state.ahead);
        let resumed = state.resumed.take();
        state.is_rest = resumed.is_some();
        let behind = resumed.as_deref().map_or_else(|| behind_head(&ahead), |_| Some(ahead.len()));
        state.behind = behind.map(|count| count as u64).zip(body.size_hint().exact());
        state.request = Some(Again::of(&parts));
        state.traffic = Some(traffic.begin());
        state.left = Left::default();
        let body = state.left.watch(body);
        parts.extensions.insert(state.left.clone());
        drop(state);
        axum::extract::Request::from_parts(parts, body)
    }

    /// The head of the answer is there.
    pub(crate) async fn answer(self: &Arc<Self>, response: Response) -> Response {
        let is_rest = self.lock().is_rest;
        let mut response = if is_rest { self.late(response).await } else { response };
        let mut state = self.lock();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            state.progress = Progress::Upgrading;
            state.traffic = None;
            return response;
        }
        state.continues = response.extensions_mut().remove::<Continues>();
        if state.continues.is_some() {
            // Nobody needs to wait for its end.
            state.traffic = None;
        }
        state.freeze();
        drop(state);
        let exchange = Arc::clone(self);
        response.map(|body| Body::new(Outgoing { body, exchange, of_unknown_length: is_rest }))
    }

    /// The rest of an answer can't have another status than its beginning.
    async fn late(&self, response: Response) -> Response {
        if response.status().is_success() {
            return response;
        }
        let path =
            self.lock().request.as_ref().map(|again| again.target.path().to_owned()).unwrap_or_default();
        let text = crate::handover::late_error(&path, response).await;
        Response::new(Body::from(text))
    }

    /// Another daemon takes over: answers that it can go on with stop where they are.
    pub(crate) fn freeze(&self) {
        let mut state = self.lock();
        state.leaving = true;
        state.freeze();
        drop(state);
        self.changed.notify_one();
    }

    /// Whether a supervisor was to end the answer, and this daemon has to after all.
    pub(crate) fn is_due(&self) -> bool {
        let state = self.lock();
        match state.progress {
            Progress::Busy => state.continues.is_some() && state.rest() != Some(Rest::Held),
            Progress::Flushing => true,
            Progress::Free | Progress::Upgrading => false,
        }
    }

    /// Until the connection may leave.
    pub(crate) async fn may_leave(&self) {
        loop {
            {
                let state = self.lock();
                if state.progress == Progress::Free || state.settled {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    /// How it leaves.
    pub(crate) fn leave(&self) -> Leave {
        let mut state = self.lock();
        if state.settled {
            let has_pipelined = state.has_pipelined();
            return match (state.rest.take(), &state.request) {
                (Some(Rest::Elsewhere(_)), _) if has_pipelined => Leave::Stay,
                (Some(Rest::Elsewhere(target)), Some(again)) => Leave::Resumed(again.head(&target)),
                _ => {
                    // It goes on here as long as this daemon lives.
                    state.settled = false;
                    Leave::Held
                }
            };
        }
        if let Some(head) = state.resumed.take() {
            return Leave::Resumed(head);
        }
        if !state.left.is_read() || state.has_pipelined() || state.ahead.len() > MAX_AHEAD {
            return Leave::Stay;
        }
        Leave::Free(std::mem::take(&mut state.ahead))
    }
}

/// An answer's body: notes its end, and stands still while it is frozen.
struct Outgoing {
    body: Body,
    exchange: Arc<Exchange>,
    /// Its beginning was sent in chunks, so the rest is.
    of_unknown_length: bool,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.exchange.lock().is_frozen() {
            return Poll::Pending;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        !self.of_unknown_length && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.of_unknown_length { SizeHint::default() } else { self.body.size_hint() }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut state = self.exchange.lock();
        if state.progress == Progress::Busy {
            state.progress = Progress::Flushing;
        }
        (state.continues, state.rest) = (None, None);
        state.settled = false;
        state.traffic = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_begins_after_the_last() {
        let time = Timestamp::new(7, 5).unwrap();
        assert_eq!(since("/v1.41/events", time, &[]), "/v1.41/events?since=7.000000005");
        let filtered = since("/events?since=1&filters=%7B%7D&tail=3", time, &["tail"]);
        assert_eq!(filtered, "/events?filters=%7B%7D&since=7.000000005");
    }
}
