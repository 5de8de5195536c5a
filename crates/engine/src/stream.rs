//! The streams that the engine gives and takes: chunks, items, and a request body read by blocking code.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::Result;

/// Items that arrive until the work is done. Dropping it cancels the work behind it where that is possible.
#[derive(Debug)]
pub struct Items<T> {
    /// Taken out already, to see whether the work begins well.
    first: Option<T>,
    receiver: mpsc::Receiver<Result<T>>,
}

impl<T> Items<T> {
    /// A stream and its sending end, which waits when `capacity` items are unread.
    pub(crate) fn channel(capacity: usize) -> (mpsc::Sender<Result<T>>, Self) {
        let (sender, receiver) = mpsc::channel(capacity);
        (sender, Self { first: None, receiver })
    }

    /// Waits for the first item; when it is an error, that is the outcome of the whole.
    pub(crate) async fn begun(mut self) -> Result<Self> {
        self.first = self.receiver.recv().await.transpose()?;
        Ok(self)
    }

    /// The next item; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<T>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.receiver.recv().await,
        }
    }

    /// Polls for the next item.
    pub fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Result<T>>> {
        match self.first.take() {
            Some(first) => std::task::Poll::Ready(Some(Ok(first))),
            None => self.receiver.poll_recv(context),
        }
    }
}

/// The sending end of a request body; the front door feeds it as chunks arrive.
#[derive(Debug, Clone)]
pub struct BodySender {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl BodySender {
    /// Hands over one chunk and waits while the reader is behind; false when the reader is gone.
    pub async fn send(&self, chunk: io::Result<Bytes>) -> bool {
        self.sender.send(chunk).await.is_ok()
    }
}

/// The reading end of a request body, for blocking code. Ends when every [`BodySender`] is dropped.
#[derive(Debug)]
pub struct BodyReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

/// A pipe from async code to a blocking reader, bounded to a few chunks.
pub fn body_pipe() -> (BodySender, BodyReader) {
    let (sender, receiver) = mpsc::channel(8);
    (BodySender { sender }, BodyReader { receiver, chunk: Bytes::new() })
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
