//! `palan network disconnect`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] NETWORK CONTAINER",
        "Disconnect a container from a network",
        Arity::Exactly(2),
        run,
    )
};

static FLAGS: &[Flag] = &[Flag::bool("force", Some('f'), "Force the container to disconnect from a network")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    Ok(app.client()?.disconnect_network(&flags.args[0], &flags.args[1], flags.bool("force"))?)
}
