//! `palan tag`.

use palan_oci::Reference;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image tag, palan tag",
    ..Command::new(
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        Arity::Exactly(2),
        run,
    )
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (source, target) = (&flags.args[0], &flags.args[1]);
    let reference = Reference::parse(target).map_err(|error| {
        CliError::new(format!("Error parsing reference: {target:?} is not a valid repository/tag: {error}"))
    })?;
    if reference.digest().is_some() {
        return Err(CliError::new("refusing to create a tag with a digest reference"));
    }
    let reference = reference.or_latest();
    let tag = reference.tag().unwrap_or("latest");
    Ok(app.client()?.tag_image(source, &reference.familiar_name(), tag)?)
}
