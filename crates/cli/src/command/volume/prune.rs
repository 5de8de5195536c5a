//! `palan volume prune`.

use palan_docker_api::client::{Query, Request};
use palan_stdx::size;
use serde::Deserialize;

use super::super::common;
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

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Pruned {
    volumes_deleted: Vec<String>,
    space_reclaimed: u64,
}

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
    if !flags.bool("force") {
        let warning = format!(
            "WARNING! This will remove {which}local volumes not used by at least one container.\n\
             Are you sure you want to continue?"
        );
        if !common::confirm(app, &warning)? {
            return Err(CliError::new("volume prune has been cancelled"));
        }
    }
    let query = Query::new().with_some("filters", filters.to_json().as_deref());
    let pruned: Pruned = app.client()?.fetch(Request::new("POST", "/volumes/prune", &query))?;
    let mut text = String::new();
    if !pruned.volumes_deleted.is_empty() {
        text = format!("Deleted Volumes:\n{}\n\n", pruned.volumes_deleted.join("\n"));
    }
    app.streams
        .print(&format!("{text}Total reclaimed space: {}\n", size::format_decimal(pruned.space_reclaimed)))
}
