//! From bytes to logical lines: comments, continuations, and where each byte came from.

use crate::directive::{Directives, Reader as DirectiveReader};
use crate::{DockerfileError, MAX_LINE, Position, Span};

/// The lines of a file, one by one, as they stand in it.
pub(crate) struct Physical<'a> {
    rest: &'a [u8],
    /// The number of the line read last, from 1.
    pub(crate) number: usize,
}

impl<'a> Physical<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, number: 0 }
    }

    /// The next line without its end.
    pub(crate) fn next(&mut self) -> Result<Option<&'a [u8]>, DockerfileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = match self.rest.iter().take(MAX_LINE + 1).position(|byte| *byte == b'\n') {
            Some(index) => index + 1,
            None => self.rest.len(),
        };
        self.number += 1;
        if length > MAX_LINE {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
            return Err(DockerfileError::new(Span::line(self.number), message));
        }
        let (line, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(Some(line))
    }

    /// The next line as text, with its end.
    pub(crate) fn next_text(&mut self) -> Result<Option<&'a str>, DockerfileError> {
        self.next()?.map(|line| text(line, self.number)).transpose()
    }
}

/// A line that is used must be text; what stands in a comment may be anything.
fn text(line: &[u8], number: usize) -> Result<&str, DockerfileError> {
    std::str::from_utf8(line).map_err(|error| {
        let column = error.valid_up_to();
        let start = Position { line: number, column };
        let end = Position { line: number, column: column + 1 };
        DockerfileError::new(
            Span { start, end },
            format!("line {number} is not UTF-8 text (byte {})", column + 1),
        )
    })
}

/// One instruction's text, with its continuation lines joined.
#[derive(Debug)]
pub(crate) struct Logical {
    pub(crate) text: String,
    /// Which physical lines it was made of, and from where on in `text`.
    pieces: Vec<(usize, Position)>,
    pub(crate) comments: Vec<String>,
    /// An empty line stood between continuation lines; here is the last line.
    pub(crate) empty_continuation: Option<usize>,
}

impl Logical {
    /// Where a part of the text stands in the file.
    pub(crate) fn span(&self, range: std::ops::Range<usize>) -> Span {
        let start = self.position(range.start);
        let end = if range.is_empty() { start } else { self.position_of_end(range.end) };
        Span { start, end }
    }

    /// Where all of it stands.
    pub(crate) fn whole(&self) -> Span {
        self.span(0..self.text.trim_end().len())
    }

    fn position(&self, offset: usize) -> Position {
        let index = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        self.in_piece(index, offset)
    }

    /// An end belongs to the line whose last byte is before it.
    fn position_of_end(&self, offset: usize) -> Position {
        let index = self.pieces.partition_point(|(start, _)| *start < offset).saturating_sub(1);
        self.in_piece(index, offset)
    }

    fn in_piece(&self, index: usize, offset: usize) -> Position {
        let (start, position) = self.pieces[index];
        Position { line: position.line, column: position.column + (offset - start) }
    }
}

/// Reads logical lines.
pub(crate) struct Reader<'a> {
    pub(crate) lines: Physical<'a>,
    directives: DirectiveReader,
    comments: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { lines: Physical::new(bytes), directives: DirectiveReader::default(), comments: Vec::new() }
    }

    /// What the directives at the top said. Complete once the first instruction was read.
    pub(crate) fn directives(&self) -> &Directives {
        &self.directives.found
    }

    pub(crate) fn next(&mut self) -> Result<Option<Logical>, DockerfileError> {
        let (mut text, first) = loop {
            let Some(line) = self.lines.next()? else { return Ok(None) };
            let number = self.lines.number;
            let content = trim_end_of_line(line);
            let indent = content.len() - content.trim_ascii_start().len();
            if content[indent..].starts_with(b"#") {
                let comment = String::from_utf8_lossy(&content[indent..]);
                if !self.directives.comment(&comment, number)? {
                    self.comment(&comment);
                }
                continue;
            }
            self.directives.close();
            let content = self::text(content, number)?;
            let trimmed = content.trim_start();
            if trimmed.is_empty() {
                continue;
            }
            let position = Position { line: number, column: content.len() - trimmed.len() };
            break (trimmed, position);
        };
        let escape = self.directives().escape;
        let mut logical = Logical {
            text: String::new(),
            pieces: vec![(0, first)],
            comments: std::mem::take(&mut self.comments),
            empty_continuation: None,
        };
        let mut has_empty = false;
        loop {
            let continued = without_continuation(text, escape);
            logical.text.push_str(continued.unwrap_or(text));
            if continued.is_none() {
                break;
            }
            match self.continuation(&mut has_empty)? {
                Some(next) => {
                    text = next;
                    let position = Position { line: self.lines.number, column: 0 };
                    logical.pieces.push((logical.text.len(), position));
                }
                None => break,
            }
        }
        logical.empty_continuation = has_empty.then_some(self.lines.number);
        Ok(Some(logical))
    }

    /// The next line of an instruction; comments and empty lines between them don't count.
    fn continuation(&mut self, has_empty: &mut bool) -> Result<Option<&'a str>, DockerfileError> {
        while let Some(line) = self.lines.next()? {
            let content = trim_end_of_line(line);
            let trimmed = content.trim_ascii_start();
            if trimmed.starts_with(b"#") {
                continue;
            }
            let content = self::text(content, self.lines.number)?;
            if content.trim_start().is_empty() {
                *has_empty = true;
                continue;
            }
            return Ok(Some(content));
        }
        Ok(None)
    }

    /// Comments above an instruction may describe it or say what not to check; an empty one ends that.
    fn comment(&mut self, comment: &str) {
        match comment[1..].trim() {
            "" => self.comments.clear(),
            text => self.comments.push(text.to_owned()),
        }
    }
}

