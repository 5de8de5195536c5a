//! The transfer of a directory: `fsutil` packets over a call with streams in both directions.
//!
//! ```text
//! sender                                  receiver
//! STAT each file, in order            ──▶ compares with what it has
//! STAT without content: that was all  ──▶
//!                                     ◀── REQ id: the content of the id-th file is wanted
//! DATA id …, DATA id without content  ──▶ the file is whole
//!                                     ◀── FIN: nothing more is wanted
//! FIN                                 ──▶
//! ```
//!
//! All of this is interleaved. Either side may send `ERR` with a text. An id is the number of a STAT, from 0.
//!
//! The order is that of a walk: a directory before what is in it, names in a directory in the order of their bytes. So the receiver
//! holds one open directory for each level, and each name is used in the directory that it belongs to.

mod mode;
mod receive;
mod send;

pub use mode::{from_go, to_go};
pub use receive::{Devices, Owners, Progress, Receive, Received};
pub use send::{Selection, Send};

#[cfg(test)]
mod tests;
