//! From content and recipe back to the gzip stream.

use std::io::{self, Read};

use crate::bits::BitWriter;
use crate::coder::Reader;
use crate::huffman::{DISTANCES, END_OF_BLOCK, LENGTHS, codes, fixed_lengths, symbol_of};
use crate::model::Model;
use crate::parse::MAX_BYTES;
use crate::predict::{Predictor, STYLES};
use crate::token::{Block, Codes, Kind, META_ORDER, Token};
use crate::window::{LOOKAHEAD, Window};
use crate::{RecipeError, VERSION};

/// Content is read in pieces of this size.
const READ: usize = 64 * 1024;

/// Reads the gzip stream that a recipe was made of.
///
/// A recipe that does not belong to the content gives other bytes or an error: compare the digest.
#[derive(Debug)]
pub struct Rebuilder<P, R> {
    content: Content<P>,
    coder: Reader<R>,
    model: Model,
    predictor: Predictor,
    position: u64,
    state: State,
    bits: BitWriter,
    output: Vec<u8>,
    given: usize,
}

#[derive(Debug)]
enum State {
    Between,
    Block,
    Tokens(Box<Tables>),
    Trailer,
    Done,
}

/// How the symbols of the current block are written.
#[derive(Debug)]
struct Tables {
    literals: Vec<(u16, u8)>,
    distances: Vec<(u16, u8)>,
    last: bool,
}

/// The content, as far ahead as predictions look.
#[derive(Debug)]
struct Content<P> {
    source: P,
    window: Window,
    ended: bool,
    buffer: Box<[u8]>,
}

impl<P: Read> Content<P> {
    /// Makes sure that what is ahead of `position` is known.
    fn look_ahead(&mut self, position: u64) -> Result<(), RecipeError> {
        while !self.ended && self.window.end() < position + LOOKAHEAD as u64 {
            match self.source.read(&mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.window.append(&self.buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RecipeError::Read(error)),
            }
        }
        Ok(())
    }
}

impl<P: Read, R: Read> Rebuilder<P, R> {
    /// Begins to read the stream of that content and recipe.
    pub fn new(content: P, mut recipe: R) -> Result<Self, RecipeError> {
        let mut start = [0; 2];
        recipe.read_exact(&mut start).map_err(RecipeError::Read)?;
        let [version, style] = start;
        if version != VERSION {
            return Err(RecipeError::Version { found: version });
        }
        let style =
            *STYLES.get(usize::from(style)).ok_or(RecipeError::Recipe("a style of an unknown kind"))?;
        Ok(Self {
            content: Content {
                source: content,
                window: Window::default(),
                ended: false,
                buffer: vec![0; READ].into_boxed_slice(),
            },
            coder: Reader::new(recipe),
            model: Model::default(),
            predictor: Predictor::new(style),
            position: 0,
            state: State::Between,
            bits: BitWriter::default(),
            output: Vec::new(),
            given: 0,
        })
    }

    fn advance(&mut self) -> Result<(), RecipeError> {
        self.content.window.forget_before(self.position);
        match &self.state {
            State::Between => self.member()?,
            State::Block => self.block()?,
            State::Tokens(_) => self.tokens()?,
            State::Trailer => {
                let padding = self.model.number(&mut self.coder, None);
                self.bits.align(u8::try_from(padding).unwrap_or_default());
                let bytes = self.model.bytes(&mut self.coder, 1, 8, None);
                self.bits.bytes(&bytes);
                self.state = State::Between;
            }
            State::Done => {}
        }
        self.output = self.bits.take();
        self.given = 0;
        self.coder.take_failure().map_or(Ok(()), |error| Err(RecipeError::Read(error)))
    }

    fn member(&mut self) -> Result<(), RecipeError> {
        let is_member = self.model.number(&mut self.coder, None) != 0;
        let length = self.model.number(&mut self.coder, None) as usize;
        if length > MAX_BYTES + 1 {
            return Err(RecipeError::Recipe("a header is too long"));
        }
        let bytes = self.model.bytes(&mut self.coder, 0, length, None);
        self.bits.bytes(&bytes);
        self.state = if is_member {
            self.predictor.restart(self.position);
            State::Block
        } else {
            State::Done
        };
        Ok(())
    }

