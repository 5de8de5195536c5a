//! The standard streams. Standard output is data and standard error is talk; nothing else in this crate prints.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use palan_linux::tty;

use crate::error::{CliError, Result};

/// An output that several threads may write to. Its errors name it.
#[derive(Clone)]
pub(crate) struct Sink {
    name: &'static str,
    writer: Arc<Mutex<dyn Write + Send>>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    pub(crate) fn new(name: &'static str, writer: impl Write + Send + 'static) -> Self {
        Self { name, writer: Arc::new(Mutex::new(writer)) }
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("write to {}: {error}", self.name))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
        written.map_err(|error| self.named(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.writer.lock().unwrap_or_else(PoisonError::into_inner).flush();
        flushed.map_err(|error| self.named(&error))
    }
}

/// The streams of one call.
pub(crate) struct Streams {
    input: Mutex<Option<Box<dyn Read + Send>>>,
    output: Sink,
    errors: Sink,
    /// Whether each is a terminal: input, output, errors.
    terminals: [bool; 3],
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("terminals", &self.terminals).finish_non_exhaustive()
    }
}

impl Streams {
    /// The streams of this process, unbuffered: what a command prints is one write.
    pub(crate) fn of_process() -> Self {
        fn file(stream: &impl AsFd) -> io::Result<File> {
            Ok(File::from(stream.as_fd().try_clone_to_owned()?))
        }
        fn sink(name: &'static str, stream: &impl AsFd) -> Sink {
            match file(stream) {
                Ok(file) => Sink::new(name, file),
                Err(_) => Sink::new(name, io::sink()),
            }
        }
        let input: Box<dyn Read + Send> = match file(&io::stdin()) {
            Ok(file) => Box::new(file),
            Err(_) => Box::new(io::empty()),
        };
        Self {
            input: Mutex::new(Some(input)),
            output: sink("stdout", &io::stdout()),
            errors: sink("stderr", &io::stderr()),
            terminals: [
                tty::is_terminal(io::stdin()),
                tty::is_terminal(io::stdout()),
                tty::is_terminal(io::stderr()),
            ],
        }
    }

    /// Streams of a test.
    #[cfg(test)]
    pub(crate) fn of_test(input: impl Read + Send + 'static, output: Sink, errors: Sink) -> Self {
        Self { input: Mutex::new(Some(Box::new(input))), output, errors, terminals: [false; 3] }
    }

    /// Writes to standard output.
    pub(crate) fn print(&self, text: &str) -> Result<()> {
        self.output.clone().write_all(text.as_bytes()).map_err(|error| CliError::of_output(&error))
    }

    /// Writes a line to standard output.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.print(&format!("{text}\n"))
    }

    /// Writes a line to standard error; there is nobody to tell when that fails.
    pub(crate) fn say(&self, text: &str) {
        self.say_part(&format!("{text}\n"));
    }

    /// Writes to standard error.
    pub(crate) fn say_part(&self, text: &str) {
        let _ = self.errors.clone().write_all(text.as_bytes());
    }

    /// Standard output, for a stream of bytes.
    pub(crate) fn output(&self) -> Sink {
        self.output.clone()
    }

    /// Standard error, for a stream of bytes.
    pub(crate) fn errors(&self) -> Sink {
        self.errors.clone()
    }

    /// Standard input; it can be taken once.
    pub(crate) fn take_input(&self) -> Box<dyn Read + Send> {
        let taken = self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| Box::new(io::empty()))
    }

    pub(crate) fn input_is_terminal(&self) -> bool {
        self.terminals[0]
    }

    pub(crate) fn output_is_terminal(&self) -> bool {
        self.terminals[1]
    }

    pub(crate) fn errors_is_terminal(&self) -> bool {
        self.terminals[2]
    }

    /// Rows and columns of the terminal on standard output, zeros if it is none.
    pub(crate) fn size(&self) -> (u16, u16) {
        if !self.output_is_terminal() {
            return (0, 0);
        }
        tty::window_size(io::stdout()).map_or((0, 0), |size| (size.rows, size.columns))
    }

    /// Rows and columns of the terminal on standard error, zeros if it is none.
    pub(crate) fn size_of_errors(&self) -> (u16, u16) {
        if !self.errors_is_terminal() {
            return (0, 0);
        }
        tty::window_size(io::stderr()).map_or((0, 0), |size| (size.rows, size.columns))
    }

    /// The columns of the terminal on standard output, or on standard error; `None` if it is none.
    pub(crate) fn columns(&self, of_errors: bool) -> Option<usize> {
        let size = match (of_errors, self.errors_is_terminal(), self.output_is_terminal()) {
            (true, true, _) => tty::window_size(io::stderr()),
            (false, _, true) => tty::window_size(io::stdout()),
            _ => return None,
        };
        // A terminal that doesn't know its size is taken for a wide one, as in Docker.
        Some(size.map_or(0, |size| usize::from(size.columns)))
            .map(|columns| if columns == 0 { 200 } else { columns })
    }

    /// The columns for help texts: of the terminal on standard input, as Docker asks, else 80.
    pub(crate) fn help_columns(&self) -> usize {
        let columns = if self.input_is_terminal() {
            tty::window_size(io::stdin()).map_or(0, |size| usize::from(size.columns))
        } else {
            0
        };
        if columns == 0 { 80 } else { columns }
    }
}
