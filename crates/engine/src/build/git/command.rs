//! One command of the host's `git`, run to its end or to that of the build.
//!
//! What a repository says is a stranger's word, and git is made to obey its user. So a command has an environment of its own ([`Host`]):
//!
//! - No configuration of the host's counts, nor a user's, nor does git ask anybody for anything.
//! - It speaks http, https, git and ssh, whatever a submodule's address says (CVE-2022-39253, `ext::`).
//! - No hook, no file system monitor, no work in the background (CVE-2024-32002, CVE-2025-48384: what comes out of a broken checkout is
//!   run as a hook).
//! - What is secret is a variable, which other users don't see, and in no file and no argument.
//!
//! A command and all that it starts are in a PID namespace of their own: with the command everything ends, whether it is done, the build is
//! told to stop, or the daemon is killed. Nothing writes any more when the directory is removed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use palan_builder::backend::Stream;
use palan_builder::cancel::Cancel;
use palan_linux::process::{self, ExitStatus, Program, Spawn};
use palan_linux::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::engine::Engine;
use crate::runtimes::find_program;

/// The oldest git that takes its configuration from variables.
const OLDEST: (u32, u32) = (2, 31);

/// How much of what a command writes is kept.
const MOST_TEXT: usize = 1 << 20;

/// What ssh is started with: no configuration and no keys of the host's, nothing asked, nothing but the agent of the build used. A host that
/// nobody knows is taken at its word, one that `/etc/ssh/ssh_known_hosts` knows must be itself.
const SSH: &str = "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o StrictHostKeyChecking=accept-new \
                   -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=30 -o ServerAliveInterval=30 \
                   -o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no";

/// Configuration that no other overrules.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.logAllRefUpdates", "false"),
    ("core.symlinks", "true"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
    ("credential.helper", ""),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    // A server that says nothing for so long has nothing to say.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "120"),
];

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("the build was cancelled")]
    Cancelled,
    #[error("git stderr:\n{said}")]
    Failed { said: String },
    #[error("git was killed by a signal ({0})")]
    Killed(i32),
    #[error("git says more than anybody needs")]
    Talkative,
    #[error("cannot run git")]
    Spawn(#[source] io::Error),
}

/// The host's git is missing, or too old.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error(
        "this host has no program {program:?} in the daemon's $PATH, which fetches repositories for builds: install the package {package}"
    )]
    Missing { program: &'static str, package: &'static str },
    #[error(
        "git {0} of this host is too old to fetch repositories for builds: {major}.{minor} or newer is needed",
        major = OLDEST.0,
        minor = OLDEST.1
    )]
    Old(String),
    #[error("cannot run git")]
    Command(#[from] CommandError),
}

/// The program, and what every command of it knows.
pub(super) struct Host {
    program: CString,
    environment: Vec<String>,
}

impl Host {
    /// Looks for git, and for ssh if it is needed. `agent` is the socket of an ssh agent, `settings` more configuration.
    pub(super) fn find(
        engine: &Engine,
        needs_ssh: bool,
        agent: Option<&str>,
        settings: &[(String, String)],
    ) -> Result<Self, HostError> {
        let config = engine.config();
        let search_path = config.runtimes.search_path();
        let missing = |program, package| HostError::Missing { program, package };
        let program = find_program(search_path, "git").ok_or(missing("git", "git"))?;
        if needs_ssh {
            find_program(search_path, "ssh").ok_or(missing("ssh", "openssh-client"))?;
        }
        let fixed = [
            ("PATH", search_path),
            // Messages are read by us.
            ("LC_ALL", "C"),
            ("HOME", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TEMPLATE_DIR", ""),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
            ("GIT_SSH_COMMAND", SSH),
            ("GIT_SSH_VARIANT", "ssh"),
        ];
        let proxies = [
            ("http_proxy", &config.proxies.http),
            ("https_proxy", &config.proxies.https),
            ("no_proxy", &config.proxies.exceptions),
        ];
        let proxies = proxies.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let agent = agent.map(|socket| ("SSH_AUTH_SOCK", socket));
        let pairs = fixed.into_iter().chain(proxies).chain(agent);
        let mut environment: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
        let given = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (number, (key, value)) in SETTINGS.iter().copied().chain(given).enumerate() {
            environment.push(format!("GIT_CONFIG_KEY_{number}={key}"));
            environment.push(format!("GIT_CONFIG_VALUE_{number}={value}"));
        }
        environment.push(format!("GIT_CONFIG_COUNT={}", SETTINGS.len() + settings.len()));
        let program = CString::new(program.as_os_str().as_bytes())
            .map_err(|error| CommandError::Spawn(error.into()))?;
        let host = Self { program, environment };
        host.check_version()?;
        Ok(host)
    }

    fn check_version(&self) -> Result<(), HostError> {
        let cancel = Cancel::new();
        let said = self.at(Path::new("/"), &cancel, &|_, _| {}).run(&["version"])?;
        match version(&said) {
            Some(version) if version < OLDEST => Err(HostError::Old(format!("{}.{}", version.0, version.1))),
            // A version that can't be read is not an old one.
            _ => Ok(()),
        }
    }

    /// For commands in a directory.
    pub(super) fn at<'a>(
        &'a self,
        directory: &'a Path,
        cancel: &'a Cancel,
        output: &'a dyn Fn(Stream, &[u8]),
    ) -> Git<'a> {
        Git { host: self, directory, cancel, output }
    }
}

/// The first two numbers of `git version 2.47.3 (…)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("git version ")?.split('.').map(|number| number.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Git in a directory.
#[derive(Clone, Copy)]
pub(super) struct Git<'a> {
    host: &'a Host,
    directory: &'a Path,
    cancel: &'a Cancel,
    output: &'a dyn Fn(Stream, &[u8]),
}

