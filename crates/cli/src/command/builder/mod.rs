//! `palan builder …`, and `palan buildx …`, under which Docker's users know the same.

pub(crate) mod prune;

use super::image::build;
use super::{Entry, Group};

/// The commands on builds.
pub(crate) const GROUP: Group = Group {
    name: "builder",
    short: "Manage builds",
    entries: &[Entry(&["build"], &build::COMMAND), Entry(&["prune"], &prune::COMMAND)],
    missing: &[],
};

/// The same, as Docker's plugin names it. There is one builder, the daemon's: nothing to create or choose.
pub(crate) const BUILDX: Group = Group {
    name: "buildx",
    short: "Manage builds, by Docker's newer name",
    entries: &[Entry(&["build", "b"], &build::COMMAND), Entry(&["prune"], &prune::COMMAND)],
    missing: &[
        "bake",
        "create",
        "dap",
        "debug",
        "dial-stdio",
        "du",
        "history",
        "imagetools",
        "inspect",
        "install",
        "ls",
        "policy",
        "rm",
        "stop",
        "uninstall",
        "use",
        "version",
    ],
};
