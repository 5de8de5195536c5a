//! Foretells the next token as the usual compressors choose it.
//!
//! Zlib (and so gzip, pigz, Python) and Go's `compress/flate` keep a chain of earlier positions for each hash of the next
//! bytes, walk it for a bounded number of steps, and wait with a repetition if the next position has a longer one. A
//! [`Style`] says what differs. The facts are from zlib's `deflate.c` (`deflate_fast`, `deflate_slow`, `longest_match`) and Go's
//! `compress/flate/deflate.go` (`findMatch`).
//!
//! A token that was not foretold is named by its length and by how many earlier places with that much in common are
//! nearer, which is a small number for every compressor that prefers near places.

use crate::token::Token;
use crate::window::{HISTORY, Window};

const MAX_LENGTH: usize = 258;
/// Steps along a chain to name a token that was not foretold.
const MAX_HOPS: u32 = 1024;

/// How a compressor hashes the next bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    /// Three bytes, 15 bits.
    Zlib,
    /// Four bytes, 17 bits.
    Go,
}

/// How a compressor looks for repetitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    hash: Hash,
    /// Takes the first repetition it finds, and after one longer than `lazy` skips its positions.
    greedy: bool,
    /// From this length on the next position is searched less.
    good: usize,
    /// From this length on the next position is not searched at all.
    lazy: usize,
    /// From this length on the search ends.
    nice: usize,
    /// Steps of a search.
    chain: u32,
}

const fn zlib(greedy: bool, good: usize, lazy: usize, nice: usize, chain: u32) -> Style {
    Style { hash: Hash::Zlib, greedy, good, lazy, nice, chain }
}

const fn go(lazy: usize, nice: usize, chain: u32) -> Style {
    Style { hash: Hash::Go, greedy: false, good: usize::MAX, lazy, nice, chain }
}

/// The styles that a recipe can name, by number: part of the format.
pub(crate) const STYLES: [Style; 15] = [
    zlib(false, 8, 16, 128, 128),
    zlib(false, 32, 258, 258, 4096),
    go(16, 128, 128),
    zlib(true, 4, 4, 8, 4),
    zlib(true, 4, 5, 16, 8),
    zlib(true, 4, 6, 32, 32),
    zlib(false, 4, 4, 16, 16),
    zlib(false, 8, 16, 32, 32),
    zlib(false, 8, 32, 128, 256),
    zlib(false, 32, 128, 258, 1024),
    go(4, 16, 16),
    go(16, 32, 32),
    go(32, 128, 256),
    go(128, 258, 1024),
    go(258, 258, 4096),
];

impl Style {
    /// Whether its searches take many times longer than those of others.
    pub(crate) fn is_slow(self) -> bool {
        self.chain > 512
    }

    fn shortest(self) -> usize {
        match self.hash {
            Hash::Zlib => 3,
            Hash::Go => 4,
        }
    }

    /// A shortest repetition is not worth a distance above this.
    fn far(self) -> usize {
        if self.greedy { usize::MAX } else { 4096 }
    }

    fn reach(self) -> usize {
        match self.hash {
            // MAX_DIST: the window less MIN_LOOKAHEAD.
            Hash::Zlib => HISTORY - 262,
            Hash::Go => HISTORY,
        }
    }

    fn hash(self, bytes: &[u8]) -> usize {
        match (self.hash, bytes) {
            (Hash::Zlib, [a, b, c, ..]) => {
                (usize::from(*a) << 10 ^ usize::from(*b) << 5 ^ usize::from(*c)) & 0x7fff
            }
            (Hash::Go, [a, b, c, d, ..]) => {
                let product = u32::from_be_bytes([*a, *b, *c, *d]).wrapping_mul(0x1e35_a7bd);
                (product >> 15) as usize
            }
            _ => 0,
        }
    }
}

/// A repetition that was found; length 0 if none was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Match {
    length: usize,
    distance: usize,
}

/// What is foretold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prediction {
    pub(crate) token: Token,
    /// The literal is one only because the next position has more.
    pub(crate) waits: bool,
}

/// The positions that a compressor remembers, which follows the true tokens whatever was foretold.
#[derive(Debug)]
pub(crate) struct Predictor {
    style: Style,
    /// For each hash the last position that had it, plus one; relative to `origin`.
    head: Vec<u32>,
    /// For each of the last 32768 positions the one before it with the same hash.
    previous: Vec<u32>,
    origin: u64,
    /// Nothing before this can be repeated: another member of the stream.
    floor: u64,
    /// What was found at the next position already, for which this one's literal was given.
    ahead: Option<Match>,
}

