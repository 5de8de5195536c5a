//! `palan network rm`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result, join};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan network rm, palan network remove",
    flags: &[FLAGS],
    ..Command::new("NETWORK [NETWORK...]", "Remove one or more networks", Arity::AtLeast(1), run)
};

static FLAGS: &[Flag] = &[Flag::bool("force", Some('f'), "Do not error if the network does not exist")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    let mut failures = Vec::new();
    for name in &flags.args {
        match client.remove_network(name) {
            Ok(()) => app.streams.line(name)?,
            Err(error) if flags.bool("force") && error.is_not_found() => {}
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    join(failures)
}
