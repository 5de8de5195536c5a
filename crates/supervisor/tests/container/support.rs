//! One container with its supervisor, driven as the daemon would.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_linux::process::{self, ExitStatus};
use palan_supervisor::client::{self, ClientError, Connection, SpawnRequest, Spawned, SupervisorProgram};
use palan_supervisor::journal::{Entry, Event};
use palan_supervisor::protocol::{
    AttachOptions, Config, ExecOptions, Failure, Framing, LogConfig, Message, Reply, Request, RequestId,
    RestartConfig, RootfsConfig, VERSION, WaitOptions, Welcome,
};
use serde_json::{Value, json};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A container and its supervisor. What was made is removed when it is dropped.
pub(crate) struct Container {
    directory: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) connection: Connection,
    pub(crate) supervisor: Supervised,
    /// Journal entries that came while something else was waited for.
    pub(crate) entries: Vec<Entry>,
    cgroup_parent: String,
}

/// The process.
pub(crate) struct Supervised {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    reaped: bool,
}

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "seq", "stty", "true", "dd", "head", "tail", "id", "sync", "kill", "yes",
    "wc",
];

/// A container that will run `sh -c script`, not started yet.
pub(crate) fn container(script: &str) -> Container {
    command(&["sh", "-c", script])
}

/// A container that will run `arguments`.
pub(crate) fn command(arguments: &[&str]) -> Container {
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("rootfs");
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    std::fs::write(rootfs.join("etc/not-executable"), "text").unwrap();
    std::fs::set_permissions(rootfs.join("etc/not-executable"), PermissionsExt::from_mode(0o644)).unwrap();

    let unique = directory.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
    let cgroup_parent = format!("palan-test-{unique}");
    let config = Config {
        version: VERSION,
        spec: serde_json::from_value(specification(arguments, &format!("/{cgroup_parent}/c"))).unwrap(),
        rootfs: RootfsConfig::Directory(rootfs),
        user: None,
        groups: Vec::new(),
        create_cwd: false,
        init: false,
        log: LogConfig::JsonFile {
            path: directory.path().join("c-json.log"),
            max_size: None,
            max_files: 1,
            attributes: None,
            compressed: false,
        },
        open_stdin: false,
        stdin_once: false,
        stop_signal: 15,
        stop_timeout_ms: 10_000,
        journal_after: 0,
        runtime: None,
        sources: Vec::new(),
        health: None,
        restart: RestartConfig::default(),
    };
    let spawned = spawn(&directory.path().join("run"), &cgroup_parent);
    let mut container = Container {
        directory,
        config,
        connection: spawned.connection,
        supervisor: Supervised { pid: spawned.pid, pidfd: spawned.pidfd, reaped: false },
        entries: Vec::new(),
        cgroup_parent,
    };
    container.hello(0);
    container
}

fn spawn(run_dir: &Path, cgroup_parent: &str) -> Spawned {
    let program = SupervisorProgram::open(Path::new(env!("CARGO_BIN_EXE_palan-supervisor"))).unwrap();
    let cgroup = format!("/{cgroup_parent}/supervisors");
    client::spawn(&SpawnRequest { program: &program, run_dir, cgroup: Some(&cgroup) }).unwrap()
}

fn specification(arguments: &[&str], cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "test",
        "process": process(arguments),
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" },
            ],
        },
    })
}

fn process(arguments: &[&str]) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
    })
}

/// An exec session's options.
pub(crate) fn exec_options(name: &str, arguments: &[&str]) -> ExecOptions {
    ExecOptions {
        exec: name.into(),
        process: serde_json::from_value(process(arguments)).unwrap(),
        user: None,
        groups: Vec::new(),
        attach: None,
        seccomp: false,
    }
}

/// Attached to all three streams.
pub(crate) fn all_streams(framing: Framing) -> AttachOptions {
    AttachOptions { stdin: true, stdout: true, stderr: true, framing, ..Default::default() }
}

