//! The last lines of a step's output, as a terminal would show them: carriage returns and backspaces move, tabs are blanks,
//! escape sequences do nothing. So a progress bar takes one line, and no output can draw outside of its window.

use std::collections::VecDeque;

/// Lines that are kept.
const ROWS: usize = 32;
/// Columns of a line that are kept; no terminal shows more.
const COLUMNS: usize = 1024;

/// What is in the middle of being read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// Behind an escape character.
    Escape,
    /// In a control sequence, up to its letter.
    Control,
    /// In a string for the terminal (a title, a link), up to its end.
    String,
    /// In such a string, behind an escape character.
    StringEscape,
}

/// A window's content.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    rows: VecDeque<Vec<char>>,
    column: usize,
    state: State,
    /// The beginning of a character that is not complete.
    rest: Vec<u8>,
}

impl Screen {
    /// Takes output.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = [std::mem::take(&mut self.rest), bytes.to_vec()].concat();
        self.rest = bytes.split_off(bytes.len() - begun(&bytes));
        for c in String::from_utf8_lossy(&bytes).chars() {
            self.character(c);
        }
    }

    fn character(&mut self, c: char) {
        self.state = match (self.state, c) {
            (State::Escape, '[') => State::Control,
            (State::Escape, ']' | 'P' | '_' | '^' | 'X') => State::String,
            (State::Control, ' '..='?') => State::Control,
            (State::String, '\x1b') => State::StringEscape,
            (State::String, '\x07') => State::Text,
            (State::String, _) => State::String,
            // Whatever else comes ends what was begun.
            (State::Escape | State::Control | State::StringEscape, _) => State::Text,
            (State::Text, '\x1b') => State::Escape,
            (State::Text, _) => {
                self.text(c);
                State::Text
            }
        };
    }

    fn text(&mut self, c: char) {
        match c {
            '\n' => {
                self.rows.push_back(Vec::new());
                self.column = 0;
            }
            '\r' => self.column = 0,
            '\x08' => self.column = self.column.saturating_sub(1),
            '\t' => {
                for _ in self.column..(self.column / 8 + 1) * 8 {
                    self.put(' ');
                }
            }
            c if c.is_control() => {}
            c => self.put(c),
        }
        while self.rows.len() > ROWS {
            self.rows.pop_front();
        }
    }

    fn put(&mut self, c: char) {
        if self.column >= COLUMNS {
            return;
        }
        if self.rows.is_empty() {
            self.rows.push_back(Vec::new());
        }
        let Some(row) = self.rows.back_mut() else { return };
        match row.get_mut(self.column) {
            Some(place) => *place = c,
            None => row.push(c),
        }
        self.column += 1;
    }

    /// The last `count` lines; an empty one at the end is none.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let end = self.rows.len() - usize::from(self.rows.back().is_some_and(Vec::is_empty));
        self.rows.range(end.saturating_sub(count)..end).map(|row| row.iter().collect()).collect()
    }
}

/// How many bytes at the end are the beginning of a character.
fn begun(bytes: &[u8]) -> usize {
    for count in 1..=bytes.len().min(3) {
        let length = match bytes[bytes.len() - count] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if length > count { count } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], expected: &[&str]) {
        let mut screen = Screen::default();
        for piece in pieces {
            screen.feed(piece);
        }
        assert_eq!(screen.last(4), expected);
    }

    #[test]
    fn the_last_lines() {
        check(&[], &[]);
        check(&[b"one"], &["one"]);
        check(&[b"one\n"], &["one"]);
        check(&[b"1\n2\n\n4\n5\n6"], &["", "4", "5", "6"]);
        check(&[b"o", b"ne\ntw", b"o\n"], &["one", "two"]);
    }

    #[test]
    fn a_bar_is_one_line() {
        check(&[b"10%\r 50%\r100%\n"], &["100%"]);
        check(&[b"ab\x08c\td\r\n"], &["ac      d"]);
    }

    #[test]
    fn escape_sequences_draw_nothing() {
        check(
            &[b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;url\x1b\\y \x1b[2", b"Kz\x1b7!"],
            &["red xy z!"],
        );
        check(&[b"\x00\x7fa\xff\xc3", b"\xa4"], &["a\u{fffd}ä"]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut screen = Screen::default();
        screen.feed(&b"x".repeat(1 << 16));
        screen.feed(&b"\n".repeat(1 << 16));
        assert!(screen.rows.len() <= ROWS);
        screen.feed(b"y");
        assert_eq!(screen.last(1), ["y"]);
    }
}
