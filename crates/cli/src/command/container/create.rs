//! `palan create`, and what `run` shares with it: from flags to a created container, with the image pulled if need be.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use palan_docker_api::client::ClientError;
use palan_docker_api::types::{CreateContainerRequest, CreateContainerResponse};
use palan_oci::{Platform, Reference};
use palan_stdx::fs;

use super::super::image::pull;
use super::super::{Arity, Command};
use super::api_socket;
use crate::app::{App, Program};
use crate::environment::DOCKER_DEFAULT_PLATFORM;
use crate::error::{CliError, Kind, Result};
use crate::flags::Parsed;
use crate::run_flags::key_values::go_open_error;
use crate::run_flags::request::{self, Surroundings};
use crate::run_flags::{self};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container create, palan create",
    flags: &[run_flags::TABLE, run_flags::CREATE_ONLY],
    interspersed: false,
    ..Command::new("[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container", Arity::AtLeast(1), run)
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let mut request = build(app, flags, "create")?;
    let id = create(app, flags, &mut request)?;
    app.streams.line(&id)
}

/// A failure of `run` or `create` in Docker's form.
pub(crate) fn with_help(program: Program, kind: Kind, message: &str, verb: &str) -> CliError {
    let program = program.name();
    CliError::of(kind, format!("{program}: {message}"))
        .hint(format!("Run '{program} {verb} --help' for more information"))
}

/// Reads the flags.
pub(crate) fn build(app: &App, flags: &Parsed, verb: &str) -> Result<CreateContainerRequest> {
    let wrong = |message: &str| with_help(app.program, Kind::Usage, message, verb);
    let pull = flags.string("pull");
    if !matches!(pull, "" | "always" | "missing" | "never") {
        let choice = "must be one of \"always\", \"missing\" or \"never\"";
        return Err(wrong(&format!("invalid pull option: '{pull}': {choice}")));
    }
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let proxies = app.config().proxies(&app.target()?.host.to_string());
    let around = Surroundings {
        lookup: &|name| app.environment.get(name).map(str::to_owned),
        working_directory: &directory,
        proxies: &proxies,
    };
    request::build(flags, &flags.args, &around).map_err(|message| wrong(&message))
}

/// Creates the container and returns its id.
pub(crate) fn create(app: &App, flags: &Parsed, request: &mut CreateContainerRequest) -> Result<String> {
    let platform = match flags.given("platform") {
        Some(platform) => Some(platform),
        None => app.environment.set(DOCKER_DEFAULT_PLATFORM),
    }
    .filter(|platform| !platform.is_empty());
    if let Some(text) = platform {
        text.parse::<Platform>()
            .map_err(|error| CliError::new(format!("error parsing specified platform: {error}")))?;
    }
    if flags.changed("kernel-memory") {
        app.streams.say("Flag --kernel-memory has been deprecated, and no longer supported by the kernel");
    }
    let credentials = flags.bool("use-api-socket").then(|| api_socket::add(app, request)).transpose()?;
    let mut id_file = IdFile::reserve(flags.string("cidfile"))?;
    let request = &*request;
    let image = request.config.image.as_str();
    // An image's full id is no reference, and can't be pulled.
    let is_id = image.len() == 64 && image.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let reference = if is_id {
        None
    } else {
        Some(Reference::parse(image).map_err(|error| CliError::new(error.to_string()))?)
    };
    let (policy, quiet) = (flags.string("pull"), flags.bool("quiet"));
    if let (Some(reference), "always") = (&reference, policy) {
        pull::pull(app, reference, platform, quiet, pull::To::Errors)?;
    }
    let name = flags.given("name");
    let ask = || app.client()?.create_container(name, platform, request).map_err(Failure::Daemon);
    let answer: CreateContainerResponse = match (ask(), &reference) {
        (Err(Failure::Daemon(error)), Some(reference))
            if is_missing_image(&error) && policy != "never" && policy != "always" =>
        {
            let named = reference.clone().or_latest();
            if !quiet {
                app.streams.say(&format!("Unable to find image '{}' locally", named.familiar()));
            }
            pull::pull(app, reference, platform, quiet, pull::To::Errors)?;
            ask()?
        }
        (answer, _) => answer?,
    };
    let given = credentials.map_or(Ok(()), |credentials| credentials.give(app, &answer.id));
    let failed =
        given.err().map(|error| format!("injecting docker config.json into container failed: {error}"));
    for warning in answer.warnings.iter().chain(&failed) {
        app.streams.say(&format!("WARNING: {warning}"));
    }
    id_file.write(&answer.id)?;
    Ok(answer.id)
}

enum Failure {
    Daemon(ClientError),
    Own(CliError),
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Own(error)
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Daemon(error) => error.into(),
            Failure::Own(error) => error,
        }
    }
}

fn is_missing_image(error: &ClientError) -> bool {
    let ClientError::Api { status: 404, message } = error else { return false };
    // There may be one for another platform only.
    message.to_lowercase().contains("no such image")
        || message.contains("does not match the specified platform")
}

/// `--cidfile`: made before the container, and gone again if there is none.
struct IdFile {
    path: Option<PathBuf>,
    written: bool,
}

impl IdFile {
    fn reserve(path: &str) -> Result<Self> {
        if path.is_empty() {
            return Ok(Self { path: None, written: false });
        }
        let failed = |error: &std::io::Error| {
            let why = go_open_error(path, error.kind(), error);
            CliError::new(format!("failed to create the container ID file: {why}"))
        };
        match File::options().write(true).create_new(true).open(path) {
            Ok(_) => Ok(Self { path: Some(Path::new(path).to_owned()), written: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(CliError::new(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ))),
            Err(error) => Err(failed(&error)),
        }
    }

    fn write(&mut self, id: &str) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let written =
            File::options().write(true).open(path).and_then(|mut file| file.write_all(id.as_bytes()));
        written.map_err(|error| {
            CliError::new(format!(
                "failed to write the container ID ({id}) to file: {}: {error}",
                path.display()
            ))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if let (Some(path), false) = (&self.path, self.written) {
            // Somebody else may have removed it; an empty file is all that could stay.
            let _ = fs::remove_file(path);
        }
    }
}
