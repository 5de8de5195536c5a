//! The OCI runtime: from a specification to a running container process, without threads.

#![forbid(unsafe_code)]
