//! Where things stand in a file, and errors that show it.

use std::fmt;
use std::fmt::Write as _;

/// A point in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// Bytes from the line's start, from 0.
    pub column: usize,
}

/// A part of a file: from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// Its first byte.
    pub start: Position,
    /// The byte behind its last one.
    pub end: Position,
}

impl Span {
    /// A whole line, without columns.
    pub fn line(line: usize) -> Self {
        let position = Position { line, column: 0 };
        Self { start: position, end: position }
    }

    /// From the start of one span to the end of another.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A file's name and text, which errors quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Takes a file as it was read. What is not UTF-8 (a comment may be anything) is shown as U+FFFD.
    pub fn new(name: impl Into<String>, bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Self { name: name.into(), text: String::from_utf8_lossy(bytes).into_owned() }
    }

    /// The name that errors show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lines around a span, the span's own marked, as BuildKit prints them, with a caret under the part that is
    /// meant if it lies on one line. Empty if there is no such line.
    pub fn excerpt(&self, span: Span) -> String {
        let lines: Vec<&str> = self.text.split('\n').collect();
        let first = span.start.line;
        let last = span.end.line.clamp(first, lines.len().max(first));
        if first == 0 || first > lines.len() {
            return String::new();
        }
        let (from, to) = surroundings(first, last, lines.len());
        let mut out = format!("{}:{first}\n{RULE}\n", self.name);
        for number in from..=to {
            let line = lines[number - 1].trim_end_matches('\r');
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            let _ = writeln!(out, " {number:3} | {mark} {line}");
            if first == last && number == first {
                out.push_str(&caret(line, span));
            }
        }
        out.push_str(RULE);
        out.push('\n');
        out
    }
}

const RULE: &str = "--------------------";

/// Which lines to show: the span's, and about four more around one line, two around several.
fn surroundings(first: usize, last: usize, count: usize) -> (usize, usize) {
    let wanted = if first == last { 4 } else { 2 };
    let (mut from, mut to, mut shown) = (first, last, 0);
    while shown < wanted {
        if from > 1 {
            from -= 1;
            shown += 1;
        }
        if to < count {
            to += 1;
            shown += 1;
        }
        shown += 1;
    }
    (from, to)
}

/// The line below the one that is meant, or nothing where the span has no columns.
fn caret(line: &str, span: Span) -> String {
    let end = span.end.column.min(line.len());
    if span.start.column >= end {
        return String::new();
    }
    let (Some(before), Some(meant)) = (line.get(..span.start.column), line.get(span.start.column..end))
    else {
        return String::new();
    };
    let blank: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    format!("     |     {blank}{}\n", "^".repeat(meant.chars().count()))
}

/// What is wrong with a Dockerfile, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileError {
    message: String,
    span: Span,
}

impl DockerfileError {
    /// An error at a place.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { message: message.into(), span }
    }

    /// Where it is.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The excerpt of the file and the message below it: what a user is shown.
    pub fn render(&self, source: &Source) -> String {
        format!("{}{}", source.excerpt(self.span), self.message)
    }

    /// Adds what BuildKit says in front of mistakes in an instruction.
    pub(crate) fn in_instruction(mut self, line: usize) -> Self {
        self.message = format!("dockerfile parse error on line {line}: {}", self.message);
        self
    }
}

impl fmt::Display for DockerfileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for DockerfileError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(line: usize, from: usize, to: usize) -> Span {
        Span { start: Position { line, column: from }, end: Position { line, column: to } }
    }

    #[test]
    fn excerpt_marks_the_line_and_points_at_the_part() {
        let source = Source::new("Dockerfile", b"FROM a\n\tFRMO b\nRUN c\nRUN d\nRUN e\n");
        let expected = "Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> \tFRMO b\n     |     \t^^^^\n   3 |     RUN c\n   4 |     RUN d\n--------------------\n";
        assert_eq!(source.excerpt(span(2, 1, 5)), expected);
    }

    #[test]
    fn excerpt_of_several_lines_has_no_caret() {
        let source = Source::new("x", b"1\n2\n3\n4\n5");
        let several = Span { start: Position { line: 2, column: 0 }, end: Position { line: 3, column: 1 } };
        assert_eq!(
            source.excerpt(several),
            "x:2\n--------------------\n   1 |     1\n   2 | >>> 2\n   3 | >>> 3\n   4 |     4\n--------------------\n"
        );
    }

    #[test]
    fn excerpt_survives_any_span() {
        let source = Source::new("x", "äö\r\n".as_bytes());
        assert_eq!(source.excerpt(Span::line(0)), "");
        assert_eq!(source.excerpt(Span::line(9)), "");
        for from in 0..6 {
            for to in 0..6 {
                assert!(source.excerpt(span(1, from, to)).contains(">>> äö\n"));
            }
        }
    }
}
