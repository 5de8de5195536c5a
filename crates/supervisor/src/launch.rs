//! Starting processes: the runtime's requests, built from the daemon's, with the pipes or the terminal between.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use palan_linux::tty::WindowSize;
use palan_oci::runtime_spec::Process;
use palan_runtime::cgroup::Location;
use palan_runtime::seccomp::Program;
use palan_runtime::{
    Container, CreateRequest, Created, ExecRequest, Execed, Stdio, create, error as runtime_error, exec,
};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::protocol::{Config, ExecOptions, Failure, FailureKind};
use crate::session::Ends;

/// Creates the container up to the point before its program executes. Its output can be watched from here on.
pub(crate) fn create_container(
    config: &Config,
    run_dir: &Path,
    seccomp: Option<&Program>,
    network_namespace: Option<BorrowedFd<'_>>,
) -> Result<(Created, Ends), Failure> {
    let Some(process) = &config.spec.process else {
        return Err(Failure::new(FailureKind::Invalid, "the specification has no process"));
    };
    let cgroup = config.spec.linux.as_ref().map_or("", |linux| linux.cgroups_path.as_str());
    if cgroup.is_empty() {
        return Err(Failure::new(FailureKind::Invalid, "the specification has no linux.cgroupsPath"));
    }
    let pipes = Pipes::for_process(process, config.open_stdin, true)?;
    let created = create(&CreateRequest {
        // The directory bears the container's name.
        id: run_dir.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
        spec: &config.spec,
        bundle: run_dir,
        rootfs: &config.rootfs,
        user: config.user.as_deref(),
        create_cwd: config.create_cwd,
        network_namespace,
        seccomp,
        stdio: pipes.stdio(process),
        cgroup: Location::Root(cgroup),
        parent_death_signal: true,
        init: config.init,
        extra_descriptors: &[],
        start_fifo: None,
        no_pivot: false,
        keep_keyring: false,
    })?;
    let ends = pipes.ends(created.container().console_master.as_ref())?;
    Ok((created, ends))
}

/// Starts a further process in `container`.
pub(crate) fn exec_process(
    container: &Container,
    options: &ExecOptions,
    seccomp: Option<&Program>,
) -> Result<(Execed, Ends), Failure> {
    let process = &options.process;
    let open_stdin = options.attach.as_ref().is_some_and(|attach| attach.stdin);
    let pipes = Pipes::for_process(process, open_stdin, options.attach.is_some())?;
    let execed = exec(&ExecRequest {
        pid: container.pid,
        pidfd: container.pidfd.as_fd(),
        cgroup: &container.cgroup,
        process,
        user: options.user.as_deref(),
        seccomp,
        stdio: pipes.stdio(process),
        extra_descriptors: &[],
        parent_death_signal: true,
    })?;
    let ends = pipes.ends(execed.console_master.as_ref())?;
    Ok((execed, ends))
}

/// The pipes of a process without terminal; ours and its ends.
#[derive(Debug, Default)]
struct Pipes {
    /// The process has a stdin to write to.
    input: bool,
    ours: Ends,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Pipes {
    /// `stdin`: a pipe instead of `/dev/null`. `output`: somebody wants it.
    fn for_process(process: &Process, stdin: bool, output: bool) -> Result<Self, Failure> {
        let mut pipes = Self { input: stdin, ..Self::default() };
        if process.terminal {
            return Ok(pipes);
        }
        if stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes.stdin, pipes.ours.stdin) = (Some(theirs), Some(ours));
        }
        if output {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes.stdout, pipes.ours.stdout) = (Some(theirs), Some(ours));
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes.stderr, pipes.ours.stderr) = (Some(theirs), Some(ours));
        }
        Ok(pipes)
    }

    fn stdio(&self, process: &Process) -> Stdio<'_> {
        if process.terminal {
            let size = process.console_size.as_ref().map(|size| WindowSize {
                rows: u16::try_from(size.height).unwrap_or(u16::MAX),
                columns: u16::try_from(size.width).unwrap_or(u16::MAX),
            });
            return Stdio::Terminal { size };
        }
        match (&self.stdout, &self.stderr) {
            (Some(stdout), Some(stderr)) => Stdio::Descriptors {
                // The supervisor's own stdin is /dev/null.
                stdin: self.stdin.as_ref().map_or_else(|| rustix::stdio::stdin(), |pipe| pipe.as_fd()),
                stdout: stdout.as_fd(),
                stderr: stderr.as_fd(),
            },
            _ => Stdio::Null,
        }
    }

    /// Our ends. The process has its own by now; the copies here are closed, so that the pipes end with it.
    fn ends(self, console_master: Option<&OwnedFd>) -> Result<Ends, Failure> {
        // Two descriptors, since one is watched for reading and the other for writing.
        let copy = |master: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(master, 3);
        match console_master {
            Some(master) => {
                let stdin = if self.input { Some(copy(master)?) } else { None };
                Ok(Ends { stdin, stdout: Some(copy(master)?), stderr: None })
            }
            None => Ok(self.ours),
        }
    }
}

impl Failure {
    /// A failure with a message of ours.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<palan_runtime::Error> for Failure {
    fn from(error: palan_runtime::Error) -> Self {
        let kind = match error.kind() {
            _ if is_no_space(&error) => FailureKind::NoSpace,
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
fn is_no_space(error: &palan_runtime::Error) -> bool {
    if let palan_runtime::Error::Child { errno, .. } = error {
        return *errno == Some(Errno::NOSPC.raw_os_error());
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::StorageFull;
        }
        cause = error.source();
    }
    false
}
