//! `palan push`.

use palan_docker_api::client::PushOptions;
use palan_oci::{Platform, Reference};

use super::super::{Arity, Command};
use super::pull::{To, show};
use crate::app::App;
use crate::credentials;
use crate::environment::DOCKER_DEFAULT_PLATFORM;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image push, palan push",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] NAME[:TAG]", "Upload an image to a registry", Arity::Exactly(1), run)
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::bool("all-tags", Some('a'), "Push all tags of an image to the repository"),
    // Content trust is gone from Docker too, which still accepts the flag.
    Flag::bool("disable-content-trust", None, "Skip image signing").default("true").hidden(),
    Flag::string("platform", None, "Push a platform-specific manifest as a single-platform image to the registry. Image index won't be pushed, meaning that other manifests, including attestations won't be preserved. 'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)"),
    Flag::bool("quiet", Some('q'), "Suppress verbose output"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let platform = match flags.given("platform").or_else(|| app.environment.set(DOCKER_DEFAULT_PLATFORM)) {
        Some(text) => Some(platform_json(text)?),
        None => None,
    };
    let quiet = flags.bool("quiet");
    let parsed = Reference::parse(&flags.args[0]).map_err(|error| CliError::new(error.to_string()))?;
    let is_name = parsed.tag().is_none() && parsed.digest().is_none();
    let all = flags.bool("all-tags");
    if all && !is_name {
        return Err(CliError::new("tag can't be used with --all-tags/-a"));
    }
    if !all && is_name && !quiet {
        app.streams.line("Using default tag: latest")?;
    }
    let reference = if all { parsed } else { parsed.or_latest() };
    let auth = credentials::get(app.config(), &app.environment, reference.domain())?;
    let image = match reference.digest() {
        // The daemon says what is wrong with it.
        Some(_) => reference.familiar(),
        None => reference.familiar_name(),
    };
    let options = PushOptions {
        image: &image,
        tag: if all { "" } else { reference.tag().unwrap_or_default() },
        platform: platform.as_deref(),
        auth: auth.as_ref(),
    };
    let progress = app.client()?.push_image(&options)?;
    show(app, progress, quiet, To::Output)?;
    if quiet { app.streams.line(&reference.to_string()) } else { Ok(()) }
}

fn platform_json(text: &str) -> Result<String> {
    let platform: Platform =
        text.parse().map_err(|error| CliError::new(format!("invalid platform: {error}")))?;
    serde_json::to_string(&platform).map_err(|error| CliError::new(error.to_string()))
}
