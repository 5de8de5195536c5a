//! `palan image prune`.

use super::super::common::{self, Prune};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command =
    Command { flags: &[FLAGS], ..Command::new("[OPTIONS]", "Remove unused images", Arity::None, run) };

static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Remove all unused images, not just dangling ones"),
    common::filter_flag(None, "Provide filter values (e.g. \"until=<timestamp>\")"),
    Flag::bool("force", Some('f'), "Do not prompt for confirmation"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let mut filters = common::filters(flags);
    let all = flags.bool("all");
    filters.add("dangling", if all { "false" } else { "true" });
    let warning = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    common::prune(
        app,
        flags.bool("force"),
        &filters,
        &Prune { path: "/images/prune", object: "image", warning, title: "Deleted Images" },
    )
}
