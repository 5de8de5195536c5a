//! `palan volume inspect`.

use palan_docker_api::client::{Query, Request, path_escape};

use super::super::common::{self, INSPECT_FORMAT_HELP, OBJECTS};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] VOLUME [VOLUME...]",
        "Display detailed information on one or more volumes",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[Flag::string("format", Some('f'), INSPECT_FORMAT_HELP)];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    common::inspect(app, &flags.args, flags.string("format"), &OBJECTS, |name| {
        Ok(client.fetch_bytes(Request::new(
            "GET",
            format!("/volumes/{}", path_escape(name)),
            &Query::new(),
        ))?)
    })
}
