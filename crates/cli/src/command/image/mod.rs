//! `palan image …` and the short forms of its commands.

pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rm;
pub(crate) mod tag;

use super::{Entry, Group};

/// The commands on images.
pub(crate) const GROUP: Group = Group {
    name: "image",
    short: "Manage images",
    entries: &[
        Entry(&["history"], &history::COMMAND),
        Entry(&["import"], &import::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["load"], &load::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
        Entry(&["pull"], &pull::COMMAND),
        Entry(&["push"], &push::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
        Entry(&["tag"], &tag::COMMAND),
    ],
    missing: &["build", "save"],
};
