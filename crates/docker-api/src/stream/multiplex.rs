//! The framing of output without a terminal: each piece is `[kind, 0, 0, 0, length as 4 bytes big endian]` and the bytes.

use std::io::{self, Read, Write};

/// The length of a frame's header.
pub const HEADER_LENGTH: usize = 8;

/// The longest frame that is believed; a longer one means that the stream isn't multiplexed at all.
pub const MAX_FRAME: usize = 64 << 20;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Echoed input (never sent by a daemon of today).
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// An error of the daemon itself, ending the stream.
    SystemError = 3,
}

/// The header of a frame of `length` bytes.
pub fn header(kind: Kind, length: u32) -> [u8; HEADER_LENGTH] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// The start of a frame; its bytes are then read from the [`Demultiplexer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Which stream.
    pub kind: Kind,
    /// How many bytes.
    pub length: usize,
}

/// Reads frames.
#[derive(Debug)]
pub struct Demultiplexer<R> {
    reader: R,
    remaining: usize,
}

impl<R: Read> Demultiplexer<R> {
    /// Frames of `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, remaining: 0 }
    }

    /// The next frame, `None` at the end. What was left of the one before is skipped.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        while self.remaining > 0 {
            let mut scrap = [0; 4096];
            let _skipped = self.read(&mut scrap)?;
        }
        let mut head = [0; HEADER_LENGTH];
        let mut have = 0;
        while have < HEADER_LENGTH {
            match self.reader.read(&mut head[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let [kind, _, _, _, a, b, c, d] = head;
        let kind = match kind {
            0 => Kind::Stdin,
            1 => Kind::Stdout,
            2 => Kind::Stderr,
            3 => Kind::SystemError,
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("unrecognized stream: {other}"),
                ));
            }
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            let message = format!("a frame of {length} bytes is too long: the stream is not multiplexed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.remaining = length;
        Ok(Some(Frame { kind, length }))
    }
}

/// The bytes of the current frame.
impl<R: Read> Read for Demultiplexer<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(self.remaining);
        if wanted == 0 {
            return Ok(0);
        }
        match self.reader.read(&mut buffer[..wanted]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.remaining -= n;
                Ok(n)
            }
            Err(e) => Err(e),
        }
    }
}

/// Copies a multiplexed stream to its two outputs until it ends. A daemon's error becomes an error.
pub fn copy(reader: impl Read, stdout: &mut dyn Write, stderr: &mut dyn Write) -> io::Result<()> {
    let mut frames = Demultiplexer::new(reader);
    let mut buffer = vec![0; 32 * 1024];
    while let Some(frame) = frames.next_frame()? {
        if frame.kind == Kind::SystemError {
            let mut text = Vec::new();
            frames.read_to_end(&mut text)?;
            let text = String::from_utf8_lossy(&text);
            return Err(io::Error::other(format!("error from daemon in stream: {}", text.trim_end())));
        }
        let output: &mut dyn Write = if frame.kind == Kind::Stderr { stderr } else { stdout };
        let mut left = frame.length;
        while left > 0 {
            let n = match frames.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            output.write_all(&buffer[..n])?;
            left -= n;
        }
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, bytes: &[u8]) -> Vec<u8> {
        [&header(kind, u32::try_from(bytes.len()).unwrap())[..], bytes].concat()
    }

    /// Gives one byte at a time, so that every boundary is crossed.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(buffer.len()).min(1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn splits_the_streams() {
        let stream =
            [frame(Kind::Stdout, b"out\n"), frame(Kind::Stderr, b"err\n"), frame(Kind::Stdout, b"")].concat();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        copy(Trickle(&stream), &mut out, &mut err).unwrap();
        assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn skips_what_was_not_read() {
        let stream = [frame(Kind::Stdout, &[7; 10_000]), frame(Kind::Stderr, b"x")].concat();
        let mut frames = Demultiplexer::new(&stream[..]);
        assert_eq!(frames.next_frame().unwrap(), Some(Frame { kind: Kind::Stdout, length: 10_000 }));
        assert_eq!(frames.next_frame().unwrap(), Some(Frame { kind: Kind::Stderr, length: 1 }));
        assert_eq!(frames.next_frame().unwrap(), None);
    }

    #[test]
    fn reports_errors_and_garbage() {
        let mut sink = io::sink();
        let error = copy(&frame(Kind::SystemError, b"boom\n")[..], &mut io::sink(), &mut sink).unwrap_err();
        assert_eq!(error.to_string(), "error from daemon in stream: boom");
        for stream in
            [&b"hello world"[..], &b"\x01\0\0"[..], b"\x01\0\0\0\0\0\0\x05abc", b"\x01\0\0\0\xff\xff\xff\xff"]
        {
            assert!(copy(stream, &mut io::sink(), &mut sink).is_err(), "{stream:?}");
        }
    }
}
