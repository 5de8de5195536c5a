//! What the standard library lacks: path-carrying file errors, atomic files, sizes and Go-style durations.

#![forbid(unsafe_code)]
