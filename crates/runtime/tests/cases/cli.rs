//! The command line, beside runc where that is installed: the same bundle must behave the same.

use std::path::{Path, PathBuf};
use std::process::Output;

use palan_oci::runtime_spec::{Hook, Hooks, Rlimit};

use crate::support::Sandbox;

/// One of the two runtimes, with a state directory of its own.
pub(crate) struct Runtime {
    program: PathBuf,
    first: Option<&'static str>,
    root: tempfile::TempDir,
    variable: Option<(&'static str, String)>,
}

impl Runtime {
    pub(crate) fn palan() -> Self {
        let program = std::env::current_exe().unwrap();
        Self { program, first: Some("runtime"), root: tempfile::tempdir().unwrap(), variable: None }
    }

    pub(crate) fn runc() -> Option<Self> {
        let program =
            ["/usr/sbin/runc", "/usr/bin/runc"].map(PathBuf::from).into_iter().find(|path| path.exists());
        if program.is_none() {
            println!("SKIPPED the comparison with runc: it is not installed");
        }
        Some(Self { program: program?, first: None, root: tempfile::tempdir().unwrap(), variable: None })
    }

    /// The same with a variable in its environment.
    pub(super) fn with(self, name: &'static str, value: &str) -> Self {
        Self { variable: Some((name, value.to_owned())), ..self }
    }

    /// Where its state is.
    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where what went wrong can be read when nothing is shown.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// The command, which does not run yet.
    #[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
    pub(crate) fn command(&self, bundle: &Path, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(self.first).arg("--root").arg(self.root.path()).arg("--log").arg(self.log());
        command.args(arguments).current_dir(bundle);
        command
    }

