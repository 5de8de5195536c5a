//! Containers without a daemon: a bundle, and an OCI runtime by its command line.
//!
//! The runtime is `palan runtime`. `PALAN_TEST_RUNTIME` names another program with runc's command line instead: a test that
//! replays an attack is worth something only if it fails with a runtime that the attack was found in.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::daemon::{Run, finish, program};

/// A directory with a specification and a root file system of busybox; removed, with what still runs of it, when dropped.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
    id: String,
    /// The specification, like Docker's for a default container but for seccomp.
    pub spec: Value,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Bundle {
    /// A bundle whose container runs these words.
    #[track_caller]
    pub fn new(arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("palan-bundle-").tempdir().expect("a directory");
        // Whoever is another user in the container has to get in.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("the directory opened");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("palan-bundle-{}-{number}", std::process::id());
        let bundle = Self { spec: specification(&id, arguments), id, directory };
        fill(&bundle.rootfs());
        bundle
    }

    /// A shell script in a container.
    #[track_caller]
    pub fn script(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// The container's name, which its cgroup has, too.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.mounts().push(mount);
    }

    /// Adds a bind mount of a path of the host.
    pub fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) {
        let options: Vec<&str> = ["rbind", "rprivate"].iter().chain(options).copied().collect();
        self.mount(destination, "bind", &source.display().to_string(), &options);
    }

    /// Takes out every mount on or below a path.
    pub fn unmount(&mut self, destination: &str) {
        self.mounts().retain(|mount| {
            !mount["destination"].as_str().is_some_and(|path| Path::new(path).starts_with(destination))
        });
    }

    /// Takes a namespace out: the container has the host's.
    pub fn share(&mut self, kind: &str) {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut().expect("a list of namespaces");
        namespaces.retain(|namespace| namespace["type"] != kind);
    }

    fn mounts(&mut self) -> &mut Vec<Value> {
        self.spec["mounts"].as_array_mut().expect("a list of mounts")
    }

    /// A command of the runtime's, in the bundle.
    #[expect(clippy::disallowed_methods, reason = "a test starts the product as a user does")]
    pub fn command(&self) -> Command {
        let mut command = match std::env::var_os("PALAN_TEST_RUNTIME") {
            Some(other) => Command::new(other),
            None => {
                let mut own = Command::new(program());
                own.arg("runtime");
                own
            }
        };
        command.arg("--root").arg(self.path().join("state")).current_dir(self.path());
        command
    }

    /// Runs the container to its end.
    #[track_caller]
    pub fn run(&self) -> Run {
        self.write();
        let mut command = self.command();
        command.args(["run", &self.id]);
        finish(&mut command, None)
    }

    /// Runs the container in the background; its output goes nowhere.
    #[track_caller]
    pub fn start(&self) -> Running<'_> {
        self.write();
        // A file, not a pipe: the container keeps it open.
        let errors = self.path().join("errors");
        let mut command = self.command();
        command.args(["run", "--detach", &self.id]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).expect("a file for errors"));
        let status = command.status().expect("the runtime ran");
        let errors = std::fs::read_to_string(errors).unwrap_or_default();
        assert!(status.success(), "{command:?}: {errors}");
        Running { bundle: self }
    }

    fn write(&self) {
        std::fs::write(self.path().join("config.json"), self.spec.to_string()).expect("config.json");
    }

    fn delete(&self) {
        let mut command = self.command();
        finish(command.args(["delete", "--force", &self.id]), None);
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.path().join("state").join(&self.id).exists() {
            self.delete();
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let place = self.path().display().to_string();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&place)).collect();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "mounts are left on the host: {left:?}");
        }
    }
}

/// A container that runs.
#[derive(Debug)]
pub struct Running<'a> {
    bundle: &'a Bundle,
}

impl Running<'_> {
    /// Runs a command in it; `flags` stand before the container's name.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], command: &[&str]) -> Run {
        let mut words = self.bundle.command();
        words.arg("exec").args(flags).arg(&self.bundle.id).args(command);
        finish(&mut words, None)
    }

    /// The host's number of its first process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let state = finish(self.bundle.command().args(["state", &self.bundle.id]), None).ok();
        let state: Value = serde_json::from_str(&state.stdout).expect("the state is JSON");
        state["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a process")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.bundle.delete();
    }
}

/// A root file system of Debian's static busybox.
fn fill(root: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        std::fs::create_dir_all(root.join(name)).expect("a directory");
    }
    let host = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let host = host.expect("busybox-static is installed");
    std::fs::copy(host, root.join("bin/busybox")).expect("busybox copied");
    #[expect(clippy::disallowed_methods, reason = "the program that the test containers run")]
    let list = finish(Command::new(host).arg("--list"), None).ok();
    for applet in list.stdout.lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/tmp:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).expect("a file");
    std::fs::write(root.join("etc/group"), "root:x:0:\nstaff:x:50:alice\n").expect("a file");
}

fn specification(id: &str, arguments: &[&str]) -> Value {
    let capabilities: Vec<String> =
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE \
         SYS_CHROOT KILL AUDIT_WRITE"
            .split(' ')
            .map(|name| format!("CAP_{name}"))
            .collect();
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": arguments,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": namespaces.map(|kind| json!({"type": kind})),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
                "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
                {"allow": true, "type": "b", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"},
            ]},
        },
    })
}
