//! One upload session, in the words of the distribution specification ("Pushing blobs").
//!
//! ```text
//!   POST …/uploads/ ──202 Location──▶ open at 0 ──PATCH──▶ open at n ──PUT ?digest=──▶ the blob is there
//!          │                            │  ▲
//!          │ ?mount&from: 201           │  │ broken: GET Location says how far it came
//!          ▼                            └──┘
//!   the blob is there
//! ```
//! The registry names a new location with every answer, which may be on another host: it is checked as a redirect is
//! and gets no credentials. What the registry says about how far it came is believed only within what was sent.

use bytes::Bytes;
use palan_oci::Digest;
use palan_store::Store;
use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::error::{RegistryError, RequestError};
use crate::payload::{BlobPart, Payload};
use crate::repository::Repository;
use crate::transport::{Outgoing, redirect_target};

/// What came of the wish to upload or mount a blob.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It is there already.
    Mounted,
    /// The registry waits for its bytes.
    Open(Session),
}

/// An upload that the registry waits for.
#[derive(Debug)]
pub(crate) struct Session {
    location: Url,
    /// How many bytes the registry has.
    pub(crate) position: u64,
    /// The least that one chunk must have, the last one excepted.
    pub(crate) shortest_chunk: u64,
}

impl Session {
    /// Begins an upload, or mounts the blob from another repository of the registry.
    pub(crate) async fn begin(
        repository: &Repository,
        digest: &Digest,
        from: Option<&str>,
    ) -> Result<Begun, RegistryError> {
        let mut url = repository.url("blobs/uploads/")?;
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        }
        let response = match from {
            Some(from) => {
                repository.reading_also(from).request(Outgoing::new(Method::POST, url.clone())).await?
            }
            None => repository.request(Outgoing::new(Method::POST, url.clone())).await?,
        };
        if response.status() == StatusCode::CREATED {
            check_digest(&response, digest)?;
            return Ok(Begun::Mounted);
        }
        let location = location(&response, &Method::POST, &url)?;
        let shortest_chunk = number(response.headers(), "oci-chunk-min-length").unwrap_or(0);
        Ok(Begun::Open(Self { location, position: 0, shortest_chunk }))
    }

    /// Asks how far the registry came.
    pub(crate) async fn resume(&mut self, repository: &Repository, sent: u64) -> Result<(), RegistryError> {
        let response = repository.request(Outgoing::new(Method::GET, self.location.clone())).await?;
        self.go_on(&response, &Method::GET, 0..sent)
    }

    /// Sends bytes from where the registry is, up to `end`.
    pub(crate) async fn send(
        &mut self,
        repository: &Repository,
        part: &BlobPart,
        end: u64,
    ) -> Result<(), RegistryError> {
        let mut outgoing = Outgoing::new(Method::PATCH, self.location.clone());
        outgoing.payload = Payload::Blob(part.clone());
        let response = repository.request(outgoing).await?;
        self.go_on(&response, &Method::PATCH, self.position..end)
    }

    /// Ends the upload, with the whole blob or, where all bytes are there, with its digest alone.
    pub(crate) async fn finish(
        &self,
        repository: &Repository,
        digest: &Digest,
        whole: Option<&BlobPart>,
    ) -> Result<(), RegistryError> {
        let mut url = self.location.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut outgoing = Outgoing::new(Method::PUT, url);
        if let Some(whole) = whole {
            outgoing.payload = Payload::Blob(whole.clone());
        }
        let response = repository.request(outgoing).await?;
        check_digest(&response, digest)
    }

    /// Ends the upload with bytes at hand.
    pub(crate) async fn finish_with(
        &self,
        repository: &Repository,
        digest: &Digest,
        content: Bytes,
    ) -> Result<(), RegistryError> {
        let mut url = self.location.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut outgoing = Outgoing::new(Method::PUT, url);
        let media_type = "application/octet-stream".to_owned();
        outgoing.payload = Payload::Document { media_type, content };
        let response = repository.request(outgoing).await?;
        check_digest(&response, digest)
    }

    /// Tells the registry that nothing more will come. What it says to that does not matter: it forgets uploads by
    /// itself, too.
    pub(crate) async fn cancel(self, repository: &Repository) {
        drop(repository.request(Outgoing::new(Method::DELETE, self.location)).await);
    }

    /// The part of the blob that is to be sent next.
    pub(crate) fn part(&self, store: &Store, digest: Digest, end: u64) -> BlobPart {
        BlobPart::chunk(store, digest, self.position..end)
    }

    fn go_on(
        &mut self,
        response: &Response,
        method: &Method,
        possible: std::ops::Range<u64>,
    ) -> Result<(), RegistryError> {
        let url = self.location.clone();
        let malformed =
            |reason: String| RegistryError::request(method, &url, RequestError::Malformed { reason });
        if response.headers().contains_key(reqwest::header::LOCATION) {
            self.location = location(response, method, &url)?;
        }
        let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok());
        let position = match range {
            Some(text) => {
                progress(text).ok_or_else(|| malformed(format!("a range of {text:?} in an upload")))?
            }
            // A registry that took all of a chunk need not say so.
            None if *method == Method::PATCH => possible.end,
            None => 0,
        };
        if position < possible.start || position > possible.end {
            let (start, end) = (possible.start, possible.end);
            let reason = format!(
                "it says that it has {position} bytes of an upload, between {start} and {end} are possible"
            );
            return Err(malformed(reason));
        }
        self.position = position;
        Ok(())
    }
}

/// How many bytes `0-<last>` are. `0-0` is what registries say of nothing.
fn progress(range: &str) -> Option<u64> {
    let (first, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    if first != "0" {
        return None;
    }
    if last == 0 { Some(0) } else { last.checked_add(1) }
}

fn location(response: &Response, method: &Method, url: &Url) -> Result<Url, RegistryError> {
    redirect_target(response.url(), response).map_err(|error| RegistryError::request(method, url, error))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// A registry that names another digest than the one of what was sent has stored something else.
pub(crate) fn check_digest(response: &Response, expected: &Digest) -> Result<(), RegistryError> {
    match stored_digest(response.headers()) {
        Some(found) if found != expected.to_string() => Err(RegistryError::Stored {
            what: "what was sent".to_owned(),
            expected: expected.to_string(),
            found,
        }),
        _ => Ok(()),
    }
}

fn stored_digest(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("docker-content-digest")?.to_str().ok()?.trim();
    Some(text.chars().filter(|letter| !letter.is_control()).take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uploads() {
        for (text, expected) in [
            ("0-0", Some(0)),
            ("0-1", Some(2)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("5-9", None),
            ("0-18446744073709551615", None),
            ("", None),
            ("0", None),
            ("-1", None),
            ("0--1", None),
        ] {
            assert_eq!(progress(text), expected, "{text}");
        }
    }
}
