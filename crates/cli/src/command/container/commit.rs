//! `palan commit`.

use palan_docker_api::client::CommitOptions;
use palan_oci::Reference;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container commit, palan commit",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        "Create a new image from a container's changes",
        Arity::Between(1, 2),
        run,
    )
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::string("author", Some('a'), "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")"),
    Flag::list("change", Some('c'), "Apply Dockerfile instruction to the created image"),
    Flag::string("message", Some('m'), "Commit message"),
    Flag::bool("no-pause", None, "Disable pausing container during commit"),
    // Docker's name for it up to 28.
    Flag::bool("pause", Some('p'), "Pause container during commit").default("true").hidden(),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let invalid = |error: palan_oci::reference::ReferenceError| CliError::new(error.to_string());
    let name = flags.args.get(1).filter(|name| !name.is_empty());
    let reference = name.map(|name| Reference::parse(name).map_err(invalid)).transpose()?;
    if reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(CliError::new("refusing to create a tag with a digest reference"));
    }
    let reference = reference.map(Reference::or_latest);
    let changes: Vec<String> = flags.list("change").iter().map(|change| (*change).to_owned()).collect();
    let repository = reference.as_ref().map(Reference::familiar_name).unwrap_or_default();
    let id = app.client()?.commit_container(&CommitOptions {
        container: &flags.args[0],
        repository: &repository,
        tag: reference.as_ref().and_then(Reference::tag).unwrap_or_default(),
        comment: flags.string("message"),
        author: flags.string("author"),
        changes: &changes,
        no_pause: flags.bool("no-pause") || !flags.bool("pause"),
    })?;
    app.streams.line(&id)
}
