//! Values of unit properties as annotations write them: GVariant's text format, as far as systemd's properties need it.

use super::wire::{Value, split};

/// Reads one value: `true`, `'text'`, `uint64 5`, `@x 5`, `['a.service', 'b.service']`.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text.trim_start() };
    let value = parser.value(None, 0)?;
    if parser.rest.is_empty() { Ok(value) } else { Err(format!("unexpected {:?}", parser.rest)) }
}

/// Seconds, of whatever number, as microseconds.
pub(super) fn seconds_as_microseconds(value: &Value) -> Result<Value, String> {
    let seconds = match *value {
        Value::Byte(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::U64(n) => Some(n),
        Value::I16(n) => u64::try_from(n).ok(),
        Value::I32(n) => u64::try_from(n).ok(),
        Value::I64(n) => u64::try_from(n).ok(),
        Value::Double(n) if (0.0..1e12).contains(&n) => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
            return Ok(Value::U64((n * 1e6) as u64));
        }
        _ => return Err("not a number of seconds".to_owned()),
    };
    let microseconds = seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
    microseconds.map(Value::U64).ok_or_else(|| "out of range".to_owned())
}

struct Parser<'a> {
    rest: &'a str,
}

/// GVariant's words for types.
const TYPES: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

const MAX_DEPTH: usize = 16;

impl<'a> Parser<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (token, rest) = self.rest.split_at(bytes);
        self.rest = rest.trim_start();
        token
    }

    /// A value, of this type if there is one.
    fn value(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply".to_owned());
        }
        match self.rest.chars().next() {
            None => Err("unexpected end".to_owned()),
            Some('@') => {
                let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                let signature = &self.advance(end)[1..];
                if split(signature).ok().is_none_or(|(_, rest)| !rest.is_empty()) {
                    return Err(format!("unknown type {signature:?}"));
                }
                self.typed(wanted, signature, depth)
            }
            Some('[') => self.array(wanted, depth),
            Some('\'' | '"') => {
                let text = self.string()?;
                match wanted.unwrap_or("s") {
                    "s" => Ok(Value::Str(text)),
                    "o" => Ok(Value::Path(text)),
                    "g" => Ok(Value::Signature(text)),
                    other => Err(format!("a string is no value of type {other:?}")),
                }
            }
            Some(_) => self.word(wanted, depth),
        }
    }

    fn typed(&mut self, wanted: Option<&str>, given: &str, depth: usize) -> Result<Value, String> {
        match wanted {
            Some(wanted) if wanted != given => Err(format!("type {given:?} where {wanted:?} is needed")),
            _ => self.value(Some(given), depth + 1),
        }
    }

    fn word(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        let word = self.advance(self.rest.find(ends).unwrap_or(self.rest.len()));
        if let Some((_, signature)) = TYPES.iter().find(|(name, _)| *name == word) {
            return self.typed(wanted, signature, depth);
        }
        match word {
            "" => Err(format!("unexpected {:?}", self.rest)),
            "true" | "false" if wanted.is_none_or(|wanted| wanted == "b") => Ok(Value::Bool(word == "true")),
            _ => number(word, wanted),
        }
    }

    fn array(&mut self, wanted: Option<&str>, depth: usize) -> Result<Value, String> {
        let wanted = wanted.map(|wanted| {
            wanted.strip_prefix('a').ok_or_else(|| format!("an array is no value of type {wanted:?}"))
        });
        let mut element = wanted.transpose()?.map(str::to_owned);
        self.advance(1);
        let mut values = Vec::new();
        while !self.rest.starts_with(']') {
            let value = self.value(element.as_deref(), depth + 1)?;
            // The first element decides for all.
            element.get_or_insert_with(|| value.signature());
            values.push(value);
            if self.rest.starts_with(',') {
                self.advance(1);
            } else if !self.rest.starts_with(']') {
                return Err(format!("expected , or ] before {:?}", self.rest));
            }
        }
        self.advance(1);
        let element = element.ok_or("an empty array needs a type, such as @as []")?;
        Ok(Value::Array(element, values))
    }

    /// A string in either kind of quotes, with C's escapes.
    fn string(&mut self) -> Result<String, String> {
        let mut characters = self.rest.char_indices();
        let quote = characters.next().map(|(_, quote)| quote);
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                _ if Some(character) == quote => {
                    self.advance(at + 1);
                    return Ok(text);
                }
                '\\' => match characters.next().map(|(_, escaped)| escaped) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(escaped @ ('\\' | '\'' | '"')) => text.push(escaped),
                    other => return Err(format!("unknown escape {other:?}")),
                },
                _ => text.push(character),
            }
        }
        Err("a string has no end".to_owned())
    }
}

