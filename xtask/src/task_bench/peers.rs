//! Palan's daemon and the peers, each on a private root; ended and removed when dropped.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use palan_test_support::image::{ImageBuilder, TarBuilder};
use palan_test_support::wait_until;

use crate::Failure;
use crate::process::{check, command, find, output};

/// Everything that is measured.
pub(crate) struct Bench {
    pub(crate) directory: PathBuf,
    pub(crate) palan: PathBuf,
    /// A bundle whose process is `true`.
    pub(crate) bundle: PathBuf,
    daemon: Mutex<Child>,
    docker: Option<Docker>,
}

/// A Docker daemon in a network namespace of its own.
struct Docker {
    child: Mutex<Child>,
    socket: PathBuf,
}

impl Bench {
    pub(crate) fn set_up(palan: PathBuf) -> Result<Self, Failure> {
        let directory = std::env::temp_dir().join(format!("palan-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let archive = directory.join("bb.tar");
        std::fs::write(&archive, busybox()?.build().docker_archive(&["bb:latest"]))?;
        let daemon = Mutex::new(start_palan(&palan, &directory)?);
        let bundle = make_bundle(&palan, &directory)?;
        let mut bench = Self { directory, palan, bundle, daemon, docker: None };
        bench.wait_for(&mut || bench_answers(&bench.palan, &bench.directory))?;
        check(bench.ours(&["load", "-q", "-i"]).arg(&archive).stdout(Stdio::null()))?;
        if find("dockerd").is_some() && find("docker").is_some() {
            let docker = start_docker(&bench.directory)?;
            let socket = docker.socket.clone();
            bench.docker = Some(docker);
            bench.wait_for(&mut || output(docker_command(&socket).arg("version")).is_ok())?;
            check(docker_command(&socket).args(["load", "-q", "-i"]).arg(&archive).stdout(Stdio::null()))?;
        }
        if find("podman").is_some() {
            let loaded = check(bench.podman(&["load", "-q", "-i"]).arg(&archive).stdout(Stdio::null()));
            if let Err(failure) = loaded {
                super::report::say(&format!("podman takes no part: {failure}"))?;
            }
        }
        Ok(bench)
    }

    fn wait_for(&self, answers: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        if wait_until(Duration::from_secs(20), answers) {
            return Ok(());
        }
        let log = |name: &str| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        Err(format!("a daemon does not answer:\n{}\n{}", log("palan.log"), log("docker.log")).into())
    }

    /// `palan` against our daemon.
    pub(crate) fn ours(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.palan);
        command.env("PALAN_HOST", format!("unix://{}/palan.sock", self.directory.display())).args(arguments);
        command
    }

    /// Docker's CLI against its daemon, if it is installed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Option<Command> {
        let docker = self.docker.as_ref()?;
        let mut command = docker_command(&docker.socket);
        command.args(arguments);
        Some(command)
    }

    /// Where Docker's daemon listens, if it is installed.
    pub(crate) fn docker_socket(&self) -> Option<&Path> {
        self.docker.as_ref().map(|docker| docker.socket.as_path())
    }

    /// Podman on a private root.
    pub(crate) fn podman(&self, arguments: &[&str]) -> Command {
        let mut command = command("podman");
        command
            .arg("--root")
            .arg(self.directory.join("podman"))
            .arg("--runroot")
            .arg(self.directory.join("podman-run"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]).args(arguments);
        command
    }

    /// The process id of Docker's daemon, if it is installed.
    pub(crate) fn docker_pid(&self) -> Option<u32> {
        self.docker.as_ref().map(|docker| lock(&docker.child).id())
    }

    /// The daemon's process id.
    pub(crate) fn daemon_pid(&self) -> u32 {
        lock(&self.daemon).id()
    }

    /// Kills our daemon and starts another; how long it takes until it answers.
    pub(crate) fn restart_ours(&self) -> Result<Duration, Failure> {
        let mut daemon = lock(&self.daemon);
        daemon.kill()?;
        daemon.wait()?;
        let begun = Instant::now();
        *daemon = start_palan(&self.palan, &self.directory)?;
        answered(&self.directory.join("palan.sock"), begun)
    }

    /// Ends Docker's daemon and starts another; how long it takes until it answers.
    pub(crate) fn restart_docker(&self) -> Result<Duration, Failure> {
        let docker = self.docker.as_ref().ok_or("no docker")?;
        let mut child = lock(&docker.child);
        end(&mut child, Duration::from_secs(60));
        let begun = Instant::now();
        *child = spawn_docker(&self.directory, &docker.socket)?;
        answered(&docker.socket, begun)
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the answer to a ping.
fn answered(socket: &Path, begun: Instant) -> Result<Duration, Failure> {
    let ping = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: d\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b" 200"))
    };
    while begun.elapsed() < Duration::from_secs(120) {
        if matches!(ping(), Ok(true)) {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("no daemon answers on {}", socket.display()).into())
}

