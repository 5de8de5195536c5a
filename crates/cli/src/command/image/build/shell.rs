//! `--on-error=shell`: the terminal for a shell in the files of the step that failed.
//!
//! The daemon calls (`palan_buildkit::session`). The progress is told to pause first; then the terminal is raw, keys go to the shell,
//! Ctrl-C like any other, and what the shell writes is shown. A signal ends all, as it ends a build: the terminal is put back.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use palan_buildkit::grpc::{Code, Handled, Incoming, Outgoing, Status};
use palan_buildkit::message::session::{FailedStep, ShellInput, ShellOutput, TerminalSize};
use palan_buildkit::session::Shell;
use palan_linux::tty;
use rustix::event::{PollFd, PollFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::output::streams::Sink;
use crate::terminal::RawMode;

/// Whether a shell is wanted, and can be had.
pub(super) fn wanted(app: &App, flags: &Parsed) -> Result<bool> {
    if flags.given("on-error").is_none_or(str::is_empty) {
        return Ok(false);
    }
    let streams = &app.streams;
    if !streams.input_is_terminal() || !streams.errors_is_terminal() {
        return Err(CliError::new(
            "--on-error=shell needs a terminal: standard input or standard error is none",
        )
        .hint("Build without it where nobody can type, or run the build in a terminal."));
    }
    Ok(true)
}

/// The progress gives the terminal away.
#[derive(Debug)]
pub(super) struct Pause {
    /// Told when it has.
    pub(super) ready: oneshot::Sender<()>,
    /// Closed when it may have it back.
    pub(super) over: oneshot::Receiver<()>,
}

/// The user's terminal.
#[derive(Debug)]
pub(super) struct Console {
    screen: Sink,
    pauses: mpsc::Sender<Pause>,
}

impl Console {
    /// The terminal, and where pauses are asked for.
    pub(super) fn new(app: &App) -> (Arc<Self>, mpsc::Receiver<Pause>) {
        let (pauses, asked) = mpsc::channel(1);
        (Arc::new(Self { screen: app.streams.errors(), pauses }), asked)
    }

    async fn run(&self, step: FailedStep, incoming: Incoming, outgoing: Outgoing) -> io::Result<()> {
        let (ready, is_ready) = oneshot::channel();
        let (_over, over) = oneshot::channel();
        let gone = |_| io::Error::other("the build has ended");
        self.pauses.send(Pause { ready, over }).await.map_err(|_| gone(()))?;
        is_ready.await.map_err(|_| gone(()))?;
        let mut screen = self.screen.clone();
        let FailedStep { command, exit_code, shell } = &step;
        let text = format!(
            "\nExit code {exit_code}: {command}\n\
             This is {shell} in its files; what you change is thrown away. Leave it to end the build.\n"
        );
        screen.write_all(text.as_bytes())?;
        let keyboard: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let keyboard = register(keyboard)?;
        let mut resized = signal(SignalKind::window_change())?;
        let raw = RawMode::enter()?;
        let session = connect(&mut screen, &keyboard, &mut resized, incoming, &outgoing).await;
        drop(raw);
        let _ = screen.write_all(b"\n");
        session
    }
}

impl Shell for Console {
    fn attach(self: Arc<Self>, step: FailedStep, incoming: Incoming, outgoing: Outgoing) -> Handled {
        Box::pin(async move {
            let ended = self.run(step, incoming, outgoing).await;
            ended.map_err(|error| Status::new(Code::Unavailable, format!("the terminal: {error}")))
        })
    }
}

/// Connects keyboard and screen with the shell until it has ended.
async fn connect(
    screen: &mut Sink,
    keyboard: &AsyncFd<OwnedFd>,
    resized: &mut tokio::signal::unix::Signal,
    mut incoming: Incoming,
    outgoing: &Outgoing,
) -> io::Result<()> {
    let lost = |_| io::Error::other("the daemon has gone");
    outgoing.send(&ShellInput { size: Some(size()), ..ShellInput::default() }).await.map_err(lost)?;
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            told = incoming.next::<ShellOutput>() => match told.map_err(io::Error::other)? {
                Some(output) => screen.write_all(&output.data)?,
                None => return Ok(()),
            },
            typed = read(keyboard, &mut buffer) => match typed? {
                0 => return Ok(()),
                length => {
                    let data = buffer[..length].to_vec().into();
                    outgoing.send(&ShellInput { data, ..ShellInput::default() }).await.map_err(lost)?;
                }
            },
            _ = resized.recv() => {
                outgoing.send(&ShellInput { size: Some(size()), ..ShellInput::default() }).await.map_err(lost)?;
            }
        }
    }
}

#[allow(
    deprecated,
    reason = "the successor is unsafe, which this crate forbids; an OwnedFd owns its descriptor for its whole life"
)]
fn register(keyboard: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(keyboard, Interest::READABLE)
}

fn size() -> TerminalSize {
    let size = tty::window_size(io::stderr());
    size.map_or_else(
        |_| TerminalSize::default(),
        |size| TerminalSize { rows: size.rows.into(), columns: size.columns.into() },
    )
}

/// Reads what was typed. The terminal's descriptor is others', too: it is not made non-blocking, but only read where there is something.
async fn read(keyboard: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = keyboard.readable().await?;
        let mut polled = [PollFd::new(keyboard.get_ref(), PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        if rustix::event::poll(&mut polled, Some(&now))? == 0 {
            ready.clear_ready();
            continue;
        }
        match rustix::io::read(keyboard.get_ref(), &mut *buffer) {
            Ok(length) => return Ok(length),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}
