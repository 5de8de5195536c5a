//! Canonical Huffman codes of DEFLATE (RFC 1951, 3.2.2), and the alphabets of lengths and distances (3.2.5).

use crate::RecipeError;

/// Symbols for literals and lengths, and for distances, that a header can give codes to.
pub(crate) const MAX_LITERALS: usize = 288;
pub(crate) const MAX_DISTANCES: usize = 32;
/// Bits of the longest code.
const MAX_BITS: usize = 15;
pub(crate) const END_OF_BLOCK: u16 = 256;

/// The smallest length of each length symbol from 257 on, and how many extra bits it has.
pub(crate) const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// The same for distances.
pub(crate) const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The index of the last entry of a table that is not above `value`.
pub(crate) fn symbol_of(table: &[(u16, u8)], value: u16) -> usize {
    table.partition_point(|(base, _)| *base <= value).saturating_sub(1)
}

/// The code lengths of blocks with fixed codes (RFC 1951, 3.2.6).
pub(crate) fn fixed_lengths() -> ([u8; MAX_LITERALS], [u8; MAX_DISTANCES]) {
    let mut literals = [8; MAX_LITERALS];
    literals[144..256].fill(9);
    literals[256..280].fill(7);
    (literals, [5; MAX_DISTANCES])
}

/// For each symbol its code, first bit lowest as it is written, by the lengths of the codes. Codes may be missing (a block
/// without matches needs no distances), but not ambiguous.
pub(crate) fn codes(lengths: &[u8]) -> Result<Vec<u16>, RecipeError> {
    let mut count = [0u32; MAX_BITS + 1];
    for length in lengths {
        count[usize::from(*length)] += 1;
    }
    count[0] = 0;
    let mut next = [0u32; MAX_BITS + 1];
    let mut code = 0;
    for bits in 1..=MAX_BITS {
        code = (code + count[bits - 1]) << 1;
        next[bits] = code;
        if code + count[bits] > 1 << bits {
            return Err(RecipeError::Stream("a Huffman code is ambiguous"));
        }
    }
    let mut codes = Vec::with_capacity(lengths.len());
    for length in lengths {
        let place = &mut next[usize::from(*length)];
        let code = u16::try_from(*place).unwrap_or_default();
        if *length > 0 {
            *place += 1;
        }
        codes.push(if *length == 0 { 0 } else { code.reverse_bits() >> (16 - length) });
    }
    Ok(codes)
}

/// Finds symbols by the bits that come next.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Symbol and length of its code, which is 0 where no code begins so.
    table: Vec<(u16, u8)>,
}

impl Decoder {
    pub(crate) fn new(lengths: &[u8]) -> Result<Self, RecipeError> {
        let codes = codes(lengths)?;
        let bits = lengths.iter().copied().max().unwrap_or_default();
        let mut table = vec![(0, 0); 1 << bits];
        for (symbol, (code, length)) in codes.iter().zip(lengths).enumerate().filter(|(_, (_, l))| **l > 0) {
            let symbol = u16::try_from(symbol).unwrap_or_default();
            for place in (usize::from(*code)..table.len()).step_by(1 << length) {
                table[place] = (symbol, *length);
            }
        }
        Ok(Self { table })
    }

    /// The symbol that these bits begin with, and how many of them it takes.
    pub(crate) fn find(&self, bits: u64) -> Result<(u16, u32), RecipeError> {
        let index = usize::try_from(bits).unwrap_or_default() & (self.table.len() - 1);
        match self.table[index] {
            (_, 0) => Err(RecipeError::Stream("bits that are no code")),
            (symbol, length) => Ok((symbol, length.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1951, 3.2.2: lengths (3, 3, 3, 3, 3, 2, 4, 4) give F the code 00, A 010, G 1110.
        let codes = codes(&[3, 3, 3, 3, 3, 2, 4, 4]).expect("a code");
        assert_eq!([codes[5], codes[0], codes[6]], [0b00, 0b010, 0b0111]);
        assert!(super::codes(&[1, 1, 1]).is_err());
        let decoder = Decoder::new(&[3, 3, 3, 3, 3, 2, 4, 4]).expect("a code");
        assert_eq!(decoder.find(0b1_0111).expect("G"), (6, 4));
        assert!(Decoder::new(&[0, 1]).expect("half a code").find(1).is_err());
    }

    #[test]
    fn symbols_by_value() {
        assert_eq!(symbol_of(&LENGTHS, 3), 0);
        assert_eq!(symbol_of(&LENGTHS, 257), 27);
        assert_eq!(symbol_of(&LENGTHS, 258), 28);
        assert_eq!(symbol_of(&DISTANCES, 32768), 29);
    }
}
