//! `palan system fsck`.

use palan_docker_api::client::{Query, Request};
use palan_docker_api::types::StoreCheck;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    long: "Check every image, layer and blob on the disk against its digest. What is broken is named; with --repair layers \
           are unpacked again from their blobs, and what can't be made again is removed and must be pulled again.",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Check the images on the disk", Arity::None, run)
};

static FLAGS: &[Flag] = &[Flag::bool("repair", None, "Put right or remove what is broken")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let repair = flags.bool("repair");
    let query = Query::new().with_flag("repair", repair);
    let check: StoreCheck = app.client()?.fetch(Request::new("POST", "/palan/system/fsck", &query))?;
    for problem in &check.problems {
        let done =
            if problem.repaired.is_empty() { String::new() } else { format!(" ({})", problem.repaired) };
        app.streams.line(&format!("{}: {}{done}", problem.object, problem.what))?;
    }
    for name in &check.pull_again {
        let what = if repair { "was removed: pull it again" } else { "can't be repaired" };
        app.streams.line(&format!("{name} {what}"))?;
    }
    app.streams.say(&format!(
        "{} images, {} blobs, {} layers: {}",
        check.images,
        check.blobs,
        check.layers,
        match check.problems.len() {
            0 => "no problem".to_owned(),
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        }
    ));
    if check.problems.is_empty() || repair { Ok(()) } else { Err(CliError::exit(1)) }
}
