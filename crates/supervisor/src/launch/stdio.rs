//! The pipes between a process without a terminal and this one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use palan_linux::tty::WindowSize;
use palan_oci::runtime_spec::Process;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::protocol::Failure;
use crate::session::Ends;

/// The pipes of a process without terminal; ours and its ends.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    /// The process has a stdin to write to.
    input: bool,
    ours: Ends,
    stdin: Option<OwnedFd>,
    output: Option<[OwnedFd; 2]>,
}

impl Pipes {
    /// `stdin`: a pipe instead of `/dev/null`. `output`: somebody wants it.
    pub(super) fn for_process(process: &Process, stdin: bool, output: bool) -> Result<Self, Failure> {
        let mut pipes = Self { input: stdin, ..Self::default() };
        if process.terminal {
            return Ok(pipes);
        }
        if stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes.stdin, pipes.ours.stdin) = (Some(theirs), Some(ours));
        }
        if output {
            let (our_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
            let (our_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
            (pipes.ours.stdout, pipes.ours.stderr) = (Some(our_stdout), Some(our_stderr));
            pipes.output = Some([stdout, stderr]);
        }
        Ok(pipes)
    }

    /// The process's stdin, stdout and stderr; `None`: nobody reads what it writes, or it has a terminal.
    pub(super) fn theirs(&self) -> Option<[BorrowedFd<'_>; 3]> {
        let [stdout, stderr] = self.output.as_ref()?;
        // The supervisor's own stdin is /dev/null.
        let stdin = self.stdin.as_ref().map_or_else(|| rustix::stdio::stdin(), |pipe| pipe.as_fd());
        Some([stdin, stdout.as_fd(), stderr.as_fd()])
    }

    /// Where the process's stderr can be read.
    pub(super) fn our_stderr(&self) -> Option<&OwnedFd> {
        self.ours.stderr.as_ref()
    }

    /// Our ends. The process has its own by now; the copies here are closed, so that the pipes end with it.
    pub(super) fn ends(self, console_master: Option<&OwnedFd>) -> Result<Ends, Failure> {
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

/// The size that the process's terminal has at first.
pub(super) fn terminal_size(process: &Process) -> Option<WindowSize> {
    process.console_size.as_ref().map(|size| WindowSize {
        rows: u16::try_from(size.height).unwrap_or(u16::MAX),
        columns: u16::try_from(size.width).unwrap_or(u16::MAX),
    })
}
