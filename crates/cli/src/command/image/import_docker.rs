//! `palan image import-docker`.

use palan_docker_api::client::{Query, Request};
use palan_docker_api::types::DockerImport;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    long: "Take over the images of a Docker daemon on this host from its data root, without pulling them. Docker's files are \
           not changed, and its daemon may go on running. Works with the overlay2 storage driver.",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Take over the images of Docker", Arity::None, run)
};

static FLAGS: &[Flag] = &[Flag::string("root", None, "Docker's data root").default("/var/lib/docker")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let query = Query::new().with("root", flags.string("root"));
    let request = Request::new("POST", "/palan/images/import-docker", &query);
    let imported: DockerImport = app.client()?.fetch(request)?;
    let mut failed = 0;
    for image in &imported.images {
        let names = if image.names.is_empty() { image.id.clone() } else { image.names.join(", ") };
        if image.error.is_empty() {
            app.streams.line(&format!("Imported: {names}"))?;
        } else {
            failed += 1;
            app.streams.say(&format!("Not imported: {names}: {}", image.error));
        }
    }
    match failed {
        0 => Ok(()),
        _ => {
            Err(CliError::new(format!("{failed} of {} images could not be imported", imported.images.len())))
        }
    }
}
