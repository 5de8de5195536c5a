//! Reading xz: streams one after the other, in bounded memory.

use std::io::{self, BufRead, Read};

use lzma_rust2::{Action, Status, XzStream};

/// The most memory that a block may ask for, in KiB: twice what `xz -9` makes.
const MAX_MEMORY: u32 = 129 << 10;

/// The decoder remembers each block until the end of its stream. What is compressed grows by no more than this part, and by
/// [`SLACK`], so blocks that hold next to nothing are not there for their content.
const MAX_GROWTH: u64 = 64;

/// See [`MAX_GROWTH`]. A piece of 64 KiB is taken whole before anything is made of it.
const SLACK: u64 = 192 << 10;

/// Decompresses what a reader has.
pub struct XzReader<R> {
    source: R,
    stream: Box<XzStream>,
    is_at_end: bool,
}

impl<R: BufRead> XzReader<R> {
    /// Of all streams up to the end of the source.
    pub fn new(source: R) -> Self {
        Self { source, stream: Box::new(XzStream::new_mem_limit(true, MAX_MEMORY)), is_at_end: false }
    }
}

impl<R: BufRead> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.is_at_end {
            let input = self.source.fill_buf()?;
            let action = if input.is_empty() { Action::Finish } else { Action::Run };
            let is_last = input.is_empty();
            let result = self.stream.process(input, buffer, action)?;
            self.source.consume(result.bytes_consumed);
            self.is_at_end = result.status == Status::StreamEnd;
            let (taken, made) = (self.stream.total_in(), self.stream.total_out());
            if taken.saturating_sub(made) > SLACK + taken / MAX_GROWTH {
                return Err(invalid("it has more and smaller blocks than anything that is only compressed"));
            }
            if result.bytes_produced > 0 {
                return Ok(result.bytes_produced);
            }
            if result.bytes_consumed == 0 && is_last && !self.is_at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<R> std::fmt::Debug for XzReader<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("XzReader").field("is_at_end", &self.is_at_end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |place: usize| u8::from_str_radix(&hex[place..place + 2], 16).expect("digits");
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    fn read(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        XzReader::new(bytes).read_to_string(&mut text).map(|_| text)
    }

    /// `printf palan | xz`, with CRC64.
    fn plain() -> Vec<u8> {
        bytes(
            "fd377a585a000004e6d6b4460200210116000000742fe5a301000470616c616e00000000740cf176ba6c3a2000011d05b82d80af\
             1fb6f37d010000000004595a",
        )
    }

    #[test]
    fn streams() {
        let sha256 = bytes(
            "fd377a585a00000ae1fb0ca10201040021010000da33ad0301000470616c616e00000000a23c5f219567bb4a99ae8a73840a05ab\
             f3dea5aceb43a78b8ae7f563ea2bcd3b000135051283ddf2189b4b9a01000000000a595a",
        );
        assert_eq!(read(&plain()).expect("reads"), "palan");
        assert_eq!(read(&sha256).expect("reads"), "palan");
        assert_eq!(read(&[plain(), vec![0; 8], sha256, plain()].concat()).expect("reads"), "palanpalanpalan");
        let mut one = XzReader::new(io::BufReader::with_capacity(1, &*Box::leak(plain().into_boxed_slice())));
        let mut text = String::new();
        one.read_to_string(&mut text).expect("reads byte by byte");
        assert_eq!(text, "palan");
    }

    #[test]
    fn damage_is_an_error() {
        let plain = plain();
        for length in 0..plain.len() {
            read(&plain[..length]).expect_err("it is cut");
        }
        for place in 0..plain.len() {
            let mut damaged = plain.clone();
            damaged[place] ^= 0x10;
            read(&damaged).expect_err("it is damaged");
        }
        read(&[plain.clone(), b"more".to_vec()].concat()).expect_err("no padding");
        read(&[plain, vec![0; 3]].concat()).expect_err("half a padding");
    }

    #[test]
    fn memory_is_bounded() {
        // `xz --lzma2=dict=1536MiB --check=crc32`
        let huge = bytes(
            "fd377a585a0000016922de3602002101250000003b787b4101000470616c616e0000000049a34b2b00011905bce8eccb9042990d\
             010000000001595a",
        );
        let error = read(&huge).expect_err("1.5 GiB of memory");
        assert!(error.to_string().contains("memory"), "{error}");
        // Blocks of nothing: 16 bytes are remembered of each.
        let mut tiny = plain()[..12].to_vec();
        // Their dictionaries have 4 KiB.
        let block = bytes("0200210100000000372797d600000000");
        for _ in 0..SLACK / 8 {
            tiny.extend_from_slice(&block);
            tiny.extend_from_slice(&[0; 8]);
        }
        let error = read(&tiny).expect_err("nothing in many blocks");
        assert!(error.to_string().contains("smaller blocks"), "{error}");
    }
}
