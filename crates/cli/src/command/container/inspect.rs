//! `palan container inspect`.

use super::super::common::{self, INSPECT_FORMAT_HELP, OBJECTS};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Display detailed information on one or more containers",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::string("format", Some('f'), INSPECT_FORMAT_HELP),
    Flag::bool("size", Some('s'), "Display total file sizes"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (client, size) = (app.client()?, flags.bool("size"));
    common::inspect(app, &flags.args, flags.string("format"), &OBJECTS, |name| {
        Ok(client.inspect_container_raw(name, size)?)
    })
}
