//! What is written down about each piece, and in which contexts it is expected.
//!
//! Every function here codes in both directions: given what is so it writes that, given `None` it reads it.

use crate::RecipeError;
use crate::coder::{Coder, Number, Probability};
use crate::parse::PIECE_TOKENS;
use crate::predict::Predictor;
use crate::token::{Block, CodeLengths, Codes, Kind, META_ORDER, Token};
use crate::window::Window;

const P: Probability = Probability::EVEN;

/// Kinds of predictions: see `kind_of`.
const KINDS: usize = 10;

/// All that is learned on the way.
#[derive(Debug)]
pub(crate) struct Model {
    /// Whether a prediction is wrong: by its kind and how the three before it fared.
    wrong: [[Probability; 8]; KINDS],
    fared: usize,
    /// Whether a literal stands where a repetition was foretold.
    literal: [Probability; KINDS],
    /// Lengths that were not foretold, less 3: where a literal was, where a repetition was.
    length: [[Probability; 256]; 2],
    odd: Probability,
    is_near: Probability,
    hops: [Number; 2],
    blocks: BlockModel,
    bytes: Box<[[Probability; 256]; 2]>,
    number: Number,
}

#[derive(Debug)]
struct BlockModel {
    last: Probability,
    kind: [Probability; 4],
    padding: Number,
    stored: Number,
    same_count: Probability,
    count: Number,
    previous_count: u32,
    ends: Probability,
    sizes: [Number; 3],
    meta: Box<[[Probability; 8]; 19]>,
    /// By the code length that the symbol before had, and that this one had in the block before.
    symbols: Box<[[[Probability; 32]; 16]; 20]>,
    extras: [Number; 3],
    before: CodeLengths,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            wrong: [[P; 8]; KINDS],
            fared: 0,
            literal: [P; KINDS],
            length: [[P; 256]; 2],
            odd: P,
            is_near: P,
            hops: Default::default(),
            blocks: BlockModel {
                last: P,
                kind: [P; 4],
                padding: Number::default(),
                stored: Number::default(),
                same_count: P,
                count: Number::default(),
                previous_count: 0,
                ends: P,
                sizes: Default::default(),
                meta: Box::new([[P; 8]; 19]),
                symbols: Box::new([[[P; 32]; 16]; 20]),
                extras: Default::default(),
                before: ([0; 288], [0; 32]),
            },
            bytes: Box::new([[P; 256]; 2]),
            number: Number::default(),
        }
    }
}

impl Model {
    /// One token, which the predictor has not been told yet.
    pub(crate) fn token(
        &mut self,
        coder: &mut impl Coder,
        predictor: &mut Predictor,
        window: &Window,
        position: u64,
        is: Option<Token>,
    ) -> Result<Token, RecipeError> {
        let prediction = predictor.predict(window, position);
        let kind = kind_of(prediction.token, prediction.waits);
        let wrong = is.is_some_and(|token| token != prediction.token);
        let wrong = coder.bit(&mut self.wrong[kind][self.fared], wrong);
        self.fared = (self.fared << 1 | usize::from(wrong)) & 7;
        let token = if wrong {
            self.unforeseen(coder, predictor, window, position, kind, prediction.token, is)?
        } else {
            prediction.token
        };
        if window.end() - position < token.size() as u64 {
            return Err(RecipeError::Recipe("it repeats more than there is"));
        }
        predictor.learn(window, position, token);
        Ok(token)
    }

    #[expect(clippy::too_many_arguments, reason = "the slow half of `token`, which has all of this at hand")]
    fn unforeseen(
        &mut self,
        coder: &mut impl Coder,
        predictor: &Predictor,
        window: &Window,
        position: u64,
        kind: usize,
        foretold: Token,
        is: Option<Token>,
    ) -> Result<Token, RecipeError> {
        let given = is.unwrap_or(Token::LITERAL);
        if !foretold.is_literal() && coder.bit(&mut self.literal[kind], given.is_literal()) {
            return Ok(Token::LITERAL);
        }
        let place = usize::from(!foretold.is_literal());
        let length = coder.tree(&mut self.length[place], u32::from(given.length.saturating_sub(3)));
        let length = u16::try_from(length + 3).unwrap_or(u16::MAX);
        let odd = length == 258 && coder.bit(&mut self.odd, given.odd);
        let hops = is.and_then(|token| predictor.hops(window, position, token));
        let distance = if coder.bit(&mut self.is_near, is.is_some() && hops.is_none()) {
            u16::try_from(coder.raw(15, u32::from(given.distance.saturating_sub(1))) + 1).unwrap_or_default()
        } else {
            let hops = coder.number(&mut self.hops[place], hops.unwrap_or_default());
            let place = predictor.distance(window, position, length, hops);
            place.ok_or(RecipeError::Recipe("it repeats what is not there"))?
        };
        Ok(Token { length, distance, odd })
    }

    /// How many tokens come, and whether the block ends with them.
    pub(crate) fn run(&mut self, coder: &mut impl Coder, is: Option<(usize, bool)>) -> (usize, bool) {
        let model = &mut self.blocks;
        let (count, ends) = is.unwrap_or_default();
        let count = u32::try_from(count).unwrap_or_default();
        if !coder.bit(&mut model.same_count, count == model.previous_count) {
            model.previous_count = coder.number(&mut model.count, count);
        }
        let ends = coder.bit(&mut model.ends, ends);
        ((model.previous_count as usize).min(PIECE_TOKENS), ends)
    }

