//! Values and messages of D-Bus as bytes (the D-Bus specification, "Message Protocol"), in little endian.
//!
//! What comes from the bus is read with bounds: a message that is not right is an error, never a panic.

use std::fmt::Write as _;

/// A value with its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    Variant(Box<Self>),
    Struct(Vec<Self>),
    /// The signature of its elements, and these.
    Array(String, Vec<Self>),
}

impl Value {
    /// Text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// The text of a string or an object path.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Path(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".to_owned(),
            Self::Bool(_) => "b".to_owned(),
            Self::I16(_) => "n".to_owned(),
            Self::U16(_) => "q".to_owned(),
            Self::I32(_) => "i".to_owned(),
            Self::U32(_) => "u".to_owned(),
            Self::I64(_) => "x".to_owned(),
            Self::U64(_) => "t".to_owned(),
            Self::Double(_) => "d".to_owned(),
            Self::Str(_) => "s".to_owned(),
            Self::Path(_) => "o".to_owned(),
            Self::Signature(_) => "g".to_owned(),
            Self::Variant(_) => "v".to_owned(),
            Self::Struct(members) => {
                let mut signature = "(".to_owned();
                for member in members {
                    // Writing to a string does not fail.
                    let _ = write!(signature, "{}", member.signature());
                }
                signature + ")"
            }
            Self::Array(element, _) => format!("a{element}"),
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// A message; fields that its kind has not are empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) serial: u32,
    pub(super) reply_to: u32,
    pub(super) destination: String,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) body: Vec<Value>,
}

/// A message that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid D-Bus message")]
pub(super) struct Malformed;

/// The part of a message that tells how long it is.
pub(super) const PREFIX: usize = 16;

/// The longest message that is read. The specification allows 128 MiB, which nobody sends us.
const MAX_LENGTH: usize = 1 << 20;

/// How deep values may be nested.
const MAX_DEPTH: usize = 32;

