//! Filters in force: agents that answer for a container, profiles that allow little, ways around.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use palan_oci::runtime_spec::{Seccomp, SeccompArg, SeccompSyscall, Spec};
use palan_oci::runtime_state::ContainerProcessState;
use palan_runtime::seccomp::{Conditions, Profile, kernel_version};

use super::cli::{Nobody, Runtime};
use super::exec::Running;
use crate::support::Sandbox;

/// The agent of `support/agent.c`, running.
struct Agent {
    child: Child,
    output: BufReader<ChildStdout>,
    path: String,
    _directory: tempfile::TempDir,
}

impl Agent {
    /// `None`, said aloud, where there is no compiler.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock").to_str().unwrap().to_owned();
        Self::start_at(path, directory)
    }

    #[allow(clippy::disallowed_methods, reason = "a test starts the peer of the program under test")]
    fn start_at(path: String, directory: tempfile::TempDir) -> Option<Self> {
        let program = compile("tests/support/agent.c", &[], directory.path())?;
        let mut child = Command::new(program).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Self { child, output, path, _directory: directory };
        assert_eq!(agent.line(), "ready");
        Some(agent)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn message(&mut self) -> ContainerProcessState {
        serde_json::from_str(&self.line()).unwrap()
    }

    fn rules(&self, names: &[&str]) -> Seccomp {
        Seccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            listener_path: self.path.clone(),
            listener_metadata: "opaque".into(),
            syscalls: vec![rule(names, "SCMP_ACT_NOTIFY")],
            ..Seccomp::default()
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program in C, statically linked: what busybox does not do. `None`, said aloud, where there is no compiler.
#[allow(clippy::disallowed_methods, reason = "test code; the compiler is a program of its own")]
pub(crate) fn compile(source: &str, flags: &[&str], directory: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let program = directory.join(source.file_stem().unwrap());
    if !palan_test_support::skip::has_program("cc") {
        palan_test_support::skip::note(source.to_str().unwrap(), "needs the program cc");
        return None;
    }
    let status =
        Command::new("cc").args(["-O1", "-static", "-o"]).arg(&program).arg(source).args(flags).status();
    assert!(status.unwrap().success());
    Some(program)
}

fn rule(names: &[&str], action: &str) -> SeccompSyscall {
    SeccompSyscall {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: action.to_owned(),
        ..SeccompSyscall::default()
    }
}

const MKDIR: &[&str] = &["mkdir", "mkdirat"];

pub(crate) fn an_agent_answers() {
    let Some(mut agent) = Agent::start() else { return };
    for no_new_privileges in [false, true] {
        let mut sandbox = Sandbox::new(&["sh", "-c", "mkdir /tmp/x; ls /proc/self/fd; sleep 1000"]);
        sandbox.process().no_new_privileges = no_new_privileges;
        sandbox.spec.annotations = [("org.example".to_owned(), "yes".to_owned())].into();
        let rules = agent.rules(MKDIR);
        sandbox.linux().seccomp = Some(rules.clone());
        let running = Running::of(sandbox);
        let message = agent.message();
        assert_eq!(message.fds, ["seccompFd"]);
        assert_eq!(message.metadata, "opaque");
        assert_eq!((message.pid, message.state.pid), (running.container.pid, running.container.pid));
        assert_eq!((message.state.id.as_str(), message.state.status.as_str()), ("test", "creating"));
        assert_eq!(Path::new(&message.state.bundle), running.sandbox.directory.path());
        assert_eq!(message.state.annotations["org.example"], "yes");
        assert_eq!(message.oci_version, message.state.oci_version);
        // A further process has a filter of its own, whose agent hears of that process.
        let program = palan_runtime::seccomp::Program::compile(&rules).unwrap();
        let mut process =
            running.process(&["sh", "-c", "mkdir /tmp/x; grep PPid /proc/self/status; ls /proc/self/fd"]);
        process.no_new_privileges = no_new_privileges;
        let (_, output) = running.exec_filtered(&process, None, Some(&program)).unwrap();
        assert!(output.starts_with("mkdir: can't create directory '/tmp/x': No medium found\n"), "{output}");
        // Nothing of the listener is left in the container (ls's own directory is the fourth).
        assert!(output.ends_with("\n0\n1\n2\n3\n"), "{output}");
        let message = agent.message();
        assert_eq!((message.state.status.as_str(), message.state.pid), ("running", running.container.pid));
        assert_ne!(message.pid, running.container.pid);
        assert!(!running.sandbox.rootfs().join("tmp/x").exists());
    }
}

/// What the runtime itself calls between the filter and the program goes to the agent, too.
pub(crate) fn an_agent_is_asked_about_everything() {
    let Some(mut agent) = Agent::start() else { return };
    let calls = [
        "access",
        "capget",
        "capset",
        "clone",
        "clone3",
        "close",
        "close_range",
        "execve",
        "faccessat",
        "faccessat2",
        "fcntl",
        "fstat",
        "mmap",
        "newfstatat",
        "open",
        "openat",
        "poll",
        "prctl",
        "read",
        "recvfrom",
        "recvmsg",
        "rt_sigaction",
        "rt_sigprocmask",
        "sendmsg",
        "sendto",
        "setsid",
        "stat",
        "statx",
        "wait4",
    ];
    for no_new_privileges in [false, true] {
        for init in [false, true] {
            let mut sandbox = Sandbox::new(&["sh", "-c", "mkdir /tmp/x; exit 3"]);
            sandbox.process().no_new_privileges = no_new_privileges;
            sandbox.init = init;
            sandbox.linux().seccomp = Some(agent.rules(&calls));
            assert_eq!(sandbox.run().unwrap_or_else(|error| panic!("{}", error.report())).0, 3);
            agent.message();
        }
        let running = Running::new();
        let program = palan_runtime::seccomp::Program::compile(&agent.rules(&calls)).unwrap();
        let mut process = running.process(&["sh", "-c", "exit 4"]);
        process.no_new_privileges = no_new_privileges;
        assert_eq!(running.exec_filtered(&process, None, Some(&program)).unwrap().0, 4);
        agent.message();
    }
}

pub(crate) fn agents_that_are_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("nowhere").to_str().unwrap().to_owned();
    for path in [nowhere.as_str(), "@palan-test-nobody"] {
        for no_new_privileges in [false, true] {
            let mut sandbox = Sandbox::new(&["true"]);
            sandbox.process().no_new_privileges = no_new_privileges;
            sandbox.linux().seccomp = Some(Seccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                listener_path: path.to_owned(),
                syscalls: vec![rule(MKDIR, "SCMP_ACT_NOTIFY")],
                ..Seccomp::default()
            });
            let report = sandbox.error().report();
            assert!(report.starts_with("failed to connect with seccomp agent"), "{report}");
            assert!(!Path::new("/sys/fs/cgroup/pids").join(sandbox.cgroup.trim_start_matches('/')).exists());
        }
    }
    // One that goes away: its calls fail, and nothing waits for ever.
    let Some(agent) = Agent::start_at("@palan-test-short-lived".into(), directory) else { return };
    let mut sandbox = Sandbox::new(&["sh", "-c", "read line; mkdir /tmp/x"]);
    sandbox.linux().seccomp = Some(agent.rules(MKDIR));
    let (read, write) = crate::support::pipe();
    let (input, go) = crate::support::pipe();
    let container = sandbox
        .start(palan_runtime::Stdio::Descriptors {
            stdin: std::os::fd::AsFd::as_fd(&input),
            stdout: std::os::fd::AsFd::as_fd(&write),
            stderr: std::os::fd::AsFd::as_fd(&write),
        })
        .unwrap();
    drop((agent, write, input));
    rustix::io::write(&go, b"\n").unwrap();
    let mut output = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut output).unwrap();
    assert_eq!(output, "mkdir: can't create directory '/tmp/x': Function not implemented\n");
    palan_linux::process::wait(&container.pidfd).unwrap();
    container.cgroup.remove().unwrap();
}

