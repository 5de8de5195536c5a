//! `palan builder prune`.

use palan_docker_api::client::{Query, Request};
use palan_docker_api::filters::Filters;
use serde::Deserialize;

use super::super::common;
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::parse_bytes;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan builder prune, palan buildx prune",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Remove build cache", Arity::None, run)
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Remove all unused build cache, not just dangling ones"),
    common::filter_flag(None, "Provide filter values (e.g. \"until=24h\")"),
    Flag::bool("force", Some('f'), "Do not prompt for confirmation"),
    bytes("keep-storage", "Amount of disk space to keep for cache"),
    bytes("max-used-space", "Maximum amount of disk space allowed to keep for cache"),
    bytes("min-free-space", "Target amount of free disk space after pruning"),
    bytes("reserved-space", "Amount of disk space always allowed to keep for cache"),
    Flag::string("builder", None, "Override the configured builder instance").hidden().check(check_builder),
];

/// Sizes, by the names of the API.
const SIZES: [&str; 4] = ["keep-storage", "max-used-space", "min-free-space", "reserved-space"];

const fn bytes(long: &'static str, help: &'static str) -> Flag {
    Flag::string(long, None, help).named("bytes").check(check_bytes)
}

fn check_bytes(text: &str) -> std::result::Result<(), String> {
    parse_bytes(text).map(drop)
}

fn check_builder(text: &str) -> std::result::Result<(), String> {
    match text {
        "" | "default" => Ok(()),
        _ => Err(format!("no builder {text:?} found")),
    }
}

/// The answer.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Pruned {
    caches_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let all = flags.bool("all");
    let warning = match all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all dangling build cache.",
    };
    if !flags.bool("force")
        && !common::confirm(app, &format!("{warning}\nAre you sure you want to continue?"))?
    {
        return Err(CliError::new("builder prune has been cancelled"));
    }
    let mut query = Query::new().with_flag("all", all);
    for name in SIZES {
        if let Some(text) = flags.given(name) {
            query = query.with(name, &parse_bytes(text).map_err(CliError::new)?.to_string());
        }
    }
    let (text, reclaimed) = sweep(app, &common::filters(flags), query)?;
    app.streams.print(&format!("{text}{}\n", common::reclaimed_text(reclaimed)))
}

/// Has the daemon remove what no build needs: a list of what went, and how many bytes came free.
pub(crate) fn sweep(app: &App, filters: &Filters, query: Query) -> Result<(String, u64)> {
    let query = query.with_some("filters", filters.to_json().as_deref());
    let pruned: Pruned = app.client()?.fetch(Request::new("POST", "/build/prune", &query))?;
    let caches = pruned.caches_deleted.unwrap_or_default();
    let text = match caches.is_empty() {
        true => String::new(),
        false => format!("Deleted build cache objects:\n{}\n\n", caches.join("\n")),
    };
    Ok((text, pruned.space_reclaimed))
}
