//! Bits of a DEFLATE stream, in and out (RFC 1951, 3.1.1: the lowest bit of a byte comes first).

use std::io::{self, Read};

use crate::RecipeError;

/// Reads bits, and whole bytes where the stream has some.
#[derive(Debug)]
pub(crate) struct BitReader<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bits that were taken from the buffer, the next one lowest, and how many.
    bits: u64,
    count: u32,
}

impl<R: Read> BitReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, buffer: vec![0; 64 * 1024].into_boxed_slice(), start: 0, end: 0, bits: 0, count: 0 }
    }

    /// At least 32 of the next bits, or all that are left with zeros behind them.
    pub(crate) fn peek(&mut self) -> Result<u64, RecipeError> {
        while self.count < 32 {
            let Some(byte) = self.next_buffered()? else { break };
            self.bits |= u64::from(byte) << self.count;
            self.count += 8;
        }
        Ok(self.bits)
    }

    /// Passes over bits that were peeked at.
    pub(crate) fn skip(&mut self, count: u32) -> Result<(), RecipeError> {
        if count > self.count {
            return Err(RecipeError::Stream("it ends too early"));
        }
        self.bits >>= count;
        self.count -= count;
        Ok(())
    }

    /// The next bits, 16 at most.
    pub(crate) fn take(&mut self, count: u32) -> Result<u16, RecipeError> {
        let bits = self.peek()? & ((1 << count) - 1);
        self.skip(count)?;
        Ok(u16::try_from(bits).unwrap_or_default())
    }

    /// The bits up to the next whole byte.
    pub(crate) fn align(&mut self) -> Result<u8, RecipeError> {
        let padding = self.take(self.count % 8)?;
        Ok(u8::try_from(padding).unwrap_or_default())
    }

    /// The next whole byte; `None` at the end. Only after `align`.
    pub(crate) fn byte(&mut self) -> Result<Option<u8>, RecipeError> {
        if self.count == 0 {
            return self.next_buffered();
        }
        self.take(8).map(|byte| u8::try_from(byte).ok())
    }

    fn next_buffered(&mut self) -> Result<Option<u8>, RecipeError> {
        if self.start == self.end {
            self.start = 0;
            self.end = loop {
                match self.source.read(&mut self.buffer) {
                    Ok(length) => break length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(RecipeError::Read(error)),
                }
            };
            if self.end == 0 {
                return Ok(None);
            }
        }
        self.start += 1;
        Ok(Some(self.buffer[self.start - 1]))
    }
}

/// Collects bits and bytes.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bits: u64,
    count: u32,
    output: Vec<u8>,
}

impl BitWriter {
    /// Appends the low `count` (at most 16) bits.
    pub(crate) fn put(&mut self, count: u32, bits: u16) {
        self.bits |= u64::from(bits) << self.count;
        self.count += count;
        while self.count >= 8 {
            let [low, ..] = self.bits.to_le_bytes();
            self.output.push(low);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    /// Fills the last byte up with these bits.
    pub(crate) fn align(&mut self, padding: u8) {
        if self.count > 0 {
            let count = 8 - self.count;
            self.put(count, u16::from(padding) & ((1 << count) - 1));
        }
    }

    /// Appends whole bytes. Only after `align`.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// The whole bytes that are done.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }
}
