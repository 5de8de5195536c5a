//! `palan volume ls`.

use palan_docker_api::types::Volume;
use palan_stdx::size;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan volume ls, palan volume list",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "List volumes", Arity::None, run)
};

static FLAGS: &[Flag] = &[
    Flag::bool("cluster", None, "Display only cluster volumes, and use cluster volume list formatting"),
    common::filter_flag(Some('f'), "Provide filter values (e.g. \"dangling=true\")"),
    Flag::string("format", None, FORMAT_HELP),
    Flag::bool("quiet", Some('q'), "Only display volume names"),
];

const COLUMNS: &[Column] = &[
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (quiet, cluster) = (flags.bool("quiet"), flags.bool("cluster"));
    let asked = match flags.string("format") {
        "" if !quiet => app.config().text("volumesFormat"),
        asked => asked,
    };
    let format = match asked {
        _ if cluster && !quiet => {
            Format::new("table", "{{.Name}}\t{{.Group}}\t{{.Driver}}\t{{.Availability}}\t{{.Status}}")
        }
        "" | "table" if quiet => Format::plain("{{.Name}}"),
        "raw" if quiet => Format::plain("name: {{.Name}}"),
        "raw" => Format::plain("name: {{.Name}}\ndriver: {{.Driver}}\n"),
        asked => Format::new(asked, "{{.Driver}}\t{{.Name}}"),
    };
    let mut volumes = app.client()?.list_volumes(&common::filters(flags))?.volumes;
    // They are a swarm's, and there is none.
    volumes.retain(|_| !cluster);
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let lines: Vec<Line<'_>> = volumes.iter().map(Line).collect();
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)
}

/// The table of `system df -v`.
pub(crate) fn usage_table(volumes: &[Volume]) -> Result<String> {
    let lines: Vec<Line<'_>> = volumes.iter().map(Line).collect();
    list::render(&Format::new("table", "{{.Name}}\t{{.Links}}\t{{.Size}}"), COLUMNS, &lines)
}

/// What the table of `system df -v` is made of.
pub(crate) fn usage_records(volumes: &[Volume]) -> gotmpl::Value {
    list::records(COLUMNS, &volumes.iter().map(Line).collect::<Vec<_>>())
}

struct Line<'a>(&'a Volume);

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let volume = self.0;
        let unknown = || "N/A".to_owned();
        match name {
            "Driver" => volume.driver.clone(),
            "Name" => volume.name.clone(),
            "Scope" => volume.scope.clone(),
            "Mountpoint" => volume.mountpoint.clone(),
            "Labels" => {
                let labels = volume.labels.iter();
                labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
            }
            "Links" => volume.usage_data.as_ref().map_or_else(unknown, |usage| usage.ref_count.to_string()),
            "Size" => volume
                .usage_data
                .as_ref()
                .and_then(|usage| u64::try_from(usage.size).ok())
                .map_or_else(unknown, size::format_decimal),
            _ => unknown(),
        }
    }

    fn labels(&self) -> Vec<(&str, &str)> {
        self.0.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}
