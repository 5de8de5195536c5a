//! One command of the runtime: run to its end within a time limit, its failure understood.
//!
//! A runtime writes its errors as JSON lines into the file that `--log` names (runc's convention, which containerd and
//! Docker rely on); one that fails without may have said something on its standard error.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_linux::process::{self, Child, ExitStatus, Program, Spawn};
use palan_linux::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;

use crate::protocol::{ExternalRuntime, Failure, FailureKind};

/// How long making a process may take: slow mounts, or a virtual machine, are part of it.
pub(super) const MAKING: Duration = Duration::from_secs(100);

/// How long any other command may take. The supervisor does nothing else meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The name of the runtime's log in the bundle.
const LOG_NAME: &str = "runtime.log";

/// How much of the log, and of what stands on the standard error, is looked at.
const MOST_TEXT: usize = 64 * 1024;

/// The longest message that is passed on.
const MOST_MESSAGE: usize = 4096;

/// The runtime's program, its state and its log.
#[derive(Debug)]
pub(super) struct Runtime {
    settings: ExternalRuntime,
    /// Where it keeps what it knows of the container: `--root`.
    state: PathBuf,
    log: PathBuf,
}

/// The standard streams of a command.
#[derive(Debug, Clone, Copy)]
pub(super) enum Streams<'a> {
    /// Its own: input and output lead nowhere, errors are for us.
    Own,
    /// Those that the new process shall have. `errors` reads the third, if it leads to us.
    OfProcess { streams: [BorrowedFd<'a>; 3], errors: Option<BorrowedFd<'a>> },
}

impl Runtime {
    pub(super) fn new(settings: &ExternalRuntime, state: &Path, bundle: &Path) -> Self {
        Self { settings: settings.clone(), state: state.to_owned(), log: bundle.join(LOG_NAME) }
    }

    /// `COMMAND OPTIONS… ID REST…`, within [`PATIENCE`].
    pub(super) fn run(&self, command: &str, options: &[&OsStr], rest: &[&OsStr]) -> Result<(), Failure> {
        self.run_with(command, options, rest, Streams::Own, PATIENCE)
    }

    /// The same with these streams, within `patience`.
    pub(super) fn run_with(
        &self,
        command: &str,
        options: &[&OsStr],
        rest: &[&OsStr],
        streams: Streams<'_>,
        patience: Duration,
    ) -> Result<(), Failure> {
        // What an earlier command has written is not about this one. Where there is no bundle any more, there is no log.
        palan_stdx::fs::if_exists(palan_stdx::fs::remove_file(&self.log))
            .map_err(|error| Failure::cannot("prepare the runtime's log", &error))?;
        let own = match streams {
            Streams::Own => Some(pipe_with(PipeFlags::CLOEXEC)?),
            Streams::OfProcess { .. } => None,
        };
        let descriptors = match (&streams, &own) {
            (Streams::OfProcess { streams, .. }, _) => streams.to_vec(),
            // The supervisor's own stdin is /dev/null, open in both directions.
            (Streams::Own, Some((_, errors))) => {
                vec![rustix::stdio::stdin(), rustix::stdio::stdin(), errors.as_fd()]
            }
            (Streams::Own, None) => Vec::new(),
        };
        let child = self.spawn(command, options, rest, descriptors)?;
        let errors = own.map(|(ours, _)| ours);
        let (status, mut text) = wait(&child, errors.as_ref(), patience)
            .map_err(|error| Failure::cannot(&format!("wait for the runtime's {command}"), &error))?;
        let Some(status) = status else {
            return Err(Failure::new(
                FailureKind::Other,
                format!(
                    "{} {command} did not end within {} seconds and was killed",
                    self.name(),
                    patience.as_secs()
                ),
            ));
        };
        if status == ExitStatus::Exited(0) {
            return Ok(());
        }
        if let Streams::OfProcess { errors: Some(errors), .. } = streams {
            read_available(errors, &mut text);
        }
        Err(self.failure(command, status, &text))
    }

    fn name(&self) -> std::path::Display<'_> {
        self.settings.program.display()
    }

    fn spawn(
        &self,
        command: &str,
        options: &[&OsStr],
        rest: &[&OsStr],
        descriptors: Vec<BorrowedFd<'_>>,
    ) -> Result<Child, Failure> {
        let failed = |error: io::Error| Failure::cannot(&format!("run the runtime {}", self.name()), &error);
        let settings = &self.settings;
        let mut words: Vec<OsString> = vec![settings.program.clone().into()];
        words.extend(settings.arguments.iter().map(OsString::from));
        words.extend(["--root".into(), self.state.clone().into_os_string()]);
        words.extend(["--log".into(), self.log.clone().into_os_string()]);
        words.extend(["--log-format", "json", command].map(OsString::from));
        words.extend(options.iter().map(OsString::from));
        words.push(OsString::from(&settings.id));
        words.extend(rest.iter().map(OsString::from));
        let strings = |words: Vec<OsString>| -> io::Result<Vec<CString>> {
            Ok(words.into_iter().map(|word| CString::new(word.into_vec())).collect::<Result<_, _>>()?)
        };
        let environment = settings.environment.iter().map(OsString::from).collect();
        let program =
            CString::new(settings.program.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
        process::spawn(&Spawn {
            program: Program::Path(&program),
            arguments: strings(words).map_err(failed)?,
            environment: strings(environment).map_err(failed)?,
            descriptors,
            directory: c"/",
            new_session: true,
            cgroup_procs: None,
            umask: 0o022,
            bound: false,
        })
        .map_err(failed)
    }

    fn failure(&self, command: &str, status: ExitStatus, errors: &[u8]) -> Failure {
        let log = palan_stdx::fs::read(&self.log).unwrap_or_default();
        let errors = String::from_utf8_lossy(errors);
        let said = last_error(&log).or_else(|| {
            let line = errors.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
            Some(line.to_owned())
        });
        match said {
            Some(text) => Failure { kind: kind_of(&text), message: without_prefixes(&text).to_owned() },
            None => Failure::new(
                FailureKind::Other,
                format!("{} {command} ended with code {} and said nothing", self.name(), status.code()),
            ),
        }
    }
}

