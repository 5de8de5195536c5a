//! Running a further process in a container.

use std::os::fd::{BorrowedFd, OwnedFd};

use palan_oci::runtime_spec::Process;

use crate::cgroup::Cgroup;
use crate::container::Stdio;
use crate::error::Error;
use crate::seccomp::Program;

/// A further process for a running container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// PID of the container's first process.
    pub pid: i32,
    /// Its pidfd: guards against another process having got the PID.
    pub pidfd: BorrowedFd<'a>,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// What to execute, as whom, with which rights.
    pub process: &'a Process,
    /// A user as written on a command line (`name`, `uid:gid`, …), looked up in the container; overrides
    /// `process.user`.
    pub user: Option<&'a str>,
    /// The container's filter.
    pub seccomp: Option<&'a Program>,
    /// Where the standard streams go.
    pub stdio: Stdio<'a>,
    /// Descriptors from 3 on that the program gets.
    pub extra_descriptors: &'a [BorrowedFd<'a>],
    /// Kill the process when the calling one ends.
    pub parent_death_signal: bool,
}

/// A process that is executing in a container.
#[derive(Debug)]
pub struct Execed {
    /// PID in the caller's namespace. Its parent, which must wait for it, is the calling process.
    pub pid: i32,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    /// The master of the terminal, if one was asked for.
    pub console_master: Option<OwnedFd>,
    /// What was asked for and could not be had.
    pub warnings: Vec<String>,
}

/// Starts a further process in a running container; returns when its program is executing.
pub fn exec(request: &ExecRequest<'_>) -> Result<Execed, Error> {
    let _ = request;
    todo!()
}
