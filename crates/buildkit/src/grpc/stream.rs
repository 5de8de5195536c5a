//! The messages of a call, in and out.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::Response;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{Code, MAX_MESSAGE, Status};
use crate::wire::Message;

/// Messages on their way to HTTP/2.
const QUEUE: usize = 4;

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// How many bytes of small messages are sent at once.
const BATCH: usize = 16 << 10;

/// Where messages are sent to. When the last clone is dropped, no more will come.
#[derive(Debug, Clone)]
pub struct Outgoing {
    queue: mpsc::Sender<Bytes>,
}

/// A message with its prefix.
pub(super) fn frame<M: Message>(message: &M) -> Bytes {
    let mut batch = Batch::default();
    batch.push(message);
    batch.bytes.into()
}

/// Messages that go out together: of small ones each would cost the threads on both sides a wake-up.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    pub(crate) fn push<M: Message>(&mut self, message: &M) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; PREFIX]);
        message.put_fields(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - begin - PREFIX).unwrap_or(u32::MAX);
        self.bytes[begin + 1..begin + PREFIX].copy_from_slice(&length.to_be_bytes());
    }

    /// Whether it is worth sending.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH
    }
}

impl Outgoing {
    pub(super) fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (queue, frames) = mpsc::channel(QUEUE);
        (Self { queue }, frames)
    }

    /// Sends a message, when there is room. An error says that the peer has gone or has ended the call; why it did is told by
    /// [`Incoming::next`].
    pub async fn send<M: Message>(&self, message: &M) -> Result<(), Status> {
        self.queue.send(frame(message)).await.map_err(|_| closed())
    }

    /// The same for a thread that may wait.
    pub fn send_blocking<M: Message>(&self, message: &M) -> Result<(), Status> {
        self.queue.blocking_send(frame(message)).map_err(|_| closed())
    }

    /// Sends what was collected, if anything was.
    pub(crate) async fn send_batch(&self, batch: &mut Batch) -> Result<(), Status> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        self.queue.send(std::mem::take(&mut batch.bytes).into()).await.map_err(|_| closed())
    }

    /// The same for a thread that may wait.
    pub(crate) fn send_batch_blocking(&self, batch: &mut Batch) -> Result<(), Status> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        self.queue.blocking_send(std::mem::take(&mut batch.bytes).into()).map_err(|_| closed())
    }
}

fn closed() -> Status {
    Status::new(Code::Cancelled, "the peer has ended the call")
}

/// Where messages come from.
#[derive(Debug)]
pub struct Incoming {
    head: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
    is_client: bool,
    /// The task that sends, on the caller's side: without a receiver the call is over.
    sending: Option<AbortHandle>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            sending.abort();
        }
    }
}

impl Incoming {
    /// What a caller sends.
    pub(super) fn of_request(body: RecvStream) -> Self {
        Self { head: None, body: Some(body), buffer: BytesMut::new(), is_client: false, sending: None }
    }

    /// What a callee answers.
    pub(super) fn of_response(head: h2::client::ResponseFuture, sending: Option<AbortHandle>) -> Self {
        Self { head: Some(head), body: None, buffer: BytesMut::new(), is_client: true, sending }
    }

    /// Whether it is what a callee answers.
    pub(crate) fn is_answer(&self) -> bool {
        self.is_client
    }

    /// The next message; none is the end. For a caller it is the good end: all else is an error. Not to be called again then.
    ///
    /// Whoever stops waiting can wait again: nothing is lost.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, Status> {
        match self.next_frame().await? {
            Some(frame) => Ok(Some(M::decode(frame)?)),
            None => Ok(None),
        }
    }

    /// One that is here already.
    pub(crate) fn ready<M: Message>(&mut self) -> Result<Option<M>, Status> {
        self.take_frame()?.map(M::decode).transpose().map_err(Into::into)
    }

    async fn next_frame(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some(head) = &mut self.head {
            let head = head.await;
            self.head = None;
            self.body = Some(check_head(head?)?);
        }
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    self.buffer.extend_from_slice(&chunk);
                    body.flow_control().release_capacity(chunk.len())?;
                }
                None => return self.end().await,
            }
        }
    }

    /// A whole message of the buffer.
    fn take_frame(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::new(
                Code::Unimplemented,
                "messages are compressed, which nobody has offered here",
            ));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            let text = format!("received message larger than max ({length} vs. {MAX_MESSAGE})");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    async fn end(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(body) = &mut self.body else { return Ok(None) };
        if !self.buffer.is_empty() {
            return Err(Status::new(Code::Internal, "the call ended in the middle of a message"));
        }
        if !self.is_client {
            return Ok(None);
        }
        let trailers = body.trailers().await?;
        self.body = None;
        match trailers.as_ref().and_then(Status::from_trailers) {
            Some(outcome) => outcome.map(|()| None),
            None => Err(Status::new(Code::Internal, "the call ended without a status")),
        }
    }
}

/// The head of an answer: its status may stand there already.
fn check_head(response: Response<RecvStream>) -> Result<RecvStream, Status> {
    if let Some(Err(status)) = Status::from_trailers(response.headers()) {
        return Err(status);
    }
    if response.status() != http::StatusCode::OK {
        let code = match response.status().as_u16() {
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        return Err(Status::new(code, format!("the answer is no gRPC: HTTP status {}", response.status())));
    }
    Ok(response.into_body())
}

/// Sends bytes when flow control has room for them.
pub(super) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.unwrap_or_else(|| Err(h2::Reason::CANCEL.into()))?;
        if room > 0 {
            stream.send_data(bytes.split_to(room.min(bytes.len())), false)?;
        }
    }
    Ok(())
}

/// Sends what comes, until no more will, and gives the stream back. An error says that the peer wants no more.
pub(super) async fn pump(
    mut stream: SendStream<Bytes>,
    mut frames: mpsc::Receiver<Bytes>,
) -> Result<SendStream<Bytes>, h2::Error> {
    loop {
        let next = poll_fn(|context| {
            if let Poll::Ready(frame) = frames.poll_recv(context) {
                return Poll::Ready(Ok(frame));
            }
            stream.poll_reset(context).map(|reset| Err(reset.map_or_else(|error| error, h2::Error::from)))
        });
        match next.await? {
            Some(frame) => send_all(&mut stream, frame).await?,
            None => return Ok(stream),
        }
    }
}
