//! The OCI runtime: from a specification to a running container process, without threads.
//!
//! The caller must be a process with one thread (a supervisor, `palan runtime`): [`create`] copies it, and the copy
//! turns itself into the container's first process.
//!
//! ```text
//! create() ──▶ Created ──start()──▶ Container ──▶ process::wait(pidfd), exec(), cgroup.freeze() …
//!                 │                     ▲
//!                 └─ drop: killed       └─ the image's program is executing
//! ```

#![forbid(unsafe_code)]

mod handshake;
mod id_maps;
mod init;
mod net_devices;
mod plan;
mod streams;

pub mod container;
pub mod error;
pub mod exec;
pub mod hooks;

pub mod cgroup;
pub mod checkpoint;
pub mod resctrl;
pub mod seccomp;
pub mod user;

pub mod cli;

pub use container::{Container, CreateRequest, Created, Rootfs, Stdio, check, create};
pub use error::{FailureKind, RuntimeError as Error};
pub use exec::{ExecRequest, Execed, exec};
pub use init::reaper;