/// By command line: `create` and `start` are two processes, of which the first must have told the agent.
pub(crate) fn agents_by_command_line() {
    let Some(mut agent) = Agent::start() else { return };
    let palan = Runtime::palan();
    for no_new_privileges in [false, true] {
        let mut sandbox = Sandbox::new(&["sh", "-c", "mkdir /tmp/x || touch /tmp/refused; sleep 1000"]);
        sandbox.process().no_new_privileges = no_new_privileges;
        sandbox.linux().seccomp = Some(agent.rules(MKDIR));
        let sandbox = super::cli::written(sandbox);
        let path = sandbox.directory.path();
        // Streams that stay open keep `create` from ending, for those who wait for its output.
        palan.quiet(path, &["create", "asked"]);
        let message = agent.message();
        assert_eq!((message.state.id.as_str(), message.state.status.as_str()), ("asked", "creating"));
        palan.text(path, &["start", "asked"]);
        palan_test_support::wait_until(std::time::Duration::from_secs(10), || {
            sandbox.rootfs().join("tmp/refused").exists()
        });
        let output = palan.call(path, &["exec", "asked", "mkdir", "/tmp/y"]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text, "mkdir: can't create directory '/tmp/y': No medium found\n");
        let message = agent.message();
        assert_eq!((message.state.id.as_str(), message.state.status.as_str()), ("asked", "running"));
        palan.text(path, &["delete", "-f", "asked"]);
        assert!(sandbox.rootfs().join("tmp/refused").exists());
    }
    // No agent, no container.
    drop(agent);
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.linux().seccomp = Some(Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        listener_path: "/nowhere/agent.sock".into(),
        syscalls: vec![rule(MKDIR, "SCMP_ACT_NOTIFY")],
        ..Seccomp::default()
    });
    let sandbox = super::cli::written(sandbox);
    let output = palan.call(sandbox.directory.path(), &["run", "alone"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("failed to connect with seccomp agent"), "{text}");
    assert_eq!(palan.text(sandbox.directory.path(), &["list", "-q"]), "");
}

