//! `palan network inspect`.

use palan_docker_api::client::{Query, Request, path_escape};

use super::super::common::{self, INSPECT_FORMAT_HELP, OBJECTS};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] NETWORK [NETWORK...]",
        "Display detailed information on one or more networks",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::string("format", Some('f'), INSPECT_FORMAT_HELP),
    Flag::bool("verbose", Some('v'), "Verbose output for diagnostics"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    let query = if flags.bool("verbose") { Query::new().with("verbose", "true") } else { Query::new() };
    common::inspect(app, &flags.args, flags.string("format"), &OBJECTS, |name| {
        Ok(client.fetch_bytes(Request::new("GET", format!("/networks/{}", path_escape(name)), &query))?)
    })
}
