//! Puts the entries of an archive aside: documents in memory, content as parts named by digest.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use palan_oci::Digest;
use palan_oci::digest::{Hasher, VerifyError};
use palan_oci::manifest::MAX_MANIFEST_SIZE;
use palan_oci::media_type::Compression;
use palan_stdx::fs::{self, PathContext as _};

use super::ArchiveError;
use crate::layer::decode::Decoder;
use crate::layer::tar::{Entry, Kind, Reader, lossy};
use crate::{Error, Lease, Limits, Result, Store};

/// Documents of one archive, together.
const MAX_DOCUMENTS: usize = 64 << 20;
/// Entries of one archive; each layer has three in Docker's older format.
const MAX_ENTRIES: usize = 100_000;
/// Links that are followed from one name.
const MAX_LINKS: usize = 8;

/// Content that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spooled {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
}

#[derive(Debug)]
enum Content {
    Document(Vec<u8>),
    Blob(Spooled),
    /// A symlink or hard link to another name; Docker writes one for a layer that occurs twice.
    Link(String),
}

/// The entries of an archive by their cleaned names.
#[derive(Debug, Default)]
pub(super) struct Entries {
    contents: HashMap<String, Content>,
}

impl Entries {
    pub(super) fn read(parts: &mut Parts<'_>, source: &mut dyn Read, lease: &Lease) -> Result<Self> {
        let limits = &parts.store.inner.limits;
        let mut reader = Reader::new(Decoder::new(source), limits);
        let mut entries = Self::default();
        let mut document_bytes = 0;
        while let Some(entry) = reader.next_entry().map_err(ArchiveError::from)? {
            let name = clean(&lossy(&entry.path));
            let content = match entry.kind {
                Kind::Regular => regular(parts, &entry, &name, &mut reader, lease)?,
                Kind::Symlink => Content::Link(beside(&name, &lossy(&entry.link))),
                Kind::HardLink => Content::Link(clean(&lossy(&entry.link))),
                _ => continue,
            };
            if let Content::Document(document) = &content {
                document_bytes += document.len();
            }
            entries.contents.insert(name, content);
            if entries.contents.len() > MAX_ENTRIES {
                return Err(ArchiveError::Limit { what: "entries", limit: MAX_ENTRIES as u64 }.into());
            }
            if document_bytes > MAX_DOCUMENTS {
                return Err(ArchiveError::Limit { what: "documents", limit: MAX_DOCUMENTS as u64 }.into());
            }
        }
        reader.drain().map_err(ArchiveError::from)?;
        Ok(entries)
    }

    /// The content of a document.
    pub(super) fn document(&self, name: &str) -> Option<&[u8]> {
        match self.find(name)? {
            Content::Document(content) => Some(content),
            _ => None,
        }
    }

    /// The content of a document that is referred to.
    pub(super) fn need_document(&self, name: &str) -> Result<&[u8], ArchiveError> {
        self.document(name).ok_or_else(|| ArchiveError::Missing { name: name.to_owned() })
    }

    /// A layer that is referred to.
    pub(super) fn need_blob(&self, name: &str) -> Result<Spooled, ArchiveError> {
        match self.find(name) {
            Some(Content::Blob(blob)) => Ok(blob.clone()),
            Some(_) => Err(ArchiveError::NotALayer { name: name.to_owned() }),
            None => Err(ArchiveError::Missing { name: name.to_owned() }),
        }
    }

    fn find(&self, name: &str) -> Option<&Content> {
        let mut name = clean(name);
        for _ in 0..MAX_LINKS {
            match self.contents.get(&name)? {
                Content::Link(target) => name.clone_from(target),
                content => return Some(content),
            }
        }
        None
    }
}