impl Predictor {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            head: vec![0; if style.hash == Hash::Go { 1 << 17 } else { 1 << 15 }],
            previous: vec![0; HISTORY],
            origin: 0,
            floor: 0,
            ahead: None,
        }
    }

    /// A compressor starts anew at `position`.
    pub(crate) fn restart(&mut self, position: u64) {
        self.floor = position;
        self.ahead = None;
    }

    /// The token at `position`, and notes the position. Once for each token.
    pub(crate) fn predict(&mut self, window: &Window, position: u64) -> Prediction {
        let (bytes, index) = window.around(position);
        let shortest = self.style.shortest();
        let found = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.search(bytes, index, position, shortest - 1),
        };
        self.insert(bytes, index, position);
        if found.length < shortest {
            return Prediction { token: Token::LITERAL, waits: false };
        }
        if !self.style.greedy && found.length < self.style.lazy {
            let next = self.search(bytes, index + 1, position + 1, found.length);
            if next.length > found.length {
                self.ahead = Some(next);
                return Prediction { token: Token::LITERAL, waits: true };
            }
        }
        Prediction { token: token(found), waits: false }
    }

    /// Tells the true token at `position`, after `predict`.
    pub(crate) fn learn(&mut self, window: &Window, position: u64, token: Token) {
        if token.is_literal() {
            return;
        }
        self.ahead = None;
        if self.style.greedy && usize::from(token.length) > self.style.lazy {
            return;
        }
        let (bytes, index) = window.around(position);
        for step in 1..token.size() {
            self.insert(bytes, index + step, position + step as u64);
        }
    }

    /// How many nearer places share as much with what is at `position` as this token says; `None` if the token's own
    /// place is not found.
    pub(crate) fn hops(&self, window: &Window, position: u64, token: Token) -> Option<u32> {
        let mut hops = 0;
        self.places(window, position, token.length, |distance| {
            let found = distance == usize::from(token.distance);
            hops += u32::from(!found);
            found
        })
        .then_some(hops)
    }

    /// The distance of the place behind so many nearer ones.
    pub(crate) fn distance(&self, window: &Window, position: u64, length: u16, hops: u32) -> Option<u16> {
        let (mut left, mut distance) = (hops, 0);
        let found = self.places(window, position, length, |place| {
            distance = place;
            left = left.wrapping_sub(1);
            left == u32::MAX
        });
        u16::try_from(distance).ok().filter(|_| found)
    }

    fn places(
        &self,
        window: &Window,
        position: u64,
        length: u16,
        mut found: impl FnMut(usize) -> bool,
    ) -> bool {
        let (bytes, index) = window.around(position);
        let length = usize::from(length);
        if bytes.len() - index < self.style.shortest().max(length) {
            return false;
        }
        let here = self.relative(position);
        let mut place = self.previous[here as usize % HISTORY];
        for _ in 0..MAX_HOPS {
            let Some(distance) = self.reachable(place, position, HISTORY) else { return false };
            if common(bytes, index - distance, index, length) == length && found(distance) {
                return true;
            }
            let next = self.previous[(place - 1) as usize % HISTORY];
            if next >= place {
                return false;
            }
            place = next;
        }
        false
    }

    /// The longest repetition that is longer than `beaten`.
    fn search(&self, bytes: &[u8], index: usize, position: u64, beaten: usize) -> Match {
        let style = self.style;
        let longest = MAX_LENGTH.min(bytes.len().saturating_sub(index));
        let mut best = Match { length: 0, distance: 0 };
        let mut to_beat = beaten;
        if longest < style.shortest() || longest <= to_beat {
            return best;
        }
        let nice = style.nice.min(longest);
        let mut steps = if beaten >= style.good { style.chain >> 2 } else { style.chain };
        let mut place = self.head[style.hash(&bytes[index..])];
        let mut reach = style.reach();
        while let Some(distance) = self.reachable(place, position, reach) {
            let start = index - distance;
            if bytes[start + to_beat] == bytes[index + to_beat] {
                let length = common(bytes, start, index, longest);
                if length > to_beat && self.is_worth(length, distance) {
                    best = Match { length, distance };
                    to_beat = length;
                    if length >= nice {
                        break;
                    }
                }
            }
            steps -= 1;
            let next = self.previous[(place - 1) as usize % HISTORY];
            if steps == 0 || next >= place {
                break;
            }
            place = next;
            if style.hash == Hash::Zlib {
                // The first place may be at the limit, later ones may not.
                reach = style.reach() - 1;
            }
        }
        if best.length == style.shortest() && best.distance > style.far() {
            return Match::default();
        }
        best
    }

    /// Go passes over what is not worth it, zlib gives up at the end.
    fn is_worth(&self, length: usize, distance: usize) -> bool {
        self.style.hash == Hash::Zlib || length > self.style.shortest() || distance <= self.style.far()
    }

    fn insert(&mut self, bytes: &[u8], index: usize, position: u64) {
        if bytes.len() - index < self.style.shortest() {
            return;
        }
        while position - self.origin > 1 << 30 {
            self.move_origin();
        }
        let here = self.relative(position);
        let head = &mut self.head[self.style.hash(&bytes[index..])];
        self.previous[here as usize % HISTORY] = *head;
        *head = here + 1;
    }

    /// Keeps positions within their 32 bits.
    fn move_origin(&mut self) {
        const STEP: u32 = 1 << 29;
        self.origin += u64::from(STEP);
        for place in self.head.iter_mut().chain(&mut self.previous) {
            *place = place.saturating_sub(STEP);
        }
    }

    fn relative(&self, position: u64) -> u32 {
        u32::try_from(position - self.origin).unwrap_or(u32::MAX)
    }

    /// The distance to a remembered place, if a repetition reaches it.
    fn reachable(&self, place: u32, position: u64, reach: usize) -> Option<usize> {
        let place = self.origin + u64::from(place.checked_sub(1)?);
        let distance = usize::try_from(position.checked_sub(place)?).ok()?;
        (distance > 0 && distance <= reach && place >= self.floor).then_some(distance)
    }
}

fn token(found: Match) -> Token {
    let length = u16::try_from(found.length).unwrap_or_default();
    Token::repeat(length, u16::try_from(found.distance).unwrap_or_default())
}

/// How many bytes at two places are the same, up to a limit that both have.
fn common(bytes: &[u8], one: usize, other: usize, limit: usize) -> usize {
    let (one, other) = (&bytes[one..one + limit], &bytes[other..other + limit]);
    let mut same = 0;
    for (a, b) in one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0) {
        let different = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if different != 0 {
            return same + (different.trailing_zeros() / 8) as usize;
        }
        same += 8;
    }
    same + one[same..].iter().zip(&other[same..]).take_while(|(a, b)| a == b).count()
}
