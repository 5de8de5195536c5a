//! `palan volume clone`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::run_flags::check_label;

pub(crate) static COMMAND: Command = Command {
    long: "Make a volume with the content of another, and with its labels. The new one is a plain directory, whatever options the \
           other has. What containers write to the volume meanwhile may be in the clone or not: stop them if that matters.",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] VOLUME NEW_VOLUME", "Copy a volume", Arity::Exactly(2), run)
};

static FLAGS: &[Flag] = &[Flag::list("label", None, "Set metadata for the new volume").check(check_label)];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let volume = app.client()?.clone_volume(&flags.args[0], &flags.args[1], &flags.list("label"))?;
    app.streams.line(&volume.name)
}