fn regular<R: Read>(
    parts: &mut Parts<'_>,
    entry: &Entry,
    name: &str,
    reader: &mut Reader<'_, R>,
    lease: &Lease,
) -> Result<Content> {
    if entry.sparse.is_some() {
        // Only file systems have holes; here the bytes would not be those of the digest.
        return Err(ArchiveError::Limit { what: "sparse entries", limit: 0 }.into());
    }
    let mut content = ContentOf { reader, left: Vec::new(), failure: None };
    let mut start = [0; 1];
    let is_document =
        entry.size <= MAX_MANIFEST_SIZE && content.peek(&mut start)? && matches!(start[0], b'{' | b'[');
    let promised = promised_digest(name);
    if !is_document {
        let spooled = parts.spool(&mut content, promised, lease);
        if let Some(failure) = content.failure.take() {
            return Err(ArchiveError::from(failure).into());
        }
        let mismatch = |actual| ArchiveError::Digest { name: name.to_owned(), actual };
        return match spooled {
            Err(Error::Verify(VerifyError::Digest { actual, .. })) => Err(mismatch(actual).into()),
            other => other.map(Content::Blob),
        };
    }
    let mut document = Vec::new();
    let read = content.read_to_end(&mut document);
    if let Some(failure) = content.failure.take() {
        return Err(ArchiveError::from(failure).into());
    }
    read.path_context("read", Path::new(name))?;
    let actual = Digest::of(&document);
    if promised.is_some_and(|promised| promised != actual) {
        return Err(ArchiveError::Digest { name: name.to_owned(), actual }.into());
    }
    Ok(Content::Document(document))
}

/// The digest that a name promises: `blobs/sha256/<hex>`, `<hex>.json` of a configuration. Directories named by an old
/// image id (`<hex>/layer.tar`) promise nothing.
fn promised_digest(name: &str) -> Option<Digest> {
    let hex = name.strip_prefix("blobs/sha256/").or_else(|| name.strip_suffix(".json"))?;
    Digest::from_hex(hex).ok()
}

/// The parts that an archive was taken apart into. What of them became no blob is removed at the end.
pub(super) struct Parts<'s> {
    store: &'s Store,
    digests: Vec<Digest>,
}

impl<'s> Parts<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        Self { store, digests: Vec::new() }
    }

    /// Writes content to a part named by its digest, from where a layer can be unpacked without any more bytes.
    pub(super) fn spool(
        &mut self,
        source: &mut dyn Read,
        promised: Option<Digest>,
        lease: &Lease,
    ) -> Result<Spooled> {
        let inner = &self.store.inner;
        let temporary = inner.ingest.join(format!(".tmp-{}", crate::store::random_name()));
        let kept = write_down(source, &temporary, &inner.limits).and_then(|spooled| {
            self.keep(&spooled, promised, &temporary, lease)?;
            Ok(spooled)
        });
        if kept.is_err() {
            // The error to tell is the one at hand.
            let _ = fs::remove_file(&temporary);
        }
        kept
    }

    /// Writes content that is made here to a part named by its digest. What `fill` returns comes back with it.
    pub(super) fn fill<T>(
        &mut self,
        compression: Compression,
        lease: &Lease,
        fill: impl FnOnce(&mut dyn Write) -> Result<T>,
    ) -> Result<(Spooled, T)> {
        let temporary = self.store.inner.ingest.join(format!(".tmp-{}", crate::store::random_name()));
        let kept = fill_file(&temporary, compression, fill).and_then(|(spooled, outcome)| {
            self.keep(&spooled, None, &temporary, lease)?;
            Ok((spooled, outcome))
        });
        if kept.is_err() {
            // The error to tell is the one at hand.
            let _ = fs::remove_file(&temporary);
        }
        kept
    }

    fn keep(
        &mut self,
        spooled: &Spooled,
        promised: Option<Digest>,
        temporary: &Path,
        lease: &Lease,
    ) -> Result<()> {
        let inner = &self.store.inner;
        let actual = spooled.digest;
        if let Some(expected) = promised.filter(|expected| *expected != actual) {
            return Err(VerifyError::Digest { expected, actual }.into());
        }
        lease.protect(actual);
        // A part that somebody is filling at this moment is left to them: they bring the same bytes.
        if inner.has_blob(&actual) || inner.busy.contains(&actual) {
            crate::fault::point("remove a copy");
            return Ok(fs::remove_file(temporary)?);
        }
        crate::fault::point("name a part");
        fs::rename(temporary, &inner.part_path(&actual))?;
        self.digests.push(actual);
        Ok(())
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        let inner = &self.store.inner;
        for digest in self.digests.iter().filter(|digest| !inner.busy.contains(digest)) {
            // Most are blobs by now, and the rest goes when it is a week old.
            crate::fault::point("remove a part");
            let _ = fs::remove_file(&inner.part_path(digest));
        }
    }
}

