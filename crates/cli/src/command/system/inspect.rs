//! `palan inspect`: an object of any kind.

use palan_docker_api::client::{Client, ClientError, Query, Request, path_escape};

use super::super::common::{self, INSPECT_FORMAT_HELP, OBJECTS};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] NAME|ID [NAME|ID...]",
        "Return low-level information on Palan objects",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::string("format", Some('f'), INSPECT_FORMAT_HELP),
    Flag::bool("size", Some('s'), "Display total file sizes if the type is container"),
    Flag::string("type", None, "Only inspect objects of the given type"),
];

/// In the order in which they are tried.
const KINDS: [&str; 4] = ["container", "image", "network", "volume"];

/// Docker's other kinds, which only a swarm or plugins have.
const OTHER_KINDS: [&str; 6] = ["config", "node", "plugin", "secret", "service", "task"];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let asked = flags.string("type");
    let all = "\"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"";
    if flags.changed("type") && asked.is_empty() {
        return Err(CliError::new(format!("type is empty: must be one of {all}")));
    }
    if OTHER_KINDS.contains(&asked) {
        return Err(CliError::new(format!("inspecting objects of type {asked:?} is not supported yet")));
    }
    if !asked.is_empty() && !KINDS.contains(&asked) {
        return Err(CliError::new(format!("unknown type: {asked:?}: must be one of {all}")));
    }
    let (client, size) = (app.client()?, flags.bool("size"));
    common::inspect(app, &flags.args, flags.string("format"), &OBJECTS, |name| {
        for kind in KINDS {
            if !asked.is_empty() && asked != kind {
                continue;
            }
            match get(client, kind, name, size) {
                Ok(object) => {
                    if size && kind != "container" {
                        app.streams.say(&format!("WARNING: --size ignored for {kind}"));
                    }
                    return Ok(object);
                }
                Err(error) if asked.is_empty() && is_skippable(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CliError::new(format!("Error: No such object: {name}")))
    })
}

fn get(client: &Client, kind: &str, name: &str, size: bool) -> std::result::Result<Vec<u8>, ClientError> {
    let path = format!("/{kind}s/{}", path_escape(name));
    match kind {
        "container" => client.inspect_container_raw(name, size),
        "image" => client.inspect_image_raw(name, None),
        _ => client.fetch_bytes(Request::new("GET", path, &Query::new())),
    }
}

/// The name may be of another kind.
fn is_skippable(error: &ClientError) -> bool {
    let ClientError::Api { message, .. } = error else { return false };
    error.is_not_found() || message.contains("not supported") || message.contains("invalid reference format")
}