/// Who is not root may not reach into the process on its way into the container, so that sends its listener.
pub(crate) fn agents_of_users() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut agent) = Agent::start_at("@palan-test-rootless".into(), directory) else { return };
    let sandbox = Sandbox::new(&["true"]);
    let path = sandbox.directory.path();
    let nobody = Nobody::with(path);
    let call = |arguments: &[&str]| nobody.command(path, arguments).output().unwrap();
    assert!(call(&["spec", "--rootless"]).status.success());
    let config = path.join("config.json");
    let mut spec = Spec::from_json(&std::fs::read(&config).unwrap()).unwrap();
    for no_new_privileges in [false, true] {
        let process = spec.process.as_mut().unwrap();
        process.terminal = false;
        process.no_new_privileges = no_new_privileges;
        process.args = ["mkdir", "/dev/shm/x"].map(str::to_owned).to_vec();
        spec.linux.as_mut().unwrap().seccomp = Some(agent.rules(MKDIR));
        std::fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
        let output = call(&["run", "x"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text, "mkdir: can't create directory '/dev/shm/x': No medium found\n");
        assert_eq!(agent.message().state.id, "x");
    }
}

/// A profile made for one small program has to allow the runtime no more than that program needs anyway.
pub(crate) fn profiles_that_allow_little() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = compile("tests/support/small.c", &["-nostdlib"], directory.path()) else { return };
    let small = |no_new_privileges: bool, names: &[&str]| {
        let mut sandbox = Sandbox::new(&["/small"]);
        std::fs::copy(&program, sandbox.rootfs().join("small")).unwrap();
        sandbox.process().no_new_privileges = no_new_privileges;
        sandbox.linux().seccomp = Some(Seccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            syscalls: vec![rule(names, "SCMP_ACT_ALLOW")],
            ..Seccomp::default()
        });
        sandbox
    };
    let sandbox = small(true, &["execve", "rt_sigprocmask", "write", "exit", "exit_group"]);
    assert_eq!(sandbox.output(), "small\n");
    let names = [
        "access",
        "capget",
        "capset",
        "close",
        "close_range",
        "execve",
        "exit",
        "exit_group",
        "faccessat",
        "fcntl",
        "mmap",
        "munmap",
        "newfstatat",
        "openat",
        "getdents64",
        "fstat",
        "lseek",
        "prctl",
        "read",
        "rt_sigprocmask",
        "stat",
        "statx",
        "write",
    ];
    assert_eq!(small(false, &names).output(), "small\n");
    // `create` waits for `start` under the filter.
    let palan = Runtime::palan();
    let sandbox = super::cli::written(small(false, &names));
    palan.text(sandbox.directory.path(), &["run", "small"]);
}

