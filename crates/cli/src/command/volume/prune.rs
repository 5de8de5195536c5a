//! `palan volume prune`.

use super::super::common::{self, Prune};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command =
    Command { flags: &[FLAGS], ..Command::new("[OPTIONS]", "Remove unused local volumes", Arity::None, run) };

static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Remove all unused volumes, not just anonymous ones"),
    common::filter_flag(None, "Provide filter values (e.g. \"label=<label>\")"),
    Flag::bool("force", Some('f'), "Do not prompt for confirmation"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let mut filters = common::filters(flags);
    let which = if flags.bool("all") {
        if filters.contains("all") {
            return Err(CliError::new("conflicting options: cannot specify both --all and --filter all=1"));
        }
        filters.add("all", "true");
        ""
    } else {
        "anonymous "
    };
    let warning =
        format!("WARNING! This will remove {which}local volumes not used by at least one container.");
    common::prune(
        app,
        flags.bool("force"),
        &filters,
        &Prune { path: "/volumes/prune", object: "volume", warning: &warning, title: "Deleted Volumes" },
    )
}
