//! `palan volume import`.

use std::io::Read;

use super::super::image::load::open;
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::check_label;

pub(crate) static COMMAND: Command = Command {
    long: "Make a volume of a tar archive, which may be compressed with gzip or zstd. The volume must not exist; it is there when \
           all of the archive is in it, or not at all.",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] VOLUME file|-", "Make a volume of a tar archive", Arity::Exactly(2), run)
};

static FLAGS: &[Flag] = &[Flag::list("label", None, "Set metadata for the volume").check(check_label)];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let mut archive: Box<dyn Read + Send> = match flags.args[1].as_str() {
        "-" if app.streams.input_is_terminal() => {
            return Err(CliError::new("requested import from stdin, but stdin is a terminal"));
        }
        "-" => app.streams.take_input(),
        path => Box::new(open(path)?),
    };
    let volume = app.client()?.import_volume(&flags.args[0], &flags.list("label"), &mut archive)?;
    app.streams.line(&volume.name)
}
