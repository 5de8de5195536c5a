//! A daemon with everything of its own: data root, run root, socket, bridge, address range, cgroup. When it is dropped
//! it is stopped and searched for leaks: processes, mounts, cgroups, links, tables, files.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::leaks;
use crate::{PATIENCE, wait_until};

/// What a finished command left: its output and its exit code.
#[derive(Debug, Clone)]
pub struct Run {
    /// The standard output, as text.
    pub stdout: String,
    /// The standard error, as text.
    pub stderr: String,
    /// The exit code; 128 + n after a signal.
    pub code: i32,
    /// The command line, for messages.
    pub command: String,
}

impl Run {
    fn from_output(command: &Command, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1),
            command: format!("{command:?}"),
        }
    }

    /// Panics, showing everything, unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{self}");
        self
    }

    /// Panics unless the command ended with `code` and its standard error contains `text`.
    #[track_caller]
    pub fn fails(self, code: i32, text: &str) -> Self {
        assert!(self.code == code && self.stderr.contains(text), "expected code {code} and {text:?}\n{self}");
        self
    }

    /// The standard output without the last line end.
    pub fn line(&self) -> &str {
        self.stdout.trim_end_matches('\n')
    }
}

impl fmt::Display for Run {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}\ncode: {}\nstdout:\n{}\nstderr:\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Settings of a daemon under test.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More of `daemon.json`, as the inside of an object: `"registry-mirrors": ["http://127.0.0.1:5000"]`.
    pub settings: Option<String>,
    /// Lays the data root on this directory (which must be empty) and not on a fresh one; for small file systems.
    pub data_root: Option<PathBuf>,
    /// Words before the daemon's command line, which replace themselves by it: `unshare --mount`.
    pub launcher: Vec<String>,
    /// More of the daemon's command line.
    pub arguments: Vec<String>,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    directory: tempfile::TempDir,
    data_root: PathBuf,
    bridge: String,
    subnet: String,
    cgroup: String,
    launcher: Vec<String>,
    arguments: Vec<String>,
    child: Option<Child>,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The program under test: `PALAN_BIN`, which `cargo xtask test` sets.
pub fn program() -> PathBuf {
    let path = std::env::var_os("PALAN_BIN")
        .expect("PALAN_BIN names no program: run the tests by `cargo xtask test`");
    PathBuf::from(path)
}

impl Daemon {
    /// Starts a daemon with the default settings and waits until it answers.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a daemon and waits until it answers.
    #[track_caller]
    pub fn start_with(options: Options) -> Self {
        // Fails here, before there is anything to drop.
        program();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let directory =
            tempfile::Builder::new().prefix("palan-test-").tempdir().expect("a temporary directory");
        let data_root = options.data_root.unwrap_or_else(|| directory.path().join("data"));
        let mut daemon = Self {
            data_root,
            bridge: format!("pt{:x}n{number:x}", process & 0xf_ffff),
            subnet: format!("10.{}.{}.1/24", 100 + process % 100, number % 256),
            cgroup: format!("/palan-test-{process}-{number}"),
            launcher: options.launcher,
            arguments: options.arguments,
            directory,
            child: None,
        };
        let settings = options.settings.map(|more| format!(", {more}")).unwrap_or_default();
        std::fs::write(
            daemon.settings(),
            format!(
                r#"{{"bridge": "{}", "bip": "{}", "cgroup-parent": "{}"{settings}}}"#,
                daemon.bridge, daemon.subnet, daemon.cgroup
            ),
        )
        .expect("settings written");
        daemon.launch(&[]);
        daemon
    }

    fn settings(&self) -> PathBuf {
        self.directory.path().join("daemon.json")
    }

    /// A directory that lives as long as this daemon.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Where the daemon keeps images and containers.
    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// Where the daemon keeps sockets and journals.
    pub fn run_root(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("palan.sock")
    }

    /// `unix://` and the socket's path.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The bridge's address with the prefix length, `10.1.2.1/24`.
    pub fn subnet(&self) -> &str {
        &self.subnet
    }

    /// The address that the host has on the bridge.
    pub fn gateway(&self) -> &str {
        self.subnet.split('/').next().unwrap_or_default()
    }

