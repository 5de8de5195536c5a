//! `palan checkpoint rm`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan checkpoint rm, palan checkpoint remove",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] CONTAINER CHECKPOINT", "Remove a checkpoint", Arity::Exactly(2), run)
};

static FLAGS: &[Flag] = &[super::DIRECTORY];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let [container, checkpoint] = flags.args.as_slice() else { return Ok(()) };
    Ok(app.client()?.remove_checkpoint(container, checkpoint, flags.string("checkpoint-dir"))?)
}
