//! Hooks: programs that the specification names and that run at fixed points of a container's life, with the
//! container's state as JSON on their standard input (runtime-spec, "POSIX-platform Hooks").
//!
//! ```text
//! caller                               new process
//! create ─▶ clone                      namespaces, mounts, devices
//! prestart, createRuntime        ◀──── Prepared
//!                                ────▶ createContainer, pivot, limits, identity
//! start                          ────▶ startContainer, exec
//! poststart
//! delete ─▶ kill, cgroup gone
//! poststop
//! ```
//!
//! `prestart`, `createRuntime`, `poststart` and `poststop` run in the caller's namespaces; `createContainer` is found
//! there too but runs in the container's, with the host's root; `startContainer` is the container's own program and
//! has its rights. What the caller's environment holds is no hook's business, and what the image's environment holds
//! even less (CVE-2025-23266): a hook gets the variables that its entry lists and no others, or a usual `PATH` where it
//! lists none. Only `startContainer`, which is a program of the container, has its variables then. A hook starts in the
//! bundle, that of `createContainer` in the root file system, that of `startContainer` in the container's `/`.
//!
//! [`create`](crate::create) runs what stands before the exec; [`poststart`] and [`poststop`] are for whoever starts and
//! deletes the container.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use palan_linux::path::RootDir;
use palan_linux::process::{self, Child, ExitStatus, Program, Spawn};
use palan_linux::signal::Signal;
use palan_oci::runtime_spec::{Hook, Hooks};
use palan_oci::runtime_state::State;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;

use crate::error::{Context, Error};
use crate::plan::invalid;

/// Most bytes of a failed hook's output that its error shows.
const MAX_OUTPUT: u64 = 4096;

/// What a hook is told about the container.
#[derive(Debug, Clone)]
pub struct HookState<'a> {
    /// Version of the specification that the container was made for.
    pub oci_version: &'a str,
    /// The container's ID.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

impl HookState<'_> {
    /// The same in the specification's form. `pid`: 0 if there is no process.
    pub fn at(&self, status: &str, pid: i32) -> State {
        State {
            oci_version: self.oci_version.to_owned(),
            id: self.id.to_owned(),
            status: status.to_owned(),
            pid,
            bundle: self.bundle.to_string_lossy().into_owned(),
            annotations: self.annotations.clone(),
        }
    }

    fn json(&self, status: &str, pid: i32) -> Vec<u8> {
        serde_json::json!(self.at(status, pid)).to_string().into_bytes()
    }
}

/// The hooks that run while a container is created and started.
#[derive(Debug, Default)]
pub(crate) struct HookPlan {
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
    create_container: Vec<Hook>,
    start_container: Vec<Hook>,
    /// The caller has hooks of its own to run.
    callers_follow: bool,
}

impl HookPlan {
    /// Checks all hooks, also those that are run by others.
    pub(crate) fn new(hooks: Option<&Hooks>) -> Result<Self, Error> {
        let Some(hooks) = hooks else { return Ok(Self::default()) };
        for (kind, list) in [
            ("prestart", &hooks.prestart),
            ("createRuntime", &hooks.create_runtime),
            ("createContainer", &hooks.create_container),
            ("startContainer", &hooks.start_container),
            ("poststart", &hooks.poststart),
            ("poststop", &hooks.poststop),
        ] {
            for (index, hook) in list.iter().enumerate() {
                check(hook).map_err(|problem| invalid(format!("hooks.{kind}[{index}].{problem}")))?;
            }
        }
        Ok(Self {
            prestart: hooks.prestart.clone(),
            create_runtime: hooks.create_runtime.clone(),
            create_container: hooks.create_container.clone(),
            start_container: hooks.start_container.clone(),
            callers_follow: false,
        })
    }

