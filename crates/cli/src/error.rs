//! What a command can fail with: a text, the exit code that its kind decides, and what to do about it.

use std::fmt;
use std::io;

/// Decides the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command could not do what it was asked: 1.
    General,
    /// A `--format` template is wrong: 64, as in Docker.
    Template,
    /// The command line is wrong, or the daemon refused to create or start a container for `run`: 125.
    Usage,
    /// The container's command could not be invoked: 126.
    NotExecutable,
    /// The container's command was not found: 127.
    NotFound,
    /// A process of the container ended with this code; nothing is to be said.
    Exit(u8),
    /// Nobody reads our output any more; nothing is to be said. 128 + SIGPIPE, where Docker dies by that signal.
    BrokenPipe,
}

impl Kind {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::General => 1,
            Self::Template => 64,
            Self::Usage => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Exit(code) => code,
            Self::BrokenPipe => 141,
        }
    }
}

/// A command's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// What kind of failure, that is: which exit code.
    pub(crate) kind: Kind,
    /// What to print on standard error; empty for nothing.
    pub(crate) message: String,
    /// What the user can do, printed after an empty line.
    pub(crate) hint: Option<String>,
}

/// The result of everything in this crate that can fail.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// A failure of the general kind.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::of(Kind::General, message)
    }

    /// A failure of the given kind.
    pub(crate) fn of(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// No failure of ours: the exit code of a container's process.
    pub(crate) fn exit(code: i64) -> Self {
        // The kernel keeps the low byte of an exit status, as it does for Docker's own.
        let code = u8::try_from(code & 0xff).unwrap_or(u8::MAX);
        Self::of(Kind::Exit(code), "")
    }

    /// The same failure with advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed read or write of `what`.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::of(Kind::BrokenPipe, "");
        }
        Self::new(format!("{what}: {error}"))
    }

    /// A stream that could not be copied to standard output or error, which name themselves.
    pub(crate) fn of_output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::of(Kind::BrokenPipe, "");
        }
        Self::new(error.to_string())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\n{hint}"),
            None => Ok(()),
        }
    }
}

/// Joins the failures of a command that goes on with its next argument; `Ok` if there was none.
pub(crate) fn join(failures: Vec<CliError>) -> Result<()> {
    let mut failures = failures.into_iter();
    let Some(mut first) = failures.next() else { return Ok(()) };
    for next in failures {
        first.message.push('\n');
        first.message.push_str(&next.to_string());
    }
    Err(first)
}
