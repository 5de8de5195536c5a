//! The end-to-end tests live in `tests/e2e` and `tests/security`; here is what both need.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

/// The images that the tests run, made from what Debian has.
pub mod images;
