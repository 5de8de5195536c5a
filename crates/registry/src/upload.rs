//! Brings one blob to a registry: finds out whether it is there, mounts it from a repository that has it, or uploads it.
//!
//! ```text
//! Waiting ─slot─▶ HEAD ──there──────────────────────────▶ AlreadyExists
//!                  │ not there
//!                  ├─▶ POST ?mount=…&from=… ──201────────▶ Mounted
//!                  └─▶ POST ─▶ PATCH … PUT (small: PUT) ─▶ Pushed
//!                               │   ▲
//!                               └───┘ broken: Retrying, then from where the registry is; its session is gone: HEAD
//! ```
//! A blob goes in one chunk, until the registry (or a proxy before it) says that this is too much at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use palan_oci::Descriptor;
use palan_store::Store;
use reqwest::{Method, StatusCode};

use crate::error::{RegistryError, RequestError};
use crate::payload::BlobPart;
use crate::progress::UploadStatus;
use crate::repository::Repository;
use crate::retry;
use crate::session::{Begun, Session, check_digest};
use crate::slots::Slots;
use crate::transport::Outgoing;

/// What is sent with the request that ends the upload: resuming it would cost as much as beginning again.
const SMALL: u64 = 1 << 20;
/// The chunk for registries that refused a larger one.
const MODEST_CHUNK: u64 = 16 << 20;
/// The smallest chunk that is tried.
const SMALLEST_CHUNK: u64 = 256 << 10;
/// A transfer that got this far since it last broke has proved that trying again is worth it.
const GOOD_PROGRESS: u64 = 1 << 20;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// The most repositories that a blob is looked for in.
const MOST_SOURCES: usize = 4;

/// Everything that one blob's upload needs.
pub(crate) struct Upload<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) store: &'a Store,
    pub(crate) slots: &'a Arc<Slots>,
    pub(crate) descriptor: &'a Descriptor,
    /// Repositories of the same registry that have the blob, as far as is known.
    pub(crate) sources: &'a [String],
    pub(crate) tell: &'a (dyn Fn(UploadStatus) + Send + Sync),
}

/// An upload on its way.
#[derive(Default)]
struct Progress {
    session: Option<Session>,
    /// How far the last attempt got.
    sent: u64,
    /// The largest chunk that the registry is believed to take.
    chunk: Option<u64>,
    /// Whether the blob was sent again from its start because the registry had got other bytes.
    from_scratch: bool,
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Go on where the registry is.
    Resume,
    /// Begin anew.
    Restart,
    /// Begin anew, once: the bytes were damaged on their way.
    RestartOnce,
    /// Go on in smaller chunks, at once.
    SmallerChunks,
    /// There is none.
    GiveUp,
}