fn write_down(source: &mut dyn Read, path: &Path, limits: &Limits) -> Result<Spooled> {
    crate::fault::point("put an entry aside");
    let mut file = fs::create_new(path, 0o600)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut compression = None;
    loop {
        let length = match source.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).path_context("read the content for", path).map_err(Error::from),
        };
        if length == 0 {
            break;
        }
        compression.get_or_insert_with(|| Compression::detect(&buffer[..length]));
        hasher.update(&buffer[..length]);
        if hasher.length() > limits.unpacked_bytes {
            return Err(ArchiveError::Limit { what: "an entry", limit: limits.unpacked_bytes }.into());
        }
        crate::fault::point("write to an entry");
        file.write_all(&buffer[..length]).path_context("write", path)?;
    }
    let size = hasher.length();
    let compression = compression.unwrap_or(Compression::None);
    Ok(Spooled { digest: hasher.finish(), size, compression })
}

fn fill_file<T>(
    path: &Path,
    compression: Compression,
    fill: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<(Spooled, T)> {
    crate::fault::point("create a layer's part");
    let mut part = Hashing::create(path)?;
    let outcome = fill(&mut part)?;
    let size = part.hasher.length();
    Ok((Spooled { digest: part.hasher.finish(), size, compression }, outcome))
}

/// Hashes what is written to a file.
pub(crate) struct Hashing {
    file: std::fs::File,
    hasher: Hasher,
}

impl Hashing {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: fs::create_new(path, 0o600)?, hasher: Hasher::new() })
    }

    pub(crate) fn into_parts(self) -> (std::fs::File, Hasher) {
        (self.file, self.hasher)
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        crate::fault::point("write to a layer's part");
        let length = self.file.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The content of the current entry as a plain reader. Its failures are put aside, since they are the archive's and
/// not the disk's.
struct ContentOf<'r, 'a, R> {
    reader: &'r mut Reader<'a, R>,
    left: Vec<u8>,
    failure: Option<crate::layer::TarError>,
}

impl<R: Read> ContentOf<'_, '_, R> {
    /// Looks at the first byte; `false` if there is none.
    fn peek(&mut self, byte: &mut [u8; 1]) -> Result<bool> {
        let chunk = self.reader.next_chunk().map_err(ArchiveError::from)?;
        self.left = chunk.unwrap_or_default().to_vec();
        byte[0] = self.left.first().copied().unwrap_or_default();
        Ok(!self.left.is_empty())
    }
}

impl<R: Read> Read for ContentOf<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() {
            match self.reader.next_chunk() {
                Ok(Some(chunk)) if chunk.len() <= buffer.len() => {
                    buffer[..chunk.len()].copy_from_slice(chunk);
                    return Ok(chunk.len());
                }
                Ok(Some(chunk)) => self.left = chunk.to_vec(),
                Ok(None) => return Ok(0),
                Err(error) => {
                    let text = error.to_string();
                    self.failure = Some(error);
                    return Err(std::io::Error::other(text));
                }
            }
        }
        let length = self.left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.left[..length]);
        self.left.drain(..length);
        Ok(length)
    }
}

/// A name without `.`, `..` and slashes at either end. It is only ever compared with others.
fn clean(name: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            other => components.push(other),
        }
    }
    components.join("/")
}

/// Where a relative link beside `name` leads.
fn beside(name: &str, target: &str) -> String {
    match name.rsplit_once('/') {
        Some((directory, _)) if !target.starts_with('/') => clean(&format!("{directory}/{target}")),
        _ => clean(target),
    }
}
