//! `palan rename`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container rename, palan rename",
    ..Command::new("CONTAINER NEW_NAME", "Rename a container", Arity::Exactly(2), run)
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (old, new) = (flags.args[0].trim(), flags.args[1].trim());
    if old.is_empty() || new.is_empty() {
        return Err(CliError::new("Error: Neither old nor new names may be empty"));
    }
    app.client()?.rename_container(old, new).map_err(|error| {
        let error = CliError::from(error);
        let message = format!("{}\nError: failed to rename container named {old}", error.message);
        CliError { message, ..error }
    })
}
