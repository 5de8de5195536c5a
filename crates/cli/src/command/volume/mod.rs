//! `palan volume …`.

mod create;
mod inspect;
pub(crate) mod ls;
mod prune;
mod rm;

use super::{Entry, Group};

/// The commands on volumes.
pub(crate) const GROUP: Group = Group {
    name: "volume",
    short: "Manage volumes",
    entries: &[
        Entry(&["create"], &create::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
    ],
    missing: &["update"],
};
