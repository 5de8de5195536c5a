//! Further processes in a running container.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;

use palan_linux::process as os;
use palan_oci::runtime_spec::Process;
use palan_runtime::seccomp::Program;
use palan_runtime::{Container, Error, ExecRequest, FailureKind, Stdio, exec};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::support::{Sandbox, pipe};

/// A container that sleeps; killed and removed at the end.
pub(crate) struct Running {
    pub(crate) sandbox: Sandbox,
    pub(crate) container: Container,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self::of(Sandbox::new(&["sleep", "1000"]))
    }

    pub(crate) fn of(sandbox: Sandbox) -> Self {
        let container = sandbox.start(Stdio::Null).unwrap_or_else(|error| panic!("{}", error.report()));
        Self { sandbox, container }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.container.pid
    }

    pub(crate) fn process(&self, arguments: &[&str]) -> Process {
        let mut process = self.sandbox.spec.process.clone().unwrap();
        process.args = arguments.iter().map(|&argument| argument.to_owned()).collect();
        process
    }

    pub(crate) fn exec(&self, process: &Process, user: Option<&str>) -> Result<(i32, String), Error> {
        self.exec_filtered(process, user, None)
    }

    pub(crate) fn exec_filtered(
        &self,
        process: &Process,
        user: Option<&str>,
        seccomp: Option<&Program>,
    ) -> Result<(i32, String), Error> {
        let (read, write) = pipe();
        let null = File::open("/dev/null").unwrap();
        let stdio = Stdio::Descriptors { stdin: null.as_fd(), stdout: write.as_fd(), stderr: write.as_fd() };
        let execed = exec(&ExecRequest {
            pid: self.container.pid,
            pidfd: self.container.pidfd.as_fd(),
            cgroup: &self.container.cgroup,
            process,
            personality: None,
            memory_policy: None,
            user,
            groups: &[],
            seccomp,
            state: &self.container.state,
            stdio,
            extra_descriptors: &[],
            parent_death_signal: false,
        })?;
        drop(write);
        let mut output = String::new();
        File::from(read).read_to_string(&mut output).unwrap();
        Ok((os::wait(&execed.pidfd).unwrap().code(), output))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.container.cgroup.kill().unwrap();
        os::wait(&self.container.pidfd).unwrap();
        self.container.cgroup.remove().unwrap();
    }
}

pub(crate) fn joins_everything() {
    let running = Running::new();
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; \
                  cat /proc/self/cgroup; exit 3";
    let (code, output) = running.exec(&running.process(&["sh", "-c", script]), None).unwrap();
    assert_eq!(code, 3);
    let lines: Vec<_> = output.lines().collect();
    for pair in lines[..12].chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    let (_, own) = running.exec(&running.process(&["cat", "/proc/1/cgroup"]), None).unwrap();
    assert_eq!(lines[12..].join("\n"), own.trim_end());
}

pub(crate) fn users_and_directories() {
    let running = Running::new();
    let mut process = running.process(&["sh", "-c", "id; pwd; echo $HOME"]);
    process.cwd = "/tmp".to_owned();
    let (_, output) = running.exec(&process, Some("alice")).unwrap();
    assert_eq!(output, "uid=1000(alice) gid=1001 groups=50(staff),1001\n/tmp\n/tmp\n");
    let (_, output) = running.exec(&process, Some("1:2")).unwrap();
    assert_eq!(output, "uid=1 gid=2 groups=2\n/tmp\n/\n");
    process.cwd = "/nowhere".to_owned();
    let error = running.exec(&process, None).unwrap_err();
    assert_eq!(
        error.report(),
        "chdir to cwd (\"/nowhere\") set in config.json failed: no such file or directory"
    );
}

pub(crate) fn missing_programs() {
    let running = Running::new();
    let error = running.exec(&running.process(&["nonsense"]), None).unwrap_err();
    assert_eq!(error.report(), "exec: \"nonsense\": executable file not found in $PATH");
    assert_eq!(error.kind(), FailureKind::ProgramNotFound);
}

pub(crate) fn ended_container() {
    let running = Running::new();
    running.container.cgroup.kill().unwrap();
    // Until it is reaped its PID and pidfd exist.
    let mut ends = [PollFd::new(&running.container.pidfd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ends, Some(&patience)), Ok(1));
    let error = running.exec(&running.process(&["true"]), None).unwrap_err();
    assert!(matches!(error, Error::NotRunning), "{error:?}");
}

pub(crate) fn terminal() {
    let running = Running::new();
    let process = running.process(&["sh", "-c", "tty; stty size; readlink /proc/self/fd/1"]);
    let execed = exec(&ExecRequest {
        pid: running.container.pid,
        pidfd: running.container.pidfd.as_fd(),
        cgroup: &running.container.cgroup,
        process: &process,
        personality: None,
        memory_policy: None,
        user: None,
        groups: &[],
        seccomp: None,
        state: &running.container.state,
        stdio: Stdio::Terminal {
            size: Some(palan_linux::tty::WindowSize { rows: 33, columns: 99 }),
            translate_newlines: true,
        },
        extra_descriptors: &[],
        parent_death_signal: false,
    })
    .unwrap_or_else(|error| panic!("{}", error.report()));
    let output = read_terminal(execed.console_master.unwrap());
    assert_eq!(os::wait(&execed.pidfd).unwrap().code(), 0);
    assert_eq!(output, "/dev/pts/0\r\n33 99\r\n/dev/pts/0\r\n");
}

/// Reads until the other side is closed, which a terminal reports as an error.
pub(crate) fn read_terminal(master: std::os::fd::OwnedFd) -> String {
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    let mut master = File::from(master);
    while let Ok(length) = master.read(&mut buffer) {
        if length == 0 {
            break;
        }
        output.extend(&buffer[..length]);
    }
    String::from_utf8(output).unwrap()
}
