//! The messages, with the numbers of BuildKit's `.proto` files; of these what this crate's users need. Unknown fields are skipped.

pub mod content;
pub mod control;
pub mod gateway;
pub mod pb;
pub mod session;
pub mod status;
