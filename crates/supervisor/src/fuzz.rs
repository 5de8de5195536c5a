//! What the fuzz targets see of this crate (feature `fuzz`; docs/fuzzing.md).

use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::detach_keys::DetachKeys;
use crate::journal;
use crate::protocol::frame::Frames;
use crate::protocol::{Message, RequestFrame};

/// Receives bytes as frames.
pub fn frames(bytes: &[u8]) {
    let Ok((mut sender, receiver)) = UnixStream::pair() else { return };
    // What does not fit in the socket's buffer would wait for the reader, which is this thread.
    let fits = bytes.len().min(64 * 1024);
    if sender.write_all(&bytes[..fits]).is_err() {
        return;
    }
    drop(sender);
    let Ok(mut frames) = Frames::new(receiver.into()) else { return };
    while let Ok(Some(frame)) = frames.next() {
        assert!(frame.descriptors.is_empty());
        bodies(&frame.body);
    }
}

/// Reads bytes as the body of a frame in either direction.
pub fn bodies(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<RequestFrame>(bytes) {
        let _ = format!("{request:?}");
    }
    if let Ok(message) = Message::from_json(bytes) {
        let _ = format!("{message:?}");
    }
}

/// Reads a journal that others could have written.
pub fn journal(bytes: &[u8]) {
    let all = journal::parse(bytes, 0);
    assert!(journal::parse(bytes, 7).len() <= all.len());
}

/// Types keys while a sequence is looked for: no key is lost or invented. The first byte is the sequence's length.
pub fn detach_keys(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (sequence, typed) = rest.split_at(usize::from(length % 8).min(rest.len()));
    let mut keys = DetachKeys::new(sequence.to_vec());
    let mut forwarded = Vec::new();
    let mut detached = false;
    for part in typed.chunks(3) {
        detached = detached || keys.filter(part, &mut forwarded);
    }
    if !detached {
        keys.finish(&mut forwarded);
        assert_eq!(forwarded, typed);
    }
}
