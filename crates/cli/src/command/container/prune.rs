//! `palan container prune`.

use super::super::common::{self, Prune};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Remove all stopped containers", Arity::None, run)
};

static FLAGS: &[Flag] = &[
    common::filter_flag(None, "Provide filter values (e.g. \"until=<timestamp>\")"),
    Flag::bool("force", Some('f'), "Do not prompt for confirmation"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    common::prune(
        app,
        flags.bool("force"),
        &common::filters(flags),
        &Prune {
            path: "/containers/prune",
            object: "container",
            warning: "WARNING! This will remove all stopped containers.",
            title: "Deleted Containers",
        },
    )
}
