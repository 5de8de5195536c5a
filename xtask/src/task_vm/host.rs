//! The host's side of a run: what the command gets, the loop that passes its output on, and its end.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use palan_linux::event::{Epoll, Interest, SignalFd};
use palan_linux::signal::Signal;
use palan_linux::tty;
use rustix::stdio::stdin;
use rustix::termios::Termios;

use super::kernel::Kernel;
use super::machine::Machine;
use super::message::{Decoder, Message};
use super::options::Options;
use super::request::Request;
use super::{PACKAGES, SYSTEMD_PACKAGES};
use crate::process::root;
use crate::{Failure, packages};

/// A machine that has not booted after this time never will; an emulated one on a busy host needs a tenth of it.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How timeout(1) ends when time is up.
const TIMED_OUT: u8 = 124;

/// Variables that the command gets from ours, beside those that start with one of [`PREFIXES`].
const PASSED_ON: &[&str] =
    &["PATH", "HOME", "USER", "LANG", "TERM", "CARGO_HOME", "CARGO_TARGET_DIR", "RUSTUP_HOME"];
const PREFIXES: &[&str] = &["PALAN_", "RUST_"];

/// Runs a machine to its end and returns the exit code.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the machine is an x86-64 one, and so must be the host whose programs it runs".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("the machine sees the host's files as root: run `sudo -E cargo xtask vm …`".into());
    }
    packages::install(PACKAGES)?;
    if options.systemd {
        packages::install(SYSTEMD_PACKAGES)?;
    }
    let terminal = Terminal::of_caller()?;
    let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::WINCH].map(Signal::as_raw);
    let signals = SignalFd::new(&signals)?;
    let machine = start(options, terminal.as_ref().map(|_| size()))?;
    follow(machine, &signals, terminal.is_some(), options.timeout)
}

fn start(options: &Options, terminal: Option<(u16, u16)>) -> Result<Machine, Failure> {
    let home = root().join("target/vm");
    let out = home.join("out");
    std::fs::create_dir_all(&out)?;
    let kernel = {
        let _everybody = super::lock(&home)?;
        Kernel::prepare(&home)?
    };
    let request = Request {
        command: options.command.clone(),
        environment: environment(&options.environment)?,
        directory: std::env::current_dir()?,
        terminal,
        modules: kernel.modules.clone(),
        out,
        network: options.network,
        systemd: options.systemd,
    };
    Machine::start(&home, &kernel, options, &request)
}

/// What a machine says to another task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// A line of the command's output.
    Line(String),
    /// The command ended with this code.
    Ended(u8),
}

/// A machine on a given disk, for another task. Dropped, it is off in that moment.
#[derive(Debug)]
pub(crate) struct Session {
    talk: Talk,
    epoll: Epoll,
    text: String,
    ended: Option<u8>,
}

impl Session {
    /// Boots a machine whose disk is served at this socket.
    pub(crate) fn start(
        command: Vec<String>,
        environment: Vec<String>,
        disk: std::path::PathBuf,
    ) -> Result<Self, Failure> {
        packages::install(PACKAGES)?;
        let options = Options { disk: Some(disk), environment, ..Options::parse(&command)? };
        let machine = start(&options, None)?;
        let epoll = Epoll::new()?;
        epoll.add(&machine.output, PORT, Interest::READ)?;
        let talk = Talk { machine, decoder: Decoder::default(), booted: false };
        Ok(Self { talk, epoll, text: String::new(), ended: None })
    }

