//! Protobuf's encoding, of what BuildKit's messages use of it: varints, strings, bytes, messages, lists and maps of them.
//!
//! A message is declared with `messages!`, which makes a struct and its [`Message`]. One loop decodes all of them: it
//! reads a field's number and value, and the message puts the value where it belongs. Fields that nobody declared are skipped, as
//! protobuf wants it.
//!
//! **Bounds.** The caller bounds the bytes. A list's element may be much larger here than on the wire, so the number of fields of
//! one message, with those in it, is bounded, too, and so is the nesting.

use std::collections::BTreeMap;

use bytes::Bytes;

/// How many fields a message may have, with those of the messages in it.
const MAX_FIELDS: usize = 1 << 18;

/// How deep messages may be nested.
const MAX_DEPTH: u32 = 24;

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum DecodeError {
    #[error("a message that ends in the middle of a field")]
    Truncated,
    #[error("a number of more than 64 bits in a message")]
    Varint,
    #[error("a field of a message has number {0}, which no field has")]
    Number(u64),
    #[error("field {0} of a message is of another type than declared")]
    Type(u32),
    #[error("field {0} of a message is not UTF-8 text")]
    Text(u32),
    #[error("messages are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("a message with more than {MAX_FIELDS} fields")]
    TooMany,
}

/// A field's value as it is on the wire.
#[derive(Debug, Clone)]
pub enum Wire {
    /// Numbers, booleans, enumerations.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes, messages, entries of maps, packed numbers.
    Length(Bytes),
    /// Four bytes.
    Fixed32(u32),
}

/// What is left of the bounds while a message is decoded.
#[derive(Debug)]
pub struct Budget {
    fields: usize,
    depth: u32,
}

/// A message.
pub trait Message: Default + Send + 'static {
    /// Appends its fields.
    fn put_fields(&self, out: &mut Vec<u8>);

    /// Takes a field that was read.
    fn take_field(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError>;

    /// Its bytes.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_fields(&mut out);
        out
    }

    /// Reads one. Long values share the memory of `bytes`.
    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        let mut budget = Budget { fields: MAX_FIELDS, depth: MAX_DEPTH };
        read_fields(bytes, &mut budget, &mut |number, wire, budget| {
            message.take_field(number, wire, budget)
        })?;
        Ok(message)
    }
}

type Take<'a> = dyn FnMut(u32, Wire, &mut Budget) -> Result<(), DecodeError> + 'a;

/// The loop that reads every message.
pub fn read_fields(mut bytes: Bytes, budget: &mut Budget, take: &mut Take<'_>) -> Result<(), DecodeError> {
    budget.depth = budget.depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
    while !bytes.is_empty() {
        budget.fields = budget.fields.checked_sub(1).ok_or(DecodeError::TooMany)?;
        let key = take_varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(DecodeError::Number(key >> 3))?;
        let wire = match key & 7 {
            0 => Wire::Varint(take_varint(&mut bytes)?),
            1 => Wire::Fixed64(u64::from_le_bytes(take_array(&mut bytes)?)),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok();
                let length = length.filter(|length| *length <= bytes.len()).ok_or(DecodeError::Truncated)?;
                Wire::Length(bytes.split_to(length))
            }
            5 => Wire::Fixed32(u32::from_le_bytes(take_array(&mut bytes)?)),
            // Groups, which proto3 does not have.
            _ => return Err(DecodeError::Type(number)),
        };
        take(number, wire, budget)?;
    }
    budget.depth += 1;
    Ok(())
}

fn take_array<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], DecodeError> {
    if bytes.len() < N {
        return Err(DecodeError::Truncated);
    }
    let mut array = [0; N];
    array.copy_from_slice(&bytes.split_to(N));
    Ok(array)
}

fn take_varint(bytes: &mut Bytes) -> Result<u64, DecodeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        if index == 9 && *byte > 1 {
            return Err(DecodeError::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let _ = bytes.split_to(index + 1);
            return Ok(value);
        }
    }
    Err(if bytes.len() < 10 { DecodeError::Truncated } else { DecodeError::Varint })
}