fn trim_end_of_line(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |index| index + 1);
    &line[..end]
}

/// The line without the escape character at its end, if there is one that isn't escaped itself.
fn without_continuation(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let mut reader = Reader::new(text.as_bytes());
        std::iter::from_fn(|| reader.next().expect("it reads")).map(|logical| logical.text).collect()
    }

    /// Found by fuzzing: of several lines that say nothing, the end was before the beginning.
    #[test]
    fn nothing_has_one_place() {
        let error = crate::parse(b"FROM a\n\\\n\\").expect_err("nothing is no instruction");
        assert!(error.span().start <= error.span().end, "{error:?}");
    }

    #[test]
    fn continuations_join() {
        assert_eq!(read("a \\\n b\\\nc\n d"), ["a  bc", "d"]);
        assert_eq!(read("a \\  \t\n b\r\nc"), ["a  b", "c"]);
        assert_eq!(read("a \\\\\nb"), ["a \\\\", "b"]);
        assert_eq!(read("a \\\n# no\n\n  # no\nb"), ["a b"]);
        assert_eq!(read("a \\"), ["a "]);
        assert_eq!(read("\\\na"), ["a"]);
        assert_eq!(read("\n  \n#x\n"), [""; 0]);
        assert_eq!(read("# escape=`\na `\n b\\\nc"), ["a  b\\", "c"]);
    }

    #[test]
    fn positions_lead_back_to_the_file() {
        let mut reader = Reader::new(b"#\n  ab \\\n# c\n   cd\n");
        let logical = reader.next().expect("it reads").expect("a line");
        assert_eq!(logical.text, "ab    cd");
        let at = |line, column| Position { line, column };
        assert_eq!(logical.span(0..2), Span { start: at(2, 2), end: at(2, 4) });
        assert_eq!(logical.span(6..8), Span { start: at(4, 3), end: at(4, 5) });
        assert_eq!(logical.whole(), Span { start: at(2, 2), end: at(4, 5) });
    }

    #[test]
    fn comments_stay_with_their_instruction() {
        let mut reader = Reader::new(b"# one\n#\n# two\n#three\nRUN a\nRUN b");
        assert_eq!(reader.next().expect("it reads").expect("a line").comments, ["two", "three"]);
        assert!(reader.next().expect("it reads").expect("a line").comments.is_empty());
    }

    #[test]
    fn empty_continuation_lines_are_noticed() {
        let mut reader = Reader::new(b"RUN a \\\n\n b\nRUN c \\\n d");
        assert_eq!(reader.next().expect("it reads").expect("a line").empty_continuation, Some(3));
        assert_eq!(reader.next().expect("it reads").expect("a line").empty_continuation, None);
    }

    #[test]
    fn long_lines_and_bytes() {
        let mut reader = Reader::new(b"# \xff\nRUN a\nRUN \xff");
        assert!(reader.next().is_ok());
        assert_eq!(reader.next().expect_err("bytes").to_string(), "line 3 is not UTF-8 text (byte 5)");
        let long = "x".repeat(MAX_LINE);
        assert!(Reader::new(long.as_bytes()).next().is_ok());
        let error = Reader::new(format!("{long}\n").as_bytes()).next().expect_err("too long");
        assert_eq!(error.to_string(), "dockerfile line greater than max allowed size of 65535");
    }
}
