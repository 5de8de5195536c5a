//! What a container's resolver answers. No I/O: callers hand over bytes and texts, and get bytes and decisions.
//!
//! A container on a network of its user's own asks 127.0.0.11. Whoever serves that address (its supervisor) reads the
//! container's [`config`] and the [`names`] of its networks for each query, both small files that the daemon replaces when
//! something changes, and lets [`answer::decide`] say what to do: answer, or forward to an [`upstream`], whose replies are [`cache`]d for a moment.
//!
//! **Invariants.**
//! - Nothing here panics or loops, whatever the bytes: names have at most 255 bytes, pointers only lead backwards, and
//!   every count is bounded by the message's length.
//! - A name of a container never leaves the host, and for a container whose networks are all internal no query does
//!   (CVE-2024-29018).

#![forbid(unsafe_code)]

pub mod answer;
pub mod cache;
pub mod config;
pub mod message;
pub mod names;
pub mod upstream;
