//! `palan network …`.

mod inspect;
mod ls;

use super::{Entry, Group};

/// The commands on networks.
pub(crate) const GROUP: Group = Group {
    name: "network",
    short: "Manage networks",
    entries: &[Entry(&["inspect"], &inspect::COMMAND), Entry(&["ls", "list"], &ls::COMMAND)],
    missing: &["connect", "create", "disconnect", "prune", "rm"],
};
