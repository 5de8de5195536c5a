//! `palan volume rm`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result, join};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    long: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    aliases: "palan volume rm, palan volume remove",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] VOLUME [VOLUME...]", "Remove one or more volumes", Arity::AtLeast(1), run)
};

static FLAGS: &[Flag] = &[Flag::bool("force", Some('f'), "Force the removal of one or more volumes")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    let mut failures = Vec::new();
    for name in &flags.args {
        match client.remove_volume(name, flags.bool("force")) {
            Ok(()) => app.streams.line(name)?,
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    join(failures)
}
