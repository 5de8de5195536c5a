//! Frames on a non-blocking unix stream socket, for both sides of the protocol.
//!
//! Bytes and descriptors that were received wait in [`Frames`] until a frame is complete; what is to be sent waits until
//! the socket takes it. Buffers grow with need and are given back when they are empty, so an idle connection holds none.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palan_linux::socket;
use rustix::io::Errno;

use super::{HEADER, MAX_BODY};

/// How much one read asks for.
const READ_SIZE: usize = 4096;

/// The most bytes that may wait to be sent before the other side counts as stuck.
const MAX_QUEUED: usize = 4 * 1024 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Frames {
    socket: OwnedFd,
    received: Vec<u8>,
    received_descriptors: VecDeque<OwnedFd>,
    queued: VecDeque<Outgoing>,
    /// Of frames that may be too many.
    queued_bytes: usize,
    ended: bool,
}

/// A frame that the socket has not taken in full.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
    /// How much of it is part of [`Frames::queued_bytes`].
    counted: usize,
}

/// A frame that has arrived.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The JSON body.
    pub(crate) body: Vec<u8>,
    /// The descriptors that came along.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The other side has closed it.
    Closed,
    /// The socket failed.
    Io(Errno),
    /// A header announces what no side sends, or the other side reads nothing.
    Malformed(&'static str),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed => Self::from(io::ErrorKind::UnexpectedEof),
            FrameError::Io(errno) => errno.into(),
            FrameError::Malformed(reason) => Self::new(io::ErrorKind::InvalidData, reason),
        }
    }
}

