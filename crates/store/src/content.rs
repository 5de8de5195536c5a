//! Blobs by digest: verified on the way in, complete before they have their name.
//!
//! ```text
//! absent ──begin──▶ .ingest/<hex>.part ──all bytes, digest right──▶ <hex>
//!                      │     ▲                                        │
//!                  killed, network error: kept, resumed        no record points to it (at open)
//! ```
//!
//! One writer at a time for each digest ([`Busy`]). The hash state of a kept part is rebuilt by reading it, on the same
//! pass that unpacks it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use palan_oci::Digest;
use palan_oci::digest::Verifier;
use palan_oci::manifest::MAX_MANIFEST_SIZE;
use palan_stdx::fs::{self, PathContext as _, PathError};

use crate::recipe::rebuild::Rebuilt;
use crate::store::Inner;
use crate::{Error, Result, Store};

/// The bytes of one blob, from first to last. What readers of blobs get, so that they need not know how a blob is kept: as a
/// file, or as a recipe by which it is made again while it is read (`recipe`), checked against its digest at the end.
#[derive(Debug)]
pub struct BlobContent {
    source: Source,
    size: u64,
}

#[derive(Debug)]
enum Source {
    File(File),
    Rebuilt(Box<Rebuilt>),
}

impl BlobContent {
    /// How many bytes the whole blob has, wherever reading stands.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Goes on at byte `offset`: an upload that is resumed. Takes time if the bytes before it must be made first.
    pub fn seek_to(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.source {
            Source::File(file) => file.seek(SeekFrom::Start(offset)).map(drop),
            Source::Rebuilt(rebuilt) => rebuilt.seek_to(offset),
        }
    }
}

impl Read for BlobContent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::File(file) => file.read(buffer),
            Source::Rebuilt(rebuilt) => rebuilt.read(buffer),
        }
    }
}

impl Store {
    /// Whether a blob is complete here.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.inner.has_blob(digest)
    }

    /// Opens a blob for reading: the exact bytes that its digest names. They were verified when they came.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobContent> {
        self.inner.open_blob(digest)
    }

    /// The content of a small blob: a manifest or configuration of at most 4 MiB.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let read = self.open_blob(digest)?.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut content);
        read.path_context("read", &self.inner.blob_path(digest))?;
        if content.len() as u64 > MAX_MANIFEST_SIZE {
            let error = io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than a manifest may be");
            return Err(PathError::new("read", self.inner.blob_path(digest), error).into());
        }
        Ok(content)
    }

    /// Stores a small blob. It must be protected by a lease before, or it may go at the next removal of an image.
    pub fn put_blob(&self, content: &[u8]) -> Result<Digest> {
        let digest = Digest::of(content);
        if self.has_blob(&digest) {
            return Ok(digest);
        }
        let temporary = self.inner.ingest.join(format!(".tmp-{}", crate::store::random_name()));
        crate::fault::point("create a small blob");
        let written = fs::create_new(&temporary, 0o600).and_then(|mut file| {
            crate::fault::point("write a small blob");
            file.write_all(content).path_context("write", &temporary)?;
            crate::fault::point("name a small blob");
            fs::rename(&temporary, &self.inner.blob_path(&digest))
        });
        if let Err(error) = written {
            // The error to tell is the write's; what is left is removed at the next start.
            let _ = fs::remove_file(&temporary);
            return Err(error.into());
        }
        Ok(digest)
    }
}

impl Inner {
    /// As a file or as a recipe.
    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        fs::metadata(&self.blob_path(digest)).is_ok() || fs::metadata(&self.recipe_path(digest)).is_ok()
    }

    pub(crate) fn open_blob(self: &Arc<Self>, digest: &Digest) -> Result<BlobContent> {
        let path = self.blob_path(digest);
        match fs::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match Rebuilt::open(self, digest)? {
                Some(rebuilt) => {
                    Ok(BlobContent { size: rebuilt.size(), source: Source::Rebuilt(Box::new(rebuilt)) })
                }
                None => Err(Error::NoSuchBlob { digest: *digest }),
            },
            Err(error) => Err(error.into()),
            Ok(file) => {
                let size = file.metadata().path_context("look at", &path)?.len();
                Ok(BlobContent { source: Source::File(file), size })
            }
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn part_path(&self, digest: &Digest) -> PathBuf {
        self.ingest.join(format!("{}.part", digest.hex()))
    }
}

/// The digests that somebody brings at this moment.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    digests: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

impl Busy {
    /// Claims a digest, unless somebody else has it.
    pub(crate) fn claim(inner: &Arc<Inner>, digest: Digest) -> Option<Claim> {
        let mut digests = inner.busy.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.insert(digest).then(|| Claim { inner: Arc::clone(inner), digest })
    }

    pub(crate) fn wait_until_free(&self, digest: &Digest) {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        // A poisoned lock means that another thread died with it; its claim is gone all the same.
        drop(self.freed.wait_while(digests, |digests| digests.contains(digest)));
    }

    /// Whether anything is brought.
    pub(crate) fn is_any(&self) -> bool {
        !self.digests.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }
}

/// The exclusive right to bring a digest; ends when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let busy = &self.inner.busy;
        busy.digests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
        busy.freed.notify_all();
    }
}

/// Where a blob's bytes are before it is complete.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    claim: Claim,
    digest: Digest,
    size: u64,
    /// The kept part, or the blob itself if it is complete but its layer is not here.
    file: File,
    path: PathBuf,
    complete: bool,
    offset: u64,
    /// For whoever shows progress.
    counter: Arc<AtomicU64>,
}

