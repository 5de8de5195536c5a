//! Makes a blob again from its recipe and its layer, while it is read.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use palan_linux::path::RootDir;
use palan_oci::Digest;
use palan_oci::digest::Verifier;
use palan_redeflate::Rebuilder;

use super::{Form, LayerFiles, Part, PartReader, Recipe};
use crate::store::Inner;
use crate::{Error, Lease, Result};

/// Bytes of a path at most; the kernel's limit is 4,095.
const MAX_PATH: u64 = 4096;

/// The bytes of a blob, made while they are read, and checked: the last of them are only delivered if all were right.
pub(crate) struct Rebuilt {
    inner: Arc<Inner>,
    digest: Digest,
    stream: Stream,
    verifier: Verifier,
    size: u64,
    /// Keeps the layer while it is read.
    _lease: Lease,
}

impl std::fmt::Debug for Rebuilt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rebuilt").field("digest", &self.digest).finish_non_exhaustive()
    }
}

enum Stream {
    Plain(Box<TarSource>),
    Gzip(Box<Rebuilder<TarSource, PartReader>>),
}

impl Rebuilt {
    /// `None` if there is no recipe.
    pub(crate) fn open(inner: &Arc<Inner>, digest: &Digest) -> Result<Option<Self>> {
        let lease = inner.leases.create(inner);
        lease.protect(*digest);
        let recipe = match Recipe::open(&inner.recipe_path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let layer = &recipe.header.layer;
        if let Ok(layer) = Digest::from_hex(layer.strip_prefix("chain-").unwrap_or(layer)) {
            lease.protect(layer);
        }
        let size = recipe.header.size;
        let stream =
            open_stream(inner, &recipe).map_err(|source| Error::Rebuild { blob: *digest, source })?;
        Ok(Some(Self {
            inner: Arc::clone(inner),
            digest: *digest,
            stream,
            verifier: Verifier::new(*digest, size),
            size,
            _lease: lease,
        }))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Goes on at byte `offset`, by making all bytes before it.
    pub(crate) fn seek_to(&mut self, offset: u64) -> io::Result<()> {
        if offset < self.verifier.length() {
            let recipe = Recipe::open(&self.inner.recipe_path(&self.digest)).map_err(io::Error::other)?;
            self.stream = open_stream(&self.inner, &recipe)?;
            self.verifier = Verifier::new(self.digest, self.size);
        }
        let mut buffer = vec![0; 64 * 1024];
        while self.verifier.length() < offset {
            let left = usize::try_from(offset - self.verifier.length()).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len());
            if self.read(&mut buffer[..wanted])? == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl Read for Rebuilt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        let damaged = || {
            let text = format!(
                "{} can't be made again, its layer was changed on the disk: run `palan system fsck`",
                self.digest
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        self.verifier.update(&buffer[..length]).map_err(|_| damaged())?;
        let ends = length == 0 && !buffer.is_empty();
        if ends || self.verifier.length() == self.size {
            self.verifier.clone().finish().map_err(|_| damaged())?;
        }
        Ok(length)
    }
}

/// What a recipe makes of a layer, not checked.
pub(crate) fn stream_of(recipe: &Recipe, layer: RootDir) -> io::Result<impl Read + use<>> {
    new_stream(recipe, layer)
}

fn open_stream(inner: &Inner, recipe: &Recipe) -> io::Result<Stream> {
    new_stream(recipe, RootDir::open(inner.layers.join(&recipe.header.layer))?)
}

fn new_stream(recipe: &Recipe, layer: RootDir) -> io::Result<Stream> {
    let tar = TarSource::new(recipe, layer)?;
    Ok(match recipe.header.form {
        Form::Plain => Stream::Plain(Box::new(tar)),
        Form::Gzip => Stream::Gzip(Box::new(Rebuilder::new(tar, recipe.part(Part::Gzip))?)),
    })
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tar) => tar.read(buffer),
            Self::Gzip(gzip) => gzip.read(buffer),
        }
    }
}

/// The tar of a layer.
struct TarSource {
    instructions: BufReader<zstd::stream::read::Decoder<'static, BufReader<PartReader>>>,
    files: LayerFiles,
    path: Vec<u8>,
    current: Current,
}

enum Current {
    Nothing,
    Bytes { left: u64 },
    Range { file: File, offset: u64, left: u64 },
    End,
}

impl TarSource {
    fn new(recipe: &Recipe, layer: RootDir) -> io::Result<Self> {
        let instructions = zstd::stream::read::Decoder::new(recipe.part(Part::Tar))?;
        Ok(Self {
            instructions: BufReader::with_capacity(64 * 1024, instructions),
            files: LayerFiles::new(layer),
            path: Vec::new(),
            current: Current::Nothing,
        })
    }

    fn next(&mut self) -> io::Result<()> {
        let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut instruction = [0; 1];
        self.instructions.read_exact(&mut instruction)?;
        self.current = match instruction {
            [0] => Current::End,
            [1] => Current::Bytes { left: self.number()? },
            [2] => {
                let shared = self.number()?;
                let more = self.number()?;
                if shared > self.path.len() as u64
                    || shared + more.min(MAX_PATH) > MAX_PATH
                    || more > MAX_PATH
                {
                    return Err(invalid("the recipe names an impossible path"));
                }
                self.path.truncate(usize::try_from(shared).unwrap_or_default());
                let start = self.path.len();
                self.path.resize(start + usize::try_from(more).unwrap_or_default(), 0);
                self.instructions.read_exact(&mut self.path[start..])?;
                let (offset, left) = (self.number()?, self.number()?);
                Current::Range { file: self.files.open(&self.path)?, offset, left }
            }
            _ => return Err(invalid("the recipe has an instruction of an unknown kind")),
        };
        Ok(())
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0; 1];
            self.instructions.read_exact(&mut byte)?;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the recipe has a number that does not end"))
    }
}

impl Read for TarSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = match &mut self.current {
                Current::End => return Ok(0),
                Current::Nothing | Current::Bytes { left: 0 } | Current::Range { left: 0, .. } => {
                    self.next()?;
                    continue;
                }
                Current::Bytes { left } => {
                    let known = self.instructions.fill_buf()?;
                    let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    let length = wanted.min(known.len());
                    buffer[..length].copy_from_slice(&known[..length]);
                    self.instructions.consume(length);
                    *left -= length as u64;
                    length
                }
                Current::Range { file, offset, left } => {
                    let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    let length = file.read_at(&mut buffer[..wanted], *offset)?;
                    *offset += length as u64;
                    *left -= length as u64;
                    length
                }
            };
            if length == 0 && !buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(length);
        }
    }
}
