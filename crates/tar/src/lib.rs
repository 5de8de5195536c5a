//! A streaming reader of tar archives that trusts none of them.
//!
//! Formats: V7, ustar, star, GNU (long names, base-256 numbers, sparse files), PAX (extended and global headers, sparse
//! 0.0, 0.1 and 1.0). What two programs could read differently is an error here, and nothing is skipped silently:
//!
//! - The size of an entry comes from one place: the PAX `size` record if there is one, else the header
//!   (CVE-2025-62518). Links, directories, fifos and devices have no content, whatever their header says.
//! - Two extended headers of one kind before one entry, an extended header with no entry behind it, a GNU long name that
//!   contradicts a PAX path, a global header that names files: refused.
//! - Content ends at the first two blocks of zeros; what follows them is read (for the digest) and not looked at.
//!
//! ```text
//! next_entry ──▶ [g x L K]* header ──▶ Entry ──▶ next_chunk* ──▶ next_entry …
//! ```

#![forbid(unsafe_code)]

use std::io::{self, Read};

use palan_linux::path::Time;

mod header;
mod limits;
pub mod pack;
mod pax;
mod sparse;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod write;
pub mod xz;

use header::{Format, Header};
pub use limits::Limits;
pub use sparse::Segment;

const BLOCK: usize = 512;
const BUFFER: usize = 256 * 1024;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, with all headers before it taken into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As written, not normalised.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The target of a hard link or symlink, as written.
    pub link: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub modified: Time,
    /// Logical size of a regular file, holes included.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, names with their namespace.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content belongs, for a file with holes.
    pub sparse: Option<Vec<Segment>>,
}

impl Entry {
    /// An entry of root's that says nothing else.
    pub fn plain(path: Vec<u8>, kind: Kind) -> Self {
        Self {
            path,
            kind,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            modified: Time::default(),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// It ends within an entry.
    #[error("the archive is truncated: it ends at byte {position}, within {inside}")]
    Truncated {
        /// Where.
        position: u64,
        /// In which part.
        inside: &'static str,
    },
    /// It breaks the format.
    #[error("the archive is malformed at byte {position}{}: {reason}", near(entry))]
    Malformed {
        /// Where the header or record begins.
        position: u64,
        /// The entry, as far as it is known.
        entry: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An entry that can't be part of a layer.
    #[error("entry {entry:?} of the archive has type {kind:?}, which is not supported")]
    UnsupportedType {
        /// The entry.
        entry: String,
        /// The type flag.
        kind: char,
    },
    /// It asks for too much.
    #[error("the archive has {what} of more than {limit}{}", near(entry))]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// The entry, as far as it is known.
        entry: String,
    },
}

fn near(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(" (entry {entry:?})") }
}

/// Reads an archive from start to end.
pub struct Reader<'a, R> {
    source: R,
    limits: &'a Limits,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the archive before `buffer[start]`.
    position: u64,
    /// Content of the current entry that was not delivered yet, and the zeros behind it.
    remaining: u64,
    padding: u64,
    global: pax::Records,
    finished: bool,
}

/// Extended headers that wait for their entry.
#[derive(Default)]
struct Extensions {
    pax: Option<pax::Records>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R> std::fmt::Debug for Reader<'_, R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reader").field("position", &self.position).finish_non_exhaustive()
    }
}

impl<'a, R: Read> Reader<'a, R> {
    /// A reader of `source`, which need not be buffered.
    pub fn new(source: R, limits: &'a Limits) -> Self {
        Self {
            source,
            limits,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
            remaining: 0,
            padding: 0,
            global: pax::Records::default(),
            finished: false,
        }
    }

