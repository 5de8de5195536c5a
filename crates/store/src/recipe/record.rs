//! Writes a recipe: what of a layer's tar is in its directory, and how the tar was compressed.
//!
//! The tar part is a zstd stream of instructions, each a byte and numbers of seven bits a byte:
//!
//! ```text
//! 1 length bytes…                       these bytes
//! 2 shared suffix-length suffix… offset length   a range of a file, whose path shares so many bytes with the one before
//! 0                                     the end
//! ```

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt;

use palan_linux::path::RootDir;
use palan_redeflate::Recorder;

use super::{Form, LayerFiles, Part, RecipeWriter};
use crate::Limits;
use crate::layer::TarError;
use crate::layer::name::{Meaning, Name, meaning};
use crate::layer::tar::{Entry, Kind, Reader, Segment};

/// Bytes outside of files that are held until they are written: of one entry, with its extended headers.
const MAX_HELD: usize = 16 << 20;
/// Instructions that are collected before they make a frame.
const FRAME: usize = 64 * 1024;
const ZSTD_LEVEL: i32 = 6;

/// Why a blob stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the recipe would be as large as the blob")]
    NoGain,
    #[error("its bytes differ when they are made again")]
    Differs,
    #[error("no encoder makes its bytes again for certain: it is compressed with {0}")]
    Compression(&'static str),
    #[error("it is too small to matter")]
    Small,
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a blob to its end and writes its recipe.
pub(crate) fn record(
    blob: impl Read,
    form: Form,
    layer: RootDir,
    limits: &Limits,
    recipe: &mut RecipeWriter,
) -> Result<(), Refusal> {
    let content = Content {
        stream: RefCell::new(match form {
            Form::Plain => Stream::Plain(blob),
            Form::Gzip => Stream::Gzip(Box::new(Recorder::new(blob))),
        }),
        held: RefCell::new(Vec::new()),
    };
    let mut instructions = Instructions::new(&mut *recipe, ZSTD_LEVEL)?;
    let mut files = LayerFiles::new(layer);
    let mut tar = Reader::new(&content, limits);
    while let Some(entry) = tar.next_entry()? {
        content.take_headers(tar.buffered(), &mut instructions)?;
        if entry.kind == Kind::Regular {
            file_content(&entry, &mut tar, &content, &mut files, limits, &mut instructions)?;
        }
        append_choices(&mut instructions, &content)?;
    }
    loop {
        content.take_headers(tar.buffered(), &mut instructions)?;
        if !tar.skip_rest()? {
            break;
        }
        append_choices(&mut instructions, &content)?;
    }
    content.take_headers(0, &mut instructions)?;
    drop(tar);
    instructions.finish()?;
    if let Stream::Gzip(recorder) = content.stream.into_inner() {
        recipe.append(Part::Gzip, &recorder.finish())?;
    }
    if recipe.is_too_long() { Err(Refusal::NoGain) } else { Ok(()) }
}

/// Compares an entry's content with the file of its name.
fn file_content<B: Read>(
    entry: &Entry,
    tar: &mut Reader<'_, &Content<B>>,
    content: &Content<B>,
    files: &mut LayerFiles,
    limits: &Limits,
    instructions: &mut Instructions<&mut RecipeWriter>,
) -> Result<(), Refusal> {
    let path = Name::parse(&entry.path, limits).ok();
    let path = path.filter(|path| {
        let (parent, last) = path.split();
        matches!(meaning(parent, last), Meaning::Plain) && !path.is_root()
    });
    // What was replaced later in the same tar, or never became a file, is kept as it is.
    let mut file = path.as_ref().and_then(|path| files.open(path.as_bytes()).ok());
    let whole = [Segment { offset: 0, length: entry.size }];
    let mut segments = entry.sparse.as_deref().unwrap_or(&whole).iter().copied();
    let mut segment = Segment { offset: 0, length: 0 };
    let mut buffer = Vec::new();
    while let Some(mut chunk) = tar.next_chunk()? {
        content.drop_content(chunk.len());
        while !chunk.is_empty() {
            if segment.length == 0 {
                match segments.next() {
                    Some(next) => segment = next,
                    None => file = None,
                }
            }
            let length = match &file {
                Some(_) => usize::try_from(segment.length).unwrap_or(usize::MAX).min(chunk.len()),
                None => chunk.len(),
            };
            let (now, later) = chunk.split_at(length);
            match (&file, &path) {
                (Some(open), Some(path)) if is_same(open, segment.offset, now, &mut buffer) => {
                    instructions.range(path.as_bytes(), segment.offset, now.len() as u64)?;
                }
                _ => {
                    file = None;
                    instructions.bytes(now)?;
                }
            }
            segment.offset += length as u64;
            segment.length = segment.length.saturating_sub(length as u64);
            chunk = later;
        }
    }
    Ok(())
}

fn is_same(file: &File, offset: u64, expected: &[u8], buffer: &mut Vec<u8>) -> bool {
    buffer.resize(expected.len().max(buffer.len()), 0);
    let buffer = &mut buffer[..expected.len()];
    file.read_exact_at(buffer, offset).is_ok() && buffer == expected
}

/// The tar, of which everything that was read is held until it is told what it was.
struct Content<B> {
    stream: RefCell<Stream<B>>,
    held: RefCell<Vec<u8>>,
}

enum Stream<B> {
    Plain(B),
    Gzip(Box<Recorder<B>>),
}

impl<B> Content<B> {
    /// All that is held, but for the last `buffered` bytes, which the tar reader has not looked at, is no content.
    fn take_headers(
        &self,
        buffered: usize,
        instructions: &mut Instructions<&mut RecipeWriter>,
    ) -> io::Result<()> {
        let mut held = self.held.borrow_mut();
        let length = held.len().saturating_sub(buffered);
        instructions.bytes(&held[..length])?;
        held.drain(..length);
        Ok(())
    }

    /// The next bytes that are held are content.
    fn drop_content(&self, length: usize) {
        let mut held = self.held.borrow_mut();
        let length = length.min(held.len());
        held.drain(..length);
    }
}

impl<B: Read> Read for &Content<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match &mut *self.stream.borrow_mut() {
            Stream::Plain(blob) => blob.read(buffer)?,
            Stream::Gzip(recorder) => recorder.read(buffer)?,
        };
        let mut held = self.held.borrow_mut();
        if held.len() > MAX_HELD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too much of it is outside of files"));
        }
        held.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