    /// What stands before a block.
    pub(crate) fn block(&mut self, coder: &mut impl Coder, is: Option<&Block>) -> Result<Block, RecipeError> {
        let model = &mut self.blocks;
        let last = coder.bit(&mut model.last, is.is_some_and(|block| block.last));
        let number = match is.map(|block| &block.kind) {
            None | Some(Kind::Stored { .. }) => 0,
            Some(Kind::Fixed) => 1,
            Some(Kind::Dynamic(_)) => 2,
        };
        let kind = match (coder.tree(&mut model.kind, number), is.map(|block| &block.kind)) {
            (0, is) => {
                let (padding, length) = match is {
                    Some(Kind::Stored { padding, length }) => (*padding, *length),
                    _ => (0, 0),
                };
                let padding = coder.number(&mut model.padding, padding.into());
                let length = coder.number(&mut model.stored, length.into());
                Kind::Stored {
                    padding: u8::try_from(padding).unwrap_or_default(),
                    length: u16::try_from(length)
                        .map_err(|_| RecipeError::Recipe("a stored block is too long"))?,
                }
            }
            (1, _) => Kind::Fixed,
            (2, Some(Kind::Dynamic(codes))) => Kind::Dynamic(Box::new(model.codes(coder, Some(codes))?)),
            (2, _) => Kind::Dynamic(Box::new(model.codes(coder, None)?)),
            _ => return Err(RecipeError::Recipe("a block of an unknown kind")),
        };
        Ok(Block { last, kind })
    }

    /// A small number of which little is known.
    pub(crate) fn number(&mut self, coder: &mut impl Coder, is: Option<u32>) -> u32 {
        coder.number(&mut self.number, is.unwrap_or_default())
    }

    /// A few bytes: of a header (0) or of a trailer (1).
    pub(crate) fn bytes(
        &mut self,
        coder: &mut impl Coder,
        which: usize,
        count: usize,
        is: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 0..count {
            let byte = is.and_then(|bytes| bytes.get(index)).copied().unwrap_or_default();
            let byte = coder.tree(&mut self.bytes[which], byte.into());
            bytes.push(u8::try_from(byte).unwrap_or_default());
        }
        bytes
    }
}

impl BlockModel {
    fn codes(&mut self, coder: &mut impl Coder, is: Option<&Codes>) -> Result<Codes, RecipeError> {
        let mut size = |index: usize, least: u16, is: Option<u16>| {
            let size = is.unwrap_or(least).saturating_sub(least);
            let size = coder.number(&mut self.sizes[index], size.into());
            u16::try_from(size.min(31)).unwrap_or_default() + least
        };
        let mut codes = Codes {
            literals: size(0, 257, is.map(|codes| codes.literals)),
            distances: size(1, 1, is.map(|codes| codes.distances)),
            meta_count: size(2, 4, is.map(|codes| codes.meta_count)).min(19),
            meta: [0; 19],
            symbols: Vec::new(),
        };
        for place in META_ORDER.iter().take(codes.meta_count.into()) {
            let length = is.map_or(0, |codes| codes.meta[*place].into());
            let length = coder.tree(&mut self.meta[*place], length);
            codes.meta[*place] = u8::try_from(length).unwrap_or_default();
        }
        let literals = usize::from(codes.literals);
        let wanted = literals + usize::from(codes.distances);
        let (mut done, mut before) = (0, 19);
        while done < wanted {
            let expected = match done.checked_sub(literals) {
                None => self.before.0.get(done),
                Some(distance) => self.before.1.get(distance),
            };
            let model = &mut self.symbols[before][usize::from(expected.copied().unwrap_or_default())];
            let (symbol, extra) =
                is.and_then(|is| is.symbols.get(codes.symbols.len())).copied().unwrap_or_default();
            let symbol = coder.tree(model, symbol.into());
            let symbol = u8::try_from(symbol).unwrap_or_default();
            if symbol > 18 {
                return Err(RecipeError::Recipe("a code length of an unknown kind"));
            }
            let (_, least) = Codes::repetition(symbol);
            let extra = match symbol {
                16.. => coder.number(&mut self.extras[usize::from(symbol) - 16], extra.into()),
                _ => 0,
            };
            let extra = u8::try_from(extra).unwrap_or_default();
            codes.symbols.push((symbol, extra));
            done += usize::from(least) + usize::from(extra);
            before = usize::from(symbol);
        }
        self.before = codes.lengths().ok_or(RecipeError::Recipe("code lengths that don't fit"))?;
        Ok(codes)
    }
}

/// What a prediction's chance to be wrong depends on.
fn kind_of(foretold: Token, waits: bool) -> usize {
    match foretold.length {
        0 => usize::from(waits),
        3 => 2,
        4 => 3,
        5 => 4,
        6..=8 => 5,
        9..=16 => 6,
        17..=64 => 7,
        258 => 9,
        _ => 8,
    }
}
