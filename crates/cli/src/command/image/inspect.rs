//! `palan image inspect`.

use super::super::common::{self, INSPECT_FORMAT_HELP, OBJECTS};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] IMAGE [IMAGE...]",
        "Display detailed information on one or more images",
        Arity::AtLeast(1),
        run,
    )
};

const PLATFORM_HELP: &str = "Inspect a specific platform of the multi-platform image.\n\
If the image or the server is not multi-platform capable, the command will error out if the platform does not match.\n\
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)";

static FLAGS: &[Flag] =
    &[Flag::string("format", Some('f'), INSPECT_FORMAT_HELP), Flag::string("platform", None, PLATFORM_HELP)];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let platform = super::platform(flags)?;
    let client = app.client()?;
    common::inspect(app, &flags.args, flags.string("format"), &OBJECTS, |name| {
        Ok(client.inspect_image_raw(name, platform.as_deref())?)
    })
}
