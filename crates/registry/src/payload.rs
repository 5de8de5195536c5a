//! What a request carries: nothing, a document, or a part of a blob that is read while it is sent.
//!
//! A part of a blob comes from the store in chunks, each read on a blocking thread when the connection takes it, so
//! that an upload has no more than one chunk in memory. It can be sent again from its start: each time the blob is
//! opened anew.

use std::future::Future;
use std::io::{self, Read as _};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use palan_oci::Digest;
use palan_store::{BlobContent, Store};
use tokio::time::Instant;

use crate::error::RequestError;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;
/// How often a transfer is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A registry that has all bytes still hashes them, or moves them to where it keeps them: so many times longer than
/// usual is waited for its answer.
const PATIENCE_AT_THE_END: u32 = 10;

type Unreadable = Box<dyn std::error::Error + Send + Sync>;

/// What a request carries.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    None,
    /// A form, which has a token in it.
    Form(String),
    Document {
        media_type: String,
        content: Bytes,
    },
    Blob(BlobPart),
}

/// A part of a blob of the store.
#[derive(Clone)]
pub(crate) struct BlobPart {
    store: Store,
    digest: Digest,
    range: Range<u64>,
    /// Whether the request says where in the blob the part belongs.
    is_chunk: bool,
    /// How far the connection took it, in the blob's offsets.
    position: Arc<AtomicU64>,
    /// Why the store could not deliver.
    failure: Arc<Mutex<Option<Unreadable>>>,
}

impl std::fmt::Debug for BlobPart {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}[{}..{}]", self.digest, self.range.start, self.range.end)
    }
}

impl BlobPart {
    /// The whole blob of this size.
    pub(crate) fn whole(store: &Store, digest: Digest, size: u64) -> Self {
        Self { is_chunk: false, ..Self::chunk(store, digest, 0..size) }
    }

    /// A part, which a request says with `Content-Range`.
    pub(crate) fn chunk(store: &Store, digest: Digest, range: Range<u64>) -> Self {
        let position = Arc::new(AtomicU64::new(range.start));
        Self { store: store.clone(), digest, range, is_chunk: true, position, failure: Arc::default() }
    }

    pub(crate) fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// How far the transfer is, in the blob's offsets.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The distribution specification's `<start>-<end>`, both included, unlike RFC 9110's.
    pub(crate) fn content_range(&self) -> Option<String> {
        (self.is_chunk && !self.range.is_empty())
            .then(|| format!("{}-{}", self.range.start, self.range.end - 1))
    }

    /// Why the store could not deliver, if that is what ended the transfer.
    pub(crate) fn failure(&self) -> Option<RequestError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map(|source| RequestError::Unreadable { digest: self.digest, source })
    }

    /// The bytes, from the part's start.
    pub(crate) fn body(&self) -> reqwest::Body {
        self.position.store(self.range.start, Ordering::Relaxed);
        let reader = Reader { part: self.clone(), content: None, left: self.length() };
        reqwest::Body::wrap_stream(stream::try_unfold(reader, Reader::next))
    }

    /// Waits for `sending`, as long as the connection takes bytes at least every `patience`. The error is how long was
    /// waited in vain.
    pub(crate) async fn watched<F: Future>(
        &self,
        patience: Duration,
        sending: F,
    ) -> Result<F::Output, Duration> {
        let mut sending = std::pin::pin!(sending);
        let mut seen = (self.position(), Instant::now());
        loop {
            if let Ok(output) = tokio::time::timeout(LOOK_EVERY, &mut sending).await {
                return Ok(output);
            }
            let position = self.position();
            let patience = if position == self.range.end { patience * PATIENCE_AT_THE_END } else { patience };
            if position != seen.0 {
                seen = (position, Instant::now());
            } else if seen.1.elapsed() > patience {
                return Err(patience);
            }
        }
    }
}

/// Reads a part chunk by chunk.
struct Reader {
    part: BlobPart,
    content: Option<BlobContent>,
    left: u64,
}

impl Reader {
    async fn next(self) -> io::Result<Option<(Bytes, Self)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let ended = |_| io::Error::other("the process ends");
        tokio::task::spawn_blocking(move || self.read()).await.map_err(ended)?.map(Some)
    }

    fn read(mut self) -> io::Result<(Bytes, Self)> {
        match self.chunk() {
            Ok(chunk) => Ok((chunk, self)),
            Err(error) => {
                // The HTTP library tells of its own failure; this one is the cause.
                let text = error.to_string();
                *self.part.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(io::Error::other(text))
            }
        }
    }

    fn chunk(&mut self) -> Result<Bytes, Unreadable> {
        let part = &self.part;
        let content = match &mut self.content {
            Some(content) => content,
            None => {
                let mut content = part.store.open_blob(&part.digest)?;
                content.seek_to(part.range.start)?;
                self.content.insert(content)
            }
        };
        let wanted = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = vec![0; wanted];
        content.read_exact(&mut chunk)?;
        self.left -= wanted as u64;
        part.position.fetch_add(wanted as u64, Ordering::Relaxed);
        Ok(chunk.into())
    }
}