    /// The next entry; `None` at the end of the archive. Content of the entry before that was not taken is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_content()?;
        let mut extensions = Extensions::default();
        loop {
            let position = self.position;
            let Some(header) = self.next_header()? else {
                if extensions.pax.is_some()
                    || extensions.long_path.is_some()
                    || extensions.long_link.is_some()
                {
                    return Err(malformed(position, b"", "an extended header has no entry behind it"));
                }
                return Ok(None);
            };
            let malformed = |reason| malformed(position, &header.name, reason);
            match header.kind {
                b'x' | b'X' => {
                    let records =
                        pax::parse(&self.extension(&header, position)?, self.limits).map_err(malformed)?;
                    replace_none(&mut extensions.pax, records)
                        .ok_or_else(|| malformed("two extended headers for one entry"))?;
                }
                b'g' => {
                    let records =
                        pax::parse(&self.extension(&header, position)?, self.limits).map_err(malformed)?;
                    self.global.update_global(records).map_err(malformed)?;
                }
                b'L' => {
                    let name = until_nul(&self.extension(&header, position)?).to_vec();
                    replace_none(&mut extensions.long_path, name)
                        .ok_or_else(|| malformed("two long names for one entry"))?;
                }
                b'K' => {
                    let name = until_nul(&self.extension(&header, position)?).to_vec();
                    replace_none(&mut extensions.long_link, name)
                        .ok_or_else(|| malformed("two long link names for one entry"))?;
                }
                _ => return self.entry(position, header, extensions).map(Some),
            }
        }
    }

    /// The next piece of the current entry's content (of a sparse file: of its segments, one after the other).
    pub fn next_chunk(&mut self) -> Result<Option<&[u8]>, TarError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        if !self.fill(1)? {
            return Err(self.truncated("the content of an entry"));
        }
        let available = (self.end - self.start) as u64;
        let length = usize::try_from(available.min(self.remaining)).unwrap_or(BUFFER);
        let chunk = self.start..self.start + length;
        self.consume(length);
        self.remaining -= length as u64;
        Ok(Some(&self.buffer[chunk]))
    }

    /// Reads what is behind the end of the archive, so that whoever hashes the source has seen all of it.
    pub fn drain(&mut self) -> Result<(), TarError> {
        while self.skip_rest()? {}
        Ok(())
    }

    /// Bytes that were read and not looked at yet.
    pub fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// Passes over a piece of what is behind the end; `false` if there is none.
    pub fn skip_rest(&mut self) -> Result<bool, TarError> {
        self.consume(self.end - self.start);
        self.fill(1)
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let mut left = self.remaining + self.padding;
        (self.remaining, self.padding) = (0, 0);
        while left > 0 {
            if !self.fill(1)? {
                return Err(self.truncated("the content of an entry"));
            }
            let available = (self.end - self.start) as u64;
            let length = usize::try_from(available.min(left)).unwrap_or(BUFFER);
            self.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    /// The next header block, or `None` at the end.
    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        if self.finished {
            return Ok(None);
        }
        let position = self.position;
        let Some(block) = self.block("a header")? else {
            self.finished = true;
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            return Header::parse(&block)
                .map(Some)
                .map_err(|reason| malformed(position, until_nul(&block[..100]), reason));
        }
        // One block of zeros at the very end is accepted; one in the middle is where readers disagree.
        match self.block("a header")? {
            Some(block) if block.iter().any(|byte| *byte != 0) => {
                Err(malformed(position, b"", "a single block of zeros between entries"))
            }
            _ => {
                self.finished = true;
                Ok(None)
            }
        }
    }

    /// The content of an extended header.
    fn extension(&mut self, header: &Header, position: u64) -> Result<Vec<u8>, TarError> {
        if header.size > self.limits.header_bytes {
            return Err(TarError::Limit {
                what: "an extended header",
                limit: self.limits.header_bytes,
                entry: lossy(&header.name),
            });
        }
        self.set_content(header.size);
        let mut content = Vec::with_capacity(usize::try_from(header.size).unwrap_or_default());
        while let Some(chunk) = self.next_chunk()? {
            content.extend_from_slice(chunk);
        }
        self.skip_content()?;
        if content.is_empty() && matches!(header.kind, b'L' | b'K') {
            return Err(malformed(position, &header.name, "an empty long name"));
        }
        Ok(content)
    }

    fn set_content(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn entry(&mut self, position: u64, header: Header, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions { pax, long_path, long_link } = extensions;
        let mut pax = pax.unwrap_or_default();
        let path = self.choose_name(position, &header.name, pax.path.take(), long_path)?;
        let link = self.choose_name(position, &header.link, pax.link.take(), long_link)?;
        let sparse_path = pax.sparse.name.take();
        let path = sparse_path.unwrap_or(path);
        if path.is_empty() {
            return Err(malformed(position, b"", "an entry without a name"));
        }
        for name in [&path, &link] {
            if name.len() > self.limits.path_bytes {
                let limit = self.limits.path_bytes as u64;
                return Err(TarError::Limit { what: "a name", limit, entry: shortened(name) });
            }
        }
        let kind = kind_of(&header, &path).ok_or_else(|| TarError::UnsupportedType {
            entry: lossy(&path),
            kind: char::from(header.kind),
        })?;
        let malformed = |reason| malformed(position, &path, reason);
        let id = |own: Option<u64>, global: Option<u64>, field: i64| {
            let id = own.or(global).map_or_else(|| u32::try_from(field).ok(), |id| u32::try_from(id).ok());
            // The largest number means "leave it as it is" to chown.
            id.filter(|id| *id != u32::MAX).ok_or_else(|| malformed("an owner or group that no system has"))
        };
        let mut entry = Entry {
            kind,
            link,
            mode: header.mode,
            uid: id(pax.uid, self.global.uid, header.uid)?,
            gid: id(pax.gid, self.global.gid, header.gid)?,
            modified: pax
                .modified
                .or(self.global.modified)
                .unwrap_or(Time { seconds: header.modified, nanoseconds: 0 }),
            size: 0,
            device: header.device.ok_or_else(|| malformed("a device number that no system has"))?,
            xattrs: std::mem::take(&mut pax.xattrs),
            sparse: None,
            path: Vec::new(),
        };
        if kind == Kind::Regular {
            self.set_content(pax.size.unwrap_or(header.size));
            entry.size = self.remaining;
            self.read_sparse_map(position, &path, &header, &pax, &mut entry)?;
        }
        entry.path = path;
        Ok(entry)
    }

    fn read_sparse_map(
        &mut self,
        position: u64,
        path: &[u8],
        header: &Header,
        pax: &pax::Records,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        let malformed = |reason| malformed(position, path, reason);
        let (segments, size) = if header.kind == b'S' {
            if header.format != Format::Gnu {
                return Err(malformed("a sparse file in a format that has none"));
            }
            let size =
                header.sparse_size.ok_or_else(|| malformed("the size of a sparse file is not a number"))?;
            // The extra blocks of the map stand between the header and the content and are not part of its size.
            let content = self.remaining;
            self.set_content(0);
            let segments = self.old_sparse_map(position, path, header)?;
            self.set_content(content);
            (segments, size)
        } else if pax.sparse.is_version_1() {
            let size = pax.sparse.real_size.ok_or_else(|| malformed("a sparse file without its size"))?;
            (self.sparse_map_in_content(position, path)?, size)
        } else if pax.sparse.is_present() {
            let size = pax.sparse.real_size.ok_or_else(|| malformed("a sparse file without its size"))?;
            (pax.sparse.map().map_err(malformed)?, size)
        } else {
            return Ok(());
        };
        sparse::check(&segments, size, self.remaining).map_err(malformed)?;
        entry.size = size;
        entry.sparse = Some(segments);
        Ok(())
    }

    /// Up to four segments in the header, then blocks of 21.
    fn old_sparse_map(
        &mut self,
        position: u64,
        path: &[u8],
        header: &Header,
    ) -> Result<Vec<Segment>, TarError> {
        let malformed = |reason| malformed(position, path, reason);
        let mut segments = sparse::parse_old(&header.sparse).map_err(malformed)?;
        let mut more = header.sparse_continues;
        while more {
            let block = self.block("a sparse map")?.ok_or_else(|| self.truncated("a sparse map"))?;
            segments.extend(sparse::parse_old(&block[..504]).map_err(malformed)?);
            self.check_segments(segments.len(), path)?;
            more = block[504] != 0;
        }
        Ok(segments)
    }

    /// PAX 1.0: decimal numbers, one a line, in the first blocks of the content.
    fn sparse_map_in_content(&mut self, position: u64, path: &[u8]) -> Result<Vec<Segment>, TarError> {
        let mut parser = sparse::MapParser::default();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(malformed(position, path, "the sparse map does not end"));
            }
            let block = self.block("a sparse map")?.ok_or_else(|| self.truncated("a sparse map"))?;
            self.remaining -= BLOCK as u64;
            let done = parser.feed(&block).map_err(|reason| malformed(position, path, reason))?;
            self.check_segments(parser.announced().max(parser.found()), path)?;
            if let Some(segments) = done {
                return Ok(segments);
            }
        }
    }

    fn check_segments(&self, count: usize, path: &[u8]) -> Result<(), TarError> {
        if count > self.limits.sparse_segments {
            let limit = self.limits.sparse_segments as u64;
            return Err(TarError::Limit { what: "sparse segments", limit, entry: lossy(path) });
        }
        Ok(())
    }

    /// The name by PAX, by a GNU long name or by the header; the first two may not contradict each other, since
    /// readers differ in which one wins.
    fn choose_name(
        &self,
        position: u64,
        field: &[u8],
        pax: Option<Vec<u8>>,
        long: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, TarError> {
        match (pax, long) {
            (Some(pax), Some(long)) if pax != long => {
                Err(malformed(position, &pax, "a long name and a PAX record name different files"))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name),
            (None, None) => Ok(field.to_vec()),
        }
    }

    /// The next block; `None` if the archive ends before it.
    fn block(&mut self, inside: &'static str) -> Result<Option<[u8; BLOCK]>, TarError> {
        if !self.fill(BLOCK)? {
            if self.start == self.end {
                return Ok(None);
            }
            return Err(self.truncated(inside));
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.buffer[self.start..self.start + BLOCK]);
        self.consume(BLOCK);
        Ok(Some(block))
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        self.position += length as u64;
    }

    /// Makes at least `wanted` bytes available; `false` if the source ends before.
    fn fill(&mut self, wanted: usize) -> Result<bool, TarError> {
        while self.end - self.start < wanted {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if self.buffer.len() - self.start < wanted {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(length) => self.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(true)
    }

    fn truncated(&self, inside: &'static str) -> TarError {
        TarError::Truncated { position: self.position + (self.end - self.start) as u64, inside }
    }
}

fn kind_of(header: &Header, path: &[u8]) -> Option<Kind> {
    Some(match header.kind {
        // Before ustar a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharacterDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return None,
    })
}

fn replace_none<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    if slot.is_some() {
        return None;
    }
    *slot = Some(value);
    Some(())
}

fn malformed(position: u64, entry: &[u8], reason: &'static str) -> TarError {
    TarError::Malformed { position, entry: shortened(entry), reason }
}

/// A name for people; what is not UTF-8 is replaced.
pub fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// A name for an error text; what is longer than a screen helps nobody.
fn shortened(name: &[u8]) -> String {
    let mut text = lossy(&name[..name.len().min(200)]);
    if name.len() > 200 {
        text.push('…');
    }
    text
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests;
