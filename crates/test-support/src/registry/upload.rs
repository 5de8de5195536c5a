//! The writing half of the test registry: upload sessions, mounts and manifests.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Answer, Document, Registry, Request, State, lock, parameter};
use crate::image;

/// Uploads on their way, and which repository has which blob.
#[derive(Default)]
pub(super) struct Uploads {
    open: Mutex<HashMap<String, Vec<u8>>>,
    last_id: AtomicU64,
    owned: Mutex<HashSet<(String, String)>>,
    /// Whether a repository has only what was brought to it.
    separate: AtomicBool,
    /// The largest body of a PATCH or PUT that is taken.
    limit: Mutex<Option<usize>>,
    /// Where uploads are to be sent, if not here: the base of another server's URL.
    elsewhere: Mutex<Option<String>>,
}

impl Uploads {
    pub(super) fn own(&self, repository: &str, digest: &str) {
        lock(&self.owned).insert((repository.to_owned(), digest.to_owned()));
    }

    fn owns(&self, repository: &str, digest: &str) -> bool {
        lock(&self.owned).contains(&(repository.to_owned(), digest.to_owned()))
    }

    pub(super) fn may_serve(&self, repository: &str, digest: &str) -> bool {
        !self.separate.load(Ordering::Relaxed) || self.owns(repository, digest)
    }
}

impl Registry {
    /// From now on a repository has only the blobs that were brought to it or mounted there.
    pub fn separate_repositories(&self) {
        self.state.uploads.separate.store(true, Ordering::Relaxed);
    }

    /// Refuses bodies of more than this many bytes, as a proxy before a registry may.
    pub fn limit_bodies(&self, limit: usize) {
        *lock(&self.state.uploads.limit) = Some(limit);
    }

    /// Sends uploads to another server, which knows nothing of this one's users.
    pub fn send_uploads_to(&self, base: &str) {
        *lock(&self.state.uploads.elsewhere) = Some(base.to_owned());
    }

    /// The content of a blob, whoever brought it.
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        lock(&self.state.blobs).get(digest).map(|blob| blob.to_vec())
    }

    /// A manifest's media type and bytes.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Vec<u8>)> {
        let manifests = lock(&self.state.manifests);
        let document = manifests.get(&(repository.to_owned(), reference.to_owned()))?;
        Some((document.media_type.clone(), document.body.to_vec()))
    }

    /// Forgets everything that was brought here.
    pub fn forget_content(&self) {
        lock(&self.state.blobs).clear();
        lock(&self.state.manifests).clear();
        lock(&self.state.uploads.owned).clear();
    }

    /// Upload sessions that were neither finished nor cancelled.
    pub fn open_uploads(&self) -> usize {
        lock(&self.state.uploads.open).len()
    }
}

impl State {
    /// What came of a body that broke off stays in its session.
    pub(super) fn broken_upload(&self, request: &Request, body: &[u8]) {
        let path = request.path.split('?').next().unwrap_or("");
        let Some((_, id)) = path.rsplit_once("/blobs/uploads/") else { return };
        if let Some(upload) = lock(&self.uploads.open).get_mut(id) {
            upload.extend_from_slice(body);
        }
    }

