//! What is left of a request's body when its answer is ready.
//!
//! An answer that does not need the body (an error, mostly) comes before the client has sent all of it. hyper then closes the connection
//! without a word, and the client's next request on it is lost. As Go's server does, a short rest is read, and behind a long one the
//! answer says that the connection ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

/// How much is read only to be thrown away.
const MOST: usize = 256 * 1024;
/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_millis(500);

/// A body that leaves itself behind when it is dropped before its end.
struct Watched {
    body: Option<Body>,
    left: Left,
}

/// What is left of a request's body.
#[derive(Clone, Default)]
pub(crate) struct Left(Arc<Mutex<Rest>>);

#[derive(Default)]
enum Rest {
    /// It was read to its end.
    #[default]
    None,
    /// Somebody reads it.
    InHand,
    /// Nobody reads it any more.
    Behind(Body),
    /// The answer was ready before it was read to its end. Whoever reads it may stop before its end (an archive's, which is not the
    /// body's): a short rest is read away, and a long one is not kept. Only when it is dropped does the client learn that nobody
    /// reads what it sends, and that there is an answer.
    Answered,
}

impl std::fmt::Debug for Left {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Left").field("is_read", &self.is_read()).finish()
    }
}

impl Left {
    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body to be given to the handler.
    pub(crate) fn watch(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        *self.rest() = Rest::InHand;
        Body::new(Watched { body: Some(body), left: self.clone() })
    }

    /// Whether nothing of it is left.
    pub(crate) fn is_read(&self) -> bool {
        matches!(*self.rest(), Rest::None)
    }

    /// The answer is ready; what nobody reads any more.
    pub(crate) fn answered(&self) -> Option<Body> {
        let mut rest = self.rest();
        match std::mem::take(&mut *rest) {
            Rest::None => None,
            Rest::Behind(body) => {
                *rest = Rest::Answered;
                Some(body)
            }
            Rest::InHand | Rest::Answered => {
                *rest = Rest::Answered;
                None
            }
        }
    }

    /// Reads what was left when the answer is ready. Whether another request can follow.
    pub(crate) async fn drain(self) -> bool {
        let Some(body) = self.answered() else { return true };
        let is_read = read_away(body).await;
        if is_read {
            *self.rest() = Rest::None;
        }
        is_read
    }
}

/// Reads a body's rest, if it is short. Whether it was.
async fn read_away(mut body: Body) -> bool {
    let reading = async {
        let mut read = 0;
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            read += frame.ok()?.data_ref().map_or(0, Bytes::len);
            if read > MOST {
                return None;
            }
        }
        Some(())
    };
    tokio::time::timeout(PATIENCE, reading).await.ok().flatten().is_some()
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || body.is_end_stream() {
            self.body = None;
            *self.left.rest() = Rest::None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            let mut rest = self.left.rest();
            if !matches!(*rest, Rest::Answered) {
                *rest = Rest::Behind(body);
            } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(read_away(body));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    async fn rest(pieces: usize) -> bool {
        let piece = Bytes::from(vec![0; 64 * 1024]);
        let stream =
            futures_util::stream::iter((0..pieces).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
        let left = Left::default();
        drop(left.watch(Body::from_stream(stream)));
        left.drain().await
    }

    #[tokio::test]
    async fn a_short_rest_is_read_and_a_long_one_ends_the_connection() {
        assert!(rest(0).await);
        assert!(rest(4).await);
        assert!(!rest(5).await);
        let left = Left::default();
        let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        drop(left.watch(Body::from_stream(never)));
        assert!(!left.drain().await, "nobody waits for ever");
    }

    /// Gives a body to somebody who drops it, before or after the answer. Holds the token while the body is kept.
    fn drop_unread<S>(stream: S, is_answered: bool) -> (Left, Arc<()>)
    where
        S: futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let token = Arc::new(());
        let held = Arc::clone(&token);
        let left = Left::default();
        let body = left.watch(Body::from_stream(stream.inspect(move |_| drop(Arc::clone(&held)))));
        if is_answered {
            assert!(left.answered().is_none());
        }
        drop(body);
        (left, token)
    }

    #[tokio::test]
    async fn what_is_dropped_after_the_answer_is_not_kept() {
        let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>;
        let (left, token) = drop_unread(never(), false);
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(Arc::strong_count(&token) > 1 && !left.is_read());
        let (_, token) = drop_unread(never(), true);
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(Arc::strong_count(&token), 1);
    }

    /// An archive ends before its body does: the connection goes on.
    #[tokio::test]
    async fn a_short_rest_behind_an_answer_is_read() {
        let (mut seen, told) = (0, Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let pieces = futures_util::stream::iter([Bytes::from_static(b"rest"), Bytes::from_static(b"end")]);
        let counter = Arc::clone(&told);
        let counted = pieces.map(move |piece| {
            seen += piece.len();
            counter.store(seen, std::sync::atomic::Ordering::Relaxed);
            Ok(piece)
        });
        let (_, token) = drop_unread(counted, true);
        while Arc::strong_count(&token) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 7);
    }

    #[tokio::test]
    async fn what_was_read_leaves_nothing() {
        let left = Left::default();
        let read = axum::body::to_bytes(left.watch(Body::from("text")), 10).await.unwrap();
        assert_eq!(read, "text");
        assert!(left.is_read());
        assert!(left.drain().await);
    }
}
