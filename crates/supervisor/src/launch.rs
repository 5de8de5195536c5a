//! Who makes the container's processes: Palan's own runtime inside of this process ([`own`]), or another OCI runtime by
//! its command line ([`external`]). The rest of the supervisor knows only what stands here.
//!
//! ```text
//! create() ──▶ Created ──start()──▶ Container ──(init ends)──▶ end() ──▶ retire() ──▶ remove_cgroup()
//!                 │                     ▲  signal(), pause(), resume(), exec()
//!                 └─ drop: killed       └─ the image's program is executing
//! ```
//!
//! Both keep the same promises: every process is a child of this one, so that its end and exit code are learned by its
//! pidfd; its stdio are pipes or a terminal whose other ends are ours; a failure leaves nothing behind.

mod bundle;
mod external;
mod home;
mod own;
mod sources;
mod stdio;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{Resources, Spec};
use palan_runtime::cgroup::Cgroup;
use palan_runtime::checkpoint::Save;
use palan_runtime::error as runtime_error;
use palan_runtime::seccomp::Program;
use rustix::io::Errno;

use crate::protocol::{Config, CriuProgram, ExecOptions, Failure, FailureKind};
use crate::session::Ends;

/// A container whose init stands before executing its program. Dropped, it is killed.
pub(crate) trait Created: fmt::Debug {
    /// Readable when init has ended.
    fn pidfd(&self) -> BorrowedFd<'_>;

    /// Executes the program. On failure init has been reaped and its cgroup removed.
    fn start(self: Box<Self>) -> Result<Box<dyn Container>, Failure>;
}

/// A container whose program was executed.
pub(crate) trait Container: fmt::Debug {
    /// Init's process id.
    fn pid(&self) -> i32;

    /// Readable when init has ended; init is a child of this process.
    fn pidfd(&self) -> BorrowedFd<'_>;

    /// Its cgroup, if it can be looked into from the host.
    fn cgroup(&self) -> Option<&Cgroup>;

    /// What was asked for and could not be had, one sentence each.
    fn warnings(&self) -> Vec<String>;

    /// Sends a signal to init.
    fn signal(&self, signal: Signal) -> Result<(), Failure>;

    /// Freezes all processes. On failure they run.
    fn pause(&self) -> Result<(), Failure>;

    /// Thaws them.
    fn resume(&self) -> Result<(), Failure>;

    /// Sets these limits and leaves all others.
    fn update(&mut self, limits: &Resources) -> Result<(), Failure>;

    /// Starts a further process. `seccomp` is the filter for it.
    fn exec(&self, options: &ExecOptions, seccomp: Option<&Program>) -> Result<Execed, Failure>;

    /// Begins to save its processes.
    fn save(&self, saved: &Saved<'_>) -> Result<Save, Failure>;

    /// Init has been reaped: kills what it has left, which with a pid namespace of its own is nothing.
    fn end(&self);

    /// Takes away what must be gone before anybody is told the end. The cgroup may stay.
    fn retire(&mut self) -> Result<(), Failure>;

    /// Takes the cgroup away.
    fn remove_cgroup(&self) -> Result<(), Failure>;
}

/// A further process whose program is executing.
#[derive(Debug)]
pub(crate) struct Execed {
    /// Its process id.
    pub(crate) pid: i32,
    /// Readable when it has ended; it is a child of this process.
    pub(crate) pidfd: OwnedFd,
    /// Our ends of its streams.
    pub(crate) ends: Ends,
}

/// Namespaces that came with the start.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// The container's network namespace.
    pub(crate) network_namespace: Option<OwnedFd>,
    /// The mount namespace in which [`crate::protocol::MountWhole::Shared`] is found.
    pub(crate) shared_mounts: Option<OwnedFd>,
}

/// What is saved of a container, and where.
#[derive(Debug)]
pub(crate) struct Saved<'a> {
    /// What it was made from, with the namespaces that it has joined.
    pub(crate) spec: &'a Spec,
    /// Its standard streams, as `/proc/<pid>/fd` shows them, as far as they are pipes of ours.
    pub(crate) pipes: Vec<String>,
    /// The directory of the images.
    pub(crate) images: &'a OwnedFd,
    /// Where CRIU's log is written.
    pub(crate) work: &'a Path,
    /// Who saves it.
    pub(crate) criu: &'a CriuProgram,
    /// Its processes go on.
    pub(crate) leave_running: bool,
}

/// Where a container is restored from.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The directory of the images.
    pub(crate) images: OwnedFd,
    /// Who restores it.
    pub(crate) criu: CriuProgram,
}

/// The directory in the run directory that has CRIU's logs.
pub(crate) const WORK_DIRECTORY: &str = "criu";

/// Refuses a container that can't have checkpoints.
pub(crate) fn check_for_checkpoint(config: &Config) -> Result<(), Failure> {
    own::checkpoint::check(config)
}

/// Makes the container's processes from a checkpoint. They run from here on.
pub(crate) fn restore(
    config: &Config,
    run_dir: &Path,
    given: Given,
    checkpoint: &Checkpoint,
) -> Result<(Box<dyn Created>, Ends), Failure> {
    own::checkpoint::restore(config, run_dir, given, checkpoint)
}

/// Creates the container up to the point before its program executes. Its output can be watched from here on.
pub(crate) fn create(
    config: &Config,
    run_dir: &Path,
    seccomp: Option<&Program>,
    given: Given,
) -> Result<(Box<dyn Created>, Ends), Failure> {
    match &config.runtime {
        None => own::create(config, run_dir, seccomp, &given),
        Some(_) if seccomp.is_some() => Err(Failure::new(
            FailureKind::Invalid,
            "another runtime than Palan's own takes no compiled seccomp program",
        )),
        Some(runtime) => external::create(config, runtime, run_dir, given),
    }
}

impl Failure {
    /// A failure with a message of ours.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The failure to do `what`, a verb with its object, for the reason that `error` gives.
    pub(crate) fn cannot(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let kind = if is_no_space(error) { FailureKind::NoSpace } else { FailureKind::Other };
        Self::new(kind, format!("cannot {what}: {}", palan_stdx::error_chain::to_string(error)))
    }
}

impl From<palan_runtime::Error> for Failure {
    fn from(error: palan_runtime::Error) -> Self {
        let is_no_space = match &error {
            palan_runtime::Error::Child { errno, .. } => *errno == Some(Errno::NOSPC.raw_os_error()),
            error => is_no_space(error),
        };
        let kind = match error.kind() {
            _ if is_no_space => FailureKind::NoSpace,
            runtime_error::FailureKind::ProgramNotFound => FailureKind::NotFound,
            runtime_error::FailureKind::ProgramNotExecutable => FailureKind::NotExecutable,
            runtime_error::FailureKind::Invalid => FailureKind::Invalid,
            runtime_error::FailureKind::NotRunning => FailureKind::WrongState,
            runtime_error::FailureKind::System => FailureKind::Other,
        };
        Self { kind, message: error.report() }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        let kind = if errno == Errno::NOSPC { FailureKind::NoSpace } else { FailureKind::Other };
        Self { kind, message: errno.to_string() }
    }
}

/// Whether a full disk is the cause at the end of the chain.
fn is_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::StorageFull;
        }
        cause = error.source();
    }
    false
}
