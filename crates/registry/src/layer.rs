//! Brings one layer: from the socket through a bounded channel to a thread that owns the store's writer.
//!
//! ```text
//! Waiting ─slot─▶ (thread begins) ─offset─▶ Downloading ──all bytes──▶ Verifying ─▶ Downloaded ─▶ Extracting ─▶ Complete
//!                       │ present               │   ▲
//!                       └──▶ AlreadyExists      │   │ the connection broke: Retrying, then Range from where we are
//!                                               └───┘
//! ```
//! The writer sees one unbroken stream, however often the transfer had to be resumed; it hashes, stores and unpacks it
//! on the way, so when the last byte came there is little left to do. When the task is dropped the channel closes, the
//! writer's source fails, and the store keeps what came for the next pull.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use palan_oci::digest::VerifyError;
use palan_oci::media_type::Class;
use palan_oci::{Descriptor, Digest};
use palan_store::{BeginLayer, LayerRequest, Store};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::config::Timing;
use crate::error::{RegistryError, RequestError};
use crate::flight::{FlightState, Landing};
use crate::guard::authority;
use crate::progress::LayerStatus;
use crate::repository::Repository;
use crate::retry;
use crate::slots::Slots;
use crate::transport::classify;

/// How often a layer's progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// A transfer that got this far since it last broke has proved that trying again is worth it.
const GOOD_PROGRESS: u64 = 1 << 20;
/// In the time of a stall at least this much must come, or a registry could hold us with a byte now and then.
const LEAST_PROGRESS: u64 = 1024;
/// The most URLs of a foreign layer that are tried.
const MOST_URLS: usize = 8;

/// Everything that one layer's download needs.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) repository: Repository,
    pub(crate) store: Store,
    pub(crate) slots: Arc<Slots>,
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

/// What goes through the channel.
enum Feed {
    /// Bytes, and their share of the budget, which is free again once they are consumed.
    Chunk(Bytes, OwnedSemaphorePermit),
    /// The layer is complete, or is not worth completing.
    End,
}

/// Whether what an earlier pull left is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    FromKept,
    FromScratch,
}

/// What the thread says first.
enum Begun {
    Present,
    At(u64),
}

/// The async end of a writer's thread.
struct Feeder {
    channel: mpsc::Sender<Feed>,
    budget: Arc<Semaphore>,
    whole_budget: u32,
    result: oneshot::Receiver<palan_store::Result<()>>,
}

impl Download {
    /// Runs the download and tells its state to `sender`.
    pub(crate) async fn run(self, sender: watch::Sender<FlightState>) -> Landing {
        let teller = Teller { sender, told: Instant::now() };
        let (teller, outcome) = self.bring(teller).await;
        Landing { sender: teller.sender, outcome }
    }

    async fn bring(&self, mut teller: Teller) -> (Teller, Result<(), RegistryError>) {
        let taken = {
            let mut take = std::pin::pin!(self.slots.take(&self.repository.source().origin));
            tokio::select! {
                biased;
                slot = &mut take => slot,
                () = std::future::ready(()) => {
                    teller.tell(LayerStatus::Waiting);
                    take.await
                }
            }
        };
        let Some(slot) = taken else {
            return (teller, Err(self.given_up()));
        };
        let mut slot = Some(slot);
        let mut pieced = false;
        let first = self.attempt(&mut teller, &mut slot, &mut pieced, Start::FromKept).await;
        let outcome = match first {
            // What was kept from an earlier pull may itself be what is wrong (a power loss), or the pieces came from
            // servers that disagree.
            Err(error) if pieced && is_about_content(&error) => {
                if slot.is_none() {
                    slot = self.slots.take(&self.repository.source().origin).await;
                }
                self.attempt(&mut teller, &mut slot, &mut pieced, Start::FromScratch).await
            }
            outcome => outcome,
        };
        (teller, outcome)
    }