    /// Those of the caller, once everything is mounted and before the root changes.
    pub(crate) fn run_in_caller(&self, state: &HookState<'_>, pid: i32) -> Result<(), Error> {
        let surroundings = Surroundings::of_bundle(state.bundle);
        run_all("prestart", &self.prestart, &state.json("creating", pid), &surroundings)?;
        run_all("createRuntime", &self.create_runtime, &state.json("creating", pid), &surroundings)
    }

    /// Those of the container's namespaces, before the root changes.
    pub(crate) fn run_in_namespaces(&self, state: &HookState<'_>, root: &RootDir) -> Result<(), Error> {
        if self.create_container.is_empty() {
            return Ok(());
        }
        rustix::process::fchdir(root).context(|| "enter the rootfs".to_owned())?;
        let here = Surroundings { directory: c".".to_owned(), environment: usual_environment() };
        run_all("createContainer", &self.create_container, &state.json("creating", own_pid()), &here)
    }

    /// Those of the container, before its program.
    pub(crate) fn run_in_container(
        &self,
        state: &HookState<'_>,
        environment: &[CString],
    ) -> Result<(), Error> {
        let inside = Surroundings { directory: c"/".to_owned(), environment: environment.to_vec() };
        if self.start_container.is_empty() {
            // A filter is in force that may know no call but those of the program.
            return Ok(());
        }
        run_all("startContainer", &self.start_container, &state.json("created", own_pid()), &inside)
    }

