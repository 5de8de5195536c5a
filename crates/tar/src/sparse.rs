//! Maps of files with holes: where the pieces of content belong.

use super::header;
use super::pax;

/// A piece of content at its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// Segments in order, none over another, all inside the file, and together exactly the content that follows.
pub(super) fn check(segments: &[Segment], size: u64, content: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0u64, 0u64);
    for segment in segments {
        if segment.offset < end {
            return Err("the segments of a sparse file overlap");
        }
        end = segment.offset.checked_add(segment.length).ok_or("a segment of a sparse file does not end")?;
        sum += segment.length;
    }
    if end > size {
        return Err("a segment lies behind the end of a sparse file");
    }
    if sum != content {
        return Err("the content of a sparse file is not as long as its segments");
    }
    Ok(())
}

/// GNU's old form: pairs of 12-byte numbers until an empty one.
pub(super) fn parse_old(table: &[u8]) -> Result<Vec<Segment>, &'static str> {
    let mut segments = Vec::new();
    for pair in table.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let number = |field| {
            let number = header::number(field).and_then(|number| u64::try_from(number).ok());
            number.ok_or("a number in a sparse map is not one")
        };
        segments.push(Segment { offset: number(&pair[..12])?, length: number(&pair[12..])? });
    }
    Ok(segments)
}

/// The map of PAX 1.0: the count, then offsets and lengths, one decimal number a line, filled up to a block.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    line: Vec<u8>,
    announced: Option<usize>,
    numbers: Vec<u64>,
}

impl MapParser {
    /// Takes the next block; the map when it is complete.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() >= 20 {
                    return Err("a number in a sparse map is not one");
                }
                self.line.push(*byte);
                continue;
            }
            let number = pax::number(&self.line)?;
            self.line.clear();
            match self.announced {
                None => {
                    self.announced = Some(usize::try_from(number).map_err(|_| "a sparse map of that size")?)
                }
                Some(_) => self.numbers.push(number),
            }
            if self.announced.is_some_and(|count| count.saturating_mul(2) == self.numbers.len()) {
                let (pairs, _) = self.numbers.as_chunks::<2>();
                let segments =
                    pairs.iter().map(|[offset, length]| Segment { offset: *offset, length: *length });
                return Ok(Some(segments.collect()));
            }
        }
        Ok(None)
    }

    /// How many segments the map claims to have.
    pub(super) fn announced(&self) -> usize {
        self.announced.unwrap_or(0)
    }

    /// How many came so far.
    pub(super) fn found(&self) -> usize {
        self.numbers.len() / 2
    }
}
