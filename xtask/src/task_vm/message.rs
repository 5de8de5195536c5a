//! What the machine and the host say to each other over the one virtio port between them.
//!
//! A message is a byte that names its kind, the length of its content (32 bits, little-endian), and the content. One
//! ordered channel for both streams and the end of the command means that nothing printed can come after the end,
//! and that no process left behind by the command, which holds its streams open, can delay it.
//!
//! 1. the machine says [`Message::Started`] when it is about to start the command;
//! 2. [`Message::Stdout`] and [`Message::Stderr`] follow, in the other direction [`Message::Input`] and [`Message::Size`]
//!    if the command has a terminal;
//! 3. [`Message::Ended`] or [`Message::Failed`] is the machine's last one. The host then switches it off.

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The machine has booted.
    Started,
    /// Bytes of the command's standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has ended with this code.
    Ended(u8),
    /// The machine could not be set up.
    Failed(String),
    /// Bytes typed at the terminal.
    Input(Vec<u8>),
    /// The terminal's size.
    Size {
        /// Its lines.
        rows: u16,
        /// Its characters in a line.
        columns: u16,
    },
}

/// The kind and the length.
const HEAD: usize = 5;
/// Nothing that either side sends at once is longer.
const LENGTH_MAX: usize = 1 << 20;

impl Message {
    /// The message as it travels. Content longer than the limit is a mistake of the caller, which reads in small pieces.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, content) = match self {
            Self::Started => (0, Vec::new()),
            Self::Stdout(bytes) => (1, bytes.clone()),
            Self::Stderr(bytes) => (2, bytes.clone()),
            Self::Ended(code) => (3, vec![*code]),
            Self::Failed(text) => (4, text.clone().into_bytes()),
            Self::Input(bytes) => (5, bytes.clone()),
            Self::Size { rows, columns } => (6, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
        };
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        [&[kind], &length.to_le_bytes()[..], &content].concat()
    }

    fn decode(kind: u8, content: &[u8]) -> Result<Self, BadMessage> {
        match (kind, content) {
            (0, []) => Ok(Self::Started),
            (1, bytes) => Ok(Self::Stdout(bytes.to_vec())),
            (2, bytes) => Ok(Self::Stderr(bytes.to_vec())),
            (3, [code]) => Ok(Self::Ended(*code)),
            (4, text) => Ok(Self::Failed(String::from_utf8_lossy(text).into_owned())),
            (5, bytes) => Ok(Self::Input(bytes.to_vec())),
            (6, [a, b, c, d]) => {
                Ok(Self::Size { rows: u16::from_le_bytes([*a, *b]), columns: u16::from_le_bytes([*c, *d]) })
            }
            (kind, content) => Err(BadMessage { kind, length: content.len() }),
        }
    }
}

/// What came over the port is no message.
#[derive(Debug)]
pub(super) struct BadMessage {
    kind: u8,
    length: usize,
}

impl std::fmt::Display for BadMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no message is of kind {} with {} bytes", self.kind, self.length)
    }
}

impl std::error::Error for BadMessage {}

/// Puts messages together from the pieces in which they arrive.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes in bytes, and returns the messages that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, BadMessage> {
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut rest = self.buffer.as_slice();
        while let Some(([kind, length @ ..], content)) = rest.split_first_chunk::<HEAD>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            if length > LENGTH_MAX {
                return Err(BadMessage { kind: *kind, length });
            }
            let Some((content, others)) = content.split_at_checked(length) else { break };
            messages.push(Message::decode(*kind, content)?);
            rest = others;
        }
        self.buffer = rest.to_vec();
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let sent = [
            Message::Started,
            Message::Stdout(b"out\n".to_vec()),
            Message::Stderr(Vec::new()),
            Message::Input(vec![3]),
            Message::Size { rows: 24, columns: 300 },
            Message::Failed("no disk".to_owned()),
            Message::Ended(7),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(Message::encode).collect();
        for piece in [1, 2, 5, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let received: Vec<Message> =
                bytes.chunks(piece).flat_map(|chunk| decoder.push(chunk).unwrap()).collect();
            assert_eq!(received, sent, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&[9, 0, 0, 0, 0][..], &[3, 2, 0, 0, 0, 1, 1], &[1, 0, 0, 0, 255], &[6, 1, 0, 0, 0, 1]] {
            assert!(Decoder::default().push(bytes).is_err(), "{bytes:?}");
        }
    }
}
