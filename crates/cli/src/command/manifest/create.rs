//! `palan manifest create`.

use super::super::{Arity, Command};
use super::store::Store;
use super::{image, reference};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    long: "Create a local manifest list for annotating and pushing to a registry",
    flags: &[FLAGS],
    ..Command::new(
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        "Create a local manifest list for annotating and pushing to a registry",
        Arity::AtLeast(2),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("amend", Some('a'), "Amend an existing manifest list"),
    Flag::bool("insecure", None, "Allow communication with an insecure registry"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let wrong = |what: &str, error: CliError| CliError {
        message: format!("error parsing name for {what}: {error}"),
        ..error
    };
    let target = reference(&flags.args[0]).map_err(|error| {
        let what = format!("manifest list {}", flags.args[0]);
        wrong(&what, error)
    })?;
    let store = Store::of(app);
    if !store.list(&target)?.is_empty() && !flags.bool("amend") {
        return Err(CliError::new("refusing to amend an existing manifest list with no --amend flag"));
    }
    // All of them first: a list that lacks one is of no use.
    let mut images = Vec::new();
    for name in &flags.args[1..] {
        images.push(image(app, &target, &reference(name)?, flags.bool("insecure"))?);
    }
    for image in &images {
        store.save(&target, image)?;
    }
    app.streams.line(&format!("Created manifest list {target}"))
}