    /// One writer from begin to end. `pieced` tells whether what it was given came in one piece.
    async fn attempt(
        &self,
        teller: &mut Teller,
        slot: &mut Option<crate::slots::Slot>,
        pieced: &mut bool,
        start: Start,
    ) -> Result<(), RegistryError> {
        let (begun, feeder) = self.begin(start).await?;
        let offset = match begun {
            Begun::Present => {
                teller.tell(LayerStatus::AlreadyExists);
                return Ok(());
            }
            Begun::At(offset) => offset,
        };
        *pieced = offset > 0;
        match self.transfer(teller, &feeder, offset, pieced).await {
            Ok(()) => {}
            Err(Interruption::Writer) => return Err(self.writers_error(feeder.result.await)),
            Err(Interruption::Failed(error)) => {
                *pieced = false;
                return Err(error);
            }
            Err(Interruption::Wrong(error)) => {
                // An early end makes the store drop what came. If it has more to say (a full disk), that comes first.
                drop(feeder.channel.send(Feed::End).await);
                return match feeder.result.await {
                    Ok(Err(source)) if !matches!(source, palan_store::Error::Verify(_)) => {
                        Err(self.store_error(source))
                    }
                    _ => Err(error),
                };
            }
        }
        teller.tell(LayerStatus::Verifying);
        if feeder.channel.send(Feed::End).await.is_ok() {
            // All of the budget is free when all bytes are consumed: the slot is for whoever transfers.
            drop(feeder.budget.acquire_many(feeder.whole_budget).await);
        }
        drop(slot.take());
        teller.tell(LayerStatus::Downloaded);
        let total = self.descriptor.size;
        teller.tell(LayerStatus::Extracting { current: total, total });
        match feeder.result.await {
            Ok(Ok(())) => {
                teller.tell(LayerStatus::Complete);
                Ok(())
            }
            other => Err(self.writers_error(other)),
        }
    }

    /// Starts the thread and waits for what it says first.
    async fn begin(&self, start: Start) -> Result<(Begun, Feeder), RegistryError> {
        let whole_budget = self.slots.budget();
        let budget = Arc::new(Semaphore::new(whole_budget as usize));
        let (channel, receiver) = mpsc::channel(64);
        let (begun_sender, begun) = oneshot::channel();
        let (result_sender, result) = oneshot::channel();
        let request = LayerRequest { descriptor: self.descriptor.clone(), diff_id: Some(self.diff_id) };
        let store = self.store.clone();
        let work = move || {
            let answer = write_layer(&store, &request, start, begun_sender, receiver);
            // Nobody listens any more when the pull was cancelled.
            drop(result_sender.send(answer));
        };
        std::thread::Builder::new()
            .name("palan-layer".to_owned())
            .spawn(work)
            .map_err(|_| self.given_up())?;
        let feeder = Feeder { channel, budget, whole_budget, result };
        match begun.await {
            Ok(begun) => Ok((begun, feeder)),
            Err(_) => Err(self.writers_error(feeder.result.await)),
        }
    }

