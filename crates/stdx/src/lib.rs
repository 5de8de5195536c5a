//! What the standard library lacks, in the order a reader meets it.

#![forbid(unsafe_code)]

/// Files that appear whole or not at all.
pub mod atomic_file;
/// Durations as Go writes them: `1m30s`.
pub mod duration;
/// Errors that say everything they know: the chain of their sources.
pub mod error_chain;
/// File operations whose errors carry the path; the only door to `std::fs`.
pub mod fs;
/// Sizes in bytes as Docker reads (`512m`) and prints (`1.23MB`) them.
pub mod size;
