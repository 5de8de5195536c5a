//! `palan context rm`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::context::store::DEFAULT;
use crate::error::{self, CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan context rm, palan context remove",
    flags: &[FLAGS],
    ..Command::new("CONTEXT [CONTEXT...]", "Remove one or more contexts", Arity::AtLeast(1), run)
};

static FLAGS: &[Flag] = &[Flag::bool("force", Some('f'), "Force the removal of a context in use")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let force = flags.bool("force");
    let mut failures = Vec::new();
    for name in &flags.args {
        match remove(app, name, force) {
            Ok(()) => app.streams.line(name)?,
            Err(error) => failures.push(error),
        }
    }
    error::join(failures)
}

fn remove(app: &App, name: &str, force: bool) -> Result<()> {
    if name == DEFAULT {
        return Err(CliError::new("context \"default\" cannot be removed"));
    }
    if !force && !app.contexts().has(name)? {
        return Err(CliError::new(format!("context {name:?} does not exist")));
    }
    if app.context() == name && !force {
        return Err(CliError::new(format!("context {name:?} is in use, set -f flag to force remove")));
    }
    if app.chosen_context() == name {
        app.choose_context("")?;
    }
    app.contexts().remove(name)
}