    /// Feeds the writer until it has all bytes, resuming where the transfer breaks.
    async fn transfer(
        &self,
        teller: &mut Teller,
        feeder: &Feeder,
        offset: u64,
        pieced: &mut bool,
    ) -> Result<(), Interruption> {
        let timing = &self.repository.transport().config().timing;
        let mut position = offset;
        let mut failed = 0;
        while position < self.descriptor.size {
            let began = position;
            let error = match self.transfer_once(teller, feeder, &mut position, timing).await {
                Ok(()) => continue,
                Err(Interruption::Failed(error)) if error.is_transient() => error,
                Err(other) => return Err(other),
            };
            *pieced |= position > offset;
            failed = if position - began >= GOOD_PROGRESS { 1 } else { failed + 1 };
            if failed >= timing.attempts {
                return Err(Interruption::Failed(RegistryError::Exhausted {
                    digest: self.descriptor.digest.to_string(),
                    attempts: failed,
                    source: Box::new(error),
                }));
            }
            let pause = retry::pause(timing, failed, error.retry_after());
            tracing::debug!(layer = %self.descriptor.digest, position, error = %error, "transfer broke");
            teller.tell(LayerStatus::Retrying {
                seconds: pause.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
            });
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Feeds the writer from one answer until it ends.
    async fn transfer_once(
        &self,
        teller: &mut Teller,
        feeder: &Feeder,
        position: &mut u64,
        timing: &Timing,
    ) -> Result<(), Interruption> {
        let mut response = self.open(*position).await?;
        let mut skip = self.surplus(&response, *position)?;
        let url = response.url().clone();
        let broke = |source| Interruption::Failed(RegistryError::request(&Method::GET, &url, source));
        let mut pace = Pace::default();
        let total = self.descriptor.size;
        loop {
            let asked = Instant::now();
            let chunk = match tokio::time::timeout(timing.stall, response.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => return Err(broke(classify(&error, &url))),
                Err(_) => {
                    return Err(broke(RequestError::Stalled {
                        authority: authority(&url),
                        waited: timing.stall,
                    }));
                }
            };
            let Some(mut chunk) = chunk else {
                let reason = format!("it ended after {position} of {total} bytes");
                return Err(broke(RequestError::Interrupted { authority: authority(&url), reason }));
            };
            if !pace.is_enough(chunk.len() as u64, asked.elapsed(), timing.stall) {
                return Err(broke(RequestError::Stalled {
                    authority: authority(&url),
                    waited: timing.stall,
                }));
            }
            let surplus = skip.min(chunk.len() as u64);
            skip -= surplus;
            chunk.advance(usize::try_from(surplus).unwrap_or(chunk.len()));
            if *position + chunk.len() as u64 > total {
                return Err(Interruption::Wrong(
                    self.wrong_size(format!("more than the promised {total} bytes")),
                ));
            }
            *position += chunk.len() as u64;
            feeder.feed(chunk).await?;
            teller.tell_at_times(LayerStatus::Downloading { current: *position, total });
            if *position == total {
                // What may follow is no concern of ours: the digest decides.
                return Ok(());
            }
        }
    }

    /// Asks for the layer from `offset` on, at the registry or (foreign layers) where its descriptor says.
    async fn open(&self, offset: u64) -> Result<Response, Interruption> {
        let error = match self.repository.blob(&self.descriptor.digest, offset).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let status = match &error {
            RegistryError::Request { source: RequestError::Api(api), .. } => api.status,
            _ => 0,
        };
        if status == StatusCode::RANGE_NOT_SATISFIABLE.as_u16() {
            return Err(Interruption::Failed(self.wrong_size(format!("no more than {offset} bytes"))));
        }
        let is_foreign = matches!(self.descriptor.class(), Class::Layer { foreign: true, .. });
        if is_foreign && matches!(status, 401 | 403 | 404) {
            for url in self.descriptor.urls.iter().take(MOST_URLS).filter_map(|url| Url::parse(url).ok()) {
                match self.repository.foreign(&url, offset).await {
                    Ok(response) => return Ok(response),
                    Err(error) => tracing::debug!(%url, error = %error, "foreign layer"),
                }
            }
        }
        Err(Interruption::Failed(error))
    }

    /// How many bytes at the beginning of an answer we have already.
    fn surplus(&self, response: &Response, position: u64) -> Result<u64, Interruption> {
        let total = self.descriptor.size;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return match response.content_length() {
                Some(length) if length != total => Err(Interruption::Failed(
                    self.wrong_size(format!("{length} bytes, the manifest promises {total}")),
                )),
                // The whole layer instead of the rest of it; what we have is verified in the end anyway.
                _ => Ok(position),
            };
        }
        let malformed = || {
            let reason = "a partial answer with another range than was asked for".to_owned();
            let source = RequestError::Malformed { reason };
            Interruption::Failed(RegistryError::request(&Method::GET, response.url(), source))
        };
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let (start, whole) = range.and_then(parse_content_range).ok_or_else(malformed)?;
        if whole.is_some_and(|whole| whole != total) {
            return Err(Interruption::Failed(
                self.wrong_size(format!("{} bytes, the manifest promises {total}", whole.unwrap_or(0))),
            ));
        }
        position.checked_sub(start).ok_or_else(malformed)
    }

    fn wrong_size(&self, found: String) -> RegistryError {
        RegistryError::Digest {
            what: "filesystem layer",
            expected: self.descriptor.digest.to_string(),
            found,
        }
    }

    fn store_error(&self, source: palan_store::Error) -> RegistryError {
        let found = match &source {
            palan_store::Error::Verify(VerifyError::Digest { actual, .. }) => actual.to_string(),
            palan_store::Error::Verify(VerifyError::TooShort { actual, .. }) => format!("{actual} bytes"),
            palan_store::Error::Verify(VerifyError::TooLong { .. }) => {
                "more bytes than it promised".to_owned()
            }
            _ => {
                let what = format!("layer {}", self.descriptor.digest);
                return RegistryError::Store { what, source: Box::new(source) };
            }
        };
        let expected = self.descriptor.digest.to_string();
        RegistryError::Digest { what: "filesystem layer", expected, found }
    }

    fn writers_error(
        &self,
        result: Result<palan_store::Result<()>, oneshot::error::RecvError>,
    ) -> RegistryError {
        match result {
            Ok(Err(source)) => self.store_error(source),
            Ok(Ok(())) | Err(_) => self.given_up(),
        }
    }

    fn given_up(&self) -> RegistryError {
        RegistryError::GivenUp { what: format!("layer {}", self.descriptor.digest) }
    }
}

/// Why a transfer ended without all bytes.
enum Interruption {
    /// The writer went away; its result says why.
    Writer,
    /// The transfer failed, or an answer's head shows that it is of no use; what came before may be kept.
    Failed(RegistryError),
    /// What came is not the layer; nothing may be kept.
    Wrong(RegistryError),
}

impl Feeder {
    async fn feed(&self, mut chunk: Bytes) -> Result<(), Interruption> {
        while !chunk.is_empty() {
            let length = chunk.len().min(self.whole_budget as usize);
            let part = chunk.split_to(length);
            let share = u32::try_from(length).unwrap_or(self.whole_budget);
            // The budget is never closed; a writer that went away drops what was fed, which frees it.
            let permit = Arc::clone(&self.budget).acquire_many_owned(share).await;
            let permit = permit.map_err(|_| Interruption::Writer)?;
            self.channel.send(Feed::Chunk(part, permit)).await.map_err(|_| Interruption::Writer)?;
        }
        Ok(())
    }
}

/// Whether other bytes would have had another result.
fn is_about_content(error: &RegistryError) -> bool {
    use palan_store::Error as Store;
    match error {
        RegistryError::Digest { .. } => true,
        RegistryError::Store { source, .. } => {
            matches!(**source, Store::Layer { .. } | Store::WrongDiffId { .. })
        }
        _ => false,
    }
}

/// Runs on the layer's own thread.
fn write_layer(
    store: &Store,
    request: &LayerRequest,
    start: Start,
    begun: oneshot::Sender<Begun>,
    receiver: mpsc::Receiver<Feed>,
) -> palan_store::Result<()> {
    let lease = store.lease();
    let any = LayerRequest { descriptor: request.descriptor.clone(), diff_id: None };
    let mut by_blob = false;
    let mut writer = loop {
        let request = if by_blob { &any } else { request };
        match store.begin_layer(request, &lease)? {
            // It was unpacked from other bytes than this image's manifest names: these are wanted, too, so that the image
            // can be pushed and saved as it came.
            BeginLayer::Present(_) if !by_blob && !store.has_blob(&request.descriptor.digest) => {
                by_blob = true
            }
            BeginLayer::Present(_) => {
                drop(begun.send(Begun::Present));
                return Ok(());
            }
            BeginLayer::Busy(busy) => busy.wait(),
            BeginLayer::Ready(writer) => break writer,
        }
        if begun.is_closed() {
            return Ok(());
        }
    };
    if start == Start::FromScratch {
        writer.restart()?;
    }
    if begun.send(Begun::At(writer.offset())).is_err() {
        return Ok(());
    }
    let mut source = ChannelReader { receiver, current: None, ended: false };
    let actual = writer.run(&mut source)?.diff_id;
    match request.diff_id {
        Some(expected) if expected != actual => {
            Err(palan_store::Error::WrongDiffId { blob: request.descriptor.digest, expected, actual })
        }
        _ => Ok(()),
    }
}

/// The channel as the writer's source.
struct ChannelReader {
    receiver: mpsc::Receiver<Feed>,
    current: Option<(Bytes, OwnedSemaphorePermit)>,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some((bytes, _)) = &mut self.current {
                if bytes.has_remaining() {
                    let length = buffer.len().min(bytes.remaining());
                    bytes.copy_to_slice(&mut buffer[..length]);
                    return Ok(length);
                }
                self.current = None;
            }
            if self.ended {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(Feed::Chunk(bytes, permit)) => self.current = Some((bytes, permit)),
                Some(Feed::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was given up",
                    ));
                }
            }
        }
    }
}