impl Git<'_> {
    /// Runs a command; what it wrote to its standard output.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String, CommandError> {
        let mut text = Vec::new();
        self.run_with(arguments, &mut |bytes| {
            text.extend_from_slice(bytes);
            text.len() <= MOST_TEXT
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a command whose output goes to `take`, for as long as that wants more.
    pub(super) fn run_with(
        &self,
        arguments: &[&str],
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), CommandError> {
        let failed = CommandError::Spawn;
        if self.cancel.is_cancelled() {
            return Err(CommandError::Cancelled);
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()));
        let ((output, output_end), (errors, errors_end)) = (pipe()?, pipe()?);
        let nothing = palan_stdx::fs::open(Path::new("/dev/null")).map_err(|error| failed(error.into()))?;
        let child = self
            .spawn(arguments, vec![nothing.as_fd(), output_end.as_fd(), errors_end.as_fd()])
            .map_err(failed)?;
        drop((output_end, errors_end));
        let handle = child.pidfd.try_clone().map_err(failed)?;
        let _watch = self.cancel.watch(move || kill(&handle));
        let mut said = Vec::new();
        let read = self.follow(&child.pidfd, &output, &errors, &mut said, take);
        kill(&child.pidfd);
        let status = process::wait(&child.pidfd);
        let is_wanted = read.and_then(|is_wanted| {
            // What is in the pipes still.
            let rest = drain(&output, &mut |bytes| {
                take(bytes);
            });
            rest.and_then(|()| drain(&errors, &mut |bytes| self.tell(bytes, &mut said))).map(|()| is_wanted)
        });
        if self.cancel.is_cancelled() {
            return Err(CommandError::Cancelled);
        }
        match (status.map_err(failed)?, is_wanted.map_err(failed)?) {
            (_, false) => Err(CommandError::Talkative),
            (ExitStatus::Exited(0), true) => Ok(()),
            (ExitStatus::Exited(_), true) => {
                Err(CommandError::Failed { said: String::from_utf8_lossy(&said).trim_end().to_owned() })
            }
            (signaled @ ExitStatus::Signaled { .. }, true) => {
                Err(CommandError::Killed(signaled.code() - 128))
            }
        }
    }

    fn spawn(&self, arguments: &[&str], descriptors: Vec<BorrowedFd<'_>>) -> io::Result<process::Child> {
        let directory = CString::new(self.directory.as_os_str().as_bytes())?;
        // Git looks for a repository nowhere above.
        let above = self.directory.parent().unwrap_or(self.directory).display();
        let ceiling = format!("GIT_CEILING_DIRECTORIES={above}");
        let environment = self.host.environment.iter().map(String::as_str).chain([ceiling.as_str()]);
        process::spawn(&Spawn {
            program: Program::Path(&self.host.program),
            arguments: strings(["git"].into_iter().chain(arguments.iter().copied()))?,
            environment: strings(environment)?,
            descriptors,
            directory: &directory,
            new_session: true,
            cgroup_procs: None,
            umask: 0o022,
            bound: true,
        })
    }

    /// Reads what a command writes until it ends. False: nobody wants more of it.
    fn follow(
        &self,
        ended: &OwnedFd,
        output: &OwnedFd,
        errors: &OwnedFd,
        said: &mut Vec<u8>,
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> io::Result<bool> {
        let (mut output, mut errors) = (Some(output), Some(errors));
        loop {
            let mut polled = vec![PollFd::new(ended, PollFlags::IN)];
            polled.extend(output.iter().chain(&errors).map(|pipe| PollFd::new(*pipe, PollFlags::IN)));
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if polled.first().is_some_and(|ended| !ended.revents().is_empty()) {
                return Ok(true);
            }
            drop(polled);
            let mut is_wanted = true;
            if let Some(pipe) = output
                && !read(pipe, &mut |bytes| is_wanted &= take(bytes))?
            {
                output = None;
            }
            if !is_wanted {
                return Ok(false);
            }
            if let Some(pipe) = errors
                && !read(pipe, &mut |bytes| self.tell(bytes, said))?
            {
                errors = None;
            }
        }
    }

    /// What is on standard error is told, and its end kept.
    fn tell(&self, bytes: &[u8], said: &mut Vec<u8>) {
        (self.output)(Stream::Stderr, bytes);
        said.extend_from_slice(bytes);
        said.drain(..said.len().saturating_sub(MOST_TEXT));
    }
}

/// What has ended needs no killing.
fn kill(process: &OwnedFd) {
    let _ = process::send_signal(process, Signal::KILL);
}

fn strings<'a>(words: impl Iterator<Item = &'a str>) -> io::Result<Vec<CString>> {
    Ok(words.map(CString::new).collect::<Result<_, _>>()?)
}

/// Reads what a pipe has now. False: it is at its end.
fn read(pipe: &OwnedFd, take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let mut piece = [0; 64 * 1024];
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    match poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(1..) => {}
        Ok(0) | Err(Errno::INTR) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    }
    match rustix::io::read(pipe, &mut piece) {
        Ok(0) => Ok(false),
        Ok(length) => {
            take(&piece[..length]);
            Ok(true)
        }
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what a pipe has left, whose writers are gone.
fn drain(pipe: &OwnedFd, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    while rustix::io::ioctl_fionread(pipe).is_ok_and(|waiting| waiting > 0) {
        read(pipe, take)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("git version 2.47.3\n"), Some((2, 47)));
        assert_eq!(version("git version 2.39 (Apple Git-1)"), None);
        assert_eq!(version("git version 2.30.1.windows.1"), Some((2, 30)));
        assert_eq!(version("what"), None);
        assert!((2, 30) < OLDEST && (2, 31) >= OLDEST && (3, 0) >= OLDEST);
    }
}
