//! `--check` and `--call`: what is said about a Dockerfile without building it.
//!
//! It is said here and not by the daemon: all that it needs is the file, the ignore file, and the environments of images that the
//! daemon happens to have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use palan_context::{Ignore, candidates};
use palan_dockerfile::ast::{Command, Dockerfile, description};
use palan_dockerfile::lint::{self, BaseImage, Report, Warning};
use palan_dockerfile::scope::{Environment, Globals, Request as Values};
use palan_dockerfile::stages;
use palan_dockerfile::{DockerfileError, Source as Text, parse_up_to_error};
use palan_linux::path::RootDir;
use palan_oci::{Platform, Reference};
use serde_json::{Value, json};

use super::call::{Call, Method};
use super::request::Request;
use super::source::{Context, Source};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::output::table;

/// What is looked at.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) source: &'a Source,
    pub(super) text: &'a [u8],
    pub(super) request: &'a Request,
    pub(super) target: Option<&'a str>,
}

/// Answers the question.
pub(super) fn answer(app: &App, call: Call, subject: &Subject<'_>) -> Result<()> {
    match call.method {
        Method::Build => Ok(()),
        Method::Check => check(app, call.json, subject),
        Method::Outline => outline(app, call.json, subject),
        Method::Targets => targets(app, call.json, subject),
    }
}

/// A mistake, shown in its file.
pub(super) fn mistake(source: &Text, error: &DockerfileError) -> CliError {
    CliError::new(format!("{}ERROR: failed to build: failed to solve: {error}", source.excerpt(error.span())))
}

/// Finds mistakes that would end the build, before anybody is asked.
pub(super) fn validate(subject: &Subject<'_>) -> std::result::Result<(), DockerfileError> {
    let file = palan_dockerfile::parse(subject.text)?;
    file.directives.check_syntax()?;
    let build_args = subject.request.build_arguments();
    let (host, wanted) = (Platform::host(), wanted(subject));
    let values = values(&build_args, &host, &wanted, subject.target);
    let globals = Globals::new(&file, &values)?;
    let contexts = subject.request.context_names();
    let options = stages::Options { target: subject.target, contexts: &contexts, all: false };
    stages::resolve(&file, &globals, &options).map(drop)
}

/// The platform of the result; of several the first.
fn wanted(subject: &Subject<'_>) -> Platform {
    let asked = subject.request.attributes.get("platform").and_then(|list| list.split(',').next());
    asked.and_then(|text| text.parse().ok()).unwrap_or_else(Platform::host)
}

fn values<'a>(
    build_args: &'a BTreeMap<String, String>,
    host: &'a Platform,
    wanted: &'a Platform,
    target: Option<&'a str>,
) -> Values<'a> {
    Values { build_args, build_platform: host, target_platform: wanted, target }
}

fn check(app: &App, as_json: bool, subject: &Subject<'_>) -> Result<()> {
    let shown = Text::new(subject.source.filename.clone(), subject.text);
    let report = report(app, subject)?;
    let count = report.warnings.len();
    if as_json {
        app.streams.line(&report_json(&report, subject).to_string())?;
    } else {
        let mut text = match (count, &report.error) {
            (0, None) => "Check complete, no warnings found.\n".to_owned(),
            (0, Some(_)) => String::new(),
            (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
            _ => format!("Check complete, {count} warnings have been found!\n"),
        };
        for warning in &report.warnings {
            let _ = write!(text, "\n{}", warning_text(&shown, warning));
        }
        app.streams.print(&text)?;
    }
    match (&report.error, count) {
        (Some(error), _) => Err(CliError::new(format!("\n{}ERROR: {error}", shown.excerpt(error.span())))),
        (None, 0) => Ok(()),
        (None, _) => Err(CliError::exit(1)),
    }
}

fn warning_text(shown: &Text, warning: &Warning) -> String {
    let mut text = format!("WARNING: {}", warning.rule.name());
    if let Some(url) = warning.rule.url() {
        let _ = write!(text, " - {url}");
    }
    let _ = write!(text, "\n{}\n", warning.message);
    if warning.message != warning.rule.description() {
        let _ = writeln!(text, "({})", warning.rule.description());
    }
    text.push_str(&shown.excerpt(warning.span));
    text
}

fn report_json(report: &Report, subject: &Subject<'_>) -> Value {
    let location = |span: palan_dockerfile::Span| {
        let last = span.end.line.max(span.start.line);
        json!({
            "sourceIndex": 0,
            "ranges": [{
                "start": { "line": span.start.line, "character": span.start.column },
                "end": { "line": last, "character": span.end.column },
            }],
        })
    };
    let warnings: Vec<Value> = report
        .warnings
        .iter()
        .map(|warning| {
            json!({
                "ruleName": warning.rule.name(),
                "description": warning.rule.description(),
                "url": warning.rule.url(),
                "detail": warning.message,
                "location": location(warning.span),
            })
        })
        .collect();
    let mut json = json!({
        "warnings": warnings,
        "sources": [{ "filename": subject.source.filename, "language": "Dockerfile" }],
    });
    if let Some(error) = &report.error {
        json["buildError"] = json!({ "message": error.to_string(), "location": location(error.span()) });
    }
    json
}

/// What the rules say.
fn report(app: &App, subject: &Subject<'_>) -> Result<Report> {
    let (file, mistake) = parse_up_to_error(subject.text);
    let build_args = subject.request.build_arguments();
    let contexts = subject.request.context_names();
    let config = match build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
        Some(text) => Some(lint::Config::parse(text).map_err(|why| {
            CliError::new(format!("failed to parse build-arg BUILDKIT_DOCKERFILE_CHECK: {why}"))
        })?),
        None => None,
    };
    let (host, wanted) = (Platform::host(), wanted(subject));
    let ignore = ignore_file(subject.source)?;
    let is_ignored = |path: &str| ignore.surely_ignores(path);
    let base_image = |name: &str| image(app, name);
    let mut report = lint::check(
        &file,
        &lint::Options {
            request: values(&build_args, &host, &wanted, subject.target),
            target: subject.target,
            contexts: &contexts,
            config: config.as_ref(),
            base_image: &base_image,
            is_ignored: (!ignore.is_empty() && !ignore.has_exceptions())
                .then_some(&is_ignored as &dyn Fn(&str) -> bool),
        },
    );
    report.error = mistake.or_else(|| file.directives.check_syntax().err()).or(report.error);
    Ok(report)
}

