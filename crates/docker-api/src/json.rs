//! JSON as Go reads and writes it.
//!
//! Docker's clients rely on three habits of Go's decoder: a key matches a field in any case, an unknown key is ignored,
//! and `null` leaves the field at its zero value. [`from_slice`] has them for every `Deserialize` type whose struct
//! says `#[serde(default)]`. On the way out, Go prints a nil slice or map as `null`; [`null_when_empty`] does that for
//! the fields where Docker's answers have it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeOwned, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Why a document is not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The dotted path of the field, empty at the top.
    path: String,
    message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), message: message.to_string() }
    }
}

impl DecodeError {
    fn inside(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_owned() } else { format!("{name}.{}", self.path) };
        self
    }
}

/// Decodes one JSON document.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    from_value(parse(bytes)?)
}

/// Parses one JSON document.
pub fn parse(bytes: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(bytes).map_err(de::Error::custom)
}

/// Decodes a value that is already parsed.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, DecodeError> {
    T::deserialize(GoValue(value))
}

/// Encodes a wire type. Wire types have string keys and no fallible serialiser, so this can't fail for them.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Bytes as Go writes them in JSON.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// The same for writing.
pub fn to_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// What can be empty, for [`null_when_empty`].
pub trait Emptiness {
    /// Whether there is nothing in it.
    fn has_none(&self) -> bool;
}

impl<T> Emptiness for Vec<T> {
    fn has_none(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Emptiness for BTreeMap<K, V> {
    fn has_none(&self) -> bool {
        self.is_empty()
    }
}

/// Serialises an empty list or map as `null`, as Go does with one that was never set.
pub fn null_when_empty<T: Serialize + Emptiness, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    if value.has_none() { to.serialize_none() } else { value.serialize(to) }
}

/// Whether a number is zero (`skip_serializing_if` for Go's `omitempty`).
pub fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A value that deserialises by Go's rules.
struct GoValue(Value);

impl GoValue {
    fn wrong<T>(&self, expected: &dyn de::Expected) -> Result<T, DecodeError> {
        let found = match &self.0 {
            Value::Null => de::Unexpected::Unit,
            Value::Bool(b) => de::Unexpected::Bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => de::Unexpected::Unsigned(n),
                (_, Some(n), _) => de::Unexpected::Signed(n),
                (_, _, n) => de::Unexpected::Float(n.unwrap_or_default()),
            },
            Value::String(s) => de::Unexpected::Str(s),
            Value::Array(_) => de::Unexpected::Seq,
            Value::Object(_) => de::Unexpected::Map,
        };
        Err(de::Error::invalid_type(found, expected))
    }
}

macro_rules! numbers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self.0 {
                Value::Null => visitor.visit_u64(0),
                Value::Number(ref number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                    (Some(n), _, _) => visitor.visit_u64(n),
                    (_, Some(n), _) => visitor.visit_i64(n),
                    (_, _, Some(n)) => visitor.visit_f64(n),
                    _ => self.wrong(&visitor),
                },
                _ => self.wrong(&visitor),
            }
        }
    )* };
}

impl<'de> de::Deserializer<'de> for GoValue {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(_) => self.deserialize_i64(visitor),
            Value::String(s) => visitor.visit_string(s),
            Value::Array(list) => visitor.visit_seq(List::new(list)),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(b) => visitor.visit_bool(b),
            _ => self.wrong(&visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_string(String::new()),
            Value::String(s) => visitor.visit_string(s),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_seq(List::new(Vec::new())),
            Value::Array(list) => visitor.visit_seq(List::new(list)),
            _ => self.wrong(&visitor),
        }
    }

    /// Go fills a short array with zeros and drops what is too much.
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, DecodeError> {
        let mut list = match self.0 {
            Value::Null => Vec::new(),
            Value::Array(list) => list,
            _ => return self.wrong(&visitor),
        };
        list.resize(length, Value::Null);
        visitor.visit_seq(List::new(list))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let entries = match self.0 {
            Value::Null => Vec::new(),
            Value::Object(map) => map.into_iter().map(|(key, value)| (Key::Owned(key), value)).collect(),
            _ => return self.wrong(&visitor),
        };
        visitor.visit_map(Entries::new(entries))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let map = match self.0 {
            Value::Null => serde_json::Map::new(),
            Value::Object(map) => map,
            _ => return self.wrong(&visitor),
        };
        visitor.visit_map(Entries::new(matched_fields(map, fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            _ => self.wrong(&visitor),
        }
    }

    serde::forward_to_deserialize_any! { bytes byte_buf unit unit_struct tuple_struct ignored_any }
}

/// The entries of an object that are fields of the struct: the exact name wins over another spelling, `null` says nothing.
fn matched_fields(map: serde_json::Map<String, Value>, fields: &'static [&'static str]) -> Vec<(Key, Value)> {
    let mut matched: Vec<(Key, Value)> = Vec::with_capacity(map.len());
    let mut other_spellings = Vec::new();
    for (key, value) in map {
        if value.is_null() {
            continue;
        }
        match fields.iter().find(|field| **field == key) {
            Some(field) => matched.push((Key::Field(field), value)),
            None => other_spellings.push((key, value)),
        }
    }
    for (key, value) in other_spellings {
        let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(&key)) else { continue };
        if !matched.iter().any(|(known, _)| known.as_str() == *field) {
            matched.push((Key::Field(field), value));
        }
    }
    matched
}

