//! Finds the sequence of keys that detaches a client in what the client types.

/// A sequence to look for, and how much of it has been typed.
///
/// Keys that may be the beginning of the sequence are held back until the next key decides, also over several reads.
#[derive(Debug, Default)]
pub(crate) struct DetachKeys {
    sequence: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// An empty sequence is never found.
    pub(crate) fn new(sequence: Vec<u8>) -> Self {
        Self { sequence, matched: 0 }
    }

    /// Appends to `forward` what is certainly not part of the sequence. `true`: the sequence is complete; what came
    /// after it in `typed` is dropped, as nobody is there any more who typed it.
    pub(crate) fn filter(&mut self, typed: &[u8], forward: &mut Vec<u8>) -> bool {
        if self.sequence.is_empty() {
            forward.extend_from_slice(typed);
            return false;
        }
        for key in typed {
            self.advance(*key, forward);
            if self.matched == self.sequence.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }

    /// Nothing more will be typed: gives out what was held back.
    pub(crate) fn finish(&mut self, forward: &mut Vec<u8>) {
        forward.extend_from_slice(&self.sequence[..self.matched]);
        self.matched = 0;
    }

    fn advance(&mut self, key: u8, forward: &mut Vec<u8>) {
        // On a mismatch a shorter beginning of the sequence may still fit: the longest end of what was typed that is
        // one (sequences have a handful of keys, so trying all lengths is cheap).
        while self.sequence[self.matched] != key {
            if self.matched == 0 {
                forward.push(key);
                return;
            }
            let held = &self.sequence[..self.matched];
            let kept =
                (0..self.matched).rev().find(|length| held.ends_with(&self.sequence[..*length])).unwrap_or(0);
            forward.extend_from_slice(&held[..self.matched - kept]);
            self.matched = kept;
        }
        self.matched += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sequence: &[u8], reads: &[&[u8]], forwarded: &[u8], detached: bool) {
        let mut keys = DetachKeys::new(sequence.to_vec());
        let mut forward = Vec::new();
        let found = reads.iter().any(|read| keys.filter(read, &mut forward));
        if !found {
            keys.finish(&mut forward);
        }
        assert_eq!((forward.as_slice(), found), (forwarded, detached));
    }

    #[test]
    fn the_sequence_is_found_in_any_reads() {
        check(b"\x10\x11", &[b"ls\n\x10\x11rest"], b"ls\n", true);
        check(b"\x10\x11", &[b"a\x10", b"\x11"], b"a", true);
        check(b"\x10\x11", &[b"\x10\x10\x11"], b"\x10", true);
        check(b"q", &[b"aq"], b"a", true);
    }

    #[test]
    fn what_is_not_the_sequence_arrives_unchanged() {
        check(b"\x10\x11", &[b"\x10", b"x\x11"], b"\x10x\x11", false);
        check(b"\x10\x11", &[b"a\x10"], b"a\x10", false);
        check(b"", &[b"\x10\x11"], b"\x10\x11", false);
        check(b"aab", &[b"aac"], b"aac", false);
        check(b"aab", &[b"a", b"a", b"a", b"b"], b"a", true);
        check(b"abac", &[b"ababac"], b"ab", true);
    }
}
