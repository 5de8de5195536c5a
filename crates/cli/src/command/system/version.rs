//! `palan version`.

use std::fmt::Write as _;

use palan_docker_api::types::{ComponentVersion, VersionResponse};
use palan_docker_api::version::ApiVersion;

use super::super::common::{self, INSPECT_FORMAT_HELP};
use super::super::{Arity, Command, VERSION, build};
use crate::app::App;
use crate::error::{CliError, Kind, Result};
use crate::flags::{Flag, Parsed};
use crate::output::json::Ordered;
use crate::output::table::{self, Layout};
use crate::output::template::{self, Complete};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Show the Palan version information", Arity::None, run)
};

static FLAGS: &[Flag] = &[Flag::string("format", Some('f'), INSPECT_FORMAT_HELP)];

/// What this program knows of itself.
#[derive(Debug)]
pub(super) struct ClientVersion {
    api: ApiVersion,
    context: String,
}

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let format = flags.string("format");
    if !matches!(format, "" | "json") {
        // A wrong template is told before anything is asked.
        let order = std::sync::Arc::default();
        template::parse(format, gotmpl::MissingKey::Error, order)
            .map_err(|error| CliError::of(Kind::Template, template::describe(format, &error)))?;
    }
    let server = app.client().and_then(|client| Ok(client.server_version()?));
    let api = app.client().map_or(ApiVersion::MAX, palan_docker_api::client::Client::version);
    let client = ClientVersion { api, context: app.target()?.context };
    let text = match format {
        "" => display(&client, server.as_ref().ok()),
        format => {
            let mut members = vec![("Client".to_owned(), client.json(format != "json"))];
            let server =
                server.as_ref().map_or(Ordered::Null, |server| server_json(server, format != "json"));
            members.push(("Server".to_owned(), server));
            let value = Ordered::Map(members);
            if format == "json" {
                let mut text = String::new();
                value.write(&mut text, false);
                text + "\n"
            } else {
                let executed = common::execute(&value, format, &Complete::NONE);
                executed.map_err(|error| CliError::new(template::describe(format, &error)))? + "\n"
            }
        }
    };
    app.streams.print(&text)?;
    server.map(drop)
}

impl ClientVersion {
    /// What can be known without a daemon.
    pub(super) fn alone(context: String) -> Self {
        Self { api: ApiVersion::MAX, context }
    }

    /// The fields as Docker's JSON has them, or under the names that templates know.
    pub(super) fn json(&self, for_template: bool) -> Ordered {
        let text = |text: &str| Ordered::String(text.to_owned());
        let api = if for_template { "APIVersion" } else { "ApiVersion" };
        let mut members = vec![
            ("Version".to_owned(), text(VERSION)),
            (api.to_owned(), text(&self.api.to_string())),
            ("DefaultAPIVersion".to_owned(), text(&ApiVersion::MAX.to_string())),
            ("GitCommit".to_owned(), text(build())),
            ("Os".to_owned(), text("linux")),
            ("Arch".to_owned(), text(architecture())),
            ("Context".to_owned(), text(&self.context)),
        ];
        if for_template {
            members.push(("GoVersion".to_owned(), text("")));
            members.push(("BuildTime".to_owned(), text("")));
            let platform = Ordered::Map(vec![("Name".to_owned(), text(""))]);
            members.push(("Platform".to_owned(), platform));
        }
        Ordered::Map(members)
    }
}

/// The architecture in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn server_json(server: &VersionResponse, for_template: bool) -> Ordered {
    let value = serde_json::to_string(server).ok().and_then(|text| Ordered::parse(&text).ok());
    let Some(Ordered::Map(mut members)) = value else { return Ordered::Null };
    if for_template {
        for (name, _) in &mut members {
            if name == "ApiVersion" {
                "APIVersion".clone_into(name);
            }
        }
        let engine = server.components.iter().find(|component| component.name == "Engine");
        for name in ["GitCommit", "GoVersion", "KernelVersion", "BuildTime"] {
            if !members.iter().any(|(known, _)| known == name) {
                let value = engine.and_then(|engine| engine.details.get(name)).cloned().unwrap_or_default();
                members.push((name.to_owned(), Ordered::String(value)));
            }
        }
        if !members.iter().any(|(known, _)| known == "Experimental") {
            members.push(("Experimental".to_owned(), Ordered::Bool(server.experimental)));
        }
    }
    Ordered::Map(members)
}

