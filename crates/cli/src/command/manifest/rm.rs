//! `palan manifest rm`.

use super::super::{Arity, Command};
use super::reference;
use super::store::Store;
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command::new(
    "MANIFEST_LIST [MANIFEST_LIST...]",
    "Delete one or more manifest lists from local storage",
    Arity::AtLeast(1),
    run,
);

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let store = Store::of(app);
    let mut failures = Vec::new();
    for name in &flags.args {
        let removed = reference(name).and_then(|target| match store.remove(&target)? {
            true => Ok(()),
            false => Err(CliError::new(format!("No such manifest: {target}"))),
        });
        if let Err(error) = removed {
            failures.push(error.message);
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(CliError::new(failures.join("\n"))) }
}
