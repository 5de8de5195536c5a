//! `palan pause` and `palan unpause`.

use super::super::{Arity, Command, common};
use crate::app::App;
use crate::error::Result;
use crate::flags::Parsed;

pub(crate) static PAUSE: Command = Command {
    aliases: "palan container pause, palan pause",
    ..Command::new(
        "CONTAINER [CONTAINER...]",
        "Pause all processes within one or more containers",
        Arity::AtLeast(1),
        pause,
    )
};

pub(crate) static UNPAUSE: Command = Command {
    aliases: "palan container unpause, palan unpause",
    ..Command::new(
        "CONTAINER [CONTAINER...]",
        "Unpause all processes within one or more containers",
        Arity::AtLeast(1),
        unpause,
    )
};

fn pause(app: &App, flags: &Parsed) -> Result<()> {
    common::each(app, &flags.args, |client, name| client.pause_container(name))
}

fn unpause(app: &App, flags: &Parsed) -> Result<()> {
    common::each(app, &flags.args, |client, name| client.unpause_container(name))
}
