//! One line of Docker's `json-file` log, byte for byte as Docker writes it.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}
//! ```
//!
//! Log shippers parse these lines with expressions of their own, so the order of the fields and the way Go escapes text
//! matter: `<`, `>`, `&`, U+2028 and U+2029 as `\u…`, control characters as `\u00…` but for `\n` and `\r`, and `\ufffd`
//! for each byte that is not UTF-8.

use super::Stream;
use super::timestamp::{self, Clock};

/// Encodes lines. What follows a line's text is kept, since from one line to the next hardly more than a digit of the time
/// changes: a short line is then three copies.
#[derive(Debug)]
pub(crate) struct Encoder {
    tails: [Tail; 2],
}

impl Encoder {
    /// `attributes` is a JSON object that becomes part of each line.
    pub(crate) fn new(attributes: Option<&str>) -> Self {
        Self { tails: [Stream::Stdout, Stream::Stderr].map(|stream| Tail::new(stream, attributes)) }
    }

    /// Appends one line. `message` is its text without line feed; `line_feed`: it had one, so it is not a part of a
    /// longer line.
    pub(crate) fn write(
        &mut self,
        out: &mut Vec<u8>,
        message: &[u8],
        line_feed: bool,
        stream: Stream,
        time: u64,
    ) {
        let tail = &mut self.tails[stream.index()];
        tail.set_time(time);
        // Once for all that is appended, unless there is much to escape.
        out.reserve(HEAD.len() + message.len() + tail.bytes.len());
        out.extend_from_slice(HEAD);
        escape(out, message);
        out.extend_from_slice(if line_feed { &tail.bytes } else { &tail.bytes[LINE_FEED.len()..] });
    }
}

const HEAD: &[u8] = b"{\"log\":\"";
const LINE_FEED: &[u8] = b"\\n";
const END: &[u8] = b"\"}\n";

/// What follows the text of one stream's lines.
#[derive(Debug)]
struct Tail {
    /// From the line feed on.
    bytes: Vec<u8>,
    /// Where the time begins in `bytes`.
    time_at: usize,
    time: u64,
    clock: Clock,
}

impl Tail {
    fn new(stream: Stream, attributes: Option<&str>) -> Self {
        let stream: &[u8] = match stream {
            Stream::Stdout => b"\",\"stream\":\"stdout\"",
            Stream::Stderr => b"\",\"stream\":\"stderr\"",
        };
        let mut bytes = [LINE_FEED, stream].concat();
        if let Some(attributes) = attributes {
            bytes.extend_from_slice(b",\"attrs\":");
            bytes.extend_from_slice(attributes.as_bytes());
        }
        bytes.extend_from_slice(b",\"time\":\"");
        let time_at = bytes.len();
        bytes.reserve_exact(timestamp::MAX_LENGTH + END.len());
        let mut tail = Self { bytes, time_at, time: 0, clock: Clock::default() };
        tail.write_time(0);
        tail
    }

    fn set_time(&mut self, time: u64) {
        if time == self.time {
            return;
        }
        let end = self.bytes.len() - END.len();
        let is_next = self.time.checked_add(1) == Some(time);
        if !(is_next && timestamp::count_on(&mut self.bytes[self.time_at..end])) {
            self.write_time(time);
        }
        self.time = time;
    }

    fn write_time(&mut self, time: u64) {
        self.bytes.truncate(self.time_at);
        self.clock.write(time, &mut self.bytes);
        self.bytes.extend_from_slice(END);
    }
}

/// Bytes that do not stand for themselves in the text.
static SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || byte >= 0x80;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[b'<' as usize] = true;
    table[b'>' as usize] = true;
    table[b'&' as usize] = true;
    table
};

/// Where the first special byte is.
fn find_special(text: &[u8]) -> Option<usize> {
    let (words, _) = text.as_chunks::<8>();
    let plain = words.iter().take_while(|word| !has_special(u64::from_ne_bytes(**word))).count() * 8;
    text[plain..].iter().position(|byte| SPECIAL[usize::from(*byte)]).map(|position| plain + position)
}

/// Whether one of eight bytes is special; all at once, by arithmetic on the lanes of a word.
///
/// Subtracting from a lane sets its highest bit where it borrows. A borrow may reach into the next lane, but only out of one
/// that was found itself, so the answer for the whole word is right. Lanes from 0x80 on are special anyway.
fn has_special(word: u64) -> bool {
    const fn lanes(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let below = |word: u64, limit: u8| word.wrapping_sub(lanes(limit));
    let equal = |word: u64, byte: u8| below(word ^ lanes(byte), 1);
    // `"` and `&` differ in one bit only, and so do `<` and `>`.
    let quotes = equal(word & lanes(!(b'"' ^ b'&')), b'"' & b'&');
    let brackets = equal(word & lanes(!(b'<' ^ b'>')), b'<' & b'>');
    let found = word | below(word, 0x20) | quotes | brackets | equal(word, b'\\');
    found & lanes(0x80) != 0
}

fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(position) = find_special(text) {
        out.extend_from_slice(&text[..position]);
        text = &text[position..];
        text = if text[0] < 0x80 { escape_ascii(out, text) } else { escape_unicode(out, text) };
    }
    out.extend_from_slice(text);
}

