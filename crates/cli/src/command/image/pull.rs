//! `palan pull`, and the pull that `run` and `create` make for a missing image.

use std::time::{SystemTime, UNIX_EPOCH};

use palan_docker_api::client::{Progress, PullOptions};
use palan_oci::Reference;
use palan_stdx::error_chain;

use super::super::{Arity, Command};
use crate::app::App;
use crate::credentials;
use crate::environment::DOCKER_DEFAULT_PLATFORM;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::output::progress::Display;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image pull, palan pull",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        "Download an image from a registry",
        Arity::Exactly(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("all-tags", Some('a'), "Download all tagged images in the repository"),
    // Content trust is gone from Docker too, which still accepts the flag.
    Flag::bool("disable-content-trust", None, "Skip image verification").default("true").hidden(),
    Flag::string("platform", None, "Set platform if server is multi-platform capable"),
    Flag::bool("quiet", Some('q'), "Suppress verbose output"),
];

/// Where the progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// On standard output, where it is what was asked for.
    Output,
    /// On standard error, beside what was asked for.
    Errors,
}

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let reference = Reference::parse(&flags.args[0]).map_err(|error| CliError::new(error.to_string()))?;
    let quiet = flags.bool("quiet");
    let is_name = reference.tag().is_none() && reference.digest().is_none();
    let all = flags.bool("all-tags");
    if all && !is_name {
        return Err(CliError::new("tag can't be used with --all-tags/-a"));
    }
    if !all && is_name && !quiet {
        app.streams.line("Using default tag: latest")?;
    }
    let platform = flags.given("platform").or_else(|| app.environment.set(DOCKER_DEFAULT_PLATFORM));
    let reference = if all { reference } else { reference.or_latest() };
    bring(app, &reference, platform, quiet, To::Output)?;
    app.streams.line(&reference.to_string())
}

/// Pulls an image and shows how.
pub(crate) fn pull(
    app: &App,
    reference: &Reference,
    platform: Option<&str>,
    quiet: bool,
    to: To,
) -> Result<()> {
    bring(app, &reference.clone().or_latest(), platform, quiet, to)
}

/// Pulls what a reference names: all tags if it has none.
fn bring(app: &App, reference: &Reference, platform: Option<&str>, quiet: bool, to: To) -> Result<()> {
    let auth = credentials::get(app.config(), &app.environment, reference.domain())?;
    let tag = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or_default().to_owned(),
    };
    let image = reference.familiar_name();
    let options = PullOptions { image: &image, tag: &tag, platform, auth: auth.as_ref() };
    let progress = app.client()?.pull_image(&options)?;
    show(app, progress, quiet, to)
}

/// Shows the progress of a pull, load or import until its end.
pub(crate) fn show(app: &App, progress: Progress, quiet: bool, to: To) -> Result<()> {
    let mut display = Display::new(app.streams.columns(to == To::Errors));
    for message in progress {
        let message = message.map_err(|error| CliError::new(error_chain::to_string(&error)))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = display.render(&message, i64::try_from(now).unwrap_or(i64::MAX))?;
        match to {
            _ if quiet => {}
            To::Output => app.streams.print(&text)?,
            To::Errors => app.streams.say_part(&text),
        }
    }
    Ok(())
}