impl Frames {
    /// Takes over a connected socket and makes it non-blocking.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            received: Vec::new(),
            received_descriptors: VecDeque::new(),
            queued: VecDeque::new(),
            queued_bytes: 0,
            ended: false,
        })
    }

    /// Whether frames wait for the socket.
    pub(crate) fn wants_write(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Queues a frame; [`Self::flush`] sends it. Fails if too much waits already.
    pub(crate) fn queue(&mut self, body: &[u8], descriptors: Vec<OwnedFd>) -> Result<(), FrameError> {
        if self.queued_bytes > MAX_QUEUED {
            return Err(FrameError::Malformed("the other side does not read"));
        }
        self.queue_regardless(body, descriptors)?;
        if let Some(frame) = self.queued.back_mut() {
            frame.counted = frame.bytes.len();
            self.queued_bytes += frame.counted;
        }
        Ok(())
    }

    /// Queues a frame however much waits already, and without making it harder for others.
    pub(crate) fn queue_regardless(
        &mut self,
        body: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), FrameError> {
        let (Ok(length), Ok(count)) = (u32::try_from(body.len()), u32::try_from(descriptors.len())) else {
            return Err(FrameError::Malformed("a frame is too large"));
        };
        if body.len() > MAX_BODY || descriptors.len() > socket::MAX_DESCRIPTORS {
            return Err(FrameError::Malformed("a frame is too large"));
        }
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(body);
        self.queued.push_back(Outgoing { bytes, sent: 0, descriptors, counted: 0 });
        Ok(())
    }

    /// Sends as much as the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), FrameError> {
        while let Some(frame) = self.queued.front_mut() {
            let descriptors: Vec<_> = frame.descriptors.iter().map(AsFd::as_fd).collect();
            match socket::send_with_descriptors(&self.socket, &frame.bytes[frame.sent..], &descriptors) {
                Ok(sent) => {
                    frame.descriptors.clear();
                    frame.sent += sent;
                    if frame.sent == frame.bytes.len() {
                        self.queued_bytes -= frame.counted;
                        self.queued.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(FrameError::Closed),
                Err(error) => return Err(FrameError::Io(error)),
            }
        }
        self.queued = VecDeque::new();
        Ok(())
    }

    /// Takes the next complete frame; `None`: there is none now.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.complete()? {
                return Ok(Some(frame));
            }
            if self.ended {
                return Err(FrameError::Closed);
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// Splits one frame off what was received.
    fn complete(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        if length > MAX_BODY || count > socket::MAX_DESCRIPTORS {
            return Err(FrameError::Malformed("a frame is too large"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        if count > self.received_descriptors.len() {
            return Err(FrameError::Malformed("a frame lacks descriptors"));
        }
        let body = body.to_vec();
        let descriptors = self.received_descriptors.drain(..count).collect();
        self.received.drain(..HEADER + length);
        if self.received.is_empty() {
            // Descriptors that no frame announces would be kept for ever.
            if !self.received_descriptors.is_empty() {
                return Err(FrameError::Malformed("a frame has more descriptors than it says"));
            }
            self.received = Vec::new();
            self.received_descriptors.shrink_to_fit();
        }
        Ok(Some(Frame { body, descriptors }))
    }

    /// Reads once; `false`: nothing there.
    fn read(&mut self) -> Result<bool, FrameError> {
        let mut buffer = [0; READ_SIZE];
        let mut descriptors = Vec::new();
        match socket::receive_with_descriptors(&self.socket, &mut buffer, &mut descriptors) {
            Ok(0) | Err(Errno::CONNRESET) => self.ended = true,
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                self.received_descriptors.extend(descriptors);
                // Those of a frame whose end has just come, and of the one after it.
                if self.received_descriptors.len() > 2 * socket::MAX_DESCRIPTORS {
                    return Err(FrameError::Malformed("there are more descriptors than frames for them"));
                }
            }
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
        Ok(true)
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Frames, Frames) {
        let (left, right) = socket::pair().unwrap();
        (Frames::new(left).unwrap(), Frames::new(right).unwrap())
    }

    #[test]
    fn descriptors_stay_with_their_frame() {
        let (mut left, mut right) = pair();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        left.queue(b"one", vec![]).unwrap();
        left.queue(b"two", vec![null(), null()]).unwrap();
        left.queue(b"three", vec![]).unwrap();
        left.queue(b"four", vec![null()]).unwrap();
        left.flush().unwrap();
        drop(left);
        for (body, count) in [("one", 0), ("two", 2), ("three", 0), ("four", 1)] {
            let frame = right.next().unwrap().unwrap();
            assert_eq!((frame.body.as_slice(), frame.descriptors.len()), (body.as_bytes(), count));
        }
        assert!(matches!(right.next(), Err(FrameError::Closed)));
    }

    #[test]
    fn frames_with_many_descriptors_follow_each_other() {
        let (mut left, mut right) = pair();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        // The end of a body is read together with what follows.
        let body = vec![b'x'; READ_SIZE + 100];
        for _ in 0..3 {
            left.queue(&body, (0..socket::MAX_DESCRIPTORS).map(|_| null()).collect()).unwrap();
        }
        left.flush().unwrap();
        for _ in 0..3 {
            let frame = right.next().unwrap().unwrap();
            assert_eq!((frame.body.len(), frame.descriptors.len()), (body.len(), socket::MAX_DESCRIPTORS));
        }
    }

    #[test]
    fn a_frame_larger_than_the_socket_buffer_waits_and_arrives() {
        let (mut left, mut right) = pair();
        let body = vec![b'x'; MAX_BODY];
        left.queue(&body, vec![]).unwrap();
        left.flush().unwrap();
        assert!(left.wants_write());
        let frame = loop {
            if let Some(frame) = right.next().unwrap() {
                break frame;
            }
            left.flush().unwrap();
        };
        assert_eq!(frame.body, body);
        assert!(right.received.capacity() == 0 && !left.wants_write());
    }

    #[test]
    fn a_lying_header_ends_the_connection() {
        let (left, mut right) = pair();
        rustix::io::write(&left, &[0xff; HEADER]).unwrap();
        assert!(matches!(right.next(), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn descriptors_that_no_frame_announces_end_the_connection() {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        // After a whole frame, and while one is never completed.
        for length in [1_u32, 1000] {
            let (left, mut right) = pair();
            let mut bytes = [length.to_le_bytes(), [0; 4]].concat();
            bytes.push(b'x');
            let error = (0..1000).find_map(|_| {
                socket::send_with_descriptors(&left.socket, &bytes, &[null.as_fd()]).unwrap();
                bytes = vec![b'x'];
                right.next().err()
            });
            assert!(matches!(error, Some(FrameError::Malformed(_))), "{length}: {error:?}");
        }
    }

    #[test]
    fn what_is_queued_regardless_is_no_reason_to_refuse_others() {
        let (mut left, _right) = pair();
        let body = vec![0; MAX_BODY];
        (0..8).try_for_each(|_| left.queue_regardless(&body, vec![])).unwrap();
        left.queue(&body, vec![]).unwrap();
    }

    #[test]
    fn a_reader_that_never_reads_is_noticed() {
        let (mut left, _right) = pair();
        let body = vec![0; MAX_BODY];
        let result = (0..8).try_for_each(|_| left.queue(&body, vec![]));
        assert!(matches!(result, Err(FrameError::Malformed(_))));
    }
}
