//! `palan start`.

use palan_docker_api::client::{AttachOptions, Client, ClientError, WaitCondition};

use super::super::{Arity, Command};
use super::run::{detach_keys, finish};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::session::exit_code::ExitCode;
use crate::session::signals::{Policy, Signals, Subject};
use crate::session::{Attached, Session};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container start, palan start",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Start one or more stopped containers",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("attach", Some('a'), "Attach STDOUT/STDERR and forward signals"),
    Flag::string("checkpoint", None, "Restore from this checkpoint"),
    Flag::string("checkpoint-dir", None, "Use a custom checkpoint storage directory"),
    Flag::string("detach-keys", None, "Override the key sequence for detaching a container"),
    Flag::bool("interactive", Some('i'), "Attach container's STDIN"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let keys = detach_keys(app, flags)?;
    if !flags.bool("attach") && !flags.bool("interactive") {
        return detached(app, flags);
    }
    let [name] = flags.args.as_slice() else {
        return Err(CliError::new("you cannot start and attach multiple containers at once"));
    };
    let client = app.client()?;
    let container = client.inspect_container(name, false)?;
    let id = container.id.as_str();
    let attached = Attached {
        stdin: flags.bool("interactive") && container.config.open_stdin,
        stdout: true,
        stderr: true,
        tty: container.config.tty,
    };
    // With a terminal, its keys make the signals, inside of the container.
    let signals = if attached.tty { Signals::block_fatal() } else { Signals::block_all() };
    let options = AttachOptions {
        stdin: attached.stdin,
        stdout: true,
        stderr: true,
        stream: true,
        logs: false,
        detach_keys: Some(keys.clone()),
    };
    let connection = client.attach_container(id, &options)?;
    let session = Session::start(&app.streams, connection, attached, &keys)?;
    let removed = container.host_config.auto_remove;
    let condition = if removed { WaitCondition::Removed } else { WaitCondition::NextExit };
    let exit_code = ExitCode::register(client, id, condition)?;
    start(client, id, flags)?;
    let policy = Policy {
        client: client.clone(),
        subject: Subject::Container(id.to_owned()),
        forward: !attached.tty,
        resize: attached.tty && app.streams.output_is_terminal(),
        redraw: false,
    };
    signals.watch(policy, session.sender());
    exit_code.report(session.output_done(), session.sender());
    finish(session)
}

/// Anew, or from the checkpoint that is named.
fn start(client: &Client, name: &str, flags: &Parsed) -> std::result::Result<(), ClientError> {
    match flags.string("checkpoint") {
        "" => client.start_container(name, None),
        checkpoint => client.start_container_from(name, checkpoint, flags.string("checkpoint-dir")),
    }
}

fn detached(app: &App, flags: &Parsed) -> Result<()> {
    let names = &flags.args;
    let client = app.client()?;
    if !flags.string("checkpoint").is_empty() {
        let [name] = names.as_slice() else {
            return Err(CliError::new("you cannot restore multiple containers at once"));
        };
        // As Docker's, this prints no name.
        return Ok(start(client, name, flags)?);
    }
    let mut failed = Vec::new();
    for name in names {
        match client.start_container(name, None) {
            Ok(()) => app.streams.line(name)?,
            Err(error) => {
                app.streams.say(&CliError::from(error).to_string());
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::new(format!("failed to start containers: {}", failed.join(", "))))
}
