//! `palan volume create`.

use palan_docker_api::types::VolumeCreateRequest;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::check_label;
use crate::run_flags::request::map;
use palan_stdx::size;
use serde_json::{Value, json};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] [VOLUME]", "Create a volume", Arity::AtMost(1), run)
};

// Most make it a volume of a swarm, which is for the daemon to refuse.
#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::string("availability", None, "Cluster Volume availability (\"active\", \"pause\", \"drain\")").default("active"),
    Flag::string("driver", Some('d'), "Specify volume driver name").default("local"),
    Flag::string("group", None, "Cluster Volume group (cluster volumes)"),
    Flag::list("label", None, "Set metadata for a volume").check(check_label),
    Flag::string("limit-bytes", None, "Minimum size of the Cluster Volume in bytes").named("bytes"),
    Flag::string("name", None, "Specify volume name").hidden(),
    Flag::list("opt", Some('o'), "Set driver specific options").named("map"),
    Flag::string("required-bytes", None, "Maximum size of the Cluster Volume in bytes").named("bytes"),
    Flag::string("scope", None, "Cluster Volume access scope (\"single\", \"multi\")").default("single"),
    Flag::list("secret", None, "Cluster Volume secrets").named("map"),
    Flag::string("sharing", None, "Cluster Volume access sharing (\"none\", \"readonly\", \"onewriter\", \"all\")").default("none"),
    Flag::list("topology-preferred", None, "A topology that the Cluster Volume would be preferred in"),
    Flag::list("topology-required", None, "A topology that the Cluster Volume must be accessible from"),
    Flag::string("type", None, "Cluster Volume access type (\"mount\", \"block\")").default("block"),
];

/// Any of these makes it a volume of a swarm.
const OF_SWARM: [&str; 10] = [
    "availability",
    "group",
    "limit-bytes",
    "required-bytes",
    "scope",
    "secret",
    "sharing",
    "topology-preferred",
    "topology-required",
    "type",
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
    let is_of_swarm = OF_SWARM.iter().any(|name| flags.changed(name));
    let request = VolumeCreateRequest {
        cluster_volume_spec: is_of_swarm.then(|| of_swarm(flags)).transpose()?,
        driver: flags.string("driver").to_owned(),
        driver_opts: map(flags.list("opt")),
        labels: map(flags.list("label")),
        name,
    };
    let volume = app.client()?.create_volume(&request)?;
    app.streams.line(&volume.name)
}

/// What a volume of a swarm shall be.
fn of_swarm(flags: &Parsed) -> Result<Value> {
    let bytes = |name| match flags.string(name) {
        "" => Ok(0),
        text => size::parse_memory(text).map_err(|error| {
            CliError::new(format!("invalid argument {text:?} for \"--{name}\" flag: {error}"))
        }),
    };
    let mut access = json!({ "Scope": flags.string("scope"), "Sharing": flags.string("sharing") });
    let kind = if flags.string("type") == "mount" { "MountVolume" } else { "BlockVolume" };
    access[kind] = json!({});
    let secrets = flags.list("secret").into_iter().map(|text| {
        let (key, secret) = text.split_once('=').unwrap_or((text, ""));
        json!({ "Key": key, "Secret": secret })
    });
    let topologies = |name| -> Vec<Value> {
        let segments = |text: &str| json!({ "Segments": map(text.split(',')) });
        flags.list(name).into_iter().map(segments).collect()
    };
    Ok(json!({
        "Group": flags.string("group"),
        "AccessMode": access,
        "AccessibilityRequirements": {
            "Requisite": topologies("topology-required"),
            "Preferred": topologies("topology-preferred"),
        },
        "CapacityRange": { "RequiredBytes": bytes("required-bytes")?, "LimitBytes": bytes("limit-bytes")? },
        "Secrets": secrets.collect::<Vec<_>>(),
        "Availability": flags.string("availability"),
    }))
}
