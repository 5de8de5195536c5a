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
    Flag::string("platform", None, "Save only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let target = Target::new(app, flags.string("output"), "failed to save image")?;
    let platform = super::platform(flags)?;
    let platforms: Vec<&str> = platform.iter().map(String::as_str).collect();
    target.take(app, app.client()?.save_images(&flags.args, &platforms)?)
}
