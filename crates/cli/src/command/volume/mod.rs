//! `palan volume …`.

mod clone;
mod create;
mod export;
mod import;
mod inspect;
pub(crate) mod ls;
mod prune;
mod rename;
mod rm;
mod update;

use super::{Entry, Group};

/// The commands on volumes.
pub(crate) const GROUP: Group = Group {
    name: "volume",
    short: "Manage volumes",
    entries: &[
        Entry(&["clone"], &clone::COMMAND),
        Entry(&["create"], &create::COMMAND),
        Entry(&["export"], &export::COMMAND),
        Entry(&["import"], &import::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
        Entry(&["rename"], &rename::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
        Entry(&["update"], &update::COMMAND),
    ],
    missing: &[],
};
