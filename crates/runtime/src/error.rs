//! What can go wrong between a request and a running process.

use std::fmt;
use std::io;

use palan_linux::mount::MountError;
use palan_linux::path::PathError;
use palan_linux::process::ForkError;

use crate::cgroup::CgroupError;
use crate::checkpoint::CriuError;
use crate::seccomp::SeccompError;
use crate::user::UserError;

/// Why a container or a process in it could not be created or started.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The request asks for something impossible or unsupported.
    #[error("{0}")]
    Invalid(String),
    /// A system call failed; `what` says what it was for.
    #[error("cannot {what}")]
    System {
        /// What was being done, as a verb with its object.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A path inside of the root file system could not be used.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file system could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The process could not be created.
    #[error(transparent)]
    Fork(#[from] ForkError),
    /// The cgroup could not be made or used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// CRIU could not be used, or failed.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// The user to run as could not be found.
    #[error(transparent)]
    User(#[from] UserError),
    /// The seccomp profile can't be used.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The agent for its `notify` actions can't be reached. The text is runc's.
    #[error("failed to connect with seccomp agent specified in the seccomp profile")]
    SeccompAgent {
        /// What the kernel said.
        source: io::Error,
    },
    /// The program to execute is missing or can't be executed. The text is runc's.
    #[error("exec: {name:?}: {problem}")]
    Program {
        /// The name as it was asked for.
        name: String,
        /// What is the matter with it.
        problem: ProgramProblem,
    },
    /// The kernel refused to execute the program that was found.
    #[error("exec {path}")]
    Execute {
        /// The path of the program.
        path: String,
        /// What the kernel said: no such file (of the interpreter), exec format error, …
        source: io::Error,
    },
    /// The new process reported a failure, as rendered there.
    #[error("{message}")]
    Child {
        /// What kind of failure it was.
        kind: FailureKind,
        /// Its text, causes included.
        message: String,
        /// The error number behind it, if any.
        errno: Option<i32>,
    },
    /// A hook failed.
    #[error("{0}")]
    Hook(String),
    /// The new process ended without a word.
    #[error("the container's process ended before it was set up: {0}")]
    ChildEnded(String),
    /// There is no such container process any more.
    #[error("container is not running")]
    NotRunning,
    /// A failure that is about one field of the specification.
    #[error("{field}")]
    Field {
        /// The field's path, such as `linux.seccomp`.
        field: String,
        /// What is the matter with it.
        source: Box<Self>,
    },
}

pub(crate) use RuntimeError as Error;

/// What is the matter with the program to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramProblem {
    /// A bare name that no directory of PATH has.
    NotInPath,
    /// A path that does not exist.
    Missing(String),
    /// A directory.
    IsDirectory,
    /// Not executable for this user.
    Permission,
    /// Something else happened on the way to it.
    Other(String),
}

impl fmt::Display for ProgramProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInPath => f.write_str("executable file not found in $PATH"),
            Self::Missing(path) => write!(f, "stat {path}: no such file or directory"),
            Self::IsDirectory => f.write_str("is a directory"),
            Self::Permission => f.write_str("permission denied"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// The class of a failure: what an exit code or an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The program does not exist (127).
    ProgramNotFound,
    /// The program exists and can't be executed (126).
    ProgramNotExecutable,
    /// The request can't be fulfilled as asked.
    Invalid,
    /// The container is not running.
    NotRunning,
    /// Anything else.
    System,
}

impl RuntimeError {
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    /// The class of this failure.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Program { problem: ProgramProblem::NotInPath | ProgramProblem::Missing(_), .. } => {
                FailureKind::ProgramNotFound
            }
            Self::Execute { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                FailureKind::ProgramNotFound
            }
            Self::Program { .. } | Self::Execute { .. } => FailureKind::ProgramNotExecutable,
            Self::Child { kind, .. } => *kind,
            Self::Field { source, .. } => source.kind(),
            Self::Invalid(_) | Self::User(_) | Self::Seccomp(_) => FailureKind::Invalid,
            Self::NotRunning => FailureKind::NotRunning,
            _ => FailureKind::System,
        }
    }

    /// The error number behind it, if it is one that a caller may want to know.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } | Self::Execute { source, .. } => source.raw_os_error(),
            Self::Field { source, .. } => source.errno(),
            _ => None,
        }
    }

    /// The error with all its causes in one line.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&describe(error));
            cause = error.source();
        }
        text
    }
}

/// The text of one cause; kernel errors in C's words without Rust's `(os error N)`, as runc's users know them.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => {
            let mut letters = text[..end].chars();
            letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
        }
        None => text,
    }
}

/// Adds what was being done to an io-like result.
pub(crate) trait Context<T> {
    /// `what` is a verb with its object.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::System { what: what(), source: source.into() })
    }
}

/// Adds which field of the specification a failure is about.
pub(crate) trait InField<T> {
    /// `field` is a path such as `linux.devices[0]`.
    fn in_field(self, field: impl fmt::Display) -> Result<T, RuntimeError>;
}

impl<T, E: Into<RuntimeError>> InField<T> for Result<T, E> {
    fn in_field(self, field: impl fmt::Display) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::Field {
            field: field.to_string(),
            source: Box::new(source.into()),
        })
    }
}