/// Waits for the end of a command, reading its errors meanwhile. `None`: it took too long and was killed.
fn wait(
    child: &Child,
    errors: Option<&OwnedFd>,
    patience: Duration,
) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let deadline = Instant::now() + patience;
    let mut text = Vec::new();
    let mut reading = errors;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // It may just have ended: then there is nothing to kill.
            let _ = process::send_signal(&child.pidfd, Signal::KILL);
            process::wait(&child.pidfd)?;
            return Ok((None, text));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polled = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
        polled.extend(reading.map(|errors| PollFd::new(errors, PollFlags::IN)));
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_open = polled.get(1).is_none_or(|errors| !errors.revents().contains(PollFlags::HUP));
        if let Some(errors) = reading {
            read_available(errors, &mut text);
        }
        if !is_open {
            reading = None;
        }
        if let Some(status) = process::try_wait(&child.pidfd)? {
            if let Some(errors) = reading {
                read_available(errors, &mut text);
            }
            return Ok((Some(status), text));
        }
    }
}

/// Appends what a pipe holds now to `text`, as far as it is of interest; the rest is dropped.
fn read_available(pipe: impl AsFd, text: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    while rustix::io::ioctl_fionread(&pipe).is_ok_and(|waiting| waiting > 0) {
        match rustix::io::read(&pipe, &mut piece) {
            Ok(0) => return,
            Ok(length) => text.extend(piece.iter().take(length.min(MOST_TEXT.saturating_sub(text.len())))),
            Err(Errno::INTR) => {}
            // What was read will have to do.
            Err(_) => return,
        }
    }
}

/// A line of the log.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    level: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    msg: std::borrow::Cow<'a, str>,
}

/// The last error in a log of JSON lines.
fn last_error(log: &[u8]) -> Option<String> {
    let recent = &log[log.len().saturating_sub(MOST_TEXT)..];
    recent.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let is_error = matches!(&*line.level, "error" | "fatal" | "panic");
        is_error.then(|| line.msg.trim().chars().take(MOST_MESSAGE).collect())
    })
}

/// What went wrong, told by the words that runc, crun and others use. The first two decide exit codes, and are the ones
/// that Docker goes by.
fn kind_of(text: &str) -> FailureKind {
    let text = text.to_ascii_lowercase();
    let has = |words: &str| text.contains(words);
    let is_about_program = has("exec: \"") || has("executable file") || has("exec user process");
    if is_about_program && (has("not found") || has("no such file or directory")) {
        FailureKind::NotFound
    } else if (is_about_program || has("open executable"))
        && (has("permission denied") || has("is a directory") || has("exec format error"))
    {
        FailureKind::NotExecutable
    } else if has("no space left on device") {
        FailureKind::NoSpace
    } else if has("not running") || has("stopped container") || has("container does not exist") {
        FailureKind::WrongState
    } else {
        FailureKind::Other
    }
}

/// The text without what the engine puts in front of every failure.
fn without_prefixes(mut text: &str) -> &str {
    const PREFIXES: [&str; 5] = [
        "OCI runtime create failed: ",
        "runc create failed: ",
        "runc start failed: ",
        "exec failed: ",
        "unable to start container process: ",
    ];
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_say() {
        let check = |log: &str, kind: FailureKind, message: &str| {
            let text = last_error(log.as_bytes()).unwrap();
            assert_eq!((kind_of(&text), without_prefixes(&text)), (kind, message));
        };
        // runc 1.1, of create and of exec.
        check(
            r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"x\": executable file not found in $PATH","time":"t"}"#,
            FailureKind::NotFound,
            "exec: \"x\": executable file not found in $PATH",
        );
        check(
            r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"/x\": stat /x: no such file or directory","time":"t"}"#,
            FailureKind::NotFound,
            "exec: \"/x\": stat /x: no such file or directory",
        );
        check(
            r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"/bin\": permission denied","time":"t"}"#,
            FailureKind::NotExecutable,
            "exec: \"/bin\": permission denied",
        );
        check(
            r#"{"level":"error","msg":"exec failed: cannot exec in a stopped container","time":"t"}"#,
            FailureKind::WrongState,
            "cannot exec in a stopped container",
        );
        // crun.
        check(
            r#"{"msg":"executable file `x` not found in $PATH: No such file or directory","level":"error","time":"t"}"#,
            FailureKind::NotFound,
            "executable file `x` not found in $PATH: No such file or directory",
        );
        // A file that a mount needs is not the program.
        check(
            r#"{"level":"error","msg":"runc create failed: mount /x: no such file or directory","time":"t"}"#,
            FailureKind::Other,
            "mount /x: no such file or directory",
        );
    }

    #[test]
    fn the_last_error_counts() {
        let log = "no JSON\n{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n\
                   {\"level\":\"warning\",\"msg\":\"third\"}\n{\"level\":";
        assert_eq!(last_error(log.as_bytes()).as_deref(), Some("second"));
        assert_eq!(last_error(b""), None);
    }
}