    #[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
    pub(super) fn call(&self, bundle: &Path, arguments: &[&str]) -> Output {
        std::process::Command::new(&self.program)
            .args(self.first)
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .envs(self.variable.clone())
            .current_dir(bundle)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    /// A command whose container keeps its streams.
    #[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
    pub(super) fn quiet(&self, bundle: &Path, arguments: &[&str]) {
        let null = std::process::Stdio::null;
        let status = std::process::Command::new(&self.program)
            .args(self.first)
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .current_dir(bundle)
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }

    pub(super) fn text(&self, bundle: &Path, arguments: &[&str]) -> String {
        let output = self.call(bundle, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(super) fn bundle(arguments: &[&str]) -> Sandbox {
    written(Sandbox::new(arguments))
}

/// The sandbox with its specification as a file.
pub(super) fn written(mut sandbox: Sandbox) -> Sandbox {
    let cgroup = sandbox.cgroup.clone();
    sandbox.linux().cgroups_path = cgroup;
    let json = serde_json::to_vec(&sandbox.spec).unwrap();
    std::fs::write(sandbox.directory.path().join("config.json"), json).unwrap();
    sandbox
}

pub(crate) fn same_results_as_runc() {
    let palan = Runtime::palan();
    let Some(runc) = Runtime::runc() else { return };
    let scripts = [
        "echo out; exit 3",
        "id -u; id -g; pwd; hostname; umask; env | grep -v SHLVL; ls /; ls /dev /dev/pts /proc/self/fd",
        "grep '^Cap\\|NoNew\\|^Uid\\|^Gid\\|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj",
        "cat /proc/self/limits | grep 'open files'; ls -ld /dev/null /dev/tty /dev/ptmx /dev/fd /dev/shm | cut -c1-10",
        "grep -v cgroup /proc/mounts | cut -d' ' -f2,3 | sort",
        "touch /proc/sys/kernel/x; echo x > /proc/sysrq-trigger; cat /proc/kcore | wc -c; cat /proc/timer_list | wc -c",
        "for n in ipc mnt net pid uts; do test \"$(readlink /proc/self/ns/$n)\" = \"$(readlink /proc/1/ns/$n)\" || echo $n; done",
    ];
    for script in scripts {
        let mut sandbox = Sandbox::new(&["sh", "-c", script]);
        // Without it Go's runtime has raised the soft limit, which runc before 1.2 passed on.
        let nofile = Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 500, hard: 1000 };
        sandbox.process().rlimits.push(nofile);
        let sandbox = written(sandbox);
        let path = sandbox.directory.path();
        let results = [&palan, &runc].map(|runtime| {
            let output = runtime.call(path, &["run", "same"]);
            (
                output.status.code(),
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8(output.stderr).unwrap(),
            )
        });
        assert_eq!(results[0], results[1], "{script}");
    }
}

pub(crate) fn errors_are_runcs() {
    let palan = Runtime::palan();
    let Some(runc) = Runtime::runc() else { return };
    for arguments in [&["nonsense"][..], &["/nowhere"], &["/etc/passwd"]] {
        let sandbox = bundle(arguments);
        let results = [&palan, &runc].map(|runtime| {
            let output = runtime.call(sandbox.directory.path(), &["run", "same"]);
            let text = String::from_utf8(output.stderr).unwrap();
            // runc says more around it, and escapes the quotes in its log line.
            let text = text.replace("\\\"", "\"");
            let start = text.find("exec: ").unwrap_or_else(|| panic!("{text}"));
            let end = text[start..].find(['\n']).map_or(text.len(), |length| start + length);
            (output.status.code(), text[start..end].trim_end_matches('"').to_owned())
        });
        assert_eq!(results[0], results[1]);
    }
}

pub(crate) fn the_life_of_a_container() {
    let palan = Runtime::palan();
    let sandbox = bundle(&["sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.02; done"]);
    let path = sandbox.directory.path();
    let status = || {
        let json: serde_json::Value = serde_json::from_str(&palan.text(path, &["state", "life"])).unwrap();
        json["status"].as_str().unwrap().to_owned()
    };
    let pid_file = path.join("pid");
    // What is executed inherits this program's streams: `create` must not hand it our pipes, or we would wait.
    let created = palan.call_detached(path, &["create", "--pid-file", pid_file.to_str().unwrap(), "life"]);
    assert!(created);
    assert_eq!(status(), "created");
    assert!(!palan.call(path, &["create", "life"]).status.success());
    palan.text(path, &["start", "life"]);
    assert_eq!(status(), "running");
    assert!(!palan.call(path, &["start", "life"]).status.success());
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert!(palan.text(path, &["ps", "-f", "json", "life"]).contains(&pid));
    assert_eq!(
        palan.text(
            path,
            &[
                "exec",
                "-e",
                "A=b",
                "--cwd",
                "/tmp",
                "-u",
                "1000:50",
                "life",
                "sh",
                "-c",
                "echo $A; pwd; id -u; id -g"
            ]
        ),
        "b\n/tmp\n1000\n50\n"
    );
    assert_eq!(palan.call(path, &["exec", "life", "sh", "-c", "exit 6"]).status.code(), Some(6));
    assert_eq!(palan.call(path, &["exec", "life", "nonsense"]).status.code(), Some(255));
    palan.text(path, &["pause", "life"]);
    assert_eq!(status(), "paused");
    assert!(!palan.call(path, &["exec", "life", "true"]).status.success());
    palan.text(path, &["resume", "life"]);
    assert_eq!(status(), "running");
    assert_eq!(palan.text(path, &["list", "-q"]), "life\n");
    assert!(!palan.call(path, &["delete", "life"]).status.success());
    palan.text(path, &["kill", "life", "TERM"]);
    // The container's parent is whoever adopts orphans here; until it reaps it, it is a zombie and counts as stopped.
    assert!(palan_test_support::wait_until(std::time::Duration::from_secs(30), || status() == "stopped"));
    palan.text(path, &["delete", "life"]);
    assert!(!palan.call(path, &["state", "life"]).status.success());
    palan.text(path, &["delete", "--force", "life"]);
}

pub(crate) fn unsupported_is_said() {
    let palan = Runtime::palan();
    let sandbox = bundle(&["true"]);
    let path = sandbox.directory.path();
    for arguments in [
        &["--systemd-cgroup", "run", "x"][..],
        &["--rootless", "maybe", "run", "x"],
        &["run", "--nonsense", "x"],
        &["run", "../x"],
        &["run"],
    ] {
        let output = palan.call(path, arguments);
        assert!(!output.status.success() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

pub(crate) fn spec_makes_a_bundle_that_runs() {
    let palan = Runtime::palan();
    let sandbox = Sandbox::new(&["true"]);
    let path = sandbox.directory.path();
    palan.text(path, &["spec"]);
    let json = std::fs::read_to_string(path.join("config.json")).unwrap();
    let json = json.replace("\"terminal\": true,", "").replace("\"sh\"", "\"id\"");
    std::fs::write(
        path.join("config.json"),
        json.replacen(
            "\"namespaces\"",
            &format!("\"cgroupsPath\": \"{}\",\n\"namespaces\"", sandbox.cgroup),
            1,
        ),
    )
    .unwrap();
    assert_eq!(palan.text(path, &["run", "spec"]), "uid=0(root) gid=0(root) groups=0(root)\n");
    if let Some(runc) = Runtime::runc() {
        assert!(runc.text(path, &["run", "spec"]).starts_with("uid=0(root) gid=0(root)"));
    }
}

impl Runtime {
    /// Like `call`, for a command whose container keeps the streams: they go to /dev/null.
    #[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
    pub(super) fn call_detached(&self, bundle: &Path, arguments: &[&str]) -> bool {
        std::process::Command::new(&self.program)
            .args(self.first)
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .envs(self.variable.clone())
            .current_dir(bundle)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

pub(crate) fn hooks_surround_the_life() {
    let palan = Runtime::palan();
    let mut sandbox = bundle(&["sleep", "1000"]);
    let log = sandbox.directory.path().join("log");
    let note = |word: &str| {
        let script = format!("echo {word} $(cat) >> {}", log.display());
        vec![Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script],
            env: vec!["PATH=/usr/bin:/bin".into()],
            timeout: None,
        }]
    };
    sandbox.spec.hooks =
        Some(Hooks { poststart: note("poststart"), poststop: note("poststop"), ..Hooks::default() });
    let path = sandbox.directory.path().to_owned();
    std::fs::write(path.join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap()).unwrap();
    palan.quiet(&path, &["create", "life"]);
    assert!(!log.exists());
    palan.text(&path, &["start", "life"]);
    let so_far = std::fs::read_to_string(&log).unwrap();
    assert!(so_far.starts_with("poststart {") && so_far.contains(r#""status":"running""#), "{so_far}");
    palan.text(&path, &["delete", "--force", "life"]);
    let all = std::fs::read_to_string(&log).unwrap();
    let last = all.lines().nth(1).unwrap();
    assert!(last.starts_with("poststop {") && last.contains(r#""status":"stopped""#), "{all}");
    // One that fails ends the container, and the rest of its life follows.
    sandbox.spec.hooks.as_mut().unwrap().poststart[0].args[2] = "exit 1".into();
    std::fs::write(path.join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap()).unwrap();
    let failed = palan.call(&path, &["run", "life"]);
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(text.contains("error running poststart hook #0: exit status 1"), "{text}");
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 3);
    assert!(!palan.call(&path, &["state", "life"]).status.success());
}

/// A user who is not root, with a home and the program of the test in it (which lies where only root may look).
pub(super) struct Nobody {
    home: tempfile::TempDir,
}

impl Nobody {
    const ID: u32 = 65534;

    /// The bundle is theirs from now on.
    pub(super) fn with(bundle: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        for directory in [bundle, home.path()] {
            std::os::unix::fs::lchown(directory, Some(Self::ID), Some(Self::ID)).unwrap();
        }
        std::fs::copy(std::env::current_exe().unwrap(), home.path().join("palan-runtime")).unwrap();
        Self { home }
    }

    pub(super) fn command(&self, bundle: &Path, arguments: &[&str]) -> std::process::Command {
        let script = format!("cd {} && exec \"$@\"", bundle.display());
        #[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
            .args(["sh", "-c", &script, "sh"])
            .arg(self.home.path().join("palan-runtime"))
            .args(["runtime", "--root"])
            .arg(self.home.path().join("state"))
            .args(arguments)
            .stdin(std::process::Stdio::null());
        command
    }
}

pub(crate) fn somebody_who_is_not_root_runs_containers() {
    let sandbox = Sandbox::new(&["true"]);
    let path = sandbox.directory.path();
    let nobody = Nobody::with(path);
    let called = |arguments: &[&str]| nobody.command(path, arguments);
    let call = |arguments: &[&str]| called(arguments).output().unwrap();
    // A container that stays keeps its streams: no pipe of ours.
    let quiet = |arguments: &[&str]| {
        let null = std::process::Stdio::null;
        assert!(called(arguments).stdout(null()).stderr(null()).status().unwrap().success(), "{arguments:?}");
    };
    let text = |arguments: &[&str]| {
        let output = call(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    text(&["spec", "--rootless"]);
    let json = std::fs::read_to_string(path.join("config.json")).unwrap();
    let json = json.replace("\"terminal\": true,", "");
    std::fs::write(
        path.join("config.json"),
        json.replace("\"sh\"", r#""sh", "-c", "id; cat /proc/self/uid_map; test -c /dev/null && echo dev""#),
    )
    .unwrap();
    let output = text(&["run", "x"]);
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(words[..2], ["uid=0(root)", "gid=0(root)"], "{output}");
    assert_eq!(words[words.len() - 4..], ["0", "65534", "1", "dev"], "{output}");
    // Alive for several commands.
    std::fs::write(path.join("config.json"), json.replace("\"sh\"", r#""sleep", "1000""#)).unwrap();
    quiet(&["run", "--detach", "y"]);
    assert!(text(&["state", "y"]).contains("\"running\""));
    assert_eq!(text(&["exec", "y", "sh", "-c", "id -u; hostname"]), "0\npalan\n");
    text(&["kill", "y", "KILL"]);
    text(&["delete", "--force", "y"]);
    assert!(!call(&["state", "y"]).status.success());
}

pub(crate) fn without_a_mount_namespace_nothing_stays() {
    let palan = Runtime::palan();
    let mut sandbox = bundle(&["sh", "-c", "readlink /proc/self/ns/mnt; ls /"]);
    let linux = sandbox.linux();
    linux.namespaces.retain(|namespace| namespace.kind != palan_oci::runtime_spec::NamespaceKind::Mount);
    let path = sandbox.directory.path().to_owned();
    let write = |sandbox: &Sandbox| {
        std::fs::write(path.join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap()).unwrap();
    };
    write(&sandbox);
    let refused = palan.call(&path, &["run", "x"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("linux.maskedPaths"));
    sandbox.linux().masked_paths.clear();
    sandbox.linux().readonly_paths.clear();
    write(&sandbox);
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let output = palan.text(&path, &["run", "x"]);
    assert!(output.starts_with(&format!("{}\nbin\n", own.display())), "{output}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
}

/// The runtime relays a terminal: what it prints ends its lines as the caller's side does.
#[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
pub(crate) fn a_terminal_in_the_foreground() {
    let palan = Runtime::palan();
    let mut sandbox = bundle(&["sh", "-c", "tty; echo x"]);
    sandbox.process().terminal = true;
    let path = sandbox.directory.path().to_owned();
    std::fs::write(path.join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap()).unwrap();
    for round in 0..20 {
        assert_eq!(palan.text(&path, &["run", &format!("t{round}")]), "/dev/pts/0\nx\n");
    }
}
