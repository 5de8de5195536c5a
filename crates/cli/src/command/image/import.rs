//! `palan import`.

use std::io::{self, Read};

use palan_docker_api::client::ImportOptions;
use palan_oci::Reference;

use super::super::{Arity, Command};
use super::load::open;
use super::pull::{To, show};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image import, palan import",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        "Import the contents from a tarball to create a filesystem image",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::list("change", Some('c'), "Apply Dockerfile instruction to the created image"),
    Flag::string("message", Some('m'), "Set commit message for imported image"),
    Flag::string("platform", None, "Set platform if server is multi-platform capable"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (source, name) = (flags.args[0].as_str(), flags.args.get(1));
    let reference = match name {
        Some(name) => {
            Some(Reference::parse(name).map_err(|error| CliError::new(error.to_string()))?.or_latest())
        }
        None => None,
    };
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let mut body: Box<dyn Read + Send> = match source {
        _ if is_url => Box::new(io::empty()),
        "-" => app.streams.take_input(),
        path => Box::new(open(path)?),
    };
    let changes: Vec<String> = flags.list("change").iter().map(|change| (*change).to_owned()).collect();
    let repository = reference.as_ref().map(Reference::familiar_name).unwrap_or_default();
    let options = ImportOptions {
        source: if is_url { source } else { "-" },
        repository: &repository,
        tag: reference.as_ref().and_then(Reference::tag).unwrap_or_default(),
        message: flags.given("message"),
        changes: &changes,
        platform: flags.given("platform"),
    };
    let progress = app.client()?.import_image(&options, &mut body)?;
    show(app, progress, false, To::Output)
}
