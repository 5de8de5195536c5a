//! `palan context ls`.

use super::super::common::FORMAT_HELP;
use super::super::{Arity, Command};
use crate::app::App;
use crate::context::store::DEFAULT;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan context ls, palan context list",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "List contexts", Arity::None, run)
};

static FLAGS: &[Flag] =
    &[Flag::string("format", None, FORMAT_HELP), Flag::bool("quiet", Some('q'), "Only show context names")];

const COLUMNS: &[Column] = &[
    ("Current", "CURRENT"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
    ("Name", "NAME"),
];

struct Line {
    name: String,
    description: String,
    endpoint: String,
    error: String,
    current: bool,
}

impl Row for Line {
    fn field(&self, name: &str) -> String {
        match name {
            "Current" => self.current.to_string(),
            "Description" => self.description.clone(),
            "DockerEndpoint" => self.endpoint.clone(),
            "Error" => self.error.clone(),
            "Name" => self.name.clone(),
            _ => String::new(),
        }
    }
}

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let format = match flags.string("format") {
        "" | "table" if flags.bool("quiet") => Format::plain("{{.Name}}"),
        asked => Format::new(
            asked,
            "{{.Name}}{{if eq .Current \"true\"}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
        ),
    };
    let in_use = app.context();
    let mut lines = vec![default(app, in_use == DEFAULT)];
    for context in app.contexts().all()? {
        let endpoint = context.endpoint();
        lines.push(Line {
            description: context.description().to_owned(),
            error: if endpoint.is_none() {
                "the context names no docker endpoint".to_owned()
            } else {
                String::new()
            },
            endpoint: endpoint.unwrap_or_default().host,
            current: context.name == in_use,
            name: context.name,
        });
    }
    if in_use != DEFAULT && !lines.iter().any(|line| line.current) {
        let error = format!("context {in_use:?}: context not found");
        let (description, endpoint) = (String::new(), String::new());
        lines.push(Line { name: in_use, description, endpoint, error, current: true });
    }
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)?;
    if let Some(variable) = app.about_target(|_, known| known.host().map(|(name, _)| name)) {
        app.streams.say(&format!(
            "Warning: {variable} environment variable overrides the active context. To use a context, either set the \
             global --context flag, or unset {variable} environment variable."
        ));
    }
    Ok(())
}

fn default(app: &App, current: bool) -> Line {
    let host = app.about_target(|_, known| known.host().map(|(_, host)| host.to_owned()));
    Line {
        name: DEFAULT.to_owned(),
        description: "Current DOCKER_HOST based configuration".to_owned(),
        endpoint: host.unwrap_or_else(|| format!("unix://{}", crate::context::DEFAULT_SOCKET)),
        error: String::new(),
        current,
    }
}
