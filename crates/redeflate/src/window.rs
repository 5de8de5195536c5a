//! The content around a position: enough behind it for any repetition, and some ahead of it.

/// How far back a repetition reaches.
pub(crate) const HISTORY: usize = 32 * 1024;
/// How far ahead of a position predictions look. Both directions must see the same.
pub(crate) const LOOKAHEAD: usize = 1024;
/// Bytes that are passed before the buffer is moved.
const SLACK: usize = 256 * 1024;

/// A part of the content, addressed by positions in the whole.
#[derive(Debug, Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    /// The position of the first byte.
    base: u64,
}

impl Window {
    /// Where the content that is known ends.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Appends what stands `distance` before the end; `false` if that is before the beginning.
    pub(crate) fn repeat(&mut self, length: usize, distance: usize) -> bool {
        let Some(start) = self.bytes.len().checked_sub(distance) else { return false };
        if distance >= length {
            self.bytes.extend_from_within(start..start + length);
        } else {
            for index in start..start + length {
                self.bytes.push(self.bytes[index]);
            }
        }
        true
    }

    /// Everything from `position` to the end.
    pub(crate) fn from(&self, position: u64) -> &[u8] {
        &self.bytes[self.index(position)..]
    }

    /// All that is known, and where in it `position` is.
    pub(crate) fn around(&self, position: u64) -> (&[u8], usize) {
        (&self.bytes, self.index(position))
    }

    /// Forgets what no repetition from `position` on reaches.
    pub(crate) fn forget_before(&mut self, position: u64) {
        let index = self.index(position);
        if index > HISTORY + SLACK {
            let gone = index - HISTORY;
            self.bytes.drain(..gone);
            self.base += gone as u64;
        }
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.bytes.len())
    }
}
