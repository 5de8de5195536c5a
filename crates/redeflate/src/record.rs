//! From a gzip stream to its content and its recipe.

use std::collections::VecDeque;
use std::io::{self, Read};

use crate::coder::{Coder, Meter, Writer};
use crate::model::Model;
use crate::parse::{Parser, Piece};
use crate::predict::{Predictor, STYLES};
use crate::window::{LOOKAHEAD, Window};
use crate::{RecipeError, VERSION};

/// Content that is looked at to find out which compressor was at work.
const SAMPLE: u64 = 768 * 1024;

/// Reads the content of a gzip stream, and writes down on the way how the stream was made.
///
/// Read it to its end, take what [`Recorder::take_recipe`] has from time to time, and the rest from [`Recorder::finish`].
#[derive(Debug)]
pub struct Recorder<R> {
    parser: Parser<R>,
    window: Window,
    pieces: VecDeque<(Piece, u64)>,
    coding: Option<Coding>,
    /// Content that was given to the reader, and content whose tokens are written down.
    given: u64,
    written: u64,
    recipe: Vec<u8>,
}

#[derive(Debug)]
struct Coding {
    coder: Writer,
    model: Model,
    predictor: Predictor,
}

impl<R: Read> Recorder<R> {
    /// Begins to read `source`.
    pub fn new(source: R) -> Self {
        Self {
            parser: Parser::new(source),
            window: Window::default(),
            pieces: VecDeque::new(),
            coding: None,
            given: 0,
            written: 0,
            recipe: Vec::new(),
        }
    }

    /// The part of the recipe that was written since the last call.
    pub fn take_recipe(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.recipe)
    }

    /// The last part of the recipe. Only when all content was read.
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(coding) = self.coding {
            self.recipe.extend(coding.coder.finish());
        }
        self.recipe
    }

    fn advance(&mut self) -> Result<(), RecipeError> {
        self.window.forget_before(self.given.min(self.written));
        self.parser.advance(&mut self.window, &mut self.pieces)?;
        let done = self.parser.is_done();
        if self.coding.is_none() && (done || self.window.end() >= SAMPLE) {
            let style = self.likely_style();
            self.recipe.extend([VERSION, style]);
            self.coding = Some(Coding {
                coder: Writer::new(),
                model: Model::default(),
                predictor: Predictor::new(STYLES[usize::from(style)]),
            });
        }
        let Some(Coding { coder, model, predictor }) = &mut self.coding else { return Ok(()) };
        while let Some((piece, end)) = self.pieces.front() {
            if !done && self.window.end() < end + LOOKAHEAD as u64 {
                break;
            }
            write(piece, coder, model, predictor, &self.window, self.written)?;
            self.written = *end;
            self.pieces.pop_front();
        }
        self.recipe.extend(coder.take());
        Ok(())
    }

    /// The style whose predictions cost least for what was read so far. A slow one must be far better: for the compressor
    /// that it belongs to it is, for one that none of them is like it is only a little.
    fn likely_style(&self) -> u8 {
        let cost = |style: &u8| {
            let mut meter = Meter::default();
            let mut model = Model::default();
            let mut predictor = Predictor::new(STYLES[usize::from(*style)]);
            let mut position = 0;
            for (piece, end) in &self.pieces {
                // What can't be written down fails when it is written, with this style or another.
                let _ = write(piece, &mut meter, &mut model, &mut predictor, &self.window, position);
                position = *end;
            }
            if STYLES[usize::from(*style)].is_slow() { meter.cost * 2 } else { meter.cost }
        };
        let count = u8::try_from(STYLES.len()).unwrap_or(u8::MAX);
        (0..count).min_by_key(cost).unwrap_or_default()
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.window.end() {
            if self.parser.is_done() {
                return Ok(0);
            }
            self.advance()?;
        }
        let content = self.window.from(self.given);
        let length = content.len().min(buffer.len());
        buffer[..length].copy_from_slice(&content[..length]);
        self.given += length as u64;
        Ok(length)
    }
}

fn write(
    piece: &Piece,
    coder: &mut impl Coder,
    model: &mut Model,
    predictor: &mut Predictor,
    window: &Window,
    mut position: u64,
) -> Result<(), RecipeError> {
    let mut small = |model: &mut Model, number: usize| {
        model.number(coder, Some(u32::try_from(number).unwrap_or(u32::MAX)));
    };
    match piece {
        Piece::Member(header) => {
            small(model, 1);
            small(model, header.len());
            model.bytes(coder, 0, header.len(), Some(header));
            predictor.restart(position);
        }
        Piece::Block(block) => {
            model.block(coder, Some(block))?;
        }
        Piece::Tokens { tokens, ends } => {
            model.run(coder, Some((tokens.len(), *ends)));
            for token in tokens {
                model.token(coder, predictor, window, position, Some(*token))?;
                position += token.size() as u64;
            }
        }
        Piece::Trailer { padding, bytes } => {
            small(model, (*padding).into());
            model.bytes(coder, 1, bytes.len(), Some(bytes));
        }
        Piece::Rest(rest) => {
            small(model, 0);
            small(model, rest.len());
            model.bytes(coder, 0, rest.len(), Some(rest));
        }
    }
    Ok(())
}
