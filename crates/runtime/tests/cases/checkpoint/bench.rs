//! What the cases about checkpoints have in common: a container that counts in memory, and commands about it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::cases::cli::Runtime;
use crate::support::Sandbox;

pub(super) type Verdict = Result<(), String>;

/// Runs a case with Palan, and, should it fail, with runc: what CRIU can't do here, nobody can.
#[track_caller]
pub(super) fn check(case: fn(&Bench) -> Verdict) {
    if let Some(reason) = missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    let Err(ours) = case(&Bench::palan()) else { return };
    match Runtime::runc().map(|runc| case(&Bench::new(runc, &[]))) {
        Some(Err(theirs)) => println!("SKIPPED: it fails with runc too: {theirs}\n  and with Palan: {ours}"),
        _ => panic!("{ours}"),
    }
}

#[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
pub(super) fn program(name: &str) -> Command {
    Command::new(name)
}

/// Why nothing can be saved here.
pub(crate) fn missing() -> Option<String> {
    match program("criu").arg("check").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("criu check: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("criu (package criu) does not run: {error}")),
    }
}

/// A runtime, a bundle, and directories for images.
pub(super) struct Bench {
    runtime: Runtime,
    pub(super) sandbox: Sandbox,
    /// What CRIU is to do about cgroups: nothing, since some change the options of the host's cgroup2 mount (criu#3029);
    /// older versions of runc can't be told.
    mode: &'static [&'static str],
}

/// Counts in memory, for ever; the file shows how far it got.
pub(super) const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done";

impl Bench {
    pub(super) fn palan() -> Self {
        Self::new(Runtime::palan(), &["--manage-cgroups-mode", "ignore"])
    }

    pub(super) fn new(runtime: Runtime, mode: &'static [&'static str]) -> Self {
        Self { runtime, sandbox: Sandbox::new(&["sh", "-c", COUNTER]), mode }
    }

    pub(super) fn path(&self) -> &Path {
        self.sandbox.directory.path()
    }

    pub(super) fn images(&self) -> PathBuf {
        self.path().join("images")
    }

    /// Writes `config.json` as `change` makes it.
    pub(super) fn write(&self, change: impl FnOnce(&mut Sandbox)) {
        let mut sandbox = Sandbox::new(&[]);
        sandbox.spec.clone_from(&self.sandbox.spec);
        sandbox.linux().cgroups_path.clone_from(&self.sandbox.cgroup);
        change(&mut sandbox);
        let json = serde_json::to_vec(&sandbox.spec).unwrap();
        std::fs::write(self.path().join("config.json"), json).unwrap();
    }

    pub(super) fn command(&self, arguments: &[impl AsRef<str>]) -> Command {
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = self.runtime.command(self.path(), &arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a command whose container keeps the streams, which are /dev/null: what it had to say is in its log.
    pub(super) fn quiet(&self, arguments: &[impl AsRef<str>]) -> Verdict {
        self.succeeds(self.command(arguments))
    }

    pub(super) fn succeeds(&self, mut command: Command) -> Verdict {
        if command.status().unwrap().success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.runtime.log()).unwrap_or_default();
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        Err(format!("{}: {}", words.join(" "), log.trim()))
    }

    pub(super) fn output(&self, arguments: &[&str]) -> Output {
        self.runtime.call(self.path(), arguments)
    }

    pub(super) fn run(&self) -> Verdict {
        self.quiet(&["run", "-d", "c"])?;
        self.counts_on(0)
    }

    pub(super) fn checkpoint(&self, options: &[&str]) -> Verdict {
        self.quiet(&self.with_images("checkpoint", &self.images(), options, "c"))
    }

    pub(super) fn restore(&self, options: &[&str]) -> Verdict {
        self.quiet(&self.with_images("restore", &self.images(), &[&["-d"], options].concat(), "c"))
    }

    /// A command line about images.
    pub(super) fn with_images(
        &self,
        command: &str,
        images: &Path,
        options: &[&str],
        id: &str,
    ) -> Vec<String> {
        let images = ["--image-path", images.to_str().unwrap()];
        let words = [&[command], self.mode, &images, options, &[id]].concat();
        words.into_iter().map(str::to_owned).collect()
    }

    /// The state's status; `None` if there is no such container.
    pub(super) fn status(&self) -> Option<String> {
        let output = self.output(&["state", "c"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(json["status"].as_str()?.to_owned())
    }

    pub(super) fn pid(&self) -> i64 {
        let output = self.output(&["state", "c"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        json["pid"].as_i64().unwrap_or_default()
    }

    pub(super) fn expect(&self, status: Option<&str>) -> Verdict {
        let found = self.status();
        if found.as_deref() == status { Ok(()) } else { Err(format!("it is {found:?} and not {status:?}")) }
    }

    pub(super) fn count(&self) -> u64 {
        let text = std::fs::read_to_string(self.sandbox.rootfs().join("tmp/count")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Waits until the counter is past `before`, and not far past: it has not begun anew.
    pub(super) fn counts_on(&self, before: u64) -> Verdict {
        until(|| self.count() > before).map_err(|_| format!("the counter stays at {}", self.count()))?;
        self.expect(Some("running"))
    }

    pub(super) fn exec(&self, script: &str) -> Result<String, String> {
        let output = self.output(&["exec", "c", "sh", "-c", script]);
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(format!("exec {script}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in ["c", "other"] {
            let _ = self.command(&["delete", "--force", name]).status();
        }
    }
}

/// Looks again and again for half a minute: the machine may be an emulated one.
pub(super) fn until(mut done: impl FnMut() -> bool) -> Verdict {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !done() {
        if Instant::now() > give_up {
            return Err("nothing happens".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Twice there and back; the memory is what it was.
pub(super) fn round_trips(bench: &Bench) -> Verdict {
    bench.run()?;
    for _ in 0..2 {
        bench.checkpoint(&[])?;
        bench.expect(None)?;
        let before = bench.count();
        std::fs::write(bench.sandbox.rootfs().join("tmp/count"), "0").unwrap();
        bench.restore(&[])?;
        bench.counts_on(before)?;
        if bench.pid() == 0 {
            return Err("it has no process".to_owned());
        }
    }
    Ok(())
}