    /// The name of the bridge.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The cgroup below which the containers' lie.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// What the daemon wrote to its standard error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("daemon.log")).unwrap_or_default()
    }

    fn launch(&mut self, more: &[&str]) {
        self.child = Some(self.spawn(more));
        let answered = wait_until(Duration::from_secs(60), || {
            if let Some(child) = self.child.as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            UnixStream::connect(self.socket()).is_ok()
        });
        assert!(answered, "the daemon does not answer:\n{}", self.log());
    }

    /// Starts another daemon in the place of this one and waits until this one has gone, which it must do in order.
    pub fn replace(&mut self) {
        let new = self.spawn(&["--replace"]);
        let mut old = self.child.replace(new).expect("the daemon runs");
        let mut ended = None;
        wait_until(Duration::from_secs(90), || {
            ended = old.try_wait().ok().flatten();
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}:\n{}", self.log());
    }

    /// Starts another daemon with these arguments that is to fail, and waits for that.
    pub fn replace_in_vain(&mut self, arguments: &[&str]) {
        let status = self.spawn(arguments).wait().expect("the daemon was reaped");
        assert!(!status.success(), "the daemon did not fail:\n{}", self.log());
    }

    #[expect(clippy::disallowed_methods, reason = "a test starts the product as a user does")]
    fn spawn(&self, more: &[&str]) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("daemon.log"))
            .expect("a log file");
        let mut words = self.launcher.iter().map(PathBuf::from).chain([program()]);
        let first = words.next().expect("the program is there in any case");
        Command::new(first)
            .args(words)
            .arg("daemon")
            .arg("--data-root")
            .arg(&self.data_root)
            .arg("--run-root")
            .arg(self.run_root())
            .arg("--config-file")
            .arg(self.settings())
            .args(["-H", &self.host()])
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon started")
    }

    /// Ends the daemon with SIGKILL, as an out-of-memory killer would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the daemon was there to kill");
            child.wait().expect("the daemon was reaped");
        }
    }

    /// Ends the daemon with SIGTERM and waits for it.
    pub fn terminate(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the daemon was there");
        let ended = wait_until(Duration::from_secs(60), || matches!(child.try_wait(), Ok(Some(_))));
        if !ended {
            child.kill().ok();
            child.wait().ok();
            panic!("the daemon did not end within 60 s of SIGTERM:\n{}", self.log());
        }
    }

    /// Starts the daemon again on the same directories, after [`Self::kill`] or [`Self::terminate`].
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.launch(&[]);
    }

    /// The same with `--replace`, although there is none to replace.
    pub fn start_replacing(&mut self) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.launch(&["--replace"]);
    }

    /// A `palan` command against this daemon, ready for more arguments.
    #[expect(clippy::disallowed_methods, reason = "a test starts the product as a user does")]
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        self.prepare(&mut command);
        command
    }

    /// A command of Docker's own CLI against this daemon.
    #[expect(clippy::disallowed_methods, reason = "the unmodified client of the peer")]
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.directory.path().join("docker-config"))
            .env_remove("PALAN_HOST")
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
    }

    /// Runs `palan` with these arguments to its end.
    pub fn palan<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        let mut command = self.command();
        command.args(arguments);
        finish(&mut command, None)
    }

    /// Runs `palan` with these arguments and this standard input.
    pub fn palan_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Run {
        let mut command = self.command();
        command.args(arguments);
        finish(&mut command, Some(input))
    }

    /// Runs Docker's CLI with these arguments to its end.
    pub fn docker<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        let mut command = self.docker_command();
        command.args(arguments);
        finish(&mut command, None)
    }

    /// Everything that would outlive this daemon wrongly; empty when all is well.
    pub fn leaks(&self) -> Vec<String> {
        leaks::find(self)
    }

    /// Removes the networks of the test's own; returns the names of bridges that are there nevertheless.
    fn remove_networks(&self) -> Vec<String> {
        let ids = self.palan(["network", "ls", "-q", "--no-trunc", "--filter", "type=custom"]);
        let ids: Vec<&str> = ids.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            self.palan(["network", "rm"].into_iter().chain(ids.iter().copied()));
        }
        let bridges = ids.iter().filter_map(|id| Some(format!("br-{}", id.get(..12)?)));
        bridges.filter(|bridge| Path::new("/sys/class/net").join(bridge).exists()).collect()
    }

    /// Addresses that are given out although there is no container, by network; empty when all is well.
    fn leases(&self) -> Vec<String> {
        let ids = self.palan(["network", "ls", "-q", "--no-trunc", "--filter", "driver=bridge"]);
        let mut inspect = vec!["network", "inspect"];
        inspect.extend(ids.stdout.split_whitespace());
        let shown = self.palan(inspect);
        let networks: Vec<serde_json::Value> = serde_json::from_str(&shown.stdout).unwrap_or_default();
        let mut found = Vec::new();
        for network in networks {
            for config in network["IPAM"]["Config"].as_array().into_iter().flatten() {
                let subnet = config["Subnet"].as_str().unwrap_or_default();
                // The network's own address and, in IPv4, the one of everybody; the gateway's; those that others have.
                let own = if subnet.contains(':') { 1 } else { 2 };
                let gateway =
                    u64::from(config["Gateway"].as_str().is_some_and(|gateway| !gateway.is_empty()));
                let others = config["AuxiliaryAddresses"].as_object().map_or(0, serde_json::Map::len);
                let expected = own + gateway + others as u64;
                let in_use = network["Status"]["IPAM"]["Subnets"][subnet]["IPsInUse"].as_u64();
                if in_use.is_some_and(|in_use| in_use > expected) {
                    found
                        .push(format!("addresses of {}: {in_use:?} in use, not {expected}", network["Name"]));
                }
            }
        }
        found
    }

    /// Network namespaces that the daemon holds although there is no container, but for one in reserve; none when all is well.
    fn namespaces(&self) -> Vec<String> {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let own = std::fs::read_link(process.join("ns/net")).ok();
        let mut held = Vec::new();
        wait_until(PATIENCE, || {
            let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            let foreign = targets.filter(|target| Some(target) != own.as_ref());
            held = foreign.map(|target| target.display().to_string()).collect();
            held.retain(|target| target.starts_with("net:["));
            held.sort_unstable();
            held.dedup();
            held.len() <= 1
        });
        if held.len() <= 1 { Vec::new() } else { held }
    }

    fn remove_containers(&self) {
        let ids = self.palan(["ps", "-aq"]);
        let ids: Vec<&str> = ids.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            self.palan(["rm", "-f", "-v"].into_iter().chain(ids));
        }
    }
}

