//! What a DEFLATE stream consists of, between its bits and its content.

use crate::huffman::{MAX_DISTANCES, MAX_LITERALS};

/// One literal byte, or a repetition of what was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// 0 for a literal, else 3 to 258.
    pub(crate) length: u16,
    /// 1 to 32768.
    pub(crate) distance: u16,
    /// A length of 258 that was written with the symbol for 227 to 257 and all extra bits.
    pub(crate) odd: bool,
}

impl Token {
    pub(crate) const LITERAL: Self = Self { length: 0, distance: 0, odd: false };

    pub(crate) fn repeat(length: u16, distance: u16) -> Self {
        Self { length, distance, odd: false }
    }

    pub(crate) fn is_literal(self) -> bool {
        self.length == 0
    }

    /// Bytes of content.
    pub(crate) fn size(self) -> usize {
        usize::from(self.length.max(1))
    }
}

/// What stands before a block's content.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) last: bool,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Bytes as they are: the unused bits before them, and how many bytes.
    Stored { padding: u8, length: u16 },
    /// The codes of RFC 1951, 3.2.6.
    Fixed,
    /// Codes of its own.
    Dynamic(Box<Codes>),
}

/// How codes were written: not only their lengths, but in which way.
#[derive(Debug, Clone)]
pub(crate) struct Codes {
    /// HLIT + 257, HDIST + 1, HCLEN + 4.
    pub(crate) literals: u16,
    pub(crate) distances: u16,
    pub(crate) meta_count: u16,
    /// Lengths of the codes for code lengths, in the order of the alphabet.
    pub(crate) meta: [u8; 19],
    /// Symbols of that alphabet, with their extra bits.
    pub(crate) symbols: Vec<(u8, u8)>,
}

/// The order in which the lengths of `Codes::meta` are written.
pub(crate) const META_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Lengths of all codes of a block.
pub(crate) type CodeLengths = ([u8; MAX_LITERALS], [u8; MAX_DISTANCES]);

impl Codes {
    /// Extra bits of a symbol of the alphabet of code lengths, and the least it repeats.
    pub(crate) fn repetition(symbol: u8) -> (u32, u16) {
        match symbol {
            16 => (2, 3),
            17 => (3, 3),
            18 => (7, 11),
            _ => (0, 1),
        }
    }

    /// The lengths that the symbols stand for; `None` if they don't fit.
    pub(crate) fn lengths(&self) -> Option<CodeLengths> {
        let (literals, distances) = (usize::from(self.literals), usize::from(self.distances));
        let mut all = Vec::with_capacity(MAX_LITERALS + MAX_DISTANCES);
        for (symbol, extra) in &self.symbols {
            let length = match symbol {
                16 => *all.last()?,
                17.. => 0,
                length => *length,
            };
            let times = usize::from(Self::repetition(*symbol).1) + usize::from(*extra);
            all.extend(std::iter::repeat_n(length, times));
        }
        if all.len() != literals + distances || literals > MAX_LITERALS || distances > MAX_DISTANCES {
            return None;
        }
        let mut lengths = ([0; MAX_LITERALS], [0; MAX_DISTANCES]);
        lengths.0[..literals].copy_from_slice(&all[..literals]);
        lengths.1[..distances].copy_from_slice(&all[literals..]);
        Some(lengths)
    }
}
