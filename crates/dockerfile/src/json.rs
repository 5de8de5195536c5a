//! The JSON form of arguments: an array of strings.

/// Deeper nesting is no array of strings anyway.
const MAX_DEPTH: usize = 100;

/// What a text is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array with something else in it.
    OtherArray,
    /// No JSON array: the shell form.
    Nothing,
}

/// Reads a text.
pub(crate) fn parse(text: &str) -> Json {
    let mut reader = Reader { text, at: 0 };
    reader.blank();
    if !reader.take(b'[') {
        return Json::Nothing;
    }
    match reader.strings() {
        Some(found) => {
            reader.blank();
            if reader.at < text.len() { Json::Nothing } else { found }
        }
        None => Json::Nothing,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The rest of the outermost array. None: it is not JSON.
    fn strings(&mut self) -> Option<Json> {
        let mut strings = Vec::new();
        let mut are_all = true;
        self.items(|reader| {
            if reader.peek() == Some(b'"') {
                strings.push(reader.string()?);
            } else {
                are_all = false;
                reader.value(1)?;
            }
            Some(())
        })?;
        Some(if are_all { Json::Strings(strings) } else { Json::OtherArray })
    }

    /// Items up to `]`, the `[` being read.
    fn items(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.blank();
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.blank();
            item(self)?;
            self.blank();
            if self.take(b']') {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'[' => {
                self.at += 1;
                self.items(|reader| reader.value(depth + 1))
            }
            b'{' => {
                self.at += 1;
                self.members(depth)
            }
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["true", "false", "null"]
                .into_iter()
                .find(|word| self.text[self.at..].starts_with(word))
                .map(|word| {
                    self.at += word.len();
                }),
        }
    }

    fn members(&mut self, depth: usize) -> Option<()> {
        self.blank();
        if self.take(b'}') {
            return Some(());
        }
        loop {
            self.blank();
            self.string()?;
            self.blank();
            if !self.take(b':') {
                return None;
            }
            self.blank();
            self.value(depth + 1)?;
            self.blank();
            if self.take(b'}') {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn string(&mut self) -> Option<String> {
        if !self.take(b'"') {
            return None;
        }
        let mut out = String::new();
        loop {
            let next = self.text[self.at..].chars().next()?;
            self.at += next.len_utf8();
            match next {
                '"' => return Some(out),
                '\\' => out.push(self.escaped()?),
                control if u32::from(control) < 0x20 => return None,
                other => out.push(other),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let kind = self.peek()?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return None,
        })
    }

    /// Half of a pair alone becomes U+FFFD.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
            self.at = before;
        }
        Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Json {
        Json::Strings(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn arrays_of_strings() {
        assert_eq!(parse(r#"["a", "b c"]"#), strings(&["a", "b c"]));
        assert_eq!(parse(" [ ] "), strings(&[]));
        assert_eq!(
            parse(r#"["\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00"]"#),
            strings(&["\"\\/\u{8}\u{c}\n\r\tä😀"])
        );
        assert_eq!(parse(r#"["\ud83dx\ude00"]"#), strings(&["\u{fffd}x\u{fffd}"]));
        assert_eq!(parse(r#"["\ud83d\u0041"]"#), strings(&["\u{fffd}A"]));
    }

    #[test]
    fn other_arrays() {
        for text in ["[1]", "[\"a\", null]", "[[\"a\"]]", "[-1.5e+3, true, false, {}]", "[{\"a\": [0]}]"] {
            assert_eq!(parse(text), Json::OtherArray, "{text}");
        }
    }

    #[test]
    fn what_is_no_array() {
        for text in [
            "",
            "a",
            "[",
            "[a]",
            "['a']",
            "[\"a\"",
            "[\"a\",]",
            "[\"a\"] b",
            "[\"a]",
            "[01]",
            "[1.]",
            "[-]",
            "[\"\\x\"]",
            "[\"\\u12\"]",
            "[\"\\u+123\"]",
            "[\"\t\"]",
            "{}",
            "\"a\"",
            "[{\"a\"}]",
            "[ -f x ] && y",
        ] {
            assert_eq!(parse(text), Json::Nothing, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), Json::Nothing);
    }
}
