//! `palan network …`.

mod connect;
mod create;
mod disconnect;
mod inspect;
mod ls;
mod prune;
mod rm;

use super::{Entry, Group};

/// The commands on networks.
pub(crate) const GROUP: Group = Group {
    name: "network",
    short: "Manage networks",
    entries: &[
        Entry(&["connect"], &connect::COMMAND),
        Entry(&["create"], &create::COMMAND),
        Entry(&["disconnect"], &disconnect::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
    ],
    missing: &[],
};
