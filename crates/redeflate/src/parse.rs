//! Takes a gzip stream apart: members, blocks, tokens. The content comes on the way.

use std::collections::VecDeque;
use std::io::Read;

use crate::RecipeError;
use crate::bits::BitReader;
use crate::huffman::{DISTANCES, Decoder, END_OF_BLOCK, LENGTHS, fixed_lengths};
use crate::token::{Block, Codes, Kind, META_ORDER, Token};
use crate::window::Window;

/// Tokens of a piece at most, and bytes of content after which it ends.
pub(crate) const PIECE_TOKENS: usize = 1 << 16;
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes of a member's header, and of what follows the last member, at most.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// A part of the stream, in the order of the stream.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A member begins: its header. No compressor looks back beyond it.
    Member(Vec<u8>),
    /// A block begins. A stored one is complete with that.
    Block(Block),
    /// Tokens of the current block.
    Tokens { tokens: Vec<Token>, ends: bool },
    /// A member ends: the unused bits, CRC and size.
    Trailer { padding: u8, bytes: [u8; 8] },
    /// What follows the last member.
    Rest(Vec<u8>),
}

/// Takes one stream apart.
#[derive(Debug)]
pub(crate) struct Parser<R> {
    bits: BitReader<R>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A member, or the rest, comes next.
    Between {
        first: bool,
    },
    /// A block's header comes next.
    Block,
    Tokens(Box<Tables>),
    Trailer,
    Done,
}

#[derive(Debug)]
struct Tables {
    literals: Decoder,
    distances: Decoder,
    last: bool,
}

impl<R: Read> Parser<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { bits: BitReader::new(source), state: State::Between { first: true } }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Appends the next pieces, and their content to the window. With each piece goes the position where it ends.
    pub(crate) fn advance(
        &mut self,
        window: &mut Window,
        pieces: &mut VecDeque<(Piece, u64)>,
    ) -> Result<(), RecipeError> {
        let mut push = |piece, window: &Window| pieces.push_back((piece, window.end()));
        match &mut self.state {
            State::Between { first } => {
                let first = *first;
                let start = self.start(first)?;
                if start == [0x1f, 0x8b] {
                    push(Piece::Member(self.header(start)?), window);
                    self.state = State::Block;
                } else {
                    push(Piece::Rest(self.rest(start)?), window);
                    self.state = State::Done;
                }
            }
            State::Block => {
                let (block, tables) = self.block(window)?;
                self.state = match tables {
                    Some(tables) => State::Tokens(Box::new(tables)),
                    None if block.last => State::Trailer,
                    None => State::Block,
                };
                push(Piece::Block(block), window);
            }
            State::Tokens(tables) => {
                let mut tokens = Vec::new();
                let ends = read_tokens(&mut self.bits, tables, window, &mut tokens)?;
                push(Piece::Tokens { tokens, ends }, window);
                if ends {
                    self.state = if tables.last { State::Trailer } else { State::Block };
                }
            }
            State::Trailer => {
                let padding = self.bits.align()?;
                let mut bytes = [0; 8];
                for place in &mut bytes {
                    *place = self.need_byte()?;
                }
                push(Piece::Trailer { padding, bytes }, window);
                self.state = State::Between { first: false };
            }
            State::Done => {}
        }
        Ok(())
    }

    /// The two bytes that tell a member from what follows the last one.
    fn start(&mut self, first: bool) -> Result<Vec<u8>, RecipeError> {
        let mut start = Vec::new();
        while start.len() < 2 {
            let Some(byte) = self.bits.byte()? else { break };
            start.push(byte);
        }
        if first && start != [0x1f, 0x8b] {
            return Err(RecipeError::Stream("it is no gzip stream"));
        }
        Ok(start)
    }

    fn need_byte(&mut self) -> Result<u8, RecipeError> {
        self.bits.byte()?.ok_or(RecipeError::Stream("it ends too early"))
    }

    /// RFC 1952, 2.3. Nothing in it matters here but its length.
    fn header(&mut self, mut header: Vec<u8>) -> Result<Vec<u8>, RecipeError> {
        while header.len() < 10 {
            header.push(self.need_byte()?);
        }
        let flags = header[3];
        if header[2] != 8 || flags & 0xe0 != 0 {
            return Err(RecipeError::Stream("a gzip header of an unknown kind"));
        }
        if flags & 4 != 0 {
            let length = [self.need_byte()?, self.need_byte()?];
            header.extend(length);
            for _ in 0..u16::from_le_bytes(length) {
                header.push(self.need_byte()?);
            }
        }
        for _ in [8, 16].iter().filter(|text| flags & **text != 0) {
            loop {
                let byte = self.need_byte()?;
                header.push(byte);
                if header.len() > MAX_BYTES {
                    return Err(RecipeError::Stream("a gzip header is too long"));
                }
                if byte == 0 {
                    break;
                }
            }
        }
        if flags & 2 != 0 {
            header.extend([self.need_byte()?, self.need_byte()?]);
        }
        Ok(header)
    }

    fn rest(&mut self, mut rest: Vec<u8>) -> Result<Vec<u8>, RecipeError> {
        while let Some(byte) = self.bits.byte()? {
            rest.push(byte);
            if rest.len() > MAX_BYTES {
                return Err(RecipeError::Stream("too much follows its end"));
            }
        }
        Ok(rest)
    }

    fn block(&mut self, window: &mut Window) -> Result<(Block, Option<Tables>), RecipeError> {
        let last = self.bits.take(1)? == 1;
        let (kind, lengths) = match self.bits.take(2)? {
            0 => {
                let padding = self.bits.align()?;
                let (length, check) = (self.bits.take(16)?, self.bits.take(16)?);
                if length != !check {
                    return Err(RecipeError::Stream("a stored block whose length is wrong"));
                }
                for _ in 0..length {
                    window.push(self.need_byte()?);
                }
                (Kind::Stored { padding, length }, None)
            }
            1 => (Kind::Fixed, Some(fixed_lengths())),
            2 => {
                let codes = self.codes()?;
                let lengths = codes.lengths().ok_or(RecipeError::Stream("code lengths that don't fit"))?;
                (Kind::Dynamic(Box::new(codes)), Some(lengths))
            }
            _ => return Err(RecipeError::Stream("a block of an unknown kind")),
        };
        let tables = lengths
            .map(|(literals, distances)| {
                Ok(Tables { literals: Decoder::new(&literals)?, distances: Decoder::new(&distances)?, last })
            })
            .transpose()?;
        Ok((Block { last, kind }, tables))
    }

    fn codes(&mut self) -> Result<Codes, RecipeError> {
        let mut codes = Codes {
            literals: self.bits.take(5)? + 257,
            distances: self.bits.take(5)? + 1,
            meta_count: self.bits.take(4)? + 4,
            meta: [0; 19],
            symbols: Vec::new(),
        };
        for place in META_ORDER.iter().take(codes.meta_count.into()) {
            codes.meta[*place] = u8::try_from(self.bits.take(3)?).unwrap_or_default();
        }
        let decoder = Decoder::new(&codes.meta)?;
        let (mut found, wanted) = (0, codes.literals + codes.distances);
        while found < wanted {
            let (symbol, length) = decoder.find(self.bits.peek()?)?;
            self.bits.skip(length)?;
            let symbol = u8::try_from(symbol).unwrap_or_default();
            let (extra, least) = Codes::repetition(symbol);
            let extra = self.bits.take(extra)?;
            found += least + extra;
            codes.symbols.push((symbol, u8::try_from(extra).unwrap_or_default()));
        }
        Ok(codes)
    }
}

