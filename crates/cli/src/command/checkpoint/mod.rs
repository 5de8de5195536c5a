//! `palan checkpoint …`.

mod create;
mod ls;
mod rm;

use super::{Entry, Group};
use crate::flags::Flag;

/// The commands on checkpoints.
pub(crate) const GROUP: Group = Group {
    name: "checkpoint",
    short: "Manage checkpoints",
    entries: &[
        Entry(&["create"], &create::COMMAND),
        Entry(&["ls", "list"], &ls::COMMAND),
        Entry(&["rm", "remove"], &rm::COMMAND),
    ],
    missing: &[],
};

/// Where they are, if not with the container.
const DIRECTORY: Flag = Flag::string("checkpoint-dir", None, "Use a custom checkpoint storage directory");
