//! Decompression by content, hashing of what comes out, and a stop to bombs.
//!
//! Layers are plain, gzip or zstd: nothing else has a media type. Archives that are no layers may be bzip2 or xz as well, as Docker takes
//! them; here no program of the host's does it.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use palan_oci::Digest;
use palan_oci::digest::Hasher;
use palan_oci::media_type::Compression;
use palan_tar::xz::XzReader;

use super::LayerError;
use crate::Limits;
use crate::content::BlobReader;

const BUFFER: usize = 128 * 1024;

type Start<'a> = BufReader<io::Chain<Cursor<Vec<u8>>, Counted<'a>>>;

/// A decompressing reader. Which kind is decided by the first bytes: like Docker we let the content win over the media
/// type, since registries and tools get that wrong and the digests are checked anyway.
pub(crate) struct Decoder<'a> {
    kind: Kind<'a>,
    /// Bytes that came out.
    made: u64,
    /// Bytes that went in.
    taken: Rc<Cell<u64>>,
    /// How much more may come out than went in; none: who reads looks for himself.
    bounds: Option<Limits>,
}

enum Kind<'a> {
    Unread(Option<Counted<'a>>),
    Plain(Start<'a>),
    Gzip(Box<MultiGzDecoder<Start<'a>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Start<'a>>>),
    Bzip2(Box<MultiBzDecoder<Start<'a>>>),
    Xz(Box<XzReader<Start<'a>>>),
}

/// A source whose bytes are counted.
struct Counted<'a> {
    source: Box<dyn Read + 'a>,
    count: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.count.set(self.count.get() + length as u64);
        Ok(length)
    }
}

impl<'a> Decoder<'a> {
    /// Of an archive.
    pub(crate) fn new(source: impl Read + 'a) -> Self {
        Self::with(source, Some(Limits::default()))
    }

    /// Of a layer, whose reader sets the limits.
    pub(super) fn of_layer(source: impl Read + 'a) -> Self {
        Self::with(source, None)
    }

    fn with(source: impl Read + 'a, bounds: Option<Limits>) -> Self {
        let taken = Rc::new(Cell::new(0));
        let counted = Counted { source: Box::new(source), count: Rc::clone(&taken) };
        Self { kind: Kind::Unread(Some(counted)), made: 0, taken, bounds }
    }

    fn check(&self) -> io::Result<()> {
        let Some(limits) = &self.bounds else { return Ok(()) };
        let is_bomb = self.made > limits.ratio_threshold && self.made / limits.ratio > self.taken.get();
        match is_bomb {
            false => Ok(()),
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is more than {} times as large as its compressed form", limits.ratio),
            )),
        }
    }
}

impl<'a> Kind<'a> {
    fn begin(mut source: Counted<'a>, is_layer: bool) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        source.by_ref().take(4).read_to_end(&mut start)?;
        let foreign = Foreign::detect(&start);
        if let Some(kind) = foreign.filter(|kind| is_layer || *kind == Foreign::Lzma) {
            let text = format!(
                "it is compressed with {}, which is not supported: use gzip, zstd or none",
                kind.name()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let compression = Compression::detect(&start);
        let source = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(source));
        Ok(match (foreign, compression) {
            (Some(Foreign::Bzip2), _) => Self::Bzip2(Box::new(MultiBzDecoder::new(source))),
            (Some(_), _) => Self::Xz(Box::new(XzReader::new(source))),
            (None, Compression::None) => Self::Plain(source),
            (None, Compression::Gzip) => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            // Windows above zstd's default of 128 MiB are refused by the library: memory stays bounded.
            (None, Compression::Zstd) => {
                Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?))
            }
        })
    }
}

/// Compressions that no layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foreign {
    Bzip2,
    Xz,
    Lzma,
}