/// What is left out of the context.
fn ignore_file(source: &Source) -> Result<Ignore> {
    let Context::Directory(context) = &source.context else { return Ok(Ignore::default()) };
    let [own, common] = candidates(&source.filename);
    let places =
        [source.directory.as_deref().map(|directory| (directory, own)), Some((context.as_path(), common))];
    for (directory, name) in places.into_iter().flatten() {
        let read = RootDir::open(directory).and_then(|root| root.read(&name, 2 << 20));
        match read {
            Ok(bytes) => {
                return Ignore::parse(&bytes).map_err(|error| CliError::new(format!("{name}: {error}")));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CliError::new(palan_stdx::error_chain::to_string(&error))),
        }
    }
    Ok(Ignore::default())
}

/// What the daemon knows about an image that it has. That there is no daemon is no reason not to check.
fn image(app: &App, name: &str) -> Option<BaseImage> {
    let reference = Reference::parse(name).ok()?;
    let bytes = app.client().ok()?.inspect_image_raw(&reference.to_string(), None).ok()?;
    let image: Value = serde_json::from_slice(&bytes).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = image["Config"]["Env"].as_array().cloned().unwrap_or_default();
    let entries: Vec<String> = list.iter().map(text).collect();
    let variant = text(&image["Variant"]);
    let platform = format!("{}/{}", text(&image["Os"]), text(&image["Architecture"]));
    let platform = if variant.is_empty() { platform } else { format!("{platform}/{variant}") };
    Some(BaseImage {
        environment: Environment::of_image(&entries),
        platform: platform.parse().ok(),
        has_shell: image["Config"]["Shell"].as_array().is_some_and(|shell| !shell.is_empty()),
    })
}

fn targets(app: &App, as_json: bool, subject: &Subject<'_>) -> Result<()> {
    let (_, file) = parsed(subject)?;
    let last = file.stages.len() - 1;
    if as_json {
        let targets: Vec<Value> = file
            .stages
            .iter()
            .enumerate()
            .map(|(index, stage)| {
                json!({
                    "name": stage.id().unwrap_or_default(),
                    "default": index == last,
                    "description": stage.description().unwrap_or_default(),
                    "base": stage.base,
                })
            })
            .collect();
        return app.streams.line(&json!({ "targets": targets }).to_string());
    }
    let mut text = "TARGET\tDESCRIPTION\n".to_owned();
    for (index, stage) in file.stages.iter().enumerate() {
        let name = match (stage.id(), index == last) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name,
            (None, true) => "(default)".to_owned(),
            // Nobody can name it.
            (None, false) => continue,
        };
        let _ = writeln!(text, "{name}\t{}", stage.description().unwrap_or_default());
    }
    app.streams.print(&table::align(&text, table::LIST))
}