fn bench_answers(palan: &Path, directory: &Path) -> bool {
    let host = format!("unix://{}/palan.sock", directory.display());
    output(command(palan).env("PALAN_HOST", host).arg("version")).is_ok()
}

fn busybox() -> Result<ImageBuilder, Failure> {
    let program = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"))?;
    let mut tar = TarBuilder::new()
        .directory("bin/", 0o755)
        .directory("etc/", 0o755)
        .file("etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\n")
        .file("bin/busybox", 0o755, program);
    for applet in ["cat", "echo", "head", "seq", "sh", "sleep", "true", "yes"] {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(ImageBuilder::new()
        .layer(tar.finish())
        .config("Env", serde_json::json!(["PATH=/bin"]))
        .config("Cmd", serde_json::json!(["true"])))
}

fn start_palan(palan: &Path, directory: &Path) -> Result<Child, Failure> {
    let settings = directory.join("daemon.json");
    // Docker's daemon has a network namespace without a default route, whose MTU it would take.
    let text = r#"{"bridge": "palanbench0", "cgroup-parent": "/palan-bench", "mtu": 1500}"#;
    std::fs::write(&settings, text)?;
    let log = std::fs::File::create(directory.join("palan.log"))?;
    Ok(command(palan)
        .args(["daemon", "--data-root"])
        .arg(directory.join("data"))
        .arg("--run-root")
        .arg(directory.join("run"))
        .arg("--config-file")
        .arg(&settings)
        .args(["-H", &format!("unix://{}/palan.sock", directory.display())])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?)
}

fn docker_command(socket: &Path) -> Command {
    let mut command = command("docker");
    command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    command
}

fn start_docker(directory: &Path) -> Result<Docker, Failure> {
    let socket = directory.join("docker.sock");
    let child = Mutex::new(spawn_docker(directory, &socket)?);
    Ok(Docker { child, socket })
}

fn spawn_docker(directory: &Path, socket: &Path) -> Result<Child, Failure> {
    let log = std::fs::File::create(directory.join("docker.log"))?;
    Ok(command("unshare")
        .args(["--net", "--mount", "--", "dockerd", "--data-root"])
        .arg(directory.join("docker"))
        .arg("--exec-root")
        .arg(directory.join("docker-run"))
        .arg("--pidfile")
        .arg(directory.join("docker.pid"))
        .args(["--cgroup-parent", "/docker-bench", "--storage-driver", "overlay2"])
        .args(["-H", &format!("unix://{}", socket.display())])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?)
}

/// A bundle as `runtime spec` makes it, without a terminal. It has no seccomp profile.
fn make_bundle(palan: &Path, directory: &Path) -> Result<PathBuf, Failure> {
    let bundle = directory.join("bundle");
    let bin = bundle.join("rootfs/bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::copy("/usr/bin/busybox", bin.join("busybox"))?;
    for applet in ["true", "sh"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet))?;
    }
    check(command(palan).args(["runtime", "spec"]).current_dir(&bundle))?;
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    // Older peers refuse a version that they don't know.
    spec["ociVersion"] = "1.0.2".into();
    // An rlimit above the hard limit is refused where root lacks CAP_SYS_RESOURCE.
    spec["process"]["rlimits"] = serde_json::json!([]);
    std::fs::write(&path, serde_json::to_vec(&spec)?)?;
    Ok(bundle)
}

fn end(child: &mut Child, patience: Duration) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    if !wait_until(patience, || matches!(child.try_wait(), Ok(Some(_)))) {
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let left = output(&mut self.ours(&["ps", "-aq"])).unwrap_or_default();
        for id in left.split_whitespace() {
            output(&mut self.ours(&["rm", "-f", id])).ok();
        }
        end(&mut lock(&self.daemon), Duration::from_secs(10));
        if let Some(docker) = self.docker.take() {
            let left = output(docker_command(&docker.socket).args(["ps", "-aq"])).unwrap_or_default();
            for id in left.split_whitespace() {
                output(docker_command(&docker.socket).args(["rm", "-f", id])).ok();
            }
            end(&mut lock(&docker.child), Duration::from_secs(20));
        }
        if find("podman").is_some() {
            output(&mut self.podman(&["rm", "-af"])).ok();
            output(&mut self.podman(&["unshare", "true"])).ok();
        }
        for path in ["buildah/overlay", "podman/overlay", "docker/overlay2"] {
            rustix::mount::unmount(self.directory.join(path), rustix::mount::UnmountFlags::DETACH).ok();
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}
