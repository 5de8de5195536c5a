//! `palan volume export`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::archive::Target;

pub(crate) static COMMAND: Command = Command {
    long: "Write what is in a volume to a tar archive, with owners, modes, times, extended attributes, hard links and special \
           files. What containers write meanwhile may be in it or not: stop them if that matters.",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] VOLUME", "Export a volume as a tar archive", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[Flag::string("output", Some('o'), "Write to a file, instead of STDOUT")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let target = Target::new(app, flags.string("output"), "failed to export volume")?;
    target.take(app, app.client()?.export_volume(&flags.args[0])?)
}
