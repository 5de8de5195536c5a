//! Adaptive binary arithmetic coding: a decision that was foreseen costs next to nothing.
//!
//! The range coder is the carry-less one of LZMA (7-Zip's `lzma-specification.txt`), with probabilities of 15 bits, each the
//! mean of a fast and a slow estimate. One [`Coder`] trait serves both directions, so that what is written and what is read
//! is described once: a writer is given the decision and returns it, a reader ignores it and returns the true one.

use std::io::Read;

/// The chance that a decision is `false`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probability {
    fast: u16,
    slow: u16,
}

impl Default for Probability {
    fn default() -> Self {
        Self::EVEN
    }
}

impl Probability {
    /// Nothing is known.
    pub(crate) const EVEN: Self = Self { fast: 1 << 15, slow: 1 << 15 };

    fn chance(self) -> u32 {
        // Neither estimate reaches 0 or 65536, so this is within 1..32768.
        (u32::from(self.fast) + u32::from(self.slow)) >> 2
    }

    fn learn(&mut self, bit: bool) {
        if bit {
            self.fast -= self.fast >> 4;
            self.slow -= self.slow >> 7;
        } else {
            self.fast += (u16::MAX - self.fast) >> 4;
            self.slow += (u16::MAX - self.slow) >> 7;
        }
    }
}

/// One direction of the arithmetic coder.
pub(crate) trait Coder {
    /// Codes one decision.
    fn bit(&mut self, probability: &mut Probability, bit: bool) -> bool;

    /// Codes the low `count` (at most 16) bits of a number of which nothing is known.
    fn raw(&mut self, count: u32, value: u32) -> u32 {
        let mut coded = 0;
        for index in (0..count).rev() {
            let bit = self.bit(&mut { Probability::EVEN }, value >> index & 1 == 1);
            coded = coded << 1 | u32::from(bit);
        }
        coded
    }

    /// Codes a number of `tree.len()` possible values (a power of two), most significant bit first.
    fn tree(&mut self, tree: &mut [Probability], value: u32) -> u32 {
        let bits = tree.len().trailing_zeros();
        let mut node = 1usize;
        for index in (0..bits).rev() {
            let bit = self.bit(&mut tree[node], value >> index & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        u32::try_from(node - tree.len()).unwrap_or_default()
    }

    /// Codes a number that is usually small: its length in bits, then the bits.
    fn number(&mut self, model: &mut Number, value: u32) -> u32 {
        let length = self.tree(&mut model.length, 32 - value.leading_zeros()).min(32);
        let mut coded = u32::from(length > 0);
        for index in (0..length.saturating_sub(1)).rev() {
            let bit = value >> index & 1 == 1;
            // Only the first bits have a pattern.
            let place = &mut model.bits[length as usize][index as usize];
            coded = coded << 1 | u32::from(self.bit(place, bit));
        }
        coded
    }
}

/// What was learned about a kind of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Number {
    length: [Probability; 64],
    bits: Box<[[Probability; 32]; 33]>,
}

impl Default for Number {
    fn default() -> Self {
        Self { length: [Probability::default(); 64], bits: Box::new([[Probability::default(); 32]; 33]) }
    }
}

/// Writes decisions to memory; whoever owns it takes the bytes away from time to time.
#[derive(Debug)]
pub(crate) struct Writer {
    low: u64,
    range: u32,
    /// A byte that a carry may still change, and how many 0xff follow it.
    cache: u8,
    pending: u64,
    started: bool,
    output: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { low: 0, range: u32::MAX, cache: 0, pending: 0, started: false, output: Vec::new() }
    }

    /// The bytes that are final.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// All bytes that are left.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.output
    }

    fn shift(&mut self) {
        let [.., high, b3, b2, b1, b0] = self.low.to_be_bytes();
        if self.low < 0xff00_0000 || high > 0 {
            if self.started {
                self.output.push(self.cache.wrapping_add(high));
            }
            self.started = true;
            for _ in 0..self.pending {
                self.output.push(0xff_u8.wrapping_add(high));
            }
            self.pending = 0;
            self.cache = b3;
        } else {
            self.pending += 1;
        }
        self.low = u64::from(u32::from_be_bytes([b2, b1, b0, 0]));
    }
}