enum Key {
    Field(&'static str),
    Owned(String),
}

impl Key {
    fn as_str(&self) -> &str {
        match self {
            Self::Field(name) => name,
            Self::Owned(name) => name,
        }
    }
}

struct List {
    position: usize,
    items: std::vec::IntoIter<Value>,
}

impl List {
    fn new(items: Vec<Value>) -> Self {
        Self { position: 0, items: items.into_iter() }
    }
}

impl<'de> SeqAccess<'de> for List {
    type Error = DecodeError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(value) = self.items.next() else { return Ok(None) };
        self.position += 1;
        seed.deserialize(GoValue(value)).map(Some).map_err(|e| e.inside(&format!("[{}]", self.position - 1)))
    }
}

struct Entries {
    entries: std::vec::IntoIter<(Key, Value)>,
    current: Option<(String, Value)>,
}

impl Entries {
    fn new(entries: Vec<(Key, Value)>) -> Self {
        Self { entries: entries.into_iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = DecodeError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.current = Some((key.as_str().to_owned(), value));
        match key {
            Key::Field(name) => seed.deserialize(name.into_deserializer()).map(Some),
            Key::Owned(name) => seed.deserialize(name.into_deserializer()).map(Some),
        }
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let (name, value) = self.current.take().unwrap_or_default();
        seed.deserialize(GoValue(value)).map_err(|e| e.inside(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Sample {
        name: String,
        count: i64,
        size: [u32; 2],
        list: Vec<String>,
        map: BTreeMap<String, Option<Vec<u8>>>,
        inner: Option<Box<Self>>,
    }

    fn check(input: &str, expected: Sample) {
        assert_eq!(from_slice::<Sample>(input.as_bytes()).unwrap(), expected, "{input}");
    }

    #[test]
    fn decodes_as_go_does() {
        check("{}", Sample::default());
        check("null", Sample::default());
        check(r#"{"name":"a","NAME":"b"}"#, Sample { name: "b".into(), ..Sample::default() });
        check(r#"{"Name":"exact","NAME":"b"}"#, Sample { name: "exact".into(), ..Sample::default() });
        check(r#"{"Name":null,"Count":null,"List":null,"Map":null,"Inner":null}"#, Sample::default());
        check(r#"{"unknown":{"x":[1]},"Size":[7]}"#, Sample { size: [7, 0], ..Sample::default() });
        check(r#"{"Size":[1,2,3]}"#, Sample { size: [1, 2], ..Sample::default() });
        check(
            r#"{"List":["a",null]}"#,
            Sample { list: vec!["a".into(), String::new()], ..Sample::default() },
        );
        let map = BTreeMap::from([("k".to_owned(), None), ("l".to_owned(), Some(vec![1]))]);
        check(r#"{"Map":{"k":null,"l":[1]}}"#, Sample { map, ..Sample::default() });
    }

    #[test]
    fn errors_name_the_field() {
        let error = from_slice::<Sample>(br#"{"inner":{"LIST":["a",1]}}"#).unwrap_err();
        assert_eq!(error.to_string(), "Inner.List.[1]: invalid type: integer `1`, expected a string");
        let error = from_slice::<Sample>(br#"{"Count":"x"}"#).unwrap_err();
        assert_eq!(error.to_string(), "Count: invalid type: string \"x\", expected i64");
        assert!(from_slice::<Sample>(b"{").is_err());
        assert!(from_slice::<Sample>(b"[]").is_err());
        assert!(from_slice::<Sample>(&b"[".repeat(100_000)).is_err());
    }
}