/// A number: without a type one with a point is a double and any other an int32.
fn number(word: &str, wanted: Option<&str>) -> Result<Value, String> {
    let invalid = || format!("{word:?} is no value of type {:?}", wanted.unwrap_or("int32"));
    let hexadecimal = word.trim_start_matches('-').starts_with("0x");
    let point = !hexadecimal && word.contains(['.', 'e']);
    let signature = wanted.unwrap_or(if point { "d" } else { "i" });
    if signature == "d" {
        return word.parse().map(Value::Double).map_err(|_| invalid());
    }
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let (digits, base) = match digits.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(invalid());
    }
    let size = i128::from(u64::from_str_radix(digits, base).map_err(|_| invalid())?);
    let number = if negative { -size } else { size };
    let value = match signature {
        "y" => number.try_into().map(Value::Byte),
        "n" => number.try_into().map(Value::I16),
        "q" => number.try_into().map(Value::U16),
        "i" => number.try_into().map(Value::I32),
        "u" => number.try_into().map(Value::U32),
        "x" => number.try_into().map(Value::I64),
        "t" => number.try_into().map(Value::U64),
        _ => return Err(invalid()),
    };
    value.map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let strings = |all: &[&str]| all.iter().map(|text| Value::text(*text)).collect::<Vec<_>>();
        for (text, value) in [
            ("true", Value::Bool(true)),
            (" 5 ", Value::I32(5)),
            ("-5", Value::I32(-5)),
            ("0x1f", Value::I32(31)),
            ("017", Value::I32(15)),
            ("0", Value::I32(0)),
            ("1.5", Value::Double(1.5)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@x -1", Value::I64(-1)),
            ("byte 255", Value::Byte(255)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            (r#""it's \"x\"\n""#, Value::text("it's \"x\"\n")),
            ("objectpath '/a'", Value::Path("/a".to_owned())),
            ("['a', 'b']", Value::Array("s".to_owned(), strings(&["a", "b"]))),
            ("@as []", Value::Array("s".to_owned(), Vec::new())),
            ("[uint32 1, 2]", Value::Array("u".to_owned(), vec![Value::U32(1), Value::U32(2)])),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn nonsense() {
        for text in [
            "",
            "x",
            "'a",
            "5 6",
            "[",
            "[1",
            "[1 2]",
            "[1, 'a']",
            "[]",
            "byte 256",
            "uint32 -1",
            "@ 5",
            "@zz 5",
            "0x",
            "--5",
            "uint64 '5'",
            "<5>",
            "{'a': 5}",
            "b'x'",
            "boolean 5",
            "2147483648",
            "'\\",
            "@as 5",
            "@s [",
            &"[".repeat(1000),
            "@",
            "é",
            "'é\\é'",
            "-",
            "0x-5",
            "1e",
            "int32 true",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds() {
        assert_eq!(seconds_as_microseconds(&Value::I32(3)), Ok(Value::U64(3_000_000)));
        assert_eq!(seconds_as_microseconds(&Value::Double(0.5)), Ok(Value::U64(500_000)));
        for bad in [Value::I32(-1), Value::U64(u64::MAX), Value::text("3"), Value::Double(f64::NAN)] {
            assert!(seconds_as_microseconds(&bad).is_err());
        }
    }
}
