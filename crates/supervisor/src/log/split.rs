//! Cuts a stream of output into lines, and lines that are too long into parts.

/// The longest part. A line of more bytes, its line feed counted, is cut where it has this many; as in Docker.
pub(crate) const MAX_PART: usize = 16 * 1024;

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    pending: Vec<u8>,
    /// When the first byte of the line came: all of its parts carry this time.
    line_time: Option<u64>,
}

/// A line, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// The text, without line feed.
    pub(crate) text: &'a [u8],
    /// Whether a line feed follows.
    pub(crate) complete: bool,
    /// When the line began.
    pub(crate) time: u64,
}

impl Splitter {
    /// Takes the next piece of output and gives every part that is complete now to `emit`. `time` is called once for
    /// each line that begins.
    pub(crate) fn push(
        &mut self,
        mut data: &[u8],
        mut time: impl FnMut() -> u64,
        mut emit: impl FnMut(Part<'_>),
    ) {
        while !data.is_empty() {
            let line_time = *self.line_time.get_or_insert_with(&mut time);
            let room = MAX_PART - self.pending.len();
            let window = &data[..data.len().min(room)];
            let line_feed = memchr::memchr(b'\n', window);
            let (piece, rest) = match line_feed {
                Some(position) => (&window[..position], &data[position + 1..]),
                None => (window, &data[window.len()..]),
            };
            data = rest;
            let complete = line_feed.is_some();
            if !complete && piece.len() < room {
                self.pending.extend_from_slice(piece);
                return;
            }
            if self.pending.is_empty() {
                emit(Part { text: piece, complete, time: line_time });
            } else {
                self.pending.extend_from_slice(piece);
                emit(Part { text: &self.pending, complete, time: line_time });
                self.pending.clear();
            }
            if complete {
                self.line_time = None;
            }
        }
        // An idle container shall not hold the buffer of a line that it wrote once.
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }

    /// The stream has ended: what is left is a part without line feed.
    pub(crate) fn finish(&mut self, emit: impl FnOnce(Part<'_>)) {
        if let Some(time) = self.line_time.take()
            && !self.pending.is_empty()
        {
            emit(Part { text: &self.pending, complete: false, time });
        }
        self.pending = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], expected: &[(&[u8], bool, u64)]) {
        let mut splitter = Splitter::default();
        let mut parts = Vec::new();
        let mut clock = 0;
        for piece in pieces {
            splitter.push(
                piece,
                || {
                    clock += 1;
                    clock
                },
                |part| parts.push((part.text.to_vec(), part.complete, part.time)),
            );
        }
        splitter.finish(|part| parts.push((part.text.to_vec(), part.complete, part.time)));
        let expected: Vec<_> =
            expected.iter().map(|(text, complete, time)| (text.to_vec(), *complete, *time)).collect();
        assert!(parts == expected, "{} parts, {} expected", parts.len(), expected.len());
    }

    #[test]
    fn lines_are_found_in_any_pieces() {
        check(&[b"a\nb\n"], &[(b"a", true, 1), (b"b", true, 2)]);
        check(&[b"a", b"b\nc", b"\n\n"], &[(b"ab", true, 1), (b"c", true, 2), (b"", true, 3)]);
        check(&[b"a\nb"], &[(b"a", true, 1), (b"b", false, 2)]);
        check(&[b"", b"\n", b""], &[(b"", true, 1)]);
    }

    #[test]
    fn a_long_line_is_cut_where_docker_cuts_it() {
        let full = vec![b'x'; MAX_PART];
        let with_feed = |length: usize| [vec![b'x'; length], vec![b'\n']].concat();
        check(&[&with_feed(MAX_PART - 1)], &[(&full[1..], true, 1)]);
        check(&[&with_feed(MAX_PART)], &[(&full, false, 1), (b"", true, 1)]);
        check(&[&with_feed(MAX_PART + 3)], &[(&full, false, 1), (b"xxx", true, 1)]);
        check(
            &[&full[..9], &with_feed(MAX_PART), b"y"],
            &[(&full, false, 1), (&full[..9], true, 1), (b"y", false, 2)],
        );
        check(&[&full, &full], &[(&full, false, 1), (&full, false, 1)]);
    }
}
