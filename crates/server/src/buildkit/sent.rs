//! What clients have sent before: opened when a build or a look at the disk needs it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use palan_buildkit::grpc::{Code, Status};
use palan_buildkit::mirrors::digests::Digests;
use palan_buildkit::mirrors::{Kept, Mirrors};
use palan_engine::build::{Digest, FileMetadata, KeptContext, KeptContexts, KnownContent};

/// The mirrors of the daemon.
#[derive(Debug)]
pub(super) struct Sent {
    directory: PathBuf,
    mirrors: Mutex<Option<Arc<Mirrors>>>,
}

impl Sent {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, mirrors: Mutex::default() }
    }

    fn open(&self) -> io::Result<Arc<Mirrors>> {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mirrors) = &*mirrors {
            return Ok(Arc::clone(mirrors));
        }
        let opened = Mirrors::open(self.directory.clone())?;
        Ok(Arc::clone(mirrors.insert(Arc::new(opened))))
    }

    /// Where a build's contexts are received.
    pub(super) async fn mirrors(self: &Arc<Self>) -> Result<Arc<Mirrors>, Status> {
        let sent = Arc::clone(self);
        let opened = tokio::task::spawn_blocking(move || sent.open()).await;
        opened.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
            let text = format!("cannot prepare the directory of what clients send: {error}");
            Status::new(Code::Internal, text)
        })
    }
}

impl KeptContexts for Sent {
    fn list(&self) -> io::Result<Vec<KeptContext>> {
        let context = |kept: Kept| {
            let Kept { name, size, used, in_use } = kept;
            KeptContext { id: name, size, used, in_use }
        };
        Ok(self.open()?.list()?.into_iter().map(context).collect())
    }

    fn remove(&self, id: &str) -> io::Result<bool> {
        self.open()?.forget(id)
    }
}

/// What is known of a mirror's files, in the engine's words.
pub(super) struct Known(pub(super) Arc<Digests>);

impl KnownContent for Known {
    fn get(&self, file: &FileMetadata) -> Option<Digest> {
        self.0.get(file)
    }

    fn put(&self, file: &FileMetadata, digest: Digest) {
        self.0.put(file, digest);
    }
}
