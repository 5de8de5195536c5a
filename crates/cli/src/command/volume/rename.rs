//! `palan volume rename`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command {
    long: "Give a volume another name. No container may use it, not even one that is stopped: its configuration has the old name.",
    ..Command::new("VOLUME NEW_NAME", "Rename a volume", Arity::Exactly(2), run)
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    Ok(app.client()?.rename_volume(&flags.args[0], &flags.args[1])?)
}
