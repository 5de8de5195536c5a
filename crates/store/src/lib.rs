//! Images on disk: verified content, unpacked layers, references; crash-safe and synchronous.

#![forbid(unsafe_code)]
