//! The one error of this crate: a class that front doors map to their status codes, a text, and the cause.
//!
//! Texts that Docker's clients match on are Docker's to the letter and are pinned by tests beside the code that makes
//! them. The text never repeats its source: whoever reports the error prints the chain ([`Error::report`]).

use std::error::Error as StdError;
use std::fmt;

/// What kind of failure it is; one function per front door maps it to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The named object does not exist (404).
    NotFound,
    /// The request itself is wrong (400).
    InvalidParameter,
    /// The object's state, or another object, stands in the way (409).
    Conflict,
    /// The object is already as asked (304).
    NotModified,
    /// The caller may not do this, now or ever (403).
    Forbidden,
    /// The credentials are missing or wrong (401).
    Unauthorized,
    /// Something needed does not answer at the moment (503).
    Unavailable,
    /// Known, and not supported (501).
    NotImplemented,
    /// The daemon or the host failed (500).
    System,
}

/// A failed operation.
#[derive(Debug)]
#[allow(
    clippy::error_impl_error,
    reason = "the crate's one error, always written palan_engine::Error outside"
)]
pub struct Error {
    class: Class,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

/// The result of an operation of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a class with its text.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: None }
    }

    /// The object named in the text does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Class::NotFound, message)
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Class::InvalidParameter, message)
    }

    /// A state or another object stands in the way.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Class::Conflict, message)
    }

    /// The object is already as asked.
    pub fn not_modified(message: impl Into<String>) -> Self {
        Self::new(Class::NotModified, message)
    }

    /// The daemon or the host failed.
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(Class::System, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The text with all causes, joined by `: `, as a client shall see it.
    pub fn report(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Puts a sentence about the failed operation in front of a cause.
pub(crate) trait Context<T> {
    /// Class [`Class::System`] with `message` in front of the cause.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::system(message()).with_source(source))
    }
}