impl BlobWriter {
    pub(crate) fn open(claim: Claim, digest: Digest, size: u64) -> Result<Self> {
        let inner = &claim.inner;
        let blob = inner.blob_path(&digest);
        let (file, path, complete) = match fs::open(&blob) {
            Ok(file) => (file, blob, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = inner.part_path(&digest);
                crate::fault::point("create a part");
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path)
                    .path_context("open", &path)?;
                (file, path, false)
            }
            Err(error) => return Err(error.into()),
        };
        let kept = file.metadata().path_context("inspect", &path)?.len();
        let mut writer =
            Self { claim, digest, size, file, path, complete, offset: kept, counter: Arc::default() };
        if kept > size {
            if complete {
                // The descriptor lies about the size of content that is here, and known to be right.
                return Err(palan_oci::digest::VerifyError::TooLong { digest, size }.into());
            }
            writer.restart()?;
        }
        Ok(writer)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.claim.inner
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.counter)
    }

    pub(crate) fn restart(&mut self) -> Result<()> {
        if !self.complete {
            self.file.set_len(0).path_context("truncate", &self.path)?;
            self.offset = 0;
        }
        Ok(())
    }

    /// A reader of the whole blob: first the kept bytes, then those of `source`, which are written down.
    pub(crate) fn read_from(self, source: &mut dyn Read) -> Result<BlobReader<'_>> {
        let (digest, size) = (self.digest, self.size);
        let counter = Arc::clone(&self.counter);
        let position = RefCell::new(Position {
            verifier: Verifier::new(digest, size),
            kept: self.offset,
            source: Some(source),
            writer: Some(self),
            content: None,
        });
        Ok(BlobReader { digest, consumed: counter, position, failure: RefCell::new(None) })
    }

    fn commit(self) -> Result<()> {
        if !self.complete {
            crate::fault::point("name a blob");
            fs::rename(&self.path, &self.claim.inner.blob_path(&self.digest))?;
        }
        Ok(())
    }

    /// Content that is known to be wrong is not kept.
    fn discard(&self) {
        if !self.complete {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads a blob and checks it on the way. Its own failures are put aside, since the decoder above wraps them.
pub(crate) struct BlobReader<'s> {
    digest: Digest,
    consumed: Arc<AtomicU64>,
    position: RefCell<Position<'s>>,
    failure: RefCell<Option<Error>>,
}

struct Position<'s> {
    verifier: Verifier,
    /// Bytes at the start that are in the file already.
    kept: u64,
    source: Option<&'s mut dyn Read>,
    writer: Option<BlobWriter>,
    /// A blob that is only read.
    content: Option<RefCell<BlobContent>>,
}

impl<'s> BlobReader<'s> {
    /// Reads a complete blob once more.
    pub(crate) fn of_content(content: BlobContent, digest: Digest) -> Self {
        let size = content.size();
        let position = RefCell::new(Position {
            verifier: Verifier::new(digest, size),
            kept: size,
            source: None,
            writer: None,
            content: Some(RefCell::new(content)),
        });
        Self { digest, consumed: Arc::default(), position, failure: RefCell::new(None) }
    }

    /// How many bytes of the blob were read so far.
    pub(crate) fn position(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// What went wrong here, if anything did.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.take()
    }

    /// Reads to the end, so that the digest can be told, and checks it.
    pub(crate) fn drain(&self) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.advance(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        let position = self.position.borrow();
        let checked = position.verifier.clone().finish();
        if let (Err(_), Some(writer)) = (&checked, &position.writer) {
            writer.discard();
        }
        Ok(checked?)
    }

    /// All was read and is right: the blob gets its name.
    pub(crate) fn finish(self) -> Result<()> {
        self.drain()?;
        match self.position.into_inner().writer {
            Some(writer) => writer.commit(),
            None => Ok(()),
        }
    }

    /// Gives up what was kept: it is known to be of no use.
    pub(crate) fn discard(&self) {
        if let Some(writer) = &self.position.borrow().writer {
            writer.discard();
        }
    }

    fn advance(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut position = self.position.borrow_mut();
        let length = position.read(buffer, self.digest)?;
        let checked = position.verifier.update(&buffer[..length]);
        if let (Err(_), Some(writer)) = (&checked, &position.writer) {
            writer.discard();
        }
        checked?;
        self.consumed.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl Position<'_> {
    fn read(&mut self, buffer: &mut [u8], digest: Digest) -> Result<usize> {
        let done = self.verifier.length();
        if done < self.kept {
            let wanted = usize::try_from(self.kept - done).unwrap_or(buffer.len()).min(buffer.len());
            let buffer = &mut buffer[..wanted];
            let (read, path) = match (&self.writer, &self.content) {
                (Some(writer), _) => (retry_interrupted(|| (&writer.file).read(buffer)), writer.path.clone()),
                (None, Some(content)) => {
                    let mut content = content.borrow_mut();
                    (retry_interrupted(|| content.read(buffer)), PathBuf::from(digest.hex()))
                }
                (None, None) => return Ok(0),
            };
            return Ok(read.path_context("read", &path)?);
        }
        let (Some(source), Some(writer)) = (&mut self.source, &self.writer) else { return Ok(0) };
        if writer.complete {
            return Ok(0);
        }
        let length =
            retry_interrupted(|| source.read(buffer)).map_err(|source| Error::Source { digest, source })?;
        if done + length as u64 <= writer.size {
            crate::fault::point("write to a part");
            (&writer.file).write_all(&buffer[..length]).path_context("write", &writer.path)?;
        }
        Ok(length)
    }
}

impl Read for &BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance(buffer).map_err(|error| {
            let text = error.to_string();
            self.failure.replace(Some(error));
            io::Error::other(text)
        })
    }
}

fn retry_interrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