    /// The next thing that it says until then. Its errors are passed on.
    pub(crate) fn next(&mut self, until: Instant) -> Result<Option<Said>, Failure> {
        loop {
            if let Some(end) = self.text.find('\n') {
                let line = self.text.drain(..=end).collect::<String>();
                return Ok(Some(Said::Line(line.trim_end().to_owned())));
            }
            if let Some(code) = self.ended {
                return Ok(Some(Said::Ended(code)));
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else { return Ok(None) };
            let mut ready = Vec::new();
            self.epoll.wait(&mut ready, Some(left))?;
            if !ready.is_empty() {
                let text = &mut self.text;
                self.ended = self.talk.listen(|bytes| {
                    text.push_str(&String::from_utf8_lossy(bytes));
                    Ok(())
                })?;
            }
        }
    }
}

const PORT: u64 = 0;
const SIGNALS: u64 = 1;
const TYPED: u64 = 2;

/// Passes on what the machine says until it has said the last, or time is up, or somebody ends it.
#[expect(clippy::print_stderr, reason = "tasks talk to the person at the terminal")]
fn follow(machine: Machine, signals: &SignalFd, terminal: bool, timeout: Duration) -> Result<u8, Failure> {
    let start = Instant::now();
    let mut talk = Talk { machine, decoder: Decoder::default(), booted: false };
    let epoll = Epoll::new()?;
    epoll.add(&talk.machine.output, PORT, Interest::READ)?;
    epoll.add(signals, SIGNALS, Interest::READ)?;
    if terminal {
        epoll.add(stdin(), TYPED, Interest::READ)?;
    }
    let mut ready = Vec::new();
    loop {
        let limit = if talk.booted { timeout } else { timeout.min(BOOT_LIMIT) };
        let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            if limit == timeout {
                eprintln!("xtask: switched the machine off after {} s", timeout.as_secs());
                return Ok(TIMED_OUT);
            }
            return Err(format!("the machine does not boot:\n{}", talk.machine.last_words()).into());
        };
        ready.clear();
        epoll.wait(&mut ready, Some(left))?;
        for event in &ready {
            match event.token {
                PORT => {
                    if let Some(code) = talk.listen(|bytes| print(std::io::stdout(), bytes))? {
                        return Ok(code);
                    }
                }
                TYPED => {
                    let mut buffer = [0; 4096];
                    let length = rustix::io::read(stdin(), &mut buffer)?;
                    if length == 0 {
                        epoll.remove(stdin())?;
                    }
                    talk.say(&Message::Input(buffer[..length].to_vec()))?;
                }
                _ => {
                    while let Some(number) = signals.next()? {
                        if number != Signal::WINCH.as_raw() {
                            return Ok(u8::try_from(128 + number).unwrap_or(u8::MAX));
                        }
                        if terminal {
                            let (rows, columns) = size();
                            talk.say(&Message::Size { rows, columns })?;
                        }
                    }
                }
            }
        }
    }
}

/// The exchange of messages with a machine.
#[derive(Debug)]
struct Talk {
    machine: Machine,
    decoder: Decoder,
    /// Whether it has got as far as starting the command.
    booted: bool,
}

impl Talk {
    fn say(&mut self, message: &Message) -> Result<(), Failure> {
        Ok(self.machine.input.write_all(&message.encode())?)
    }

    /// Takes in what has come, and returns the command's exit code if that is part of it.
    fn listen(
        &mut self,
        mut output: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<Option<u8>, Failure> {
        let mut buffer = [0; 32 << 10];
        let length = self.machine.output.read(&mut buffer)?;
        if length == 0 {
            let words = self.machine.last_words();
            return Err(format!("the machine has ended before the command did:\n{words}").into());
        }
        for message in self.decoder.push(&buffer[..length])? {
            match message {
                Message::Started => self.booted = true,
                Message::Stdout(bytes) => output(&bytes)?,
                Message::Stderr(bytes) => print(std::io::stderr(), &bytes)?,
                Message::Ended(code) => return Ok(Some(code)),
                Message::Failed(text) => {
                    return Err(format!("in the machine: {text}\n{}", self.machine.last_words()).into());
                }
                Message::Input(_) | Message::Size { .. } => {}
            }
        }
        Ok(None)
    }
}

fn print(mut stream: impl std::io::Write, bytes: &[u8]) -> Result<(), Failure> {
    stream.write_all(bytes)?;
    Ok(stream.flush()?)
}

/// The command's whole environment. `asked` are the values of `--env`.
fn environment(asked: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            PASSED_ON.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect();
    let mut set = |name: &str, value: String| {
        variables.retain(|(other, _)| other != name);
        variables.push((name.to_owned(), value));
    };
    set("PALAN_VM", "1".to_owned());
    set("TMPDIR", super::guest::DISK.to_owned());
    for text in asked {
        match text.split_once('=') {
            Some((name, value)) => set(name, value.to_owned()),
            None => {
                let value = std::env::var(text)
                    .map_err(|error| format!("--env {text}: no value to pass on: {error}"))?;
                set(text, value);
            }
        }
    }
    Ok(variables)
}

/// The caller's terminal in raw mode: every key is for the command's own. It is put back when this is dropped.
struct Terminal {
    before: Termios,
}

impl Terminal {
    fn of_caller() -> Result<Option<Self>, Failure> {
        if !tty::is_terminal(stdin()) || !tty::is_terminal(std::io::stdout().as_fd()) {
            return Ok(None);
        }
        Ok(Some(Self { before: tty::make_raw(stdin())? }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        tty::restore(stdin(), &self.before).ok();
    }
}

fn size() -> (u16, u16) {
    tty::window_size(stdin()).map_or((24, 80), |size| (size.rows, size.columns))
}