/// Appends a number.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn put_key(number: u32, wire_type: u8, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends what `put` appends, as one value. Its length, which stands before it, is known only afterwards.
fn put_nested(number: u32, out: &mut Vec<u8>, put: &mut dyn FnMut(&mut Vec<u8>)) {
    put_key(number, 2, out);
    let start = out.len();
    out.push(0);
    put(out);
    let length = out.len() - start - 1;
    if let Ok(short @ ..0x80) = u8::try_from(length) {
        out[start] = short;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    put_varint(length as u64, &mut prefix);
    out.splice(start..=start, prefix);
}

/// A type of a single value.
pub trait Value: Default {
    /// Whether it is what a field has that is not there.
    fn is_default(&self) -> bool;

    /// Appends a field, default or not.
    fn put(&self, number: u32, out: &mut Vec<u8>);

    /// Takes a value that was read.
    fn take(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError>;
}

/// A type of a field: a value, or several.
pub trait Field {
    /// Appends what there is.
    fn put_all(&self, number: u32, out: &mut Vec<u8>);

    /// Takes one value that was read.
    fn take_one(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError>;
}

impl<V: Value> Field for V {
    fn put_all(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_default() {
            self.put(number, out);
        }
    }

    fn take_one(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError> {
        self.take(number, wire, budget)
    }
}

impl<V: Value> Field for Option<V> {
    fn put_all(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.put(number, out);
        }
    }

    fn take_one(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError> {
        // A message that comes twice is merged.
        self.get_or_insert_default().take(number, wire, budget)
    }
}

impl<V: Value> Field for Vec<V> {
    fn put_all(&self, number: u32, out: &mut Vec<u8>) {
        for value in self {
            value.put(number, out);
        }
    }

    fn take_one(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError> {
        let mut value = V::default();
        value.take(number, wire, budget)?;
        self.push(value);
        Ok(())
    }
}

impl<K: Value + Ord, V: Value> Field for BTreeMap<K, V> {
    fn put_all(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            put_nested(number, out, &mut |out| {
                // Defaults, too, as Go writes them.
                key.put(1, out);
                value.put(2, out);
            });
        }
    }

    fn take_one(&mut self, number: u32, wire: Wire, budget: &mut Budget) -> Result<(), DecodeError> {
        let Wire::Length(bytes) = wire else { return Err(DecodeError::Type(number)) };
        let (mut key, mut value) = (K::default(), V::default());
        read_fields(bytes, budget, &mut |part, wire, budget| match part {
            1 => key.take(number, wire, budget),
            2 => value.take(number, wire, budget),
            _ => Ok(()),
        })?;
        self.insert(key, value);
        Ok(())
    }
}

impl Value for String {
    fn is_default(&self) -> bool {
        self.is_empty()
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        put_bytes(number, self.as_bytes(), out);
    }

    fn take(&mut self, number: u32, wire: Wire, _: &mut Budget) -> Result<(), DecodeError> {
        let Wire::Length(bytes) = wire else { return Err(DecodeError::Type(number)) };
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::Text(number))?;
        text.clone_into(self);
        Ok(())
    }
}

impl Value for Bytes {
    fn is_default(&self) -> bool {
        self.is_empty()
    }

    fn put(&self, number: u32, out: &mut Vec<u8>) {
        put_bytes(number, self, out);
    }

    fn take(&mut self, number: u32, wire: Wire, _: &mut Budget) -> Result<(), DecodeError> {
        let Wire::Length(bytes) = wire else { return Err(DecodeError::Type(number)) };
        *self = bytes;
        Ok(())
    }
}

macro_rules! numbers {
    ($($name:ty: $from:expr, $to:expr;)*) => { $(
        impl Value for $name {
            fn is_default(&self) -> bool {
                *self == Self::default()
            }

            fn put(&self, number: u32, out: &mut Vec<u8>) {
                put_key(number, 0, out);
                put_varint(($to)(*self), out);
            }

            fn take(&mut self, number: u32, wire: Wire, _: &mut Budget) -> Result<(), DecodeError> {
                let Wire::Varint(value) = wire else { return Err(DecodeError::Type(number)) };
                *self = ($from)(value);
                Ok(())
            }
        }
    )* };
}

// What is too large is cut off, as protobuf has it; a negative number has all its high bits set.
numbers! {
    bool: |value| value != 0, u64::from;
    u32: |value| (value & 0xffff_ffff) as u32, u64::from;
    i32: |value| ((value & 0xffff_ffff) as u32).cast_signed(), |value| i64::from(value).cast_unsigned();
    u64: |value| value, |value| value;
    i64: u64::cast_signed, i64::cast_unsigned;
}

/// Takes a value that is a message.
pub fn take_message<M: Message>(
    message: &mut M,
    number: u32,
    wire: Wire,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let Wire::Length(bytes) = wire else { return Err(DecodeError::Type(number)) };
    read_fields(bytes, budget, &mut |number, wire, budget| message.take_field(number, wire, budget))
}

/// Appends a value that is a message.
pub fn put_message<M: Message>(message: &M, number: u32, out: &mut Vec<u8>) {
    put_nested(number, out, &mut |out| message.put_fields(out));
}

/// Declares messages: a struct each, whose fields have numbers before them.
macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        $name:ident { $( $(#[$field_meta:meta])* $number:literal $field:ident: $kind:ty, )* }
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default)]
        #[allow(missing_docs, reason = "fields have the names of BuildKit's .proto files")]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $kind, )*
        }

        impl $crate::wire::Message for $name {
            #[allow(unused_variables, reason = "a message may have no field")]
            fn put_fields(&self, out: &mut Vec<u8>) {
                $( $crate::wire::Field::put_all(&self.$field, $number, out); )*
            }

            #[allow(unused_variables, reason = "a message may have no field")]
            fn take_field(
                &mut self,
                number: u32,
                wire: $crate::wire::Wire,
                budget: &mut $crate::wire::Budget,
            ) -> Result<(), $crate::wire::DecodeError> {
                match number {
                    $( $number => $crate::wire::Field::take_one(&mut self.$field, $number, wire, budget), )*
                    _ => Ok(()),
                }
            }
        }

        impl $crate::wire::Value for $name {
            fn is_default(&self) -> bool {
                *self == Self::default()
            }

            fn put(&self, number: u32, out: &mut Vec<u8>) {
                $crate::wire::put_message(self, number, out);
            }

            fn take(
                &mut self,
                number: u32,
                wire: $crate::wire::Wire,
                budget: &mut $crate::wire::Budget,
            ) -> Result<(), $crate::wire::DecodeError> {
                $crate::wire::take_message(self, number, wire, budget)
            }
        }
    )* };
}
pub(crate) use messages;

#[cfg(test)]
mod tests;