impl Message {
    /// A call of a method.
    pub(super) fn call(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Self {
        Self {
            kind: Kind::Call,
            serial: 0,
            reply_to: 0,
            destination: destination.to_owned(),
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            error: String::new(),
            body,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Writer(Vec::new());
        self.body.iter().for_each(|value| body.value(value));
        let signature: String = self.body.iter().map(Value::signature).collect();
        let text = [
            (1, Value::Path(self.path.clone())),
            (2, Value::Str(self.interface.clone())),
            (3, Value::Str(self.member.clone())),
            (4, Value::Str(self.error.clone())),
            (6, Value::Str(self.destination.clone())),
            (8, Value::Signature(signature)),
        ];
        let given = |value: &Value| !matches!(value, Value::Path(t) | Value::Str(t) | Value::Signature(t) if t.is_empty());
        let mut fields: Vec<_> = text.into_iter().filter(|(_, value)| given(value)).collect();
        if self.reply_to != 0 {
            fields.push((5, Value::U32(self.reply_to)));
        }
        let field = |(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut message = Writer(vec![b'l', self.kind as u8, 0, 1]);
        message.length(body.0.len());
        message.value(&Value::U32(self.serial));
        message.value(&Value::Array("(yv)".to_owned(), fields.into_iter().map(field).collect()));
        message.align(8);
        message.0.extend(body.0);
        message.0
    }

    /// The whole length of the message that starts with these [`PREFIX`] bytes.
    pub(super) fn length(prefix: &[u8]) -> Result<usize, Malformed> {
        let word = |at: usize| {
            let bytes = prefix.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(|bytes| u32::from_le_bytes(bytes) as usize).ok_or(Malformed)
        };
        if prefix.first() != Some(&b'l') {
            return Err(Malformed);
        }
        let (body, fields) = (word(4)?, word(12)?);
        let length = PREFIX + fields.next_multiple_of(8) + body;
        if length <= MAX_LENGTH { Ok(length) } else { Err(Malformed) }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, at: 1 };
        let kind = match reader.byte()? {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(Malformed),
        };
        let mut message = Self { kind, ..Self::call("", "", "", "", Vec::new()) };
        reader.at = 8;
        message.serial = reader.word()?;
        let mut signature = String::new();
        let Value::Array(_, fields) = reader.value("a(yv)", 0)? else { return Err(Malformed) };
        for field in fields {
            let Value::Struct(members) = field else { return Err(Malformed) };
            let [Value::Byte(code), Value::Variant(value)] = &members[..] else { return Err(Malformed) };
            match (code, &**value) {
                (1, Value::Path(path)) => message.path.clone_from(path),
                (2, Value::Str(text)) => message.interface.clone_from(text),
                (3, Value::Str(text)) => message.member.clone_from(text),
                (4, Value::Str(text)) => message.error.clone_from(text),
                (5, Value::U32(serial)) => message.reply_to = *serial,
                (6, Value::Str(text)) => message.destination.clone_from(text),
                (8, Value::Signature(text)) => signature.clone_from(text),
                // Fields of later versions of the protocol are to be ignored.
                _ => {}
            }
        }
        reader.align(8)?;
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (one, after) = split(rest)?;
            message.body.push(reader.value(one, 0)?);
            rest = after;
        }
        Ok(message)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.0.extend(bytes);
    }

    fn length(&mut self, length: usize) {
        // What we send is far shorter.
        self.put(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(value) => self.0.push(*value),
            Value::Bool(value) => self.put(&u32::from(*value).to_le_bytes()),
            Value::I16(value) => self.put(&value.to_le_bytes()),
            Value::U16(value) => self.put(&value.to_le_bytes()),
            Value::I32(value) => self.put(&value.to_le_bytes()),
            Value::U32(value) => self.put(&value.to_le_bytes()),
            Value::I64(value) => self.put(&value.to_le_bytes()),
            Value::U64(value) => self.put(&value.to_le_bytes()),
            Value::Double(value) => self.put(&value.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => {
                self.length(text.len());
                self.0.extend(text.as_bytes());
                self.0.push(0);
            }
            Value::Signature(text) => self.signature(text),
            Value::Variant(value) => {
                self.signature(&value.signature());
                self.value(value);
            }
            Value::Struct(members) => {
                self.align(8);
                members.iter().for_each(|member| self.value(member));
            }
            Value::Array(element, values) => {
                self.align(4);
                let at = self.0.len();
                self.0.extend([0; 4]);
                self.align(alignment(element));
                let start = self.0.len();
                values.iter().for_each(|value| self.value(value));
                let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
                self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        self.at = self.at.next_multiple_of(to);
        if self.at <= self.bytes.len() { Ok(()) } else { Err(Malformed) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.align(N)?;
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    fn text(&mut self, length: usize) -> Result<String, Malformed> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?.to_owned();
        if self.byte()? == 0 { Ok(text) } else { Err(Malformed) }
    }

    /// The value that one complete type stands for.
    fn value(&mut self, signature: &str, depth: usize) -> Result<Value, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        let (first, rest) = signature.split_at_checked(1).ok_or(Malformed)?;
        Ok(match first {
            "y" => Value::Byte(self.byte()?),
            "b" => Value::Bool(self.word()? != 0),
            "n" => Value::I16(i16::from_le_bytes(self.fixed()?)),
            "q" => Value::U16(u16::from_le_bytes(self.fixed()?)),
            "i" => Value::I32(i32::from_le_bytes(self.fixed()?)),
            "u" | "h" => Value::U32(self.word()?),
            "x" => Value::I64(i64::from_le_bytes(self.fixed()?)),
            "t" => Value::U64(u64::from_le_bytes(self.fixed()?)),
            "d" => Value::Double(f64::from_le_bytes(self.fixed()?)),
            "s" | "o" => {
                let length = self.word()? as usize;
                let text = self.text(length)?;
                if first == "s" { Value::Str(text) } else { Value::Path(text) }
            }
            "g" => {
                let length = self.byte()?.into();
                Value::Signature(self.text(length)?)
            }
            "v" => {
                let length = self.byte()?.into();
                let inner = self.text(length)?;
                if split(&inner)?.1.is_empty() {
                    Value::Variant(Box::new(self.value(&inner, depth + 1)?))
                } else {
                    return Err(Malformed);
                }
            }
            // A pair of a dictionary is laid out as a structure.
            "(" | "{" => {
                self.align(8)?;
                // An empty structure is none, and an array of them would have no end.
                let mut inner = rest.get(..rest.len().saturating_sub(1)).ok_or(Malformed)?;
                if inner.is_empty() {
                    return Err(Malformed);
                }
                let mut members = Vec::new();
                while !inner.is_empty() {
                    let (one, after) = split(inner)?;
                    members.push(self.value(one, depth + 1)?);
                    inner = after;
                }
                Value::Struct(members)
            }
            "a" => {
                let length = self.word()? as usize;
                self.align(alignment(rest))?;
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
                let end = end.ok_or(Malformed)?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(rest, depth + 1)?);
                }
                if self.at != end {
                    return Err(Malformed);
                }
                Value::Array(rest.to_owned(), values)
            }
            _ => return Err(Malformed),
        })
    }
}

/// The first complete type of a signature, and the rest.
pub(super) fn split(signature: &str) -> Result<(&str, &str), Malformed> {
    let bytes = signature.as_bytes();
    let arrays = bytes.iter().take_while(|byte| **byte == b'a').count();
    let mut depth = 0usize;
    for (index, byte) in bytes.iter().enumerate().skip(arrays) {
        match byte {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.checked_sub(1).ok_or(Malformed)?,
            b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g' | b'v'
            | b'h' | b'a' => {}
            _ => return Err(Malformed),
        }
        if depth == 0 {
            return signature.split_at_checked(index + 1).ok_or(Malformed);
        }
    }
    Err(Malformed)
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let pair =
            |name: &str, value| Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))]);
        let properties = vec![
            pair("Slice", Value::text("a.slice")),
            pair("PIDs", Value::Array("u".to_owned(), vec![Value::U32(7)])),
            pair("Delegate", Value::Bool(true)),
            pair("MemoryMax", Value::U64(u64::MAX)),
            pair("Odd", Value::Array("y".to_owned(), vec![Value::Byte(1), Value::Byte(2), Value::Byte(3)])),
            pair(
                "Numbers",
                Value::Struct(vec![Value::I16(-1), Value::Double(1.5), Value::I64(-2), Value::U16(3)]),
            ),
        ];
        let body = vec![
            Value::text("x.scope"),
            Value::text("replace"),
            Value::Array("(sv)".to_owned(), properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let mut message = Message::call("org.a", "/org/a", "org.a.B", "C", body);
        (message.serial, message.reply_to) = (5, 9);
        message
    }

    #[test]
    fn what_is_written_is_read() {
        let message = message();
        let bytes = message.encode();
        assert_eq!(Message::length(&bytes[..PREFIX]).unwrap(), bytes.len());
        assert_eq!(Message::decode(&bytes).unwrap(), message);
    }

    /// The bytes of a message as the specification lays them out.
    #[test]
    fn layout() {
        let mut hello = Message::call("org.freedesktop.DBus", "/", "", "Hello", Vec::new());
        hello.serial = 1;
        let mut bytes = vec![b'l', 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 61, 0, 0, 0];
        bytes.extend(b"\x01\x01o\0\x01\0\0\0/\0\0\0\0\0\0\0");
        bytes.extend(b"\x03\x01s\0\x05\0\0\0Hello\0\0\0");
        bytes.extend(b"\x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0");
        assert_eq!(hello.encode(), bytes);
    }

    /// Any cut and any changed byte is refused or read as something, and nothing else happens.
    #[test]
    fn broken_messages() {
        let bytes = message().encode();
        for end in 0..bytes.len() {
            assert!(Message::decode(&bytes[..end]).is_err());
            let _ = Message::length(&bytes[..end]);
        }
        for index in 0..bytes.len() {
            for change in [1, 0x40, 0xff] {
                let mut changed = bytes.clone();
                changed[index] ^= change;
                let _ = Message::decode(&changed);
                let _ = Message::length(&changed);
            }
        }
        for bad in ["", "a", "(", "(s", ")", "a{", "z", "()s)"] {
            assert!(split(bad).is_err() || split(bad).unwrap().1 == "s)", "{bad}");
        }
        assert_eq!(split("a(sa(sv))us").unwrap(), ("a(sa(sv))", "us"));
        let mut endless =
            Message::call("", "/", "", "X", vec![Value::Array("()".to_owned(), vec![])]).encode();
        let end = endless.len();
        endless[end - 8] = 8;
        endless[4] += 8;
        endless.extend([0; 8]);
        assert!(Message::decode(&endless).is_err());
    }
}
