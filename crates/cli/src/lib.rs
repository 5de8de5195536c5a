//! The command line: an API client with Docker's commands, flags, output and exit codes.
//!
//! Read in this order:
//! - `command`: the tree of commands, one file for each; how a line becomes a call.
//! - `flags`: parsing and help with pflag's semantics; `run_flags`: the flags of `run` and `create`.
//! - `app`: what a call works with: streams, environment, configuration, the daemon's client; `autostart`: a daemon
//!   that isn't there yet.
//! - `session`: an attached session, its terminal, signals and end.
//! - `output`: the only printer; tables, templates, progress.
//! - `config_file`, `credentials`, `context`: Docker's client configuration.
//! - `plugin`: commands that are programs of their own.
//! - `error`: failures with their exit codes.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use app::Program;

mod app;
mod autostart;
mod command;
mod config_file;
mod context;
mod credentials;
mod environment;
mod error;
mod flags;
mod output;
mod plugin;
mod run_flags;
mod session;
mod terminal;
#[cfg(test)]
mod tests;

/// Runs a command line (with the program's name first) and returns the exit code.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let called = args.next().unwrap_or_default();
    let program = match Path::new(&called).file_name() {
        Some(name) if name == "docker" => Program::Docker,
        _ => Program::Palan,
    };
    let streams = output::streams::Streams::of_process();
    let environment = environment::Environment::of_process();
    ExitCode::from(run(program, args, streams, environment))
}

/// Runs the words behind the program's name, and reports a failure.
fn run(
    program: Program,
    args: impl Iterator<Item = OsString>,
    streams: output::streams::Streams,
    environment: environment::Environment,
) -> u8 {
    let app = app::App::new(program, streams, environment);
    let words: Result<Vec<String>, OsString> = args.map(OsString::into_string).collect();
    let result = match words {
        Ok(words) => command::execute(&app, &words),
        Err(word) => Err(error::CliError::of(
            error::Kind::Usage,
            format!("{}: the argument {word:?} is not valid UTF-8, which the API needs", program.name()),
        )),
    };
    let Err(failure) = result else { return 0 };
    let text = failure.to_string();
    if !text.is_empty() {
        app.streams.say(&text);
    }
    failure.kind.code()
}
