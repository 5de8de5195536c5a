//! `palan volume update`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] VOLUME", "Update a volume (cluster volumes only)", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] =
    &[Flag::string("availability", None, "Cluster Volume availability (\"active\", \"pause\", \"drain\")")
        .default("active")];

/// What it changes only a volume of a swarm has, and there is no swarm: in Docker's words.
fn run(app: &App, flags: &Parsed) -> Result<()> {
    app.client()?.inspect_volume(&flags.args[0])?;
    Err(CliError::new("can only update cluster volumes"))
}
