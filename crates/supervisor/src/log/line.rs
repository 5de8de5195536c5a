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
use super::timestamp::Clock;

/// Appends one line. `message` has its line feed, unless it is a part of a longer line.
pub(crate) fn write(
    out: &mut Vec<u8>,
    message: &[u8],
    line_feed: bool,
    stream: Stream,
    attributes: Option<&str>,
    time: u64,
    clock: &mut Clock,
) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, message);
    if line_feed {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\"",
        Stream::Stderr => b"\",\"stream\":\"stderr\"",
    });
    if let Some(attributes) = attributes {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attributes.as_bytes());
    }
    out.extend_from_slice(b",\"time\":\"");
    clock.write(time, out);
    out.extend_from_slice(b"\"}\n");
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

fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(position) = text.iter().position(|byte| SPECIAL[usize::from(*byte)]) {
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
        write(&mut out, message, line_feed, Stream::Stdout, None, 0, &mut Clock::default());
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
        let attributes = Some(r#"{"tag":"x"}"#);
        write(&mut out, b"e", true, Stream::Stderr, attributes, 1_500_000_000, &mut Clock::default());
        let expected = concat!(
            r#"{"log":"e\n","stream":"stderr","attrs":{"tag":"x"},"#,
            "\"time\":\"1970-01-01T00:00:01.5Z\"}\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
