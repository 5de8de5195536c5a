//! Commands on the daemon, the host and registries: `palan system …` and short forms.

pub(crate) mod df;
pub(crate) mod dial_stdio;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod fsck;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod prune;
pub(crate) mod search;
pub(crate) mod version;

use super::{Entry, Group};

/// The commands on the daemon.
pub(crate) const GROUP: Group = Group {
    name: "system",
    short: "Manage Palan",
    entries: &[
        Entry(&["df"], &df::COMMAND),
        Entry(&["dial-stdio"], &dial_stdio::COMMAND),
        Entry(&["events"], &events::COMMAND),
        Entry(&["fsck"], &fsck::COMMAND),
        Entry(&["info"], &info::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
    ],
    missing: &[],
};
