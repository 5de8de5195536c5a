//! `palan exec`.

use std::time::{Duration, Instant};

use palan_docker_api::client::{Client, ClientError};
use palan_docker_api::types::ExecCreateRequest;

use super::super::common;
use super::super::{Arity, Command};
use super::run::detach_keys;
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::check_env;
use crate::run_flags::request::{self, Surroundings};
use crate::session::signals::{Policy, Signals, Subject};
use crate::session::{self, Attached, End, Session};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container exec, palan exec",
    flags: &[FLAGS],
    interspersed: false,
    ..Command::new(
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        "Execute a command in a running container",
        Arity::AtLeast(2),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("detach", Some('d'), "Detached mode: run command in the background"),
    Flag::string("detach-keys", None, "Override the key sequence for detaching a container"),
    Flag::list("env", Some('e'), "Set environment variables").check(check_env),
    Flag::list("env-file", None, "Read in a file of environment variables"),
    Flag::bool("interactive", Some('i'), "Keep STDIN open even if not attached"),
    Flag::bool("privileged", None, "Give extended privileges to the command"),
    Flag::bool("tty", Some('t'), "Allocate a pseudo-TTY"),
    Flag::string("user", Some('u'), "Username or UID (format: \"<name|uid>[:<group|gid>]\")"),
    Flag::string("workdir", Some('w'), "Working directory inside the container"),
];

/// How long a restarting daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a process may live on after its output has ended; Docker doesn't wait for it either.
const AFTERMATH: Duration = Duration::from_millis(500);

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (name, command) = (&flags.args[0], &flags.args[1..]);
    let request = build(app, flags, command)?;
    let client = app.client()?;
    if flags.bool("detach") {
        let id = client.create_exec(name, &request)?;
        return Ok(client.start_exec_detached(&id, request.tty)?);
    }
    if let Err(error) = session::check_tty(&app.streams, request.attach_stdin, request.tty) {
        // That the container doesn't exist comes first.
        client.inspect_container(name, false)?;
        return Err(error);
    }
    let id = client.create_exec(name, &request)?;
    let attached = Attached { stdin: request.attach_stdin, stdout: true, stderr: true, tty: request.tty };
    // Without a terminal our signals are ours, as in Docker.
    let signals = attached.tty.then(Signals::block_fatal);
    let connection = client.start_exec(&id, request.tty, request.console_size)?;
    let session = Session::start(&app.streams, connection, attached, &request.detach_keys)?;
    if let Some(signals) = signals {
        let policy = Policy {
            client: client.clone(),
            subject: Subject::Exec(id.clone()),
            forward: false,
            resize: app.streams.input_is_terminal() && app.streams.output_is_terminal(),
            redraw: false,
        };
        signals.watch(policy, session.sender());
    }
    match session.finish(false)? {
        End::Detached => Err(CliError::new("read escape sequence")),
        End::Finished(_) => exit_code(client, &id),
    }
}

fn build(app: &App, flags: &Parsed, command: &[String]) -> Result<ExecCreateRequest> {
    let around = Surroundings {
        lookup: &|name| app.environment.get(name).map(str::to_owned),
        working_directory: std::path::Path::new("/"),
        proxies: &[],
    };
    let env =
        request::environment(&flags.list("env-file"), &flags.list("env"), &around).map_err(CliError::new)?;
    let (attach, tty) = (!flags.bool("detach"), flags.bool("tty"));
    let (rows, columns) = app.streams.size();
    Ok(ExecCreateRequest {
        user: flags.string("user").to_owned(),
        privileged: flags.bool("privileged"),
        tty,
        console_size: (tty && rows != 0).then(|| [u32::from(rows), u32::from(columns)]),
        attach_stdin: attach && flags.bool("interactive"),
        attach_stderr: attach,
        attach_stdout: attach,
        detach_keys: detach_keys(app, flags)?,
        env,
        working_dir: flags.string("workdir").to_owned(),
        cmd: command.to_vec(),
    })
}

/// The exit code of the process, from a daemon that may have been restarted meanwhile.
fn exit_code(client: &Client, id: &str) -> Result<()> {
    let start = Instant::now();
    // The daemon's first answer may take it a while; it is not older than that.
    let mut answered = None;
    loop {
        match client.inspect_exec(id) {
            Ok(exec) => match exec.exit_code {
                Some(0) => return Ok(()),
                Some(code) => return Err(CliError::exit(code)),
                None if !exec.running => return Ok(()),
                None if answered.get_or_insert_with(Instant::now).elapsed() > AFTERMATH => return Ok(()),
                None => common::pause(5),
            },
            Err(error @ ClientError::Api { .. }) => return Err(error.into()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => common::pause(50),
        }
    }
}
