//! The command line, beside runc where that is installed: the same bundle must behave the same.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::Sandbox;

/// One of the two runtimes, with a state directory of its own.
pub(super) struct Runtime {
    program: PathBuf,
    first: Option<&'static str>,
    root: tempfile::TempDir,
    variable: Option<(&'static str, String)>,
}

impl Runtime {
    pub(super) fn palan() -> Self {
        let program = std::env::current_exe().unwrap();
        Self { program, first: Some("runtime"), root: tempfile::tempdir().unwrap(), variable: None }
    }

    pub(super) fn runc() -> Option<Self> {
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

    pub(super) fn text(&self, bundle: &Path, arguments: &[&str]) -> String {
        let output = self.call(bundle, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(super) fn bundle(arguments: &[&str]) -> Sandbox {
    let mut sandbox = Sandbox::new(arguments);
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
        let sandbox = bundle(&["sh", "-c", script]);
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
    for _ in 0..200 {
        if status() == "stopped" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(status(), "stopped");
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
        &["run", "--no-pivot", "x"],
        &["run", "--nonsense", "x"],
        &["run", "../x"],
        &["checkpoint", "x"],
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
