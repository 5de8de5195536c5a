//! `cargo xtask demo`: what Palan does, on a machine with nothing but Rust.
//!
//! Builds Palan and two small static programs, starts a daemon on a private root, makes an image of each program, loads and
//! runs them, and fetches a page from the published port. No registry is needed, and nothing stays behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use palan_test_support::image::ImageBuilder;
use palan_test_support::wait_until;

use crate::process::{cargo, check, command, host_triple, output, root};
use crate::{Failure, task_dist};

/// Runs the demonstration.
pub(crate) fn run() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("containers need root here: run `sudo -E cargo xtask demo`".into());
    }
    say("Building Palan: one static binary")?;
    let palan = task_dist::run()?;
    say(&format!("{} has {:.1} MB", palan.display(), megabytes(&palan)?))?;
    say("Building two static programs and packing each into an image of its own")?;
    check(cargo().args(["build", "--locked", "--quiet", "--release", "--package", "palan-demo"]))?;
    let programs = root().join("target").join(host_triple()).join("release");

    let demo = Demo::start(palan)?;
    for name in ["hello", "web"] {
        let archive = demo.directory.join(format!("{name}.tar"));
        let program = std::fs::read(programs.join(name))?;
        std::fs::write(&archive, image(name, &program))?;
        demo.show(&["load", "-i", &archive.display().to_string()])?;
    }
    demo.show(&["images"])?;
    demo.show(&["run", "--rm", "demo/hello"])?;
    let port = free_port()?;
    demo.show(&["run", "-d", "--name", "web", "-p", &format!("{port}:8080"), "demo/web"])?;
    demo.show(&["ps"])?;
    say(&format!("Fetching http://127.0.0.1:{port}/"))?;
    say(fetch(port)?.trim())?;
    demo.show(&["logs", "web"])?;
    demo.show(&["rm", "-f", "web"])?;
    say("That was Palan. Nothing of the demonstration stays on this machine.")
}

fn image(name: &str, program: &[u8]) -> Vec<u8> {
    ImageBuilder::new()
        .file(name, 0o755, program)
        .config("Entrypoint", serde_json::json!([format!("/{name}")]))
        .config("ExposedPorts", serde_json::json!({"8080/tcp": {}}))
        .build()
        .docker_archive(&[&format!("demo/{name}:latest")])
}

fn megabytes(path: &Path) -> Result<f64, Failure> {
    #[expect(clippy::cast_precision_loss, reason = "printed with one digit")]
    Ok(std::fs::metadata(path)?.len() as f64 / 1e6)
}

fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn fetch(port: u16) -> Result<String, Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut last = String::new();
    let fetched = wait_until(Duration::from_secs(5), || match get(address) {
        Ok(answer) => {
            last = answer;
            true
        }
        Err(error) => {
            last = error.to_string();
            false
        }
    });
    if fetched { Ok(last) } else { Err(format!("no page from {address}: {last}").into()) }
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| std::io::Error::other("the answer has no body"))
}

/// A daemon on a private root; ended and removed when dropped.
struct Demo {
    palan: PathBuf,
    directory: PathBuf,
    daemon: Child,
}

impl Demo {
    fn start(palan: PathBuf) -> Result<Self, Failure> {
        let directory = std::env::temp_dir().join(format!("palan-demo-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let settings = directory.join("daemon.json");
        std::fs::write(&settings, r#"{"bridge": "palan-demo0", "cgroup-parent": "/palan-demo"}"#)?;
        say(&format!("$ palan daemon --data-root {}/data …", directory.display()))?;
        let log = std::fs::File::create(directory.join("daemon.log"))?;
        let daemon = command(&palan)
            .arg("daemon")
            .arg("--data-root")
            .arg(directory.join("data"))
            .arg("--run-root")
            .arg(directory.join("run"))
            .arg("--config-file")
            .arg(&settings)
            .args(["-H", &format!("unix://{}/palan.sock", directory.display())])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let demo = Self { palan, directory, daemon };
        if !wait_until(Duration::from_secs(10), || output(demo.command().arg("version")).is_ok()) {
            let log = std::fs::read_to_string(demo.directory.join("daemon.log")).unwrap_or_default();
            return Err(format!("the daemon does not answer:\n{log}").into());
        }
        Ok(demo)
    }

    fn command(&self) -> std::process::Command {
        let mut palan = command(&self.palan);
        palan.env("PALAN_HOST", format!("unix://{}/palan.sock", self.directory.display()));
        palan
    }

    /// Prints a command as a user would type it, and runs it.
    fn show(&self, arguments: &[&str]) -> Result<(), Failure> {
        say(&format!("$ palan {}", arguments.join(" ")))?;
        check(self.command().args(arguments))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        output(self.command().args(["rm", "-f", "web"])).ok();
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.daemon.wait().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}