impl Coder for Writer {
    fn bit(&mut self, probability: &mut Probability, bit: bool) -> bool {
        let bound = (self.range >> 15) * probability.chance();
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        probability.learn(bit);
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

/// Reads decisions. Behind the end of its source it reads zeros: what comes of it is wrong and found by its digest.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    source: R,
    code: u32,
    range: u32,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    failure: Option<std::io::Error>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        let mut reader = Self {
            source,
            code: 0,
            range: u32::MAX,
            buffer: vec![0; 16 * 1024].into_boxed_slice(),
            start: 0,
            end: 0,
            failure: None,
        };
        for _ in 0..4 {
            reader.code = reader.code << 8 | u32::from(reader.byte());
        }
        reader
    }

    /// Why the source failed, if it did.
    pub(crate) fn take_failure(&mut self) -> Option<std::io::Error> {
        self.failure.take()
    }

    fn byte(&mut self) -> u8 {
        if self.start == self.end {
            self.start = 0;
            self.end = loop {
                match self.source.read(&mut self.buffer) {
                    Ok(length) => break length,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.failure.get_or_insert(error);
                        break 0;
                    }
                }
            };
            if self.end == 0 {
                return 0;
            }
        }
        self.start += 1;
        self.buffer[self.start - 1]
    }
}

impl<R: Read> Coder for Reader<R> {
    fn bit(&mut self, probability: &mut Probability, _: bool) -> bool {
        let bound = (self.range >> 15) * probability.chance();
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        probability.learn(bit);
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.code = self.code << 8 | u32::from(self.byte());
        }
        bit
    }
}

/// Counts what decisions would cost, in 1/256 bit.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) cost: u64,
}

impl Coder for Meter {
    fn bit(&mut self, probability: &mut Probability, bit: bool) -> bool {
        let chance = probability.chance();
        let chance = if bit { (1 << 15) - chance } else { chance };
        // -log2 by the position of the highest bit and, between two powers of two, a straight line.
        let high = chance.ilog2();
        let fraction = (chance << 8 >> high) - 256;
        self.cost += u64::from((15 << 8) - (high << 8) - fraction);
        probability.learn(bit);
        bit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions() -> impl Iterator<Item = (usize, bool)> {
        let mut state = 1u32;
        (0..200_000).map(move |index| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (index % 3, (state >> 16).is_multiple_of([1000, 20, 2][index % 3]))
        })
    }

    #[test]
    fn what_is_written_is_read_and_what_is_foreseen_is_cheap() {
        let mut writer = Writer::new();
        let mut meter = Meter::default();
        let (mut models, mut metered) = ([Probability::default(); 3], [Probability::default(); 3]);
        for (kind, bit) in decisions() {
            writer.bit(&mut models[kind], bit);
            meter.bit(&mut metered[kind], bit);
        }
        let numbers = [0u32, 1, 2, 3, 255, 256, 70_000, u32::MAX];
        let mut number = Number::default();
        for value in numbers {
            writer.number(&mut number, value);
            writer.raw(16, value);
        }
        let written = writer.finish();
        // 1 in 1000, 1 in 20 and 1 in 2: 0.011, 0.29 and 1 bit.
        let ideal = 200_000.0 / 3.0 * 1.3 / 8.0;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let (length, metered) = (written.len() as f64, (meter.cost / 2048) as f64);
        assert!(length < ideal * 1.1, "{length} bytes for {ideal}");
        assert!((metered / length - 1.0).abs() < 0.1, "{metered} was expected, {length} written");

        let mut reader = Reader::new(&written[..]);
        let mut models = [Probability::default(); 3];
        for (kind, bit) in decisions() {
            assert_eq!(reader.bit(&mut models[kind], false), bit);
        }
        let mut number = Number::default();
        for value in numbers {
            assert_eq!(reader.number(&mut number, 0), value);
            assert_eq!(reader.raw(16, 0), value & 0xffff);
        }
    }
}