/// What takes the frames of a recipe's tar part.
pub(crate) trait Frames {
    fn append_frame(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Frames for &mut RecipeWriter {
    fn append_frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(Part::Tar, bytes)
    }
}

/// In memory, until it is known what the recipe makes.
impl Frames for Vec<u8> {
    fn append_frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes instructions.
pub(crate) struct Instructions<F> {
    recipe: F,
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    path: Vec<u8>,
    /// A range that may still grow.
    range: Option<(u64, u64)>,
    next_path: Vec<u8>,
}

impl<F: Frames> Instructions<F> {
    pub(crate) fn new(recipe: F, level: i32) -> io::Result<Self> {
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
        Ok(Self { recipe, encoder, path: Vec::new(), range: None, next_path: Vec::new() })
    }

    /// These bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.end_range()?;
        self.encoder.write_all(&[1])?;
        self.number(bytes.len() as u64)?;
        self.encoder.write_all(bytes)?;
        self.make_frame(FRAME)
    }

    /// A range of a file.
    pub(crate) fn range(&mut self, path: &[u8], offset: u64, length: u64) -> io::Result<()> {
        match &mut self.range {
            Some((start, known)) if self.next_path == path && *start + *known == offset => *known += length,
            _ => {
                self.end_range()?;
                self.next_path = path.to_vec();
                self.range = Some((offset, length));
            }
        }
        Ok(())
    }

    fn end_range(&mut self) -> io::Result<()> {
        let Some((offset, length)) = self.range.take() else { return Ok(()) };
        let path = std::mem::take(&mut self.next_path);
        let shared = path.iter().zip(&self.path).take_while(|(one, other)| one == other).count();
        self.encoder.write_all(&[2])?;
        self.number(shared as u64)?;
        self.number((path.len() - shared) as u64)?;
        self.encoder.write_all(&path[shared..])?;
        self.number(offset)?;
        self.number(length)?;
        self.path = path;
        self.make_frame(FRAME)
    }

    fn number(&mut self, mut number: u64) -> io::Result<()> {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            let more = if number > 0 { 0x80 } else { 0 };
            self.encoder.write_all(&[low & 0x7f | more])?;
            if number == 0 {
                return Ok(());
            }
        }
    }

    fn make_frame(&mut self, least: usize) -> io::Result<()> {
        if self.encoder.get_ref().len() < least {
            return Ok(());
        }
        let frame = std::mem::take(self.encoder.get_mut());
        self.recipe.append_frame(&frame)
    }

    /// Ends the part.
    pub(crate) fn finish(mut self) -> io::Result<F> {
        self.end_range()?;
        self.encoder.write_all(&[0])?;
        let frame = self.encoder.finish()?;
        self.recipe.append_frame(&frame)?;
        Ok(self.recipe)
    }
}

fn append_choices<B: Read>(
    instructions: &mut Instructions<&mut RecipeWriter>,
    content: &Content<B>,
) -> Result<(), Refusal> {
    if let Stream::Gzip(recorder) = &mut *content.stream.borrow_mut() {
        instructions.recipe.append(Part::Gzip, &recorder.take_recipe())?;
    }
    if instructions.recipe.is_too_long() { Err(Refusal::NoGain) } else { Ok(()) }
}
