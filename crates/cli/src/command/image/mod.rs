//! `palan image …` and the short forms of its commands.

pub(crate) mod build;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod import_docker;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rm;
pub(crate) mod save;
pub(crate) mod tag;
mod tree;

use palan_oci::Platform;

use super::{Entry, Group};
use crate::error::{CliError, Result};
use crate::flags::Parsed;

/// The commands on images.
pub(crate) const GROUP: Group = Group {
    name: "image",
    short: "Manage images",
    entries: &[
        Entry(&["build"], &build::COMMAND),
        Entry(&["history"], &history::COMMAND),
        Entry(&["import"], &import::COMMAND),
        Entry(&["import-docker"], &import_docker::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["load"], &load::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
        Entry(&["pull"], &pull::COMMAND),
        Entry(&["push"], &push::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
        Entry(&["save"], &save::COMMAND),
        Entry(&["tag"], &tag::COMMAND),
    ],
    missing: &[],
};

/// `--platform`, in full (`os/arch[/variant]`).
fn platform(flags: &Parsed) -> Result<Option<String>> {
    flags.given("platform").filter(|text| !text.is_empty()).map(full_platform).transpose()
}

/// `--platform` where it takes several, also with commas between them.
fn platforms(flags: &Parsed) -> Result<Vec<String>> {
    let lists = flags.list("platform").into_iter().flat_map(|list| list.split(','));
    lists.filter(|text| !text.is_empty()).map(full_platform).collect()
}

fn full_platform(text: &str) -> Result<String> {
    match text.parse::<Platform>() {
        Ok(platform) => Ok(platform.to_string()),
        Err(error) => Err(CliError::new(format!("invalid platform: {error}"))),
    }
}
