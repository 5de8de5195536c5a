//! The output of a step, read from its supervisor.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;

use palan_builder::backend::Stream;

/// Output that is read, and to whom it is told.
pub(super) struct Reading<'a> {
    socket: tokio::io::unix::AsyncFd<UnixStream>,
    frames: Frames,
    output: &'a dyn Fn(Stream, &[u8]),
}

impl<'a> Reading<'a> {
    pub(super) fn new(output: &'a dyn Fn(Stream, &[u8]), socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = crate::reactor::register(socket, tokio::io::Interest::READABLE)?;
        Ok(Self { socket, frames: Frames::default(), output })
    }

    /// Reads what there is; false at the end.
    pub(super) async fn next(reading: &mut Option<Self>) -> io::Result<bool> {
        let Some(Self { socket, frames, output }) = reading else { return Ok(false) };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut ready = socket.readable().await?;
            match ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
                Err(_) => {}
                Ok(Ok(0)) => return Ok(false),
                Ok(Ok(length)) => {
                    frames.take(&buffer[..length], *output);
                    return Ok(true);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

/// Takes the supervisor's frames apart: stream, three zeros, length, bytes.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    left: usize,
    is_error: bool,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], output: &dyn Fn(Stream, &[u8])) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (now, later) = bytes.split_at(self.left.min(bytes.len()));
                output(if self.is_error { Stream::Stderr } else { Stream::Stdout }, now);
                self.left -= now.len();
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at((8 - self.header.len()).min(bytes.len()));
            self.header.extend_from_slice(now);
            bytes = later;
            if let [stream, _, _, _, length @ ..] = &self.header[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.is_error = *stream == 2;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn output_is_told_by_stream_however_it_is_cut() {
        let bytes = [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"out", &[2, 0, 0, 0, 0, 0, 0, 2], b"er"].concat();
        for size in 1..=bytes.len() {
            let heard = RefCell::new((String::new(), String::new()));
            let mut frames = Frames::default();
            for piece in bytes.chunks(size) {
                frames.take(piece, &|stream, bytes| {
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    match stream {
                        Stream::Stdout => heard.borrow_mut().0.push_str(&text),
                        Stream::Stderr => heard.borrow_mut().1.push_str(&text),
                    }
                });
            }
            assert_eq!(heard.into_inner(), ("out".to_owned(), "er".to_owned()), "{size}");
        }
    }
}
