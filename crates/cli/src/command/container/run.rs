//! `palan run`: create, attach, wait, start, and the exit code of the container as ours.
//!
//! 1. The container is created; a missing image is pulled.
//! 2. The streams are attached and the wait is registered before the start, so nothing of a short life is missed.
//! 3. Start; a command that can't be invoked is 126 or 127, every other refusal 125.
//! 4. The session ends with the output and the exit code, or when the user types the detach keys.

use std::sync::mpsc::channel;
use std::time::Duration;

use palan_docker_api::client::{AttachOptions, WaitCondition};

use super::super::{Arity, Command};
use super::create::{self, with_help};
use crate::app::{App, Program};
use crate::error::{CliError, Kind, Result};
use crate::flags::Parsed;
use crate::run_flags;
use crate::session::exit_code::ExitCode;
use crate::session::signals::{Policy, Signals, Subject};
use crate::session::{self, Attached, End, Session};
use crate::terminal;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container run, palan run",
    flags: &[run_flags::TABLE, run_flags::RUN_ONLY],
    interspersed: false,
    ..Command::new(
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        "Create and run a new container from an image",
        Arity::AtLeast(1),
        run,
    )
};

/// How long a refused container's removal may take.
const REMOVAL: Duration = Duration::from_secs(10);

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let mut request = create::build(app, flags, "run")?;
    let config = &mut request.config;
    if flags.bool("detach") {
        if !flags.list("attach").is_empty() {
            return Err(CliError::new("conflicting options: cannot specify both --attach and --detach"));
        }
        (config.attach_stdin, config.attach_stdout, config.attach_stderr) = (false, false, false);
        config.stdin_once = false;
    } else {
        session::check_tty(&app.streams, config.attach_stdin, config.tty)?;
    }
    let attached = Attached {
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        tty: config.tty,
    };
    let keys = detach_keys(app, flags)?;
    let (rows, columns) = app.streams.size();
    request.host_config.console_size = [u32::from(rows), u32::from(columns)];
    let id = create::create(app, flags, &mut request).map_err(|error| classify(app.program, error))?;
    if attached.stdin || attached.stdout || attached.stderr {
        let forward = flags.bool("sig-proxy");
        attached_run(app, &id, attached, &keys, forward, request.host_config.auto_remove)
    } else {
        app.streams.line(&id)?;
        Ok(app.client()?.start_container(&id, None).map_err(|error| classify(app.program, error.into()))?)
    }
}

/// The detach keys: of the flag, else of the configuration.
pub(crate) fn detach_keys(app: &App, flags: &Parsed) -> Result<String> {
    let keys = match flags.string("detach-keys") {
        "" => app.config().text("detachKeys"),
        keys => keys,
    };
    terminal::parse_detach_keys(keys).map_err(CliError::new)?;
    Ok(keys.to_owned())
}

fn attached_run(
    app: &App,
    id: &str,
    attached: Attached,
    keys: &str,
    forward: bool,
    auto_remove: bool,
) -> Result<()> {
    let client = app.client()?;
    // Before any thread, so that all have them blocked.
    let signals = if forward {
        Some(Signals::block_all())
    } else if attached.tty {
        Some(Signals::block_fatal())
    } else {
        None
    };
    let options = AttachOptions {
        stdin: attached.stdin,
        stdout: attached.stdout,
        stderr: attached.stderr,
        stream: true,
        logs: false,
        detach_keys: Some(keys.to_owned()),
    };
    let connection = client.attach_container(id, &options)?;
    let session = Session::start(&app.streams, connection, attached, keys)?;
    let condition = if auto_remove { WaitCondition::Removed } else { WaitCondition::NextExit };
    let exit_code = ExitCode::register(client, id, condition)?;
    if let Err(error) = client.start_container(id, None) {
        if auto_remove {
            // Its name is free when we are back.
            let (sender, events) = channel();
            exit_code.report(session.output_done(), sender);
            let _ = events.recv_timeout(REMOVAL);
        }
        return Err(classify(app.program, error.into()));
    }
    if let Some(signals) = signals {
        let policy = Policy {
            client: client.clone(),
            subject: Subject::Container(id.to_owned()),
            forward,
            resize: attached.tty && app.streams.output_is_terminal(),
            redraw: false,
        };
        signals.watch(policy, session.sender());
    }
    exit_code.report(session.output_done(), session.sender());
    finish(session)
}

/// Waits for the session's end and takes the container's exit code.
pub(crate) fn finish(session: Session) -> Result<()> {
    match session.finish(true)? {
        End::Detached | End::Finished(None | Some(0)) => Ok(()),
        End::Finished(Some(code)) => Err(CliError::exit(code)),
    }
}

/// Docker's exit codes for a container that could not be created or started.
fn classify(program: Program, error: CliError) -> CliError {
    if matches!(error.kind, Kind::Exit(_) | Kind::BrokenPipe) {
        return error;
    }
    let has = |text: &str| error.message.contains(text);
    let kind = if has("executable file not found") || has("no such file or directory") {
        Kind::NotFound
    } else if has("permission denied") || has("is a directory") {
        Kind::NotExecutable
    } else {
        Kind::Usage
    };
    with_help(program, kind, &error.message, "run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_dockers_exit_codes() {
        let code = |message: &str| classify(Program::Palan, CliError::new(message)).kind.code();
        assert_eq!(code("exec: \"x\": executable file not found in $PATH: unknown"), 127);
        assert_eq!(code("exec: \"/x\": stat /x: no such file or directory: unknown"), 127);
        assert_eq!(code("exec: \"/etc\": permission denied: unknown"), 126);
        assert_eq!(code("exec: \"/etc\": is a directory: unknown"), 126);
        assert_eq!(code("No such image: x:latest"), 125);
        assert_eq!(
            classify(Program::Palan, CliError::new("Error response from daemon: x")).to_string(),
            "palan: Error response from daemon: x\n\nRun 'palan run --help' for more information"
        );
    }
}
