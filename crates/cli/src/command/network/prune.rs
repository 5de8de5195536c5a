//! `palan network prune`.

use super::super::common;
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command =
    Command { flags: &[FLAGS], ..Command::new("[OPTIONS]", "Remove all unused networks", Arity::None, run) };

static FLAGS: &[Flag] = &[
    common::filter_flag(None, "Provide filter values (e.g. \"until=<timestamp>\")"),
    Flag::bool("force", Some('f'), "Do not prompt for confirmation"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    const WARNING: &str = "WARNING! This will remove all custom networks not used by at least one container.\n\
                           Are you sure you want to continue?";
    if !flags.bool("force") && !common::confirm(app, WARNING)? {
        return Ok(());
    }
    let (text, _) = common::sweep(app, &common::filters(flags), "/networks/prune", "Deleted Networks")?;
    app.streams.print(&text)
}
