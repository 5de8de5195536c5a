//! `palan export`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::archive::Target;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container export, palan export",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER",
        "Export a container's filesystem as a tar archive",
        Arity::Exactly(1),
        run,
    )
};

static FLAGS: &[Flag] = &[Flag::string("output", Some('o'), "Write to a file, instead of STDOUT")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let target = Target::new(app, flags.string("output"), "failed to export container")?;
    target.take(app, app.client()?.export_container(&flags.args[0])?)
}
