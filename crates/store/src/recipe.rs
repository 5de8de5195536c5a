//! Layers kept once: the unpacked directory stays, the compressed blob goes, a *recipe* makes the blob's exact bytes again.
//!
//! ```text
//! blob ──record──▶ recipes/.tmp-… ──rebuilt, digest right (the proof), synced──▶ recipes/<hex> ──row──▶ blob removed
//!   ▲                    │                                                                    │
//!   └──── stays ◀── not provable (zstd, content that is not in the directory, no gain)        └─▶ open_blob rebuilds
//! ```
//!
//! A blob is a tar, compressed or not. Its recipe has two parts:
//!
//! - **tar:** everything of the tar that is not in a file of the layer (headers, padding, order, whiteouts, what was replaced
//!   later) as it is, and for the rest which file and which range of it. Whether the directory stands alone or over its
//!   parents does not matter: content is compared, never assumed.
//! - **gzip:** the choices of the compressor, as `palan_redeflate` keeps them. Its format has a version of its own and is
//!   code of this repository, so no update of a library can break a proof. For zstd the only encoder at hand is a library
//!   whose output changes with its version; such blobs stay.
//!
//! **Invariant:** a blob is removed only when its recipe has made all its bytes again, recipe and layer are on the disk,
//! and a row in the database says so. A kill between any two steps leaves the blob, or the row; [`crate::Store::open`] ends
//! what was begun.
//!
//! **Invariant:** a row in `recipes` keeps its layer's directory alive for as long as anything needs the blob.
//!
//! The work is done by one thread of lowest priority ([`worker`]) which waits while anything is pulled.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use palan_linux::path::{Directory, FileKind, RootDir};
use palan_oci::Digest;
use palan_stdx::fs::{self, PathContext as _, PathError};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::store::Inner;

pub(crate) mod rebuild;
pub(crate) mod record;
pub mod worker;

/// What a recipe file begins with.
const MAGIC: &[u8; 8] = b"palanrcp";
/// Of the file's format; of the part for gzip see [`palan_redeflate::VERSION`].
pub(crate) const VERSION: u32 = 1;
/// Bytes of a header at most; a real one has some hundred.
const MAX_HEADER: u32 = 64 * 1024;

/// Which part of a recipe a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Tar,
    Gzip,
}

impl Part {
    fn tag(self) -> u8 {
        match self {
            Self::Tar => b't',
            Self::Gzip => b'z',
        }
    }
}

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    Plain,
    Gzip,
}

/// What a recipe file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// What it makes, and how many bytes that has.
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    pub(crate) form: Form,
    /// The directory that has the content.
    pub(crate) layer: String,
}

/// Writes a recipe file: the header, then frames of both parts as they come.
#[derive(Debug)]
pub(crate) struct RecipeWriter {
    file: File,
    length: u64,
    /// More bytes than this and the recipe is of no use.
    limit: u64,
}

impl RecipeWriter {
    pub(crate) fn create(path: &Path, header: &Header, limit: u64) -> Result<Self, PathError> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let mut writer = Self { file: file.path_context("create", path)?, length: 0, limit };
        // Only maps with keys that are no strings can fail, and there are none.
        let header = serde_json::to_vec(header).unwrap_or_default();
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes();
        writer.put(&[MAGIC, &length[..], &header].concat()).path_context("write", path)?;
        Ok(writer)
    }

    /// Appends to one part.
    pub(crate) fn append(&mut self, part: Part, bytes: &[u8]) -> io::Result<()> {
        for bytes in bytes.chunks(1 << 20) {
            let length = u32::try_from(bytes.len()).unwrap_or_default().to_le_bytes();
            self.put(&[&[part.tag()], &length[..], bytes].concat())?;
        }
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether keeping the blob is better.
    pub(crate) fn is_too_long(&self) -> bool {
        self.length > self.limit
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        crate::fault::point("write a recipe");
        self.length += bytes.len() as u64;
        io::Write::write_all(&mut self.file, bytes)
    }
}

/// Reads one part of a recipe file.
#[derive(Debug)]
pub(crate) struct PartReader {
    file: Arc<File>,
    part: Part,
    position: u64,
    left: u64,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut frame = [0; 5];
            if self.file.read_at(&mut frame[..1], self.position)? == 0 {
                return Ok(0);
            }
            self.file.read_exact_at(&mut frame, self.position)?;
            let [tag, length @ ..] = frame;
            let length = u64::from(u32::from_le_bytes(length));
            self.position += frame.len() as u64;
            if tag == self.part.tag() {
                self.left = length;
            } else {
                self.position += length;
            }
        }
        let wanted = usize::try_from(self.left).unwrap_or(buffer.len()).min(buffer.len());
        let length = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if length == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

/// An open recipe file.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) header: Header,
    file: Arc<File>,
    start: u64,
}

impl Recipe {
    pub(crate) fn open(path: &Path) -> Result<Self, PathError> {
        let file = fs::open(path)?;
        Self::read(file).path_context("read the recipe", path)
    }

    pub(crate) fn read(file: File) -> io::Result<Self> {
        let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        let mut start = [0; 12];
        file.read_exact_at(&mut start, 0)?;
        let [m0, m1, m2, m3, m4, m5, m6, m7, length @ ..] = start;
        if [m0, m1, m2, m3, m4, m5, m6, m7] != *MAGIC {
            return Err(invalid("it is no recipe of a layer"));
        }
        let length = u32::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(invalid("its header is too long"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 12)?;
        let header: Header = serde_json::from_slice(&header)?;
        if header.version != VERSION {
            return Err(invalid("it was written by another version of this program"));
        }
        Ok(Self { header, file: Arc::new(file), start: 12 + u64::from(length) })
    }

    pub(crate) fn part(&self, part: Part) -> PartReader {
        PartReader { file: Arc::clone(&self.file), part, position: self.start, left: 0 }
    }
}

/// Opens the files of a layer by their paths. Most are in the directory of the one before.
#[derive(Debug)]
pub(crate) struct LayerFiles {
    root: RootDir,
    parent: Option<(Vec<u8>, Directory)>,
}

impl LayerFiles {
    pub(crate) fn new(root: RootDir) -> Self {
        Self { root, parent: None }
    }

    /// A regular file of the layer; anything else is an error.
    pub(crate) fn open(&mut self, path: &[u8]) -> io::Result<File> {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (parent, last) = slash.map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            let directory = match parent {
                [] => self.root.as_directory().try_clone()?,
                parent => self.root.open_dir(Path::new(OsStr::from_bytes(parent)))?,
            };
            self.parent = Some((parent.to_vec(), directory));
        }
        let Some((_, directory)) = &self.parent else { return Err(io::ErrorKind::NotFound.into()) };
        let last = OsStr::from_bytes(last);
        // Looked at first: opening a device has effects.
        if directory.metadata(last)?.kind != FileKind::Regular {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(File::from(directory.open(last, flags)?))
    }
}

impl Inner {
    pub(crate) fn recipe_path(&self, blob: &Digest) -> std::path::PathBuf {
        self.recipes.join(blob.hex())
    }
}

#[cfg(test)]
mod tests;