    fn block(&mut self) -> Result<(), RecipeError> {
        let Block { last, kind } = self.model.block(&mut self.coder, None)?;
        self.bits.put(1, last.into());
        let (literals, distances) = match kind {
            Kind::Stored { padding, length } => {
                self.bits.put(2, 0);
                self.bits.align(padding);
                self.bits.put(16, length);
                self.bits.put(16, !length);
                self.content.look_ahead(self.position + u64::from(length))?;
                let bytes = self.content.window.from(self.position);
                let bytes = bytes.get(..length.into());
                self.bits.bytes(bytes.ok_or(RecipeError::Recipe("it takes more than there is"))?);
                self.position += u64::from(length);
                self.state = if last { State::Trailer } else { State::Block };
                return Ok(());
            }
            Kind::Fixed => {
                self.bits.put(2, 1);
                fixed_lengths()
            }
            Kind::Dynamic(codes) => {
                self.bits.put(2, 2);
                self.header(&codes)?;
                codes.lengths().ok_or(RecipeError::Recipe("code lengths that don't fit"))?
            }
        };
        let table = |lengths: &[u8]| -> Result<Vec<(u16, u8)>, RecipeError> {
            Ok(codes(lengths)?.into_iter().zip(lengths.iter().copied()).collect())
        };
        let tables = Tables { literals: table(&literals)?, distances: table(&distances)?, last };
        self.state = State::Tokens(Box::new(tables));
        Ok(())
    }

    fn header(&mut self, header: &Codes) -> Result<(), RecipeError> {
        self.bits.put(5, header.literals - 257);
        self.bits.put(5, header.distances - 1);
        self.bits.put(4, header.meta_count - 4);
        for place in META_ORDER.iter().take(header.meta_count.into()) {
            self.bits.put(3, header.meta[*place].into());
        }
        let meta = codes(&header.meta)?;
        for (symbol, extra) in &header.symbols {
            self.bits.put(header.meta[usize::from(*symbol)].into(), meta[usize::from(*symbol)]);
            self.bits.put(Codes::repetition(*symbol).0, (*extra).into());
        }
        Ok(())
    }

    fn tokens(&mut self) -> Result<(), RecipeError> {
        let Self { content, coder, model, predictor, position, state, bits, .. } = self;
        let State::Tokens(tables) = state else { return Ok(()) };
        let (count, ends) = model.run(coder, None);
        for _ in 0..count {
            content.look_ahead(*position)?;
            let token = model.token(coder, predictor, &content.window, *position, None)?;
            let here = content.window.from(*position).first().copied().unwrap_or_default();
            tables.write(bits, token, here)?;
            *position += token.size() as u64;
        }
        if ends {
            tables.put(bits, &tables.literals, END_OF_BLOCK.into())?;
            *state = if tables.last { State::Trailer } else { State::Block };
        } else if count == 0 {
            return Err(RecipeError::Recipe("a block that does not end"));
        }
        Ok(())
    }
}

impl Tables {
    fn write(&self, bits: &mut BitWriter, token: Token, literal: u8) -> Result<(), RecipeError> {
        if token.is_literal() {
            return self.put(bits, &self.literals, literal.into());
        }
        let symbol = if token.odd { 27 } else { symbol_of(&LENGTHS, token.length) };
        let (base, extra) = LENGTHS[symbol];
        self.put(bits, &self.literals, 257 + symbol)?;
        bits.put(extra.into(), token.length - base);
        let symbol = symbol_of(&DISTANCES, token.distance);
        let (base, extra) = DISTANCES[symbol];
        self.put(bits, &self.distances, symbol)?;
        bits.put(extra.into(), token.distance.saturating_sub(base));
        Ok(())
    }

    fn put(&self, bits: &mut BitWriter, table: &[(u16, u8)], symbol: usize) -> Result<(), RecipeError> {
        match table.get(symbol) {
            Some((code, length)) if *length > 0 => {
                bits.put((*length).into(), *code);
                Ok(())
            }
            _ => Err(RecipeError::Recipe("a symbol without a code")),
        }
    }
}

impl<P: Read, R: Read> Read for Rebuilder<P, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.output.len() {
            if matches!(self.state, State::Done) {
                return Ok(0);
            }
            self.advance()?;
        }
        let length = (self.output.len() - self.given).min(buffer.len());
        buffer[..length].copy_from_slice(&self.output[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}
