//! `palan save`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::archive::Target;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image save, palan save",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] IMAGE [IMAGE...]",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
        Arity::AtLeast(1),
        run,
    )
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::string("output", Some('o'), "Write to a file, instead of STDOUT"),
    Flag::list("platform", None, "Save only the given platform(s). Formatted as a comma-separated list of \"os[/arch[/variant]]\" (e.g., \"linux/amd64,linux/arm64/v8\")").named("strings"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let target = Target::new(app, flags.string("output"), "failed to save image")?;
    let platforms = super::platforms(flags)?;
    target.take(app, app.client()?.save_images(&flags.args, &platforms)?)
}
