//! The API over TCP with TLS and certificates of the clients, and without.

use std::path::{Path, PathBuf};

use palan_test_support::certificates;
use palan_test_support::daemon::{Daemon, Options, Run, finish};
use palan_test_support::{free_port, requires};

use crate::images::{BUSYBOX, daemon_with};

struct Scene {
    daemon: Daemon,
    port: u16,
    certificates: tempfile::TempDir,
    strangers: tempfile::TempDir,
}

impl Scene {
    fn new(verify: bool) -> Self {
        let (own, strangers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        certificates::write(own.path());
        certificates::write(strangers.path());
        let port = free_port();
        let path = |name: &str| own.path().join(name).to_str().unwrap().to_owned();
        let host = format!("tcp://127.0.0.1:{port}");
        let mut arguments: Vec<String> =
            ["-H", &host, "--tlscert", &path("server-cert.pem"), "--tlskey", &path("server-key.pem")]
                .map(str::to_owned)
                .into();
        if verify {
            arguments.extend(["--tlsverify", "--tlscacert", &path("ca.pem")].map(str::to_owned));
        } else {
            arguments.extend(["--tls", "--tlsverify=false"].map(str::to_owned));
        }
        let daemon = daemon_with(Options { arguments, ..Options::default() });
        Self { daemon, port, certificates: own, strangers }
    }

    fn path(&self) -> &Path {
        self.certificates.path()
    }

    /// Runs a client of `program` with these settings of the environment.
    #[expect(clippy::disallowed_methods, reason = "Docker's own client, too")]
    fn client(&self, program: &str, variables: &[(&str, &str)], words: &[&str], input: Option<&[u8]>) -> Run {
        let program =
            if program == "palan" { palan_test_support::daemon::program() } else { PathBuf::from(program) };
        let mut command = std::process::Command::new(program);
        let host = format!("tcp://127.0.0.1:{}", self.port);
        command.args(words).env("DOCKER_HOST", host).env_remove("PALAN_HOST").env_remove("DOCKER_CONTEXT");
        command.env("DOCKER_CONFIG", self.daemon.scratch().join("config")).envs(variables.iter().copied());
        command.stdin(std::process::Stdio::null());
        finish(&mut command, input)
    }

    fn verified(&self) -> [(&'static str, &str); 2] {
        [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", self.path().to_str().unwrap())]
    }
}

#[test]
fn clients_need_a_certificate() {
    requires!(root);
    let scene = Scene::new(true);
    let good = scene.verified();
    scene.client("palan", &good, &["version"], None).ok();
    // The same by flags.
    let path = |name: &str| format!("{}/{name}", scene.path().display());
    let flags = [
        "--tlsverify".to_owned(),
        "--tlscacert".to_owned(),
        path("ca.pem"),
        format!("--tlscert={}", path("cert.pem")),
        format!("--tlskey={}", path("key.pem")),
        "ps".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    scene.client("palan", &[], &flags, None).ok();
    let strangers = scene.strangers.path().to_str().unwrap();
    // Not our daemon; nobody asked for TLS; no certificate; somebody else's.
    let run =
        scene.client("palan", &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", strangers)], &["ps"], None);
    assert!(run.code == 1 && run.stderr.contains("certificate"), "{run}");
    assert_eq!(scene.client("palan", &[], &["ps"], None).code, 1);
    let nowhere = scene.daemon.scratch().to_str().unwrap();
    for place in [nowhere, strangers] {
        let run = scene.client("palan", &[("DOCKER_TLS", "1"), ("DOCKER_CERT_PATH", place)], &["ps"], None);
        assert!(run.code == 1 && !run.stdout.contains("CONTAINER"), "{run}");
    }
    // It goes on for those who may.
    scene.client("palan", &good, &["ps"], None).ok();
}

#[test]
fn streams_are_carried() {
    requires!(root);
    let scene = Scene::new(true);
    for program in ["palan", "docker"] {
        let run =
            |words: &[&str], input: Option<&[u8]>| scene.client(program, &scene.verified(), words, input);
        // The last words and the end of the stream may come at once.
        for _ in 0..8 {
            let out = run(
                &["run", "--rm", "--network", "none", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3"],
                None,
            );
            assert_eq!((out.stdout.as_str(), out.stderr.as_str(), out.code), ("out\n", "err\n", 3), "{out}");
        }
        // The end of the input arrives, and all that was before it.
        let big = vec![b'x'; 3 << 20];
        let counted = run(&["run", "-i", "--rm", "--network", "none", BUSYBOX, "wc", "-c"], Some(&big)).ok();
        assert_eq!(counted.line(), (3 << 20).to_string());
        run(
            &[
                "run",
                "-d",
                "--name",
                "cc",
                "--network",
                "none",
                BUSYBOX,
                "sh",
                "-c",
                "echo one; while ! test -e /tmp/go; do sleep 0.05; done; sleep 2; echo two",
            ],
            None,
        )
        .ok();
        assert_eq!(run(&["exec", "-i", "cc", "cat"], Some(b"through")).ok().stdout, "through");
        run(&["exec", "cc", "touch", "/tmp/go"], None).ok();
        assert_eq!(run(&["logs", "-f", "cc"], None).ok().stdout, "one\ntwo\n");
        let file = scene.daemon.scratch().join("f");
        std::fs::write(&file, &big).unwrap();
        run(&["cp", file.to_str().unwrap(), "cc:/tmp/"], None).ok();
        let back = scene.daemon.scratch().join("back");
        run(&["cp", "cc:/tmp/f", back.to_str().unwrap()], None).ok();
        assert!(std::fs::read(back).unwrap() == big);
        run(&["rm", "-f", "cc"], None).ok();
    }
}

#[test]
fn encryption_alone() {
    requires!(root);
    let scene = Scene::new(false);
    let ca = scene.path().to_str().unwrap();
    scene.client("palan", &[("DOCKER_TLS", "1")], &["ps"], None).ok();
    scene.client("palan", &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", ca)], &["ps"], None).ok();
    scene.client("docker", &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", ca)], &["ps"], None).ok();
}

#[test]
fn nothing_is_open_by_accident() {
    requires!(root);
    let start = |more: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "a daemon that does not start")]
        let mut command = std::process::Command::new(palan_test_support::daemon::program());
        let scratch = tempfile::tempdir().unwrap();
        command
            .args(["daemon", "--config-file", "/dev/null", "--data-root"])
            .arg(scratch.path().join("data"));
        command.arg("--run-root").arg(scratch.path().join("run")).args(more);
        finish(&mut command, None)
    };
    let refused = start(&["-H", "tcp://0.0.0.0:0"]);
    refused.fails(1, "without TLS everybody who can reach this address has the rights of root on this host");
    for flag in ["--tls", "--tlsverify", "--tlsverify=false"] {
        start(&["-H", "tcp://127.0.0.1:0", flag]).fails(1, "cannot use the TLS");
    }
    let port = free_port();
    let arguments = ["-H".to_owned(), format!("tcp://127.0.0.1:{port}"), "--tls=false".to_owned()].into();
    let daemon = daemon_with(Options { arguments, ..Options::default() });
    assert!(daemon.log().contains("without encryption"), "{}", daemon.log());
    let host = format!("tcp://127.0.0.1:{port}");
    daemon.palan(["-H", &host, "ps"]).ok();
}
