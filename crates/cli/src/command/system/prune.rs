//! `palan system prune`.

use std::fmt::Write as _;

use palan_docker_api::client::Query;
use palan_docker_api::filters::Filters;

use super::super::builder;
use super::super::common;
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command =
    Command { flags: &[FLAGS], ..Command::new("[OPTIONS]", "Remove unused data", Arity::None, run) };

static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Remove all unused images not just dangling ones"),
    common::filter_flag(None, "Provide filter values (e.g. \"label=<key>=<value>\")"),
    Flag::bool("force", Some('f'), "Do not prompt for confirmation"),
    Flag::bool("volumes", None, "Prune anonymous volumes"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let filters = common::filters(flags);
    if flags.bool("volumes") && filters.contains("until") {
        return Err(CliError::new("ERROR: The \"until\" filter is not supported with \"--volumes\""));
    }
    if !flags.bool("force") && !common::confirm(app, &warning(flags))? {
        return Err(CliError::new("system prune has been cancelled"));
    }
    let mut images = filters.clone();
    images.add("dangling", if flags.bool("all") { "false" } else { "true" });
    let mut total = 0u64;
    let mut steps = vec![
        ("/containers/prune", "Deleted Containers", &filters),
        ("/networks/prune", "Deleted Networks", &filters),
    ];
    if flags.bool("volumes") {
        steps.push(("/volumes/prune", "Deleted Volumes", &filters));
    }
    steps.push(("/images/prune", "Deleted Images", &images));
    for (path, title, filters) in steps {
        let (text, reclaimed) = common::sweep(app, filters, path, title)?;
        app.streams.print(&text)?;
        total = total.saturating_add(reclaimed);
    }
    if has_build_cache(&filters) {
        let query = Query::new().with_flag("all", flags.bool("all"));
        let (text, reclaimed) = builder::prune::sweep(app, &filters, query)?;
        app.streams.print(&text)?;
        total = total.saturating_add(reclaimed);
    }
    app.streams.line(&common::reclaimed_text(total))
}

/// Whether the filters choose among results of builds, which have no labels.
fn has_build_cache(filters: &Filters) -> bool {
    !filters.contains("label") && !filters.contains("label!")
}

fn warning(flags: &Parsed) -> String {
    let mut text =
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
                    container\n"
            .to_owned();
    if flags.bool("volumes") {
        text.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    text.push_str(if flags.bool("all") {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    if has_build_cache(&common::filters(flags)) {
        text.push_str(if flags.bool("all") { "  - all build cache\n" } else { "  - unused build cache\n" });
    }
    let filters = flags.list("filter");
    if !filters.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in filters {
            let _ = writeln!(text, "  - {filter}");
        }
    }
    text.push_str("\nAre you sure you want to continue?");
    text
}