/// What a target takes: arguments, secrets, agents.
fn outline(app: &App, as_json: bool, subject: &Subject<'_>) -> Result<()> {
    let (shown, file) = parsed(subject)?;
    let build_args = subject.request.build_arguments();
    let (host, wanted) = (Platform::host(), wanted(subject));
    let values = values(&build_args, &host, &wanted, subject.target);
    let wrong = |error: DockerfileError| mistake(&shown, &error);
    let globals = Globals::new(&file, &values).map_err(wrong)?;
    let contexts = subject.request.context_names();
    let options = stages::Options { target: subject.target, contexts: &contexts, all: false };
    let graph = stages::resolve(&file, &globals, &options).map_err(wrong)?;
    let outline = Outline::of(&file, &graph.needed, &build_args, &globals);
    let target = &file.stages[graph.target];
    let (name, about) = (target.id().unwrap_or_default(), target.description().unwrap_or_default());
    if as_json {
        let arguments: Vec<Value> = outline
            .arguments
            .iter()
            .map(|(name, (value, about))| json!({ "name": name, "value": value, "description": about }))
            .collect();
        let named = |names: &BTreeMap<String, bool>| -> Vec<Value> {
            names.iter().map(|(name, required)| json!({ "name": name, "required": required })).collect()
        };
        return app.streams.line(
            &json!({
                "name": name,
                "description": about,
                "args": arguments,
                "secrets": named(&outline.secrets),
                "ssh": named(&outline.agents),
            })
            .to_string(),
        );
    }
    let mut text = String::new();
    for (title, value) in [("TARGET", name.as_str()), ("DESCRIPTION", about)] {
        if !value.is_empty() {
            let _ = writeln!(text, "{title}:\t{value}");
        }
    }
    if !outline.arguments.is_empty() {
        text.push_str("\nBUILD ARG\tVALUE\tDESCRIPTION\n");
        for (name, (value, about)) in &outline.arguments {
            let _ = writeln!(text, "{name}\t{value}\t{about}");
        }
    }
    for (title, names) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if !names.is_empty() {
            let _ = writeln!(text, "\n{title}\tREQUIRED");
            for (name, required) in names {
                let _ = writeln!(text, "{name}\t{}", if *required { "true" } else { "" });
            }
        }
    }
    app.streams.print(&table::align(&text, table::LIST))
}

fn parsed(subject: &Subject<'_>) -> Result<(Text, Dockerfile)> {
    let shown = Text::new(subject.source.filename.clone(), subject.text);
    match palan_dockerfile::parse(subject.text) {
        Ok(file) => Ok((shown, file)),
        Err(error) => Err(mistake(&shown, &error)),
    }
}

#[derive(Debug, Default)]
struct Outline {
    /// Value and description by name.
    arguments: BTreeMap<String, (String, String)>,
    /// Whether a step fails without it, by name.
    secrets: BTreeMap<String, bool>,
    agents: BTreeMap<String, bool>,
}

impl Outline {
    fn of(
        file: &Dockerfile,
        needed: &BTreeSet<usize>,
        build_args: &BTreeMap<String, String>,
        globals: &Globals,
    ) -> Self {
        use palan_dockerfile::mount::Kind;
        let mut outline = Self::default();
        let of_stages = needed.iter().flat_map(|index| &file.stages[*index].instructions);
        for instruction in file.arguments.iter().chain(of_stages) {
            match &instruction.command {
                Command::Arg(arguments) => {
                    for argument in arguments {
                        let value = build_args
                            .get(&argument.name)
                            .or_else(|| globals.values.get(&argument.name))
                            .or(argument.value.as_ref());
                        let about = description(&instruction.comments, &argument.name).unwrap_or_default();
                        let entry = outline.arguments.entry(argument.name.clone()).or_default();
                        entry.0 = value.cloned().unwrap_or_default();
                        if !about.is_empty() {
                            about.clone_into(&mut entry.1);
                        }
                    }
                }
                Command::Run(run) => {
                    for mount in &run.mounts {
                        // What can't be read is told by the build.
                        let Ok(mount) = mount.resolve(&mut |text| Ok(text.to_owned())) else { continue };
                        let last = mount.target.rsplit('/').next().unwrap_or_default();
                        let named = [mount.id.as_deref(), Some(&mount.source), Some(last)];
                        let name =
                            named.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or_default();
                        let required = match mount.kind {
                            Kind::Secret => outline.secrets.entry(name.to_owned()).or_default(),
                            Kind::Ssh => {
                                let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
                                outline.agents.entry(id).or_default()
                            }
                            _ => continue,
                        };
                        *required |= mount.required;
                    }
                }
                _ => {}
            }
        }
        outline
    }
}
