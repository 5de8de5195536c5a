//! Typed, safe access to the Linux kernel; the only crate with unsafe code.
//!
//! What rustix has is used from rustix; what it lacks is here, in its shape: a safe function that takes
//! borrowed file descriptors and returns owned ones, with the man page named beside it.

pub mod copy;
pub mod path;
pub mod quota;
pub mod xattr;

pub mod entry;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod scheduling;

pub mod bpf;
pub mod capability;
pub mod keyring;
pub mod seccomp;

pub mod memfd;
pub mod memory;
pub mod signal;
pub mod tty;

pub mod datagram;
pub mod event;
pub mod socket;

pub mod netlink;