fn display(client: &ClientVersion, server: Option<&VersionResponse>) -> String {
    let mut text = format!("Client:\n Version:\t{VERSION}\n API version:\t{}", client.api);
    if client.api != ApiVersion::MAX {
        let _ = write!(text, " (downgraded from {})", ApiVersion::MAX);
    }
    let _ = write!(
        text,
        "\n Git commit:\t{}\n OS/Arch:\tlinux/{}\n Context:\t{}\n",
        build(),
        architecture(),
        client.context
    );
    if let Some(server) = server {
        let name = &server.platform.name;
        let name = if name.is_empty() { String::new() } else { format!(" {name}") };
        let _ = write!(text, "\nServer:{name}\n");
        server.components.iter().for_each(|component| display_component(component, &mut text));
        if !server.components.iter().any(|component| component.name == "Engine") {
            let _ = write!(
                text,
                " Engine:\n  Version:\t{}\n  API version:\t{} (minimum version {})\n  OS/Arch:\t{}/{}\n",
                server.version, server.api_version, server.min_api_version, server.os, server.arch
            );
        }
    }
    table::align(&text, Layout { minimum: 20, padding: 1 })
}

fn display_component(component: &ComponentVersion, text: &mut String) {
    let _ = write!(text, " {}:\n  Version:\t{}\n", component.name, component.version);
    let detail = |name: &str| component.details.get(name).map_or("", String::as_str);
    if component.name != "Engine" {
        for (name, value) in &component.details {
            let _ = writeln!(text, "  {name}:\t{value}");
        }
        return;
    }
    let _ = writeln!(
        text,
        "  API version:\t{} (minimum version {})",
        detail("ApiVersion"),
        detail("MinAPIVersion")
    );
    for (title, name) in [("Go version", "GoVersion"), ("Git commit", "GitCommit"), ("Built", "BuildTime")] {
        if !detail(name).is_empty() {
            let _ = writeln!(text, "  {title}:\t{}", detail(name));
        }
    }
    let _ = writeln!(text, "  OS/Arch:\t{}/{}", detail("Os"), detail("Arch"));
    let _ = writeln!(text, "  Experimental:\t{}", detail("Experimental"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_shown() {
        let server: VersionResponse = serde_json::from_str(
            r#"{"Platform":{"Name":"Palan"},"Version":"0.1.0","ApiVersion":"1.56","Os":"linux","Arch":"amd64",
                "Components":[{"Name":"Engine","Version":"0.1.0","Details":{"ApiVersion":"1.56","MinAPIVersion":"1.24",
                "Os":"linux","Arch":"amd64","Experimental":"false","GitCommit":"abc"}}]}"#,
        )
        .unwrap();
        let client = ClientVersion::alone("default".to_owned());
        let text = display(&client, Some(&server));
        let (_, shown) = text.split_once("\n\n").unwrap();
        assert_eq!(
            shown,
            "Server: Palan\n Engine:\n  Version:          0.1.0\n  API version:      1.56 (minimum version 1.24)\n  \
             Git commit:       abc\n  OS/Arch:          linux/amd64\n  Experimental:     false\n"
        );
        assert!(text.starts_with("Client:\n Version:           0.1.0\n API version:       1.56\n"), "{text}");
        let value = Ordered::Map(vec![("Server".to_owned(), server_json(&server, true))]);
        let shown = common::execute(&value, "{{.Server.APIVersion}} {{.Server.GitCommit}}", &Complete::NONE);
        assert_eq!(shown.unwrap(), "1.56 abc");
    }
}
