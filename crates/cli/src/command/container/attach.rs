//! `palan attach`.

use palan_docker_api::client::{AttachOptions, Client, WaitCondition};
use palan_docker_api::types::ContainerInspect;

use super::super::{Arity, Command};
use super::run::detach_keys;
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::session::exit_code::ExitCode;
use crate::session::signals::{Policy, Signals, Subject};
use crate::session::{self, Attached, End, Session};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container attach, palan attach",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER",
        "Attach local standard input, output, and error streams to a running container",
        Arity::Exactly(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::string("detach-keys", None, "Override the key sequence for detaching a container"),
    Flag::bool("no-stdin", None, "Do not attach STDIN"),
    Flag::bool("sig-proxy", None, "Proxy all received signals to the process").default("true"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let keys = detach_keys(app, flags)?;
    let client = app.client()?;
    let name = &flags.args[0];
    let container = running(client, name)?;
    let (id, config) = (container.id.as_str(), &container.config);
    let with_stdin = !flags.bool("no-stdin");
    session::check_tty(&app.streams, with_stdin, config.tty)?;
    let attached =
        Attached { stdin: with_stdin && config.open_stdin, stdout: true, stderr: true, tty: config.tty };
    let forward = flags.bool("sig-proxy") && !attached.tty;
    let signals = match (forward, attached.tty) {
        (true, _) => Some(Signals::block_all()),
        (false, true) => Some(Signals::block_fatal()),
        (false, false) => None,
    };
    let exit_code = ExitCode::register(client, id, WaitCondition::NotRunning)?;
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
    if let Some(signals) = signals {
        let policy = Policy {
            client: client.clone(),
            subject: Subject::Container(id.to_owned()),
            forward,
            resize: attached.tty && app.streams.output_is_terminal(),
            redraw: true,
        };
        signals.watch(policy, session.sender());
    }
    exit_code.report(session.output_done(), session.sender());
    match session.finish(true)? {
        End::Detached => Err(CliError::new("read escape sequence")),
        End::Finished(None | Some(0)) => Ok(()),
        End::Finished(Some(code)) => Err(CliError::exit(code)),
    }
}

/// The container, if it can be attached to.
fn running(client: &Client, name: &str) -> Result<ContainerInspect> {
    let container = client.inspect_container(name, false)?;
    let state = &container.state;
    let obstacle = if !state.running {
        "cannot attach to a stopped container, start it first"
    } else if state.paused {
        "cannot attach to a paused container, unpause it first"
    } else if state.restarting {
        "cannot attach to a restarting container, wait until it is running"
    } else {
        return Ok(container);
    };
    Err(CliError::new(obstacle))
}
