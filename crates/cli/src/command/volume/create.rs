//! `palan volume create`.

use palan_docker_api::types::VolumeCreateRequest;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::check_label;
use crate::run_flags::request::map;

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] [VOLUME]", "Create a volume", Arity::AtMost(1), run)
};

// What only volumes of a swarm have is refused by name.
#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::string("availability", None, "Cluster Volume availability (\"active\", \"pause\", \"drain\")").not_yet(),
    Flag::string("driver", Some('d'), "Specify volume driver name").default("local"),
    Flag::string("group", None, "Cluster Volume group (cluster volumes)").not_yet(),
    Flag::list("label", None, "Set metadata for a volume").check(check_label),
    Flag::string("limit-bytes", None, "Minimum size of the Cluster Volume in bytes").named("bytes").not_yet(),
    Flag::string("name", None, "Specify volume name").hidden(),
    Flag::list("opt", Some('o'), "Set driver specific options").named("map"),
    Flag::string("required-bytes", None, "Maximum size of the Cluster Volume in bytes").named("bytes").not_yet(),
    Flag::string("scope", None, "Cluster Volume access scope (\"single\", \"multi\")").not_yet(),
    Flag::list("secret", None, "Cluster Volume secrets").named("map").not_yet(),
    Flag::string("sharing", None, "Cluster Volume access sharing (\"none\", \"readonly\", \"onewriter\", \"all\")").not_yet(),
    Flag::list("topology-preferred", None, "A topology that the Cluster Volume would be preferred in").not_yet(),
    Flag::list("topology-required", None, "A topology that the Cluster Volume must be accessible from").not_yet(),
    Flag::string("type", None, "Cluster Volume access type (\"mount\", \"block\")").not_yet(),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let name = match (flags.given("name"), flags.args.first()) {
        (Some(_), Some(_)) => {
            return Err(CliError::new(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            ));
        }
        (Some(name), None) => name.to_owned(),
        (None, name) => name.cloned().unwrap_or_default(),
    };
    let request = VolumeCreateRequest {
        driver: flags.string("driver").to_owned(),
        driver_opts: map(flags.list("opt")),
        labels: map(flags.list("label")),
        name,
        ..VolumeCreateRequest::default()
    };
    let volume = app.client()?.create_volume(&request)?;
    app.streams.line(&volume.name)
}