/// Whether bytes come fast enough to be called progress; time that we need ourselves does not count.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    came: u64,
}

impl Pace {
    fn is_enough(&mut self, bytes: u64, waited: Duration, window: Duration) -> bool {
        self.came += bytes;
        self.waited += waited;
        if self.waited < window {
            return true;
        }
        let enough = self.came >= LEAST_PROGRESS;
        *self = Self::default();
        enough
    }
}

/// Tells the waiting, not too often.
struct Teller {
    sender: watch::Sender<FlightState>,
    told: Instant,
}

impl Teller {
    fn tell(&mut self, status: LayerStatus) {
        self.told = Instant::now();
        self.sender.send_modify(|state| state.status = status);
    }

    fn tell_at_times(&mut self, status: LayerStatus) {
        if self.told.elapsed() >= TELL_EVERY {
            self.tell(status);
        }
    }
}

/// The start and the whole size in `bytes 5-9/10`; the size may be `*`.
pub(crate) fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    let whole = match whole.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (start <= end && whole.is_none_or(|whole| end < whole)).then_some((start, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes", "bytes */10", "bytes 5-4/10", "bytes 5-10/10", "items 1-2/3", "bytes 1-2"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_trickle_is_a_stall() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::default();
        assert!((0..29).all(|_| pace.is_enough(1, second, 30 * second)));
        assert!(!pace.is_enough(1, second, 30 * second));
        assert!(pace.is_enough(LEAST_PROGRESS, 30 * second, 30 * second));
    }

    #[test]
    fn the_reader_ends_only_when_told() {
        let budget = Arc::new(Semaphore::new(100));
        let (sender, receiver) = mpsc::channel(4);
        let permit = Arc::clone(&budget).try_acquire_many_owned(5).unwrap();
        sender.try_send(Feed::Chunk(Bytes::from_static(b"hello"), permit)).ok().unwrap();
        sender.try_send(Feed::End).ok().unwrap();
        let mut text = String::new();
        let mut reader = ChannelReader { receiver, current: None, ended: false };
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), budget.available_permits()), ("hello", 100));

        let (sender, receiver) = mpsc::channel::<Feed>(4);
        drop(sender);
        let error = ChannelReader { receiver, current: None, ended: false }.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
