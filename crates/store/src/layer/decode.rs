//! Decompression by content, hashing of what comes out, and a stop to bombs.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use palan_oci::Digest;
use palan_oci::digest::Hasher;
use palan_oci::media_type::Compression;

use super::LayerError;
use crate::Limits;
use crate::content::BlobReader;

const BUFFER: usize = 128 * 1024;

type Start<'a> = BufReader<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + 'a>>>;

/// A decompressing reader. Which kind is decided by the first bytes: like Docker we let the content win over the media
/// type, since registries and tools get that wrong and the digests are checked anyway.
pub(crate) enum Decoder<'a> {
    Unread(Option<Box<dyn Read + 'a>>),
    Plain(Start<'a>),
    Gzip(Box<MultiGzDecoder<Start<'a>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Start<'a>>>),
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(source: impl Read + 'a) -> Self {
        Self::Unread(Some(Box::new(source)))
    }

    fn begin(mut source: Box<dyn Read + 'a>) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        source.by_ref().take(4).read_to_end(&mut start)?;
        if let Some(kind) = unsupported_compression(&start) {
            let text =
                format!("it is compressed with {kind}, which is not supported: use gzip, zstd or none");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let compression = Compression::detect(&start);
        let source = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(source));
        Ok(match compression {
            Compression::None => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            // Windows above zstd's default of 128 MiB are refused by the library: memory stays bounded.
            Compression::Zstd => Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?)),
        })
    }
}

/// What Docker leaves to other programs, which we don't run on what strangers wrote.
fn unsupported_compression(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xfd, b'7', b'z', b'X'] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9'] => Some("bzip2"),
        [0x5d, 0, 0, _] => Some("lzma"),
        _ => None,
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unread(source) => {
                let source = source.take().ok_or_else(|| io::Error::other("the source failed before"))?;
                *self = Self::begin(source)?;
                self.read(buffer)
            }
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl Decoder<'_> {
    /// Reads what the compressed stream has behind its end: nothing, if all is well.
    pub(crate) fn trailing(&mut self) -> io::Result<u64> {
        let rest = match self {
            Self::Unread(_) | Self::Plain(_) => return Ok(0),
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
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
        Self { decoder: Decoder::new(blob), blob, hasher: Hasher::new(), limits, error: None }
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