    /// Whether the caller has something to run.
    pub(crate) fn has_caller_hooks(&self) -> bool {
        self.callers_follow || !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// Takes out those of the caller. What is left remembers that there are some.
    pub(crate) fn take_callers(&mut self) -> Self {
        self.callers_follow = self.has_caller_hooks();
        Self {
            prestart: std::mem::take(&mut self.prestart),
            create_runtime: std::mem::take(&mut self.create_runtime),
            ..Self::default()
        }
    }
}

/// Runs the `poststart` hooks, when the program executes. The caller ends the container if one fails.
pub fn poststart(hooks: Option<&Hooks>, state: &HookState<'_>, pid: i32) -> Result<(), Error> {
    let surroundings = Surroundings::of_bundle(state.bundle);
    hooks.map_or(Ok(()), |hooks| {
        run_all("poststart", &hooks.poststart, &state.json("running", pid), &surroundings)
    })
}

/// Runs the `poststop` hooks, when the container is gone. A failure is returned after all have run. `patience` is how many seconds one
/// may take that names no limit itself.
pub fn poststop(hooks: Option<&Hooks>, state: &HookState<'_>, patience: Option<u32>) -> Result<(), Error> {
    let Some(hooks) = hooks else { return Ok(()) };
    let json = state.json("stopped", 0);
    let surroundings = Surroundings::of_bundle(state.bundle);
    let mut outcome = Ok(());
    for (index, hook) in hooks.poststop.iter().enumerate() {
        let hook = Hook { timeout: hook.timeout.or(patience), ..hook.clone() };
        outcome = outcome
            .and(run(&hook, &json, &surroundings).map_err(|problem| failed("poststop", index, problem)));
    }
    outcome
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn check(hook: &Hook) -> Result<(), String> {
    if !hook.path.starts_with('/') || hook.path.contains('\0') {
        return Err(format!("path: {:?} is no absolute path", hook.path));
    }
    if hook.timeout == Some(0) {
        return Err("timeout: it must be at least one second".to_owned());
    }
    for (name, list) in [("args", &hook.args), ("env", &hook.env)] {
        if let Some(index) = list.iter().position(|text| text.contains('\0')) {
            return Err(format!("{name}[{index}] contains a NUL byte"));
        }
    }
    if let Some(index) = hook.env.iter().position(|entry| !entry.contains('=')) {
        return Err(format!("env[{index}]: {:?} is not NAME=value", hook.env[index]));
    }
    Ok(())
}

fn failed(kind: &str, index: usize, problem: Error) -> Error {
    match problem {
        Error::Hook(problem) => Error::Hook(format!("error running {kind} hook #{index}: {problem}")),
        other => Error::Hook(format!("error running {kind} hook #{index}: {}", other.report())),
    }
}

/// What a hook finds around it, but for what its entry says.
struct Surroundings {
    directory: CString,
    /// Its variables, if its entry lists none.
    environment: Vec<CString>,
}

impl Surroundings {
    fn of_bundle(bundle: &Path) -> Self {
        // A path that came from the kernel or the command line has no NUL.
        let directory =
            CString::new(bundle.as_os_str().as_encoded_bytes()).unwrap_or_else(|_| c"/".to_owned());
        Self { directory, environment: usual_environment() }
    }
}

fn usual_environment() -> Vec<CString> {
    vec![c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]
}

fn run_all(kind: &str, hooks: &[Hook], state: &[u8], surroundings: &Surroundings) -> Result<(), Error> {
    for (index, hook) in hooks.iter().enumerate() {
        run(hook, state, surroundings).map_err(|problem| failed(kind, index, problem))?;
    }
    Ok(())
}

/// An anonymous file with this content, read from its start.
fn anonymous_file(content: &[u8]) -> Result<std::fs::File, Error> {
    let make = || -> std::io::Result<std::fs::File> {
        let mut file = std::fs::File::from(rustix::fs::memfd_create("palan-hook", MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    };
    make().context(|| "make a file for a hook".to_owned())
}

/// Runs one hook to its end.
fn run(hook: &Hook, state: &[u8], surroundings: &Surroundings) -> Result<(), Error> {
    let strings = |list: &[String]| -> Vec<CString> {
        // Checked to hold no NUL.
        list.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect()
    };
    let arguments =
        if hook.args.is_empty() { strings(std::slice::from_ref(&hook.path)) } else { strings(&hook.args) };
    let path = CString::new(hook.path.as_str()).map_err(|_| invalid("a hook's path contains a NUL byte"))?;
    let stdin = anonymous_file(state)?;
    let mut output = anonymous_file(b"")?;
    let child = process::spawn(&Spawn {
        program: Program::Path(&path),
        arguments,
        environment: if hook.env.is_empty() { surroundings.environment.clone() } else { strings(&hook.env) },
        descriptors: vec![stdin.as_fd(), output.as_fd(), output.as_fd()],
        directory: &surroundings.directory,
        new_session: false,
        cgroup_procs: None,
        umask: 0o022,
        bound: false,
    })
    .context(|| format!("execute {}", hook.path))?;
    let ended = match hook.timeout {
        Some(seconds) => wait_for(&child, seconds)?,
        None => Some(reap(&child.pidfd)?),
    };
    let problem = match ended {
        Some(ExitStatus::Exited(0)) => return Ok(()),
        Some(ExitStatus::Exited(code)) => format!("exit status {code}"),
        Some(ExitStatus::Signaled { signal, .. }) => format!("signal: {}", in_words(signal)),
        None => {
            return Err(Error::Hook(format!(
                "hook ran past specified timeout of {}.0s",
                hook.timeout.unwrap_or_default()
            )));
        }
    };
    let mut said = Vec::new();
    let read = output.rewind().and_then(|()| output.take(MAX_OUTPUT).read_to_end(&mut said));
    read.context(|| "read a hook's output".to_owned())?;
    let said = String::from_utf8_lossy(&said);
    Err(Error::Hook(format!("{problem}, stdout and stderr: {}", said.trim())))
}

/// What runc's users read of the signals that a failed hook dies of.
fn in_words(signal: Signal) -> String {
    let words = match signal {
        Signal::HUP => "hangup",
        Signal::INT => "interrupt",
        Signal::ILL => "illegal instruction",
        Signal::ABRT => "aborted",
        Signal::BUS => "bus error",
        Signal::FPE => "floating point exception",
        Signal::KILL => "killed",
        Signal::SEGV => "segmentation fault",
        Signal::PIPE => "broken pipe",
        Signal::TERM => "terminated",
        Signal::SYS => "bad system call",
        other => return other.to_string(),
    };
    words.to_owned()
}

fn reap(pidfd: &OwnedFd) -> Result<ExitStatus, Error> {
    process::wait(pidfd).context(|| "wait for a hook".to_owned())
}

/// Waits at most so many seconds, then kills. `None`: it had to be killed.
fn wait_for(child: &Child, seconds: u32) -> Result<Option<ExitStatus>, Error> {
    let mut poll = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    let ready = rustix::event::poll(&mut poll, Some(&timeout)).context(|| "wait for a hook".to_owned())?;
    if ready > 0 {
        return reap(&child.pidfd).map(Some);
    }
    // It may have ended just now; then only the reaping is left.
    let _ = process::send_signal(&child.pidfd, Signal::KILL);
    reap(&child.pidfd)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str, args: &[&str], env: &[&str], timeout: Option<u32>) -> Hook {
        let owned = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        Hook { path: path.into(), args: owned(args), env: owned(env), timeout }
    }

    fn here() -> Surroundings {
        Surroundings::of_bundle(Path::new("/tmp"))
    }

    #[test]
    fn a_hook_sees_its_state_and_its_own_environment_only() {
        let check =
            r#"[ "$(env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=)" = A=1 ] && [ "$(cat)" = state ]"#;
        run(&hook("/bin/sh", &["sh", "-c", check], &["A=1"], Some(10)), b"state", &here()).unwrap();
        let check = r#"[ "$PATH" = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ] && [ "$(pwd)" = /tmp ]"#;
        run(&hook("/bin/sh", &["sh", "-c", check], &[], None), b"", &here()).unwrap();
    }

    #[test]
    fn a_failure_says_which_hook_and_what_it_said() {
        let hooks = [
            hook("/bin/true", &[], &[], None),
            hook("/bin/sh", &["sh", "-c", "echo sorry; exit 3"], &[], None),
        ];
        let error = run_all("createRuntime", &hooks, b"{}", &here()).unwrap_err().report();
        assert_eq!(error, "error running createRuntime hook #1: exit status 3, stdout and stderr: sorry");
        let missing =
            run_all("poststart", &[hook("/no/such", &[], &[], None)], b"", &here()).unwrap_err().report();
        assert_eq!(
            missing,
            "error running poststart hook #0: cannot execute /no/such: no such file or directory"
        );
        let slow = [hook("/bin/sleep", &["sleep", "100"], &[], Some(1))];
        let error = run_all("prestart", &slow, b"", &here()).unwrap_err().report();
        assert_eq!(error, "error running prestart hook #0: hook ran past specified timeout of 1.0s");
    }

    #[test]
    fn a_poststop_hook_has_the_time_of_its_caller() {
        let annotations = BTreeMap::new();
        let state =
            HookState { oci_version: "1.2.0", id: "x", bundle: Path::new("/tmp"), annotations: &annotations };
        let slow = hook("/bin/sleep", &["sleep", "100"], &[], None);
        let hooks = Hooks { poststop: vec![slow], ..Hooks::default() };
        let error = poststop(Some(&hooks), &state, Some(1)).unwrap_err().report();
        assert_eq!(error, "error running poststop hook #0: hook ran past specified timeout of 1.0s");
    }

    #[test]
    fn impossible_hooks_are_refused_with_their_field() {
        for (hook, part) in [
            (hook("bin/true", &[], &[], None), "hooks.poststop[0].path"),
            (hook("/bin/true", &[], &["NOVALUE"], None), "hooks.poststop[0].env[0]"),
            (hook("/bin/true", &["a\0"], &[], None), "hooks.poststop[0].args[0]"),
            (hook("/bin/true", &[], &[], Some(0)), "hooks.poststop[0].timeout"),
        ] {
            let hooks = Hooks { poststop: vec![hook], ..Hooks::default() };
            let error = HookPlan::new(Some(&hooks)).unwrap_err().report();
            assert!(error.contains(part), "{error}");
        }
    }
}
