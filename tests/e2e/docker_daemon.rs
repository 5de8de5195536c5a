//! Debian's dockerd as the other side of archives: what `palan save` writes it loads, what it saves `palan load` takes, and the
//! images are the same ones. It runs on private paths in namespaces of its own and starts no container.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Run, finish};
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, daemon};

pub(crate) struct Docker {
    child: Child,
    directory: PathBuf,
}

impl Docker {
    #[expect(clippy::disallowed_methods, reason = "the peer is another program")]
    pub(crate) fn start(ours: &Daemon, storage_driver: &str) -> Self {
        let directory = ours.scratch().join("docker");
        std::fs::create_dir(&directory).unwrap();
        let path = |name: &str| directory.join(name);
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--", "dockerd"])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false"])
            .args(["--storage-driver", storage_driver])
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("run"))
            .arg("--pidfile")
            .arg(path("pid"))
            .args(["-H", &format!("unix://{}", path("socket").display())])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Self { child, directory };
        let answers = wait_until(Duration::from_secs(60), || docker.run(&["version"]).code == 0);
        let log = std::fs::read_to_string(docker.directory.join("log")).unwrap_or_default();
        assert!(answers, "dockerd does not answer:\n{log}");
        docker
    }

    #[expect(clippy::disallowed_methods, reason = "the peer is another program")]
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let host = format!("unix://{}", self.directory.join("socket").display());
        finish(Command::new("docker").env("DOCKER_HOST", host).args(arguments), None)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        // `unshare` became dockerd, which takes its containerd along.
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if !wait_until(Duration::from_secs(20), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn archives_go_both_ways() {
    requires!(root);
    requires!(program "dockerd");
    requires!(program "docker");
    let ours = daemon();
    ours.palan([
        "run",
        "--name",
        "work",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        "echo x > /etc/new; rm /etc/group",
    ])
    .ok();
    ours.palan(["commit", "-m", "made", "work", "made:1"]).ok();
    let theirs = Docker::start(&ours, "overlay2");
    let archive = ours.scratch().join("ours.tar").display().to_string();
    ours.palan(["save", "-o", &archive, "made:1", BUSYBOX]).ok();
    let loaded = theirs.run(&["load", "-i", &archive]).ok();
    assert_eq!(loaded.stdout, "Loaded image: made:1\nLoaded image: bb:latest\n");
    let ids = ["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"];
    let sorted = |run: Run| {
        let mut lines: Vec<String> = run.ok().stdout.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let before = sorted(ours.palan(ids));
    assert_eq!(sorted(theirs.run(&ids)), before);
    let history =
        ["history", "--no-trunc", "-H=false", "--format", "{{.CreatedBy}} {{.Size}} {{.Comment}}", "made:1"];
    assert_eq!(theirs.run(&history).ok().stdout, ours.palan(history).ok().stdout);

    let back = ours.scratch().join("theirs.tar").display().to_string();
    theirs.run(&["save", "-o", &back, "made:1", BUSYBOX]).ok();
    ours.palan(["rm", "work"]).ok();
    ours.palan(["rmi", "made:1", BUSYBOX]).ok();
    ours.palan(["load", "-i", &back]).ok();
    assert_eq!(sorted(ours.palan(ids)), before);
    let run =
        ours.palan(["run", "--rm", "--network", "none", "made:1", "sh", "-c", "cat /etc/new; ls /etc/group"]);
    assert!(run.stdout == "x\n" && run.stderr.contains("No such file"), "{run}");
}
