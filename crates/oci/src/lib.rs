//! The vocabulary of the OCI specifications: digests, references, platforms, manifests, configurations. No I/O.

#![forbid(unsafe_code)]

pub mod runtime_spec;