/// Calls of 32-bit programs are other numbers, and one of them is many calls.
pub(crate) fn programs_of_32_bits() {
    let directory = tempfile::tempdir().unwrap();
    if !cfg!(target_arch = "x86_64") {
        palan_test_support::skip::note("programs_of_32_bits", "needs x86_64");
        return;
    }
    let flags = ["-m32", "-nostdlib", "-no-pie"];
    let Some(program) = compile("tests/support/i386.c", &flags, directory.path()) else { return };
    let run = |rules: Option<Seccomp>| {
        let mut sandbox = Sandbox::new(&["/i386"]);
        std::fs::copy(&program, sandbox.rootfs().join("i386")).unwrap();
        sandbox.linux().seccomp = rules;
        sandbox.run().unwrap_or_else(|error| panic!("{}", error.report()))
    };
    let (code, free) = run(None);
    if code != 0 {
        palan_test_support::skip::note("programs_of_32_bits", "this kernel runs none");
        return;
    }
    assert!(free.starts_with("socket inet 0\nsocketcall inet 0\n"), "{free}");
    let conditions = Conditions {
        capabilities: palan_linux::capability::CapabilitySet::empty(),
        kernel: kernel_version(),
    };
    // Networks work by either way; families that no container needs don't, by the way that can be looked at.
    let (code, output) = run(Some(Profile::builtin().resolve(&conditions)));
    assert_eq!(code, 0);
    assert!(
        output.starts_with("socket inet 0\nsocketcall inet 0\nsocket alg 97\nsocket vsock 97\n"),
        "{output}"
    );
    assert!(output.ends_with("unshare user 1\nkeyctl 1\n"), "{output}");
    // A rule about `socket` is about both.
    let deny = |names: &[&str], args: Vec<SeccompArg>| Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        architectures: vec!["SCMP_ARCH_X86".into()],
        syscalls: vec![SeccompSyscall { args, ..rule(names, "SCMP_ACT_ERRNO") }],
        ..Seccomp::default()
    };
    let output = run(Some(deny(&["socket"], vec![]))).1;
    assert!(output.starts_with("socket inet 1\nsocketcall inet 1\n"), "{output}");
    let args = vec![SeccompArg { value: 38, op: "SCMP_CMP_EQ".into(), ..SeccompArg::default() }];
    let output = run(Some(deny(&["socket"], args))).1;
    assert!(output.starts_with("socket inet 0\nsocketcall inet 1\nsocket alg 1\n"), "{output}");
    // An architecture that a profile does not name has no calls at all.
    let rules = Seccomp { architectures: vec![], ..deny(&["mkdir"], vec![]) };
    assert_eq!(run(Some(rules)), (128 + 31, String::new()));
}