fn escape_ascii<'a>(out: &mut Vec<u8>, text: &'a [u8]) -> &'a [u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    match text[0] {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        byte => {
            out.extend_from_slice(b"\\u00");
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
    &text[1..]
}

/// Copies a run of characters above ASCII, or replaces the one byte at its beginning.
///
/// A run is looked at in windows of bounded length (each with room for several characters), lest every bad byte of a
/// binary stream be followed by a look at all the rest.
fn escape_unicode<'a>(out: &mut Vec<u8>, text: &'a [u8]) -> &'a [u8] {
    const WINDOW: usize = 64;
    let window = &text[..text.len().min(WINDOW)];
    let run = window.iter().position(u8::is_ascii).unwrap_or(window.len());
    let valid = match std::str::from_utf8(&text[..run]) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
    };
    if valid.is_empty() {
        out.extend_from_slice(b"\\ufffd");
        return &text[1..];
    }
    for piece in valid.split_inclusive(['\u{2028}', '\u{2029}']) {
        if let Some(before) = piece.strip_suffix('\u{2028}') {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(b"\\u2028");
        } else if let Some(before) = piece.strip_suffix('\u{2029}') {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(b"\\u2029");
        } else {
            out.extend_from_slice(piece.as_bytes());
        }
    }
    &text[valid.len()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &[u8], line_feed: bool, expected: &str) {
        let mut out = Vec::new();
        Encoder::new(None).write(&mut out, message, line_feed, Stream::Stdout, 0);
        let expected =
            format!("{{\"log\":\"{expected}\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}}\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn text_is_escaped_as_go_does() {
        check(b"hello", true, "hello\\n");
        check(b"", true, "\\n");
        check(b"part", false, "part");
        check(br#"a "b" \c/"#, true, r#"a \"b\" \\c/\n"#);
        check(b"<b>&amp;</b>", true, "\\u003cb\\u003e\\u0026amp;\\u003c/b\\u003e\\n");
        check(b"tab\there\r", true, "tab\\u0009here\\r\\n");
        check(b"\x00\x08\x0c\x1b[0m\x7f", true, "\\u0000\\u0008\\u000c\\u001b[0m\x7f\\n");
    }

    #[test]
    fn what_is_not_ascii_stays_or_is_replaced_byte_by_byte() {
        check("żółw 🐢".as_bytes(), true, "żółw 🐢\\n");
        check("a\u{2028}b\u{2029}".as_bytes(), true, "a\\u2028b\\u2029\\n");
        check(b"\xff\xfe", true, "\\ufffd\\ufffd\\n");
        check(b"ok\xc3", true, "ok\\ufffd\\n");
        check(b"\xe2\x82x", true, "\\ufffd\\ufffdx\\n");
        check(b"\xed\xa0\x80", true, "\\ufffd\\ufffd\\ufffd\\n");
        check(b"\xc3\xa9\xff\xc3\xa9", true, "é\\ufffdé\\n");
    }

    #[test]
    fn the_fields_stand_in_dockers_order() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(Some(r#"{"tag":"x"}"#));
        encoder.write(&mut out, b"e", true, Stream::Stderr, 1_500_000_000);
        let expected = concat!(
            r#"{"log":"e\n","stream":"stderr","attrs":{"tag":"x"},"#,
            "\"time\":\"1970-01-01T00:00:01.5Z\"}\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn special_bytes_are_found_wherever_they_stand() {
        for byte in 0..=u8::MAX {
            for length in 0..20 {
                for position in 0..length {
                    let mut text = vec![b'a'; length];
                    text[position] = byte;
                    let expected = SPECIAL[usize::from(byte)].then_some(position);
                    assert_eq!(find_special(&text), expected, "{byte:#x} at {position} of {length}");
                }
            }
        }
    }

    #[test]
    fn the_time_is_right_however_it_moves() {
        let mut encoder = Encoder::new(None);
        let second = 1_700_000_000_000_000_000;
        let steps =
            [0, 1, 2, 9, 10, 11, 98, 99, 100, 101, 101, 999_999_999, 1_000_000_000, 1_000_000_001, 5, 6];
        for (index, step) in steps.into_iter().enumerate() {
            let stream = if index % 5 == 4 { Stream::Stderr } else { Stream::Stdout };
            let (mut line, mut time) = (Vec::new(), Vec::new());
            encoder.write(&mut line, b"x", true, stream, second + step);
            Clock::default().write(second + step, &mut time);
            let (line, time) = (String::from_utf8(line).unwrap(), String::from_utf8(time).unwrap());
            assert!(line.ends_with(&format!("\"time\":\"{time}\"}}\n")), "{line} instead of {time}");
        }
    }
}
