//! The process beside each container: stdio, logs, exec, exit codes, and the protocol to drive it.
//!
//! One supervisor runs for each running container. It is spawned by the daemon, starts the container's init process as
//! its own child through `palan-runtime`, and from then on needs nobody: the daemon is a client that may come and go.
//!
//! ```text
//!            Start ok               Pause
//! Waiting ─────────────▶ Running ◀────────▶ Paused
//!    │ │                 ▲  │    Resume       │
//!    │ │            due  │  └── init died ────┤
//!    │ │         ┌───────┘                    ▼
//!    │ │     Restarting ◀── by policy ──── Draining
//!    │ │         └─ canceled, failed ─┐       │ for good
//!    │ └─ Start failed ───────────────┴─▶ Finished
//!    └─ connection lost before Start: exits at once, nothing was made
//! ```
//!
//! - *Waiting*: connected to the daemon that spawned it; nothing exists yet but the run directory's files.
//! - *Running*, *Paused*: init lives. Requests are served on any connection; the newest connection is the one that counts.
//! - *Draining*: init was reaped; what the pipes still hold is read to the end (or for two seconds, where processes
//!   outside of the container's pid namespace hold them open), execs are reaped, the cgroups are killed and removed, the
//!   log is flushed and `exit` is appended to the journal.
//! - *Restarting*: nothing runs until it is time for the next run (module `restart`).
//! - *Finished*: what attached clients have not read yet is sent; then the process exits, with or without a daemon.
//!
//! Of a container that is *Running* a checkpoint may be made (module `checkpoint`), beside all else.
//!
//! Invariants:
//! - One thread, one epoll instance, no blocking call but on local files, inside the runtime's create/start/exec, and, with
//!   another runtime, for its commands, each of which has a time limit.
//! - A journal entry is written before it is sent; its sequence number never repeats for the same container.
//! - No client, no log device and no daemon can stop the container from being waited for; a slow client can make it wait
//!   (back-pressure), a dead one can't.
//! - What belongs to the container by name (journal, socket, cgroups) is used by one supervisor at a time: the journal's lock
//!   is taken first and given up last, before lingering clients are waited for.
//! - If the supervisor dies, init gets SIGKILL from the kernel (parent-death signal), or, under another runtime than
//!   Palan's own, from the daemon.

#![forbid(unsafe_code)]

/// What daemon and supervisor say to each other: messages, framing, and the order in which they may come.
pub mod protocol;

/// The append-only file of what happened to the container, which the daemon commits to its database.
pub mod journal;

/// The daemon's side: spawn a supervisor, connect to one, send requests, receive messages.
pub mod client;

/// The runtime, for those who build configurations: seccomp programs, the container's cgroup.
pub use palan_runtime as runtime;

/// The event loop and the state that it drives.
mod serve;

/// The daemon's requests, carried out.
mod requests;

/// The start of a run.
mod start;

/// Its end, and that of exec sessions and of the container.
mod end;

/// One run after another.
mod restart;

/// Checkpoints.
mod checkpoint;

/// Health checks.
mod health;

/// The daemon's connection.
mod control;

/// From a request to a process: the runtime, Palan's own or another, is called here.
mod launch;

/// Process 1 of containers that ask for an init under another runtime.
mod init;

/// A process's stdio and its clients.
mod session;

/// One client: socket, queue, orderly end.
mod attach;

/// The keys that detach a client.
mod detach_keys;

/// The container's log file.
mod log;

/// `/wait` connections that are answered if the daemon is gone.
mod wait;

/// The container's DNS.
mod resolver;

/// Ports of the host that the kernel can't translate.
mod relay;

/// Moving to a cgroup of one's own.
mod own_cgroup;

/// Kills for lack of memory.
mod oom;

/// Descriptors in the event loop.
mod watch;

/// What the fuzz targets see.
#[cfg(feature = "fuzz")]
pub mod fuzz;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serve::{ServeError, Supervisor};

/// The number of the descriptor that leads to the daemon.
const CONNECTION: u32 = 3;

/// The process: `--run-dir DIRECTORY [--cgroup PATH]`, with the connection to the daemon as descriptor 3. Or, inside of a
/// container, `init -- PROGRAM ARGUMENT…`.
///
/// What goes wrong is written to stderr, which the daemon has made a file in the run directory.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.next_if(|first| first == "init").is_some() {
        return init::main(arguments);
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    let (mut run_dir, mut cgroup) = (None, None);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--run-dir") => run_dir = arguments.next().map(PathBuf::from),
            Some("--cgroup") => cgroup = arguments.next().and_then(|path| path.into_string().ok()),
            _ => return Err(format!("unknown argument {}", argument.display()).into()),
        }
    }
    let run_dir =
        run_dir.ok_or("--run-dir is missing: a supervisor is started by `palan daemon`, not by hand")?;
    let connection =
        palan_linux::process::inherited_descriptor(CONNECTION).map_err(ServeError::Connection)?;
    // Executed from a descriptor, the process would have its number as a name. It is only for people to read.
    let _ = rustix::thread::set_name(c"palan-supervisor");
    Ok(Supervisor::new(&run_dir, connection, cgroup)?.run()?)
}

/// Writes to the supervisor's own log what nobody else could be told.
fn complain(error: &(dyn Error + 'static)) {
    let text = palan_stdx::error_chain::to_string(error);
    // There is nowhere else to complain.
    let _ = writeln!(std::io::stderr(), "palan supervisor: {text}");
}
