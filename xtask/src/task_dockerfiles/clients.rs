//! The clients that build, and the daemons that they build with.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use palan_test_support::wait_until;

use crate::Failure;
use crate::process::{command, output};

/// Who asks for a build.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client {
    /// `palan build`.
    Palan,
    /// Docker's CLI with its builder from before BuildKit: the context is an archive in the request.
    DockerClassic,
    /// The crate bollard, with BuildKit's protocol.
    Bollard,
}

pub(super) const CLIENTS: [Client; 3] = [Client::Palan, Client::DockerClassic, Client::Bollard];

impl Client {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Palan => "palan build",
            Self::DockerClassic => "docker build (classic)",
            Self::Bollard => "bollard (BuildKit)",
        }
    }

    /// Builds the directory.
    pub(super) fn build(
        self,
        daemon: &Daemon,
        bollard: &Path,
        directory: &Path,
        name: &str,
        arguments: &[(String, String)],
    ) -> Result<(), Failure> {
        let settings: Vec<String> = arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let flags = settings.iter().flat_map(|setting| ["--build-arg", setting]);
        match self {
            Self::Palan => daemon.quietly(
                daemon.ours(&["build", "--progress", "plain", "-t", name]).args(flags).arg(directory),
            ),
            Self::DockerClassic => {
                let mut docker = command("docker");
                docker.env("DOCKER_HOST", daemon.host()).env("DOCKER_BUILDKIT", "0");
                daemon.quietly(docker.args(["build", "-t", name]).args(flags).arg(directory))
            }
            Self::Bollard => {
                let context = daemon.directory.join("context.tar");
                daemon.quietly(command("tar").arg("-C").arg(directory).arg("-cf").arg(&context).arg("."))?;
                let mut build = command(bollard);
                build.arg(daemon.socket()).arg(&context).arg(format!("{name}:latest"));
                daemon.quietly(build.args(&settings))
            }
        }
    }
}

/// A daemon on a private root, ended and removed when dropped.
pub(super) struct Daemon {
    pub(super) directory: PathBuf,
    palan: PathBuf,
    child: Child,
}

impl Daemon {
    /// The number tells its directory and its bridge from those beside it.
    pub(super) fn start(palan: &Path, scratch: &Path, number: usize) -> Result<Self, Failure> {
        let directory = scratch.join(format!("daemon{number}"));
        std::fs::create_dir_all(&directory)?;
        let settings = directory.join("daemon.json");
        let (bridge, parent) = (format!("paldf{number}"), format!("/palan-dockerfiles{number}"));
        std::fs::write(
            &settings,
            serde_json::json!({"bridge": bridge, "cgroup-parent": parent}).to_string(),
        )?;
        let log = std::fs::File::create(directory.join("log"))?;
        let child = command(palan)
            .args(["daemon", "--data-root"])
            .arg(directory.join("data"))
            .arg("--run-root")
            .arg(directory.join("run"))
            .arg("--config-file")
            .arg(&settings)
            .args(["-H", &format!("unix://{}/sock", directory.display())])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let daemon = Self { directory, palan: palan.to_owned(), child };
        let answers = || output(daemon.ours(&["version"]).stderr(Stdio::null())).is_ok();
        if !wait_until(Duration::from_secs(20), answers) {
            return Err(format!("the daemon does not answer:\n{}", daemon.log()).into());
        }
        Ok(daemon)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// `palan` against this daemon.
    pub(super) fn ours(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.palan);
        command.env("PALAN_HOST", self.host()).env("PALAN_NO_AUTOSTART", "1").args(arguments);
        command
    }

    /// Runs to success; what was written is shown only with a failure.
    pub(super) fn quietly(&self, command: &mut Command) -> Result<(), Failure> {
        let path = self.directory.join("output");
        let file = std::fs::File::create(&path)?;
        let status = command.stdout(file.try_clone()?).stderr(file).status()?;
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.iter().skip(lines.len().saturating_sub(40)).copied().collect::<Vec<_>>().join("\n");
        Err(format!("{command:?} ended with {status}:\n{end}").into())
    }

    /// What the daemon has said.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        if !wait_until(Duration::from_secs(20), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}
