//! `palan container …` and the short forms of its commands.

pub(crate) mod api_socket;
pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod rename;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use super::{Entry, Group};

/// The commands on containers.
pub(crate) const GROUP: Group = Group {
    name: "container",
    short: "Manage containers",
    entries: &[
        Entry(&["attach"], &attach::COMMAND),
        Entry(&["commit"], &commit::COMMAND),
        Entry(&["cp"], &cp::COMMAND),
        Entry(&["create"], &create::COMMAND),
        Entry(&["diff"], &diff::COMMAND),
        Entry(&["exec"], &exec::COMMAND),
        Entry(&["export"], &export::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["kill"], &kill::COMMAND),
        Entry(&["logs"], &logs::COMMAND),
        Entry(&["ls", "list", "ps"], &ls::COMMAND),
        Entry(&["pause"], &pause::PAUSE),
        Entry(&["port"], &port::COMMAND),
        Entry(&["prune"], &prune::COMMAND),
        Entry(&["rename"], &rename::COMMAND),
        Entry(&["restart"], &stop::RESTART),
        Entry(&["rm", "remove"], &rm::COMMAND),
        Entry(&["run"], &run::COMMAND),
        Entry(&["start"], &start::COMMAND),
        Entry(&["stats"], &stats::COMMAND),
        Entry(&["stop"], &stop::STOP),
        Entry(&["top"], &top::COMMAND),
        Entry(&["unpause"], &pause::UNPAUSE),
        Entry(&["update"], &update::COMMAND),
        Entry(&["wait"], &wait::COMMAND),
    ],
    missing: &[],
};