/// Runs a command to its end, feeding `input`, within two minutes.
#[track_caller]
pub fn finish(command: &mut Command, input: Option<&[u8]>) -> Run {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let feeder = child.stdin.take().zip(input.map(<[u8]>::to_vec)).map(|(mut pipe, input)| {
        std::thread::spawn(move || {
            // A command that ends before it has read everything is no failure of the test's.
            pipe.write_all(&input).ok();
        })
    });
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let overdue = receiver.recv_timeout(Duration::from_secs(120))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if overdue {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        overdue
    });
    let output = child.wait_with_output().expect("the output of the command");
    sender.send(()).ok();
    let overdue = watchdog.join().unwrap_or(false);
    if let Some(feeder) = feeder {
        feeder.join().ok();
    }
    let run = Run::from_output(command, output);
    assert!(!overdue, "the command did not end within 120 s\n{run}");
    run
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if self.child.is_none() {
            self.launch(&[]);
        }
        self.remove_containers();
        let mut held = Vec::new();
        if !panicking {
            // The removal of a container may still be under way that the test did not wait for.
            wait_until(PATIENCE, || {
                held = self.leases();
                held.is_empty()
            });
            held.extend(self.namespaces());
        }
        let bridges = self.remove_networks();
        if panicking {
            // The test has failed already: clear away without judging.
            let log = self.log();
            let tail = log.len().saturating_sub(8000);
            let tail = (tail..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
            let mut out = std::io::stderr();
            writeln!(out, "--- the daemon's log ---\n{}--- end of the daemon's log ---", &log[tail..]).ok();
            let pid = self.child.as_ref().map(rustix::process::Pid::from_child);
            if let (Some(pid), Some(mut child)) = (pid, self.child.take()) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
                let deadline = Instant::now() + Duration::from_secs(5);
                while Instant::now() < deadline && !matches!(child.try_wait(), Ok(Some(_))) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                child.kill().ok();
                child.wait().ok();
            }
            leaks::clear(self);
            return;
        }
        self.terminate();
        let mut found = Vec::new();
        wait_until(PATIENCE, || {
            found = self.leaks();
            found.extend(bridges.iter().map(|bridge| format!("link {bridge}")));
            found.extend(held.iter().cloned());
            found.is_empty()
        });
        if !found.is_empty() {
            leaks::clear(self);
            panic!("left behind:\n{}\nthe daemon's log:\n{}", found.join("\n"), self.log());
        }
    }
}
