//! The streams of the API: multiplexed output, and JSON messages.

mod json_messages;
mod multiplex;

pub use json_messages::{JsonMessages, ProgressDetail, ProgressError, ProgressMessage, StreamError};
pub use multiplex::{Demultiplexer, Frame, HEADER_LENGTH, Kind, MAX_FRAME, copy, header};

/// What media types the streams of attach, exec and logs have.
pub mod media_type {
    /// The bytes of a terminal, or of any session with a client before 1.42.
    pub const RAW: &str = "application/vnd.docker.raw-stream";
    /// Frames, from 1.42.
    pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
}