impl Foreign {
    fn detect(start: &[u8]) -> Option<Self> {
        match start {
            [0xfd, b'7', b'z', b'X'] => Some(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9'] => Some(Self::Bzip2),
            [0x5d, 0, 0, _] => Some(Self::Lzma),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
        }
    }
}

/// What was compressed as no layer may be, plain; anything else as it is.
pub(crate) fn without_foreign<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut start)?;
    let is_foreign = Foreign::detect(&start).is_some();
    let whole = Cursor::new(start).chain(source);
    Ok(if is_foreign { Box::new(Decoder::new(whole)) } else { Box::new(whole) })
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Kind::Unread(source) = &mut self.kind {
            let source = source.take().ok_or_else(|| io::Error::other("the source failed before"))?;
            self.kind = Kind::begin(source, self.bounds.is_none())?;
        }
        let length = match &mut self.kind {
            Kind::Unread(_) => 0,
            Kind::Plain(source) => source.read(buffer)?,
            Kind::Gzip(decoder) => decoder.read(buffer)?,
            Kind::Zstd(decoder) => decoder.read(buffer)?,
            Kind::Bzip2(decoder) => decoder.read(buffer)?,
            Kind::Xz(decoder) => decoder.read(buffer)?,
        };
        self.made += length as u64;
        self.check()?;
        Ok(length)
    }
}

impl Decoder<'_> {
    /// Reads what the compressed stream has behind its end: nothing, if all is well.
    pub(crate) fn trailing(&mut self) -> io::Result<u64> {
        let rest = match &mut self.kind {
            // An archive in xz ends where its source does.
            Kind::Unread(_) | Kind::Plain(_) | Kind::Xz(_) => return Ok(0),
            Kind::Gzip(decoder) => decoder.get_mut(),
            Kind::Zstd(decoder) => decoder.get_mut(),
            Kind::Bzip2(decoder) => decoder.get_mut(),
        };
        let mut count = 0;
        loop {
            let length = rest.fill_buf()?.len();
            if length == 0 {
                return Ok(count);
            }
            rest.consume(length);
            count += length as u64;
        }
    }
}

/// A layer's tar: decompressed, hashed and counted against the limits.
pub(super) struct Decoded<'a, 's> {
    decoder: Decoder<'a>,
    blob: &'a BlobReader<'s>,
    hasher: Hasher,
    limits: &'a Limits,
    error: Option<LayerError>,
}

impl<'a, 's> Decoded<'a, 's> {
    pub(super) fn new(blob: &'a BlobReader<'s>, limits: &'a Limits) -> Self {
        Self { decoder: Decoder::of_layer(blob), blob, hasher: Hasher::new(), limits, error: None }
    }

    /// The limit that stopped the reading, if one did.
    pub(super) fn take_error(&mut self) -> Option<LayerError> {
        self.error.take()
    }

    /// The digest of everything that was read.
    pub(super) fn finish(self) -> Digest {
        self.hasher.finish()
    }

    fn check(&self) -> Result<(), LayerError> {
        let (unpacked, compressed) = (self.hasher.length(), self.blob.position());
        if unpacked > self.limits.unpacked_bytes {
            return Err(LayerError::TooLarge { limit: self.limits.unpacked_bytes });
        }
        let ratio = self.limits.ratio;
        if unpacked > self.limits.ratio_threshold && unpacked / ratio > compressed {
            return Err(LayerError::Bomb { ratio, unpacked, compressed });
        }
        Ok(())
    }
}

impl Read for Decoded<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        if let Err(error) = self.check() {
            let text = error.to_string();
            self.error = Some(error);
            return Err(io::Error::other(text));
        }
        if length == 0 && !buffer.is_empty() {
            self.decoder.trailing()?;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).expect("compresses");
        encoder.finish().expect("compresses")
    }

    fn read(source: impl Read) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut source = source;
        source.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn archives_may_be_bzip2() {
        let compressed = bzip2(b"content");
        let several = [&compressed[..], &bzip2(b" and more")].concat();
        assert_eq!(read(Decoder::new(&several[..])).expect("reads"), b"content and more");
        assert_eq!(read(without_foreign(&compressed[..]).expect("begins")).expect("reads"), b"content");
        assert_eq!(read(without_foreign(&b"BZ"[..]).expect("begins")).expect("reads"), b"BZ");
        read(Decoder::new(&compressed[..compressed.len() - 1])).expect_err("it is cut");
        let error = read(Decoder::of_layer(&compressed[..])).expect_err("no layer");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn bombs_are_stopped() {
        let limits = Limits { ratio_threshold: 1 << 20, ratio: 100, ..Limits::default() };
        for bomb in [bzip2(&vec![0; 8 << 20]), crate::testing::gzip(&vec![0; 8 << 20])] {
            let error = read(Decoder::with(&bomb[..], Some(limits.clone()))).expect_err("a bomb");
            assert!(error.to_string().contains("more than 100 times"), "{error}");
        }
    }
}
