//! JSON as the daemon wrote it: indenting and compacting without touching order or literals, and values that remember
//! the order of their keys for `{{json .Field}}`.

use std::fmt;
use std::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Re-indents JSON text like Go's `json.Indent`: order, numbers and escapes stay as they are.
pub(crate) fn indent(raw: &str, unit: &str) -> String {
    let mut text = String::with_capacity(raw.len() * 2);
    let mut depth = 0usize;
    let mut open = false; // an object or array has just begun, so that an empty one stays on its line
    for piece in Pieces(raw) {
        let newline = |text: &mut String, depth: usize| {
            text.push('\n');
            for _ in 0..depth {
                text.push_str(unit);
            }
        };
        if matches!(piece, "}" | "]") {
            depth = depth.saturating_sub(1);
            if !open {
                newline(&mut text, depth);
            }
            open = false;
            text.push_str(piece);
            continue;
        }
        if open {
            newline(&mut text, depth);
            open = false;
        }
        match piece {
            "{" | "[" => {
                text.push_str(piece);
                depth += 1;
                open = true;
            }
            "," => {
                text.push(',');
                newline(&mut text, depth);
            }
            ":" => text.push_str(": "),
            literal => text.push_str(literal),
        }
    }
    text
}

/// Drops the white space of JSON text, like Go's `json.Compact`.
pub(crate) fn compact(raw: &str) -> String {
    Pieces(raw).collect()
}

/// The punctuation and literals of a JSON text, without the white space between them.
struct Pieces<'a>(&'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start_matches([' ', '\t', '\r', '\n']);
        let length = match text.bytes().next()? {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => {
                let mut escaped = false;
                let end = text.bytes().skip(1).position(|byte| {
                    let ends = byte == b'"' && !escaped;
                    escaped = byte == b'\\' && !escaped;
                    ends
                });
                end.map_or(text.len(), |end| end + 2)
            }
            _ => text.find([' ', '\t', '\r', '\n', '{', '}', '[', ']', ',', ':', '"']).unwrap_or(text.len()),
        };
        let (piece, rest) = text.split_at(length);
        self.0 = rest;
        Some(piece)
    }
}

/// A JSON value whose objects keep the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ordered {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    String(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Ordered {
    /// Parses a text.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The member of an object.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Compact JSON; with `html`, `<`, `>` and `&` are escaped as Go's `json.Marshal` does.
    pub(crate) fn write(&self, text: &mut String, html: bool) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => drop(write!(text, "{value}")),
            Self::Uint(value) => drop(write!(text, "{value}")),
            Self::Float(value) => drop(write!(text, "{value}")),
            Self::String(value) => write_string(text, value, html),
            Self::List(values) => {
                text.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    value.write(text, html);
                }
                text.push(']');
            }
            Self::Map(members) => {
                text.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    write_string(text, key, html);
                    text.push(':');
                    value.write(text, html);
                }
                text.push('}');
            }
        }
    }
}

/// A JSON string literal with Go's choice of escapes.
pub(crate) fn write_string(text: &mut String, value: &str, html: bool) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\x08' => text.push_str("\\b"),
            '\x0c' => text.push_str("\\f"),
            '<' | '>' | '&' if html => drop(write!(text, "\\u{:04x}", u32::from(c))),
            '\u{2028}' | '\u{2029}' => drop(write!(text, "\\u{:04x}", u32::from(c))),
            c if u32::from(c) < 0x20 => drop(write!(text, "\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OrderedVisitor)
    }
}

struct OrderedVisitor;

impl<'de> Visitor<'de> for OrderedVisitor {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
        Ok(i64::try_from(value).map_or(Ordered::Uint(value), Ordered::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Ordered, E> {
        Ok(Ordered::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Ordered, E> {
        Ok(Ordered::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Ordered, E> {
        Ok(Ordered::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Ordered, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Ordered::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Ordered, A::Error> {
        let mut map = Vec::new();
        while let Some(member) = members.next_entry()? {
            map.push(member);
        }
        Ok(Ordered::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_like_go() {
        let raw = r#"[ {"b":1, "a":{"x":[],"y":{ },"z":[1,"q\" ,{"]}} ]"#;
        assert_eq!(
            indent(raw, "    "),
            "[\n    {\n        \"b\": 1,\n        \"a\": {\n            \"x\": [],\n            \"y\": {},\n            \
             \"z\": [\n                1,\n                \"q\\\" ,{\"\n            ]\n        }\n    }\n]"
        );
        assert_eq!(compact(raw), r#"[{"b":1,"a":{"x":[],"y":{},"z":[1,"q\" ,{"]}}]"#);
        assert_eq!(indent("[]", " "), "[]");
        assert_eq!(indent("\"unfinished", " "), "\"unfinished");
    }

    #[test]
    fn keeps_the_order_of_keys() {
        let value = Ordered::parse(r#"{"b":[1,-2,18446744073709551615,1.5,null],"a":"<&>\u0001"}"#).unwrap();
        let (mut plain, mut html) = (String::new(), String::new());
        value.write(&mut plain, false);
        value.write(&mut html, true);
        assert_eq!(plain, r#"{"b":[1,-2,18446744073709551615,1.5,null],"a":"<&>\u0001"}"#);
        assert_eq!(html, r#"{"b":[1,-2,18446744073709551615,1.5,null],"a":"\u003c\u0026\u003e\u0001"}"#);
        assert_eq!(value.get("a").and_then(Ordered::as_str), Some("<&>\u{1}"));
    }
}
