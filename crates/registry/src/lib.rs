//! The client of OCI distribution registries: resolve, authenticate, pull.

#![forbid(unsafe_code)]
