//! `palan kill`.

use super::super::{Arity, Command, common};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container kill, palan kill",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Kill one or more running containers",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[Flag::string("signal", Some('s'), "Signal to send to the container")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let signal = flags.given("signal");
    common::each(app, &flags.args, |client, name| client.kill_container(name, signal))
}