/// A connection as the daemon would hand it over, and the client's end.
pub(crate) fn client_socket() -> (OwnedFd, Client) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    (ours.into(), Client(theirs))
}

/// A client's end.
pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    /// Everything until the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Everything until the end, by stream.
    pub(crate) fn rest_by_stream(&mut self) -> (String, String) {
        let bytes = self.rest();
        let (mut out, mut err, mut rest) = (Vec::new(), Vec::new(), bytes.as_slice());
        while let Some((header, data)) = rest.split_first_chunk::<8>() {
            let length = u32::from_be_bytes(*header.last_chunk().unwrap()) as usize;
            let (data, after) = data.split_at(length);
            match header[0] {
                1 => out.extend_from_slice(data),
                2 => err.extend_from_slice(data),
                other => panic!("stream {other}"),
            }
            rest = after;
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    /// Reads until `text` has come; returns all of it.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        while !seen.contains(text) {
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "the end came after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen
    }
}

impl Container {
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// What becomes the container's `/`.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// The text of the log's lines of one stream, without one that is being written.
    pub(crate) fn log(&self, stream: &str) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("c-json.log")).unwrap();
        let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines = complete.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["stream"] == stream)
            .map(|line| line["log"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The raw text of the log.
    pub(crate) fn raw_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("c-json.log")).unwrap()
    }

    /// The raw text of one of the log's files; nothing if there is none.
    pub(crate) fn raw_log_file(&self, suffix: &str) -> String {
        let path = self.directory.path().join(format!("c-json.log{suffix}"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// A new supervisor for the next run; the old one is returned.
    pub(crate) fn respawn(&mut self) -> Supervised {
        let spawned = spawn(&self.run_dir(), &self.cgroup_parent);
        self.connection = spawned.connection;
        let new = Supervised { pid: spawned.pid, pidfd: spawned.pidfd, reaped: false };
        let old = std::mem::replace(&mut self.supervisor, new);
        self.hello(u64::MAX);
        old
    }

    pub(crate) fn hello(&mut self, after_seq: u64) -> Welcome {
        self.connection.send(Request::Hello { version: VERSION, after_seq }, vec![]).unwrap();
        match self.receive() {
            Message::Welcome(welcome) => welcome,
            other => panic!("{other:?} instead of Welcome"),
        }
    }

    pub(crate) fn receive(&mut self) -> Message {
        self.connection.receive_timeout(PATIENCE).unwrap().expect("a message in time")
    }

    pub(crate) fn request(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply, Failure> {
        let id = self.connection.send(request, descriptors).unwrap();
        self.reply(id)
    }

    fn reply(&mut self, wanted: RequestId) -> Result<Reply, Failure> {
        loop {
            match self.receive() {
                Message::Reply { id, result } => {
                    assert_eq!(id, wanted);
                    return result;
                }
                Message::Journal(entry) => self.entries.push(entry),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Starts with these clients; returns init's pid.
    pub(crate) fn start(&mut self, clients: Vec<(OwnedFd, AttachOptions)>) -> i32 {
        match self.try_start(clients, vec![]) {
            Ok(Reply::Started { pid, .. }) => pid,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn try_start(
        &mut self,
        clients: Vec<(OwnedFd, AttachOptions)>,
        waits: Vec<(OwnedFd, WaitOptions)>,
    ) -> Result<Reply, Failure> {
        let (clients, attach): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
        let (connections, waits): (Vec<_>, Vec<_>) = waits.into_iter().unzip();
        let mut descriptors = vec![client::config_file(&self.config).unwrap()];
        descriptors.extend(clients);
        descriptors.extend(connections);
        self.request(
            Request::Start {
                checkpoint: None,
                seccomp: false,
                network_namespace: false,
                joins: Vec::new(),
                shared_mounts: false,
                resolver: false,
                attach,
                waits,
            },
            descriptors,
        )
    }

    /// The next journal entry that `wanted` accepts.
    pub(crate) fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut position = 0;
        loop {
            while let Some(entry) = self.entries.get(position) {
                if wanted(&entry.event) {
                    return self.entries.remove(position).event;
                }
                position += 1;
            }
            match self.receive() {
                Message::Journal(entry) => self.entries.push(entry),
                other => panic!("{other:?} instead of a journal entry"),
            }
        }
    }

    /// The `exit` entry.
    pub(crate) fn exit(&mut self) -> Event {
        self.event(|event| matches!(event, Event::Exit { .. }))
    }

    /// The end of the exec session `name`.
    pub(crate) fn exec_exit(&mut self, name: &str) -> i32 {
        match self.event(|event| matches!(event, Event::ExecExit { exec, .. } if exec == name)) {
            Event::ExecExit { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn reconnect(&mut self, after_seq: u64) -> Welcome {
        self.connection = client::connect(&self.run_dir()).unwrap();
        self.hello(after_seq)
    }

    /// The daemon is gone: its connection is closed and nothing replaces it.
    pub(crate) fn lose_daemon(&mut self) {
        // A connection to nobody: that of a listener which is gone at once.
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        let listener = palan_linux::socket::listen_at(&handle, "supervisor.sock", 0o600).unwrap();
        self.connection = client::connect(directory.path()).unwrap();
        drop(listener);
    }

    /// Waits for the supervisor to end by itself, and checks what it leaves.
    pub(crate) fn assert_clean_end(&mut self) {
        assert_eq!(self.supervisor.wait(), ExitStatus::Exited(0));
        let log = std::fs::read_to_string(self.run_dir().join(client::LOG_NAME)).unwrap();
        assert_eq!(log, "");
        assert!(!self.run_dir().join("supervisor.sock").exists());
        for group in self.cgroups() {
            assert!(!group.join("c").exists(), "{} is left", group.display());
        }
    }

    /// Reads messages until the supervisor closes the connection.
    pub(crate) fn drain_connection(&mut self) {
        loop {
            match self.connection.receive_timeout(PATIENCE) {
                Ok(Some(Message::Journal(entry))) => self.entries.push(entry),
                Ok(Some(_)) => {}
                Ok(None) => panic!("the supervisor does not end"),
                Err(ClientError::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The directories of the container's and the supervisor's cgroups, one for each hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut groups = vec![Path::new("/sys/fs/cgroup").join(&self.cgroup_parent)];
        for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            groups.push(entry.unwrap().path().join(&self.cgroup_parent));
        }
        groups.retain(|group| group.is_dir());
        groups
    }
}

impl Supervised {
    /// Waits for its end, but not for ever.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process::try_wait(self.pidfd.as_fd()).unwrap() {
                self.reaped = true;
                return status;
            }
            assert!(Instant::now() < deadline, "the supervisor does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it has used, if it was not reaped yet.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<u64>().unwrap();
        // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second; the third is the first after the name.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    pub(crate) fn kill(&self) {
        process::send_signal(&self.pidfd, palan_linux::signal::Signal::KILL).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.supervisor.reaped {
            self.supervisor.kill();
            let _ = process::wait(&self.supervisor.pidfd);
        }
        // Init dies with the supervisor, a moment later.
        for group in self.cgroups() {
            for directory in [group.join("c"), group.join("supervisors"), group] {
                retry(|| match std::fs::remove_dir(&directory) {
                    Err(error) if error.kind() == ErrorKind::NotFound => true,
                    result => result.is_ok(),
                });
            }
        }
    }
}

/// Tries until it works or patience ends.
pub(crate) fn retry(mut attempt: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if attempt() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is read when it has been the same for half a second.
pub(crate) fn settled<T: PartialEq>(read: impl Fn() -> T) -> T {
    let mut last = read();
    let mut since = Instant::now();
    let settles = retry(|| {
        let now = read();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    });
    assert!(settles, "it goes on changing");
    last
}

/// Whether a process of this id exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}
