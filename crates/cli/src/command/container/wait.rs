//! `palan wait`.

use palan_docker_api::client::WaitCondition;

use std::sync::atomic::AtomicBool;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result, join};
use crate::flags::Parsed;
use crate::session::exit_code::ExitCode;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container wait, palan wait",
    ..Command::new(
        "CONTAINER [CONTAINER...]",
        "Block until one or more containers stop, then print their exit codes",
        Arity::AtLeast(1),
        run,
    )
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    let mut failures = Vec::new();
    for name in &flags.args {
        let code = ExitCode::register(client, name, WaitCondition::NotRunning)
            .map_err(CliError::from)
            .and_then(|exit_code| exit_code.wait(&AtomicBool::new(true)));
        match code {
            Ok(code) => app.streams.line(&code.to_string())?,
            Err(error) => failures.push(error),
        }
    }
    join(failures)
}
