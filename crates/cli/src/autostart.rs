//! Starts a daemon when the default socket has none, so that the first command on a fresh machine just works.
//!
//! 1. Somebody listens: nothing to do.
//! 2. `CI` or `PALAN_NO_AUTOSTART` is set: left alone, the request reports that no daemon is there.
//! 3. The systemd unit is installed: `systemctl start`.
//! 4. Else, under a lock so that of many commands one starts it: our own program as `palan daemon`, in a session of its
//!    own, in `/`, with a clean environment.
//! 5. Wait until the socket takes connections.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use palan_linux::process::{self, Child, Program, Spawn};
use rustix::fs::FlockOperation;

use crate::app::no_daemon;
use crate::environment::{CI, Environment, PALAN_NO_AUTOSTART};
use crate::error::{CliError, Result};

/// How long a daemon may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where systemd units are installed, with those that start the daemon.
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];
const UNITS: [&str; 2] = ["palan.socket", "palan.service"];

/// Makes sure that somebody listens on the default socket, if that is wanted and possible.
pub(crate) fn ensure(socket: &Path, environment: &Environment) -> Result<()> {
    match UnixStream::connect(socket) {
        Ok(_) => return Ok(()),
        Err(error) if is_absent(&error) => {}
        // The request meets the same error and reports it.
        Err(_) => return Ok(()),
    }
    if environment.set(CI).is_some() || environment.set(PALAN_NO_AUTOSTART).is_some() {
        return Ok(());
    }
    match installed_unit() {
        Some(unit) => start_unit(unit, socket),
        None if rustix::process::geteuid().is_root() => start_own(socket),
        // Only root can run the daemon: the request reports that there is none.
        None => Ok(()),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn installed_unit() -> Option<&'static str> {
    // Without systemd in charge its tools can't start anything.
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    UNITS
        .into_iter()
        .find(|unit| UNIT_DIRECTORIES.iter().any(|directory| Path::new(directory).join(unit).exists()))
}

#[allow(
    clippy::disallowed_methods,
    reason = "systemd is asked by its own tool, which needs nothing of ours but PATH"
)]
fn start_unit(unit: &str, socket: &Path) -> Result<()> {
    let started = Command::new("systemctl")
        .args(["start", unit])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match started {
        Ok(status) if status.success() => wait(socket, None),
        Ok(status) => Err(failed(socket, &format!("systemctl start {unit} ended with {status}"))),
        Err(error) => Err(failed(socket, &format!("systemctl start {unit}: {error}"))),
    }
}

fn failed(socket: &Path, why: &str) -> CliError {
    CliError::new(format!(
        "{}\nIt could not be started: {why}",
        no_daemon(&format!("unix://{}", socket.display()))
    ))
    .hint("Run 'palan daemon' in another terminal to see why, or 'palan doctor' to check the host.")
}

/// Holds the lock while it starts the daemon, so that of several commands only one does.
fn start_own(socket: &Path) -> Result<()> {
    let directory = socket.parent().unwrap_or(Path::new("/run"));
    let report = |what: &str, error: &dyn std::fmt::Display| failed(socket, &format!("{what}: {error}"));
    palan_stdx::fs::create_dir_all(directory, 0o700)
        .map_err(|error| report("create the run directory", &error))?;
    let path = directory.join(".autostart.lock");
    let lock = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(|error| report(&path.display().to_string(), &error))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| report(&path.display().to_string(), &error))?;
    if listens(socket) {
        return Ok(());
    }
    let log = directory.join("daemon.log");
    let child = spawn_daemon(&log).map_err(|error| report("run palan daemon", &error))?;
    wait(socket, Some((&child, &log)))
}

fn spawn_daemon(log: &Path) -> io::Result<Child> {
    let null = std::fs::File::options().read(true).open("/dev/null")?;
    let log = std::fs::File::options().create(true).append(true).mode(0o600).open(log)?;
    process::spawn(&Spawn {
        // The very file that runs, also when another has taken its name meanwhile.
        program: Program::Path(c"/proc/self/exe"),
        arguments: vec![c"palan".to_owned(), c"daemon".to_owned()],
        environment: vec![c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        descriptors: vec![null.as_fd(), log.as_fd(), log.as_fd()],
        directory: c"/",
        new_session: true,
        cgroup_procs: None,
        umask: 0o022,
        bound: false,
    })
}

/// Waits until the socket takes connections, and notices a daemon that gave up.
fn wait(socket: &Path, daemon: Option<(&Child, &Path)>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if listens(socket) {
            return Ok(());
        }
        if let Some((child, log)) = &daemon
            && let Ok(Some(status)) = process::try_wait(&child.pidfd)
        {
            let log = palan_stdx::fs::read_to_string(log).unwrap_or_default();
            let last = log.lines().next_back().unwrap_or("it said nothing").to_owned();
            return Err(failed(socket, &format!("palan daemon ended with {}: {last}", status.code())));
        }
        if Instant::now() >= deadline {
            return Err(failed(socket, "it did not listen within 10 seconds"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_away_where_it_is_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("none.sock");
        for variable in [CI, PALAN_NO_AUTOSTART] {
            ensure(&socket, &Environment::of(&[(variable, "1")])).unwrap();
        }
        assert!(!directory.path().join(".autostart.lock").exists());
    }

    #[test]
    fn a_daemon_that_listens_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("some.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        ensure(&socket, &Environment::of(&[])).unwrap();
        assert!(!directory.path().join(".autostart.lock").exists());
    }
}