impl Upload<'_> {
    /// Brings the blob and tells how.
    pub(crate) async fn run(&self) -> Result<(), RegistryError> {
        let _slot = {
            let mut take = std::pin::pin!(self.slots.take(&self.repository.source().origin));
            tokio::select! {
                biased;
                slot = &mut take => slot,
                () = std::future::ready(()) => {
                    (self.tell)(UploadStatus::Waiting);
                    take.await
                }
            }
        };
        let timing = &self.repository.transport().config().timing;
        let mut progress = Progress::default();
        let mut failed = 0;
        loop {
            let before = progress.sent;
            let error = match self.attempt(&mut progress).await {
                Ok(status) => {
                    (self.tell)(status);
                    return Ok(());
                }
                Err(error) => error,
            };
            match remedy(&error) {
                Remedy::SmallerChunks if progress.shrink() => continue,
                Remedy::Resume => {}
                Remedy::Restart => self.give_up(&mut progress).await,
                Remedy::RestartOnce if !progress.from_scratch => {
                    progress.from_scratch = true;
                    self.give_up(&mut progress).await;
                }
                Remedy::RestartOnce | Remedy::SmallerChunks | Remedy::GiveUp => {
                    self.give_up(&mut progress).await;
                    return Err(error);
                }
            }
            failed = if progress.sent >= before + GOOD_PROGRESS { 1 } else { failed + 1 };
            if failed >= timing.attempts {
                self.give_up(&mut progress).await;
                let digest = self.descriptor.digest.to_string();
                return Err(RegistryError::UploadExhausted {
                    digest,
                    attempts: failed,
                    source: Box::new(error),
                });
            }
            let pause = retry::pause(timing, failed, error.retry_after());
            let reason = palan_stdx::error_chain::to_string(&error);
            tracing::debug!(blob = %self.descriptor.digest, sent = progress.sent, reason, "upload broke");
            (self.tell)(UploadStatus::Retrying {
                seconds: pause.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
            });
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, progress: &mut Progress) -> Result<UploadStatus, RegistryError> {
        match &mut progress.session {
            Some(session) => session.resume(self.repository, progress.sent).await?,
            None => {
                if self.is_there().await? {
                    return Ok(UploadStatus::AlreadyExists);
                }
                for source in self.sources.iter().take(MOST_SOURCES) {
                    if self.mount(source, progress).await {
                        return Ok(UploadStatus::MountedFrom(source.clone()));
                    }
                }
                if progress.session.is_none() {
                    match Session::begin(self.repository, &self.descriptor.digest, None).await? {
                        Begun::Mounted => return Ok(UploadStatus::AlreadyExists),
                        Begun::Open(session) => progress.session = Some(session),
                    }
                }
            }
        }
        self.transfer(progress).await?;
        Ok(UploadStatus::Pushed)
    }

    async fn is_there(&self) -> Result<bool, RegistryError> {
        is_there(self.repository, self.descriptor).await
    }

    /// Mounts the blob from another repository; whether that worked. A registry that does not want to may have begun an
    /// upload instead. Any failure means that it goes another way.
    async fn mount(&self, source: &str, progress: &mut Progress) -> bool {
        match Session::begin(self.repository, &self.descriptor.digest, Some(source)).await {
            Ok(Begun::Mounted) => {
                if let Some(unused) = progress.session.take() {
                    unused.cancel(self.repository).await;
                }
                true
            }
            Ok(Begun::Open(session)) => {
                if let Some(unused) = progress.session.replace(session) {
                    unused.cancel(self.repository).await;
                }
                false
            }
            Err(error) => {
                let reason = palan_stdx::error_chain::to_string(&error);
                tracing::debug!(blob = %self.descriptor.digest, source, reason, "cannot be mounted");
                false
            }
        }
    }

    async fn transfer(&self, progress: &mut Progress) -> Result<(), RegistryError> {
        let Progress { session, sent, chunk, .. } = progress;
        let Some(session) = session else { return Ok(()) };
        let Descriptor { digest, size, .. } = *self.descriptor;
        if size <= SMALL && session.position == 0 && chunk.is_none() {
            let whole = BlobPart::whole(self.store, digest, size);
            let finishing = session.finish(self.repository, &digest, Some(&whole));
            let outcome = self.telling(&whole, finishing).await;
            *sent = whole.position();
            return outcome;
        }
        while session.position < size {
            let length = chunk.map_or(size, |chunk| chunk.max(session.shortest_chunk));
            let end = session.position.saturating_add(length).min(size);
            let part = session.part(self.store, digest, end);
            let outcome = self.telling(&part, session.send(self.repository, &part, end)).await;
            *sent = part.position();
            outcome?;
        }
        *sent = size;
        session.finish(self.repository, &digest, None).await
    }

    /// Waits for a transfer and tells how far it is.
    async fn telling<T>(&self, part: &BlobPart, transfer: impl Future<Output = T>) -> T {
        let mut transfer = std::pin::pin!(transfer);
        let total = self.descriptor.size;
        let mut told = None;
        loop {
            if let Ok(output) = tokio::time::timeout(TELL_EVERY, &mut transfer).await {
                return output;
            }
            let current = part.position();
            if told.replace(current) != Some(current) {
                (self.tell)(UploadStatus::Pushing { current, total });
            }
        }
    }

    async fn give_up(&self, progress: &mut Progress) {
        progress.sent = 0;
        if let Some(session) = progress.session.take() {
            session.cancel(self.repository).await;
        }
    }
}

impl Progress {
    /// Makes chunks smaller; whether that is possible.
    fn shrink(&mut self) -> bool {
        let next = self.chunk.map_or(MODEST_CHUNK, |chunk| chunk / 4);
        let possible =
            next >= SMALLEST_CHUNK.max(self.session.as_ref().map_or(0, |session| session.shortest_chunk));
        self.chunk = Some(next);
        possible
    }
}

/// Whether the registry has a blob in this repository.
pub(crate) async fn is_there(
    repository: &Repository,
    descriptor: &Descriptor,
) -> Result<bool, RegistryError> {
    let url = repository.url(&format!("blobs/{}", descriptor.digest))?;
    let response = match repository.request(Outgoing::new(Method::HEAD, url)).await {
        Ok(response) => response,
        Err(error) if status_of(&error) == 404 => return Ok(false),
        Err(error) => return Err(error),
    };
    check_digest(&response, &descriptor.digest)?;
    let length = response.headers().get(reqwest::header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    // What has another length is something else, or is still being stored.
    Ok(length.is_none_or(|length| length == descriptor.size))
}

fn remedy(error: &RegistryError) -> Remedy {
    let RegistryError::Request { source, .. } = error else { return Remedy::GiveUp };
    match source {
        RequestError::Api(api) if api.code == "DIGEST_INVALID" => Remedy::RestartOnce,
        RequestError::Api(api) => match StatusCode::from_u16(api.status) {
            Ok(StatusCode::PAYLOAD_TOO_LARGE) => Remedy::SmallerChunks,
            // The session is gone, or the registry is not where we believe it is.
            Ok(StatusCode::NOT_FOUND) if api.code == "BLOB_UPLOAD_UNKNOWN" => Remedy::Restart,
            Ok(StatusCode::RANGE_NOT_SATISFIABLE) => Remedy::Restart,
            _ if error.is_transient() => Remedy::Resume,
            _ => Remedy::GiveUp,
        },
        // A session whose state makes no sense is of no use any more.
        RequestError::Malformed { .. } => Remedy::Restart,
        _ if error.is_transient() => Remedy::Resume,
        _ => Remedy::GiveUp,
    }
}

fn status_of(error: &RegistryError) -> u16 {
    match error {
        RegistryError::Request { source: RequestError::Api(api), .. } => api.status,
        _ => 0,
    }
}
