//! A harness without threads, a root file system, and running a container to its end.

pub(crate) mod systemd;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use palan_linux::process::{self, ExitStatus};
use palan_oci::runtime_spec::{Capabilities, Linux, Mount, Namespace, NamespaceKind, Process, Root, Spec};
use palan_runtime::cgroup::{Cgroup, Location, Place};
use palan_runtime::{Container, CreateRequest, Created, Error, Rootfs, Stdio};

pub(crate) type Case = (&'static str, fn());

/// Runs the cases whose names contain the first argument, one after the other, in this one thread.
pub(crate) fn run(cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in cases {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = missing() {
        println!("SKIPPED all container tests: {reason}");
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = Vec::new();
    for (name, case) in cases {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let result = std::panic::catch_unwind(AssertUnwindSafe(case));
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailures: {failed:?}");
    ExitCode::FAILURE
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    if !Path::new("/usr/bin/busybox").exists() {
        return Some("/usr/bin/busybox (package busybox-static) is not installed");
    }
    None
}

/// A directory with a bundle in it, and a cgroup name, both of its own.
pub(crate) struct Sandbox {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) spec: Spec,
    pub(crate) cgroup: String,
    pub(crate) user: Option<String>,
    pub(crate) create_cwd: bool,
    pub(crate) init: bool,
    pub(crate) overlay: bool,
}

impl Sandbox {
    /// A root with busybox and a specification like Docker's default, that runs `arguments`.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "id", "ls", "true", "false", "sleep", "env", "pwd", "stat", "mount", "touch",
            "echo", "grep", "tty", "stty", "hostname", "readlink", "kill", "ps", "chown", "dd", "mkdir",
            "wc",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/tmp:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nstaff:x:50:alice\n").unwrap();
        let unique = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        Self {
            spec: spec(arguments),
            cgroup: format!("/palan-test-{unique}/c"),
            user: None,
            create_cwd: false,
            init: false,
            overlay: false,
            directory,
        }
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub(crate) fn linux(&mut self) -> &mut Linux {
        self.spec.linux.as_mut().unwrap()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.spec.process.as_mut().unwrap()
    }

    fn root(&self) -> Rootfs {
        if !self.overlay {
            return Rootfs::Directory(self.rootfs());
        }
        let path = |name: &str| self.directory.path().join(name);
        for name in ["upper", "work", "empty"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        Rootfs::Overlay {
            lowers: vec![path("empty"), self.rootfs()],
            upper: path("upper"),
            work: path("work"),
            volatile: true,
        }
    }

    /// Creates and starts the container with the streams.
    pub(crate) fn start(&self, stdio: Stdio<'_>) -> Result<Container, Error> {
        self.create(stdio)?.start()
    }

    /// Creates the container with the streams.
    pub(crate) fn create(&self, stdio: Stdio<'_>) -> Result<Created, Error> {
        let root = self.root();
        palan_runtime::create(&CreateRequest {
            id: "test",
            no_pivot: false,
            keep_keyring: false,
            sources: &[],
            spec: &self.spec,
            bundle: self.directory.path(),
            rootfs: &root,
            user: self.user.as_deref(),
            groups: &[],
            create_cwd: self.create_cwd,
            network_namespace: None,
            seccomp: None,
            stdio,
            cgroup: Location::Root(&self.cgroup),
            parent_death_signal: true,
            init: self.init,
            extra_descriptors: &[],
            start_fifo: None,
        })
    }

    /// Runs it to its end and returns how it ended with all its output, both streams in one.
    pub(crate) fn run(&self) -> Result<(i32, String), Error> {
        let (read, write) = pipe();
        let null = File::open("/dev/null").unwrap();
        let container = self.start(Stdio::Descriptors {
            stdin: null.as_fd(),
            stdout: write.as_fd(),
            stderr: write.as_fd(),
        })?;
        drop(write);
        let mut output = String::new();
        File::from(read).read_to_string(&mut output).unwrap();
        let status = process::wait(&container.pidfd).unwrap();
        container.cgroup.remove().unwrap();
        Ok((code(status), output))
    }

    /// Runs it and expects success; returns the output.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        match self.run() {
            Ok((0, output)) => output,
            Ok((code, output)) => panic!("exit code {code}: {output}"),
            Err(error) => panic!("{}", error.report()),
        }
    }

    /// Expects the creation or the start to fail; returns the error's text.
    #[track_caller]
    pub(crate) fn error(&self) -> Error {
        match self.run() {
            Err(error) => error,
            Ok((code, output)) => panic!("it ran: exit code {code}: {output}"),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let parent = self.cgroup.rsplit_once('/').unwrap().0;
        if let Ok(cgroup) = Cgroup::open(&Place::root(parent)) {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
    }
}

pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code()
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

pub(crate) fn spec(arguments: &[&str]) -> Spec {
    let capabilities: Vec<String> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
    .iter()
    .map(|name| format!("CAP_{name}"))
    .collect();
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(|&option| option.into()).collect(),
        ..Mount::default()
    };
    let namespace = |kind| Namespace { kind, path: String::new() };
    let paths = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect();
    Spec {
        oci_version: "1.0.2".into(),
        process: Some(Process {
            args: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()],
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            ..Process::default()
        }),
        root: Some(Root { path: "rootfs".into(), readonly: false }),
        hostname: "box".into(),
        mounts: vec![
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        linux: Some(Linux {
            namespaces: [
                NamespaceKind::Pid,
                NamespaceKind::Network,
                NamespaceKind::Ipc,
                NamespaceKind::Uts,
                NamespaceKind::Mount,
                NamespaceKind::Cgroup,
            ]
            .map(namespace)
            .to_vec(),
            masked_paths: paths(&[
                "/proc/asound",
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ]),
            readonly_paths: paths(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}
