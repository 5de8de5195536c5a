//! What the end-to-end tests share: a daemon with a root of its own, images made from nothing, a hostile registry, leak checks.

#![forbid(unsafe_code)]
