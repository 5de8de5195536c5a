//! Creating a container: the caller's side.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use palan_linux::tty::WindowSize;
use palan_oci::runtime_spec::Spec;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::seccomp::Program;

/// Everything that makes one container.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The specification. `root.path` is not used: see `rootfs`.
    pub spec: &'a Spec,
    /// Directory that relative paths of bind mounts start from; must exist.
    pub bundle: &'a Path,
    /// The root file system.
    pub rootfs: &'a Rootfs,
    /// A user as an image names it (`name`, `uid`, `name:group`, …), looked up inside the root file system;
    /// overrides `process.user` of the specification (but not its umask and additional groups).
    pub user: Option<&'a str>,
    /// Create the working directory if it is missing.
    pub create_cwd: bool,
    /// Network namespace to join, instead of what the specification says.
    pub network_namespace: Option<BorrowedFd<'a>>,
    /// Compiled filter, instead of `linux.seccomp` of the specification.
    pub seccomp: Option<&'a Program>,
    /// Where the standard streams go.
    pub stdio: Stdio<'a>,
    /// The cgroup's path below the root of each hierarchy, such as `/palan/<id>`.
    pub cgroup: &'a str,
    /// Kill the container when the creating process ends.
    pub parent_death_signal: bool,
    /// Stay as process 1, which passes signals on and reaps, and run the program as its child.
    pub init: bool,
    /// Descriptors from 3 on that the program gets (`LISTEN_FDS`, `--preserve-fds`), in this order.
    pub extra_descriptors: &'a [BorrowedFd<'a>],
    /// A fifo, open for reading and writing, that the process waits on (one byte starts it) instead of on
    /// [`Created::start`]; with it the creating process may end before.
    pub start_fifo: Option<BorrowedFd<'a>>,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// A directory, used as it is.
    Directory(PathBuf),
    /// Layers below a directory for changes.
    Overlay {
        /// Read-only layers, topmost first.
        lowers: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// The empty directory beside `upper` that overlay works in.
        work: PathBuf,
        /// Never sync `upper`: it is thrown away with the container.
        #[serde(default)]
        volatile: bool,
    },
}

/// Where a process's standard streams go.
#[derive(Debug, Default)]
pub enum Stdio<'a> {
    /// All three are /dev/null.
    #[default]
    Null,
    /// Those of the calling process.
    Inherit,
    /// These.
    Descriptors {
        /// Input.
        stdin: BorrowedFd<'a>,
        /// Output.
        stdout: BorrowedFd<'a>,
        /// Errors.
        stderr: BorrowedFd<'a>,
    },
    /// A new pseudo terminal of the container's own devpts; its master is returned.
    Terminal {
        /// Its first size.
        size: Option<WindowSize>,
    },
}

/// A container whose first process is set up and stands before executing the program. Dropped, it is killed.
#[derive(Debug)]
pub struct Created {
    /// What will run.
    pub container: Container,
}

/// A container's first process and its cgroup.
#[derive(Debug)]
pub struct Container {
    /// PID in the caller's namespace. Its parent, which must wait for it, is the creating process.
    pub pid: i32,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    /// The master of the terminal, if one was asked for.
    pub console_master: Option<OwnedFd>,
    /// The listener of a seccomp profile with `notify` actions.
    pub seccomp_listener: Option<OwnedFd>,
    /// The container's cgroup; remove it when the process has been reaped.
    pub cgroup: Cgroup,
    /// What was asked for and could not be had, one sentence each (such as a refused rlimit).
    pub warnings: Vec<String>,
}

/// Creates a container up to the point before its program executes.
///
/// When this fails, nothing is left behind: no process, no cgroup, no mount.
pub fn create(request: &CreateRequest<'_>) -> Result<Created, Error> {
    let _ = request;
    todo!()
}

impl Created {
    /// Executes the program. On failure the process has been reaped and the cgroup removed.
    pub fn start(self) -> Result<Container, Error> {
        todo!()
    }
}