/// Reads tokens until the block or the piece is full; whether the block is.
fn read_tokens<R: Read>(
    bits: &mut BitReader<R>,
    tables: &Tables,
    window: &mut Window,
    tokens: &mut Vec<Token>,
) -> Result<bool, RecipeError> {
    let full = window.end() + PIECE_BYTES;
    while tokens.len() < PIECE_TOKENS && window.end() < full {
        let (symbol, length) = tables.literals.find(bits.peek()?)?;
        bits.skip(length)?;
        if let Ok(literal) = u8::try_from(symbol) {
            window.push(literal);
            tokens.push(Token::LITERAL);
            continue;
        }
        if symbol == END_OF_BLOCK {
            return Ok(true);
        }
        let (length, odd) = {
            let symbol = usize::from(symbol) - 257;
            let (base, extra) =
                *LENGTHS.get(symbol).ok_or(RecipeError::Stream("a length of an unknown kind"))?;
            let length = base + bits.take(extra.into())?;
            (length, length == 258 && symbol == 27)
        };
        let (symbol, taken) = tables.distances.find(bits.peek()?)?;
        bits.skip(taken)?;
        let unknown = RecipeError::Stream("a distance of an unknown kind");
        let (base, extra) = *DISTANCES.get(usize::from(symbol)).ok_or(unknown)?;
        let distance = base + bits.take(extra.into())?;
        if !window.repeat(length.into(), distance.into()) {
            return Err(RecipeError::Stream("a repetition of what is before its beginning"));
        }
        tokens.push(Token { length, distance, odd });
    }
    Ok(false)
}
