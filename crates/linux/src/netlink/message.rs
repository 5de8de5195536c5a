//! The form of netlink messages: a header, a fixed part, then attributes that may nest; everything aligned to 4 bytes.

use std::ops::RangeInclusive;

/// The length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// `NLA_F_NESTED | NLA_F_NET_BYTEORDER`, the two flags in an attribute's type.
const TYPE_FLAGS: u16 = 0xc000;

/// Messages to be sent together.
#[derive(Debug, Default)]
pub struct Batch {
    buffer: Vec<u8>,
    /// Where each message starts.
    starts: Vec<usize>,
}

impl Batch {
    /// No message yet.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: Vec::with_capacity(1024), starts: Vec::new() }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many bytes the messages have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a message of type `kind`: the protocol's fixed part, then what `attributes` writes.
    pub fn push(
        &mut self,
        kind: u16,
        flags: i32,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let start = self.buffer.len();
        self.starts.push(start);
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or(0);
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&flags.to_ne_bytes());
        // The sequence number is set when the message is sent; port 0 is the kernel.
        self.buffer.extend_from_slice(&[0; 8]);
        self.buffer.extend_from_slice(fixed);
        pad(&mut self.buffer);
        attributes(&mut Attributes { buffer: &mut self.buffer });
        let length = u32::try_from(self.buffer.len() - start).unwrap_or(u32::MAX);
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Numbers the messages from `first` on, asks for an acknowledgement of message `acknowledged`, and gives the bytes.
    pub(super) fn seal(&mut self, first: u32, acknowledged: Option<usize>) -> (&[u8], RangeInclusive<u32>) {
        let mut sequence = first;
        for (index, start) in self.starts.iter().enumerate() {
            sequence = first.wrapping_add(u32::try_from(index).unwrap_or(0));
            self.buffer[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
            if acknowledged == Some(index) {
                let flags = u16::from_ne_bytes([self.buffer[start + 6], self.buffer[start + 7]]);
                let flags = flags | u16::try_from(libc::NLM_F_ACK).unwrap_or(0);
                self.buffer[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
            }
        }
        (&self.buffer, first..=sequence)
    }

    /// How many messages there are.
    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }
}

/// Writes attributes at the end of a message. Numbers are in the machine's byte order unless the method says otherwise.
#[derive(Debug)]
pub struct Attributes<'a> {
    buffer: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute with any content.
    pub fn bytes(&mut self, kind: u16, content: &[u8]) -> &mut Self {
        let length = u16::try_from(content.len() + 4).unwrap_or(u16::MAX);
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(content);
        pad(self.buffer);
        self
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Four bytes.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Two bytes in network order.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Four bytes in network order.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Eight bytes in network order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text, with the final zero byte that the kernel expects.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut content = Vec::with_capacity(value.len() + 1);
        content.extend_from_slice(value.as_bytes());
        content.push(0);
        self.bytes(kind, &content)
    }

    /// Attributes within an attribute.
    pub fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.nested_after(kind, &[], content)
    }

    /// Attributes within an attribute, after a fixed part (the peer of a veth pair is described so).
    pub fn nested_after(
        &mut self,
        kind: u16,
        fixed: &[u8],
        content: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let start = self.buffer.len();
        let kind = if fixed.is_empty() { kind | 0x8000 } else { kind };
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(fixed);
        pad(self.buffer);
        content(&mut Attributes { buffer: self.buffer });
        let length = u16::try_from(self.buffer.len() - start).unwrap_or(u16::MAX);
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Attributes that were written before, as they are.
    pub fn raw(&mut self, content: &[u8]) -> &mut Self {
        self.buffer.extend_from_slice(content);
        pad(self.buffer);
        self
    }
}

/// Attributes of their own, to be put in a message later with [`Attributes::raw`].
pub(super) fn standalone(buffer: &mut Vec<u8>) -> Attributes<'_> {
    Attributes { buffer }
}

fn pad(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// The attributes of a received message, or of an attribute that nests others; iterate to get `(type, content)`.
/// Content that contradicts its lengths ends the iteration.
#[derive(Debug, Clone, Copy)]
pub struct Parsed<'a>(pub &'a [u8]);

impl<'a> Iterator for Parsed<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes([*self.0.first()?, *self.0.get(1)?]));
        let kind = u16::from_ne_bytes([*self.0.get(2)?, *self.0.get(3)?]) & !TYPE_FLAGS;
        let content = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    }
}

impl<'a> Parsed<'a> {
    /// The content of the first attribute of type `kind`.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut attributes = self;
        attributes.find_map(|(found, content)| (found == kind).then_some(content))
    }

    /// The same as nested attributes.
    #[must_use]
    pub fn nested(self, kind: u16) -> Self {
        Self(self.find(kind).unwrap_or_default())
    }
}

/// Readers of an attribute's content, each `None` when the length doesn't fit.
pub mod attribute {
    use std::net::Ipv4Addr;

    /// Two bytes in network order.
    #[must_use]
    pub fn be16(content: &[u8]) -> Option<u16> {
        content.try_into().ok().map(u16::from_be_bytes)
    }

    /// Four bytes.
    #[must_use]
    pub fn u32(content: &[u8]) -> Option<u32> {
        content.try_into().ok().map(u32::from_ne_bytes)
    }

    /// Four bytes in network order.
    #[must_use]
    pub fn be32(content: &[u8]) -> Option<u32> {
        content.try_into().ok().map(u32::from_be_bytes)
    }

    /// Eight bytes in network order.
    #[must_use]
    pub fn be64(content: &[u8]) -> Option<u64> {
        content.try_into().ok().map(u64::from_be_bytes)
    }

    /// An IPv4 address.
    #[must_use]
    pub fn ipv4(content: &[u8]) -> Option<Ipv4Addr> {
        be32(content).map(Ipv4Addr::from_bits)
    }

    /// A text up to its zero byte; empty if it isn't UTF-8.
    #[must_use]
    pub fn text(content: &[u8]) -> &str {
        let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
        std::str::from_utf8(&content[..end]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut batch = Batch::new();
        batch.push(7, 0, &[1, 2, 3, 4], |attributes| {
            attributes.text(3, "abc").nested(4, |inner| {
                inner.u8(1, 9).be16(2, 0x1234);
            });
        });
        let (bytes, sequences) = batch.seal(5, Some(0));
        assert_eq!(sequences, 5..=5);
        assert_eq!(attribute::u32(&bytes[..4]), Some(u32::try_from(bytes.len()).unwrap()));
        assert_eq!(u16::from_ne_bytes([bytes[6], bytes[7]]), 5, "request and acknowledge");
        let attributes = Parsed(&bytes[HEADER + 4..]);
        assert_eq!(attributes.find(3).map(attribute::text), Some("abc"));
        assert_eq!(attributes.nested(4).find(1), Some(&[9][..]));
        assert_eq!(attributes.nested(4).find(2).and_then(attribute::be16), Some(0x1234));
    }

    #[test]
    fn lying_lengths_end_the_iteration() {
        for bytes in
            [&[][..], &[1], &[3, 0, 1, 0], &[0, 0, 0, 0], &[9, 0, 1, 0, 5], &[255, 255, 1, 0, 0, 0, 0, 0]]
        {
            assert_eq!(Parsed(bytes).count(), 0, "{bytes:?}");
        }
    }
}