    pub(super) fn upload(&self, request: &Request, repository: &str, id: &str, body: Vec<u8>) -> Answer {
        let query = request.path.split_once('?').map_or("", |(_, query)| query).to_owned();
        if lock(&self.uploads.limit).is_some_and(|limit| body.len() > limit) {
            return Answer::new(413, "<html>too large</html>");
        }
        if request.method == "POST" {
            return self.begin_upload(repository, &query);
        }
        let mut open = lock(&self.uploads.open);
        let Some(upload) = open.get_mut(id) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
        };
        match request.method.as_str() {
            "GET" => self.uploaded(204, repository, id, upload.len()),
            "DELETE" => {
                open.remove(id);
                Answer::new(204, "")
            }
            "PATCH" => {
                let start = request.header("content-range").and_then(|range| range.split('-').next());
                if start.is_some_and(|start| start.parse() != Ok(upload.len())) {
                    return self.uploaded(416, repository, id, upload.len());
                }
                upload.extend_from_slice(&body);
                self.uploaded(202, repository, id, upload.len())
            }
            "PUT" => {
                upload.extend_from_slice(&body);
                let bytes = open.remove(id).unwrap_or_default();
                let digest = parameter(&query, "digest").unwrap_or_default();
                if image::digest(&bytes) != digest {
                    return Answer::error(
                        400,
                        "DIGEST_INVALID",
                        "provided digest did not match uploaded content",
                    );
                }
                self.uploads.own(repository, &digest);
                lock(&self.blobs).insert(digest.clone(), Arc::new(bytes));
                Answer::new(201, "")
                    .header("Location", format!("/v2/{repository}/blobs/{digest}"))
                    .header("Docker-Content-Digest", digest)
            }
            _ => Answer::error(405, "UNSUPPORTED", "method not allowed"),
        }
    }

    fn begin_upload(&self, repository: &str, query: &str) -> Answer {
        if let (Some(digest), Some(from)) = (parameter(query, "mount"), parameter(query, "from"))
            && self.uploads.owns(&from, &digest)
        {
            self.uploads.own(repository, &digest);
            return Answer::new(201, "")
                .header("Location", format!("/v2/{repository}/blobs/{digest}"))
                .header("Docker-Content-Digest", digest);
        }
        let id = format!("upload-{}", self.uploads.last_id.fetch_add(1, Ordering::Relaxed));
        lock(&self.uploads.open).insert(id.clone(), Vec::new());
        self.uploaded(202, repository, &id, 0)
    }

    fn uploaded(&self, status: u16, repository: &str, id: &str, length: usize) -> Answer {
        let base = lock(&self.uploads.elsewhere).clone().unwrap_or_default();
        Answer::new(status, "")
            .header("Location", format!("{base}/v2/{repository}/blobs/uploads/{id}?_state=s%3D{length}"))
            .header("Range", format!("0-{}", length.saturating_sub(1)))
            .header("Docker-Upload-UUID", id)
    }

    /// Stores a manifest whose blobs are all there.
    pub(super) fn put_manifest(
        &self,
        request: &Request,
        repository: &str,
        reference: &str,
        body: Vec<u8>,
    ) -> Answer {
        let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(&body) else {
            return Answer::error(400, "MANIFEST_INVALID", "manifest invalid");
        };
        let layers = parsed["layers"].as_array().into_iter().flatten();
        for blob in layers.chain(parsed.get("config")).filter(|blob| blob.get("urls").is_none()) {
            let digest = blob["digest"].as_str().unwrap_or_default();
            if !lock(&self.blobs).contains_key(digest) || !self.uploads.may_serve(repository, digest) {
                return Answer::error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
            }
        }
        for entry in parsed["manifests"].as_array().into_iter().flatten() {
            let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
            // Caches of builds name blobs here, which registries take for what they are: content of the repository.
            let is_blob =
                lock(&self.blobs).contains_key(&digest) && self.uploads.may_serve(repository, &digest);
            if !is_blob && !lock(&self.manifests).contains_key(&(repository.to_owned(), digest)) {
                return Answer::error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
            }
        }
        let digest = image::digest(&body);
        let media_type = request.header("content-type").unwrap_or_default().to_owned();
        let document = Document { media_type, body: Arc::new(body) };
        let mut manifests = lock(&self.manifests);
        manifests.insert((repository.to_owned(), digest.clone()), document.clone());
        manifests.insert((repository.to_owned(), reference.to_owned()), document);
        let mut answer = Answer::new(201, "")
            .header("Location", format!("/v2/{repository}/manifests/{digest}"))
            .header("Docker-Content-Digest", digest);
        if let Some(subject) = parsed["subject"]["digest"].as_str() {
            answer = answer.header("OCI-Subject", subject);
        }
        answer
    }
}
