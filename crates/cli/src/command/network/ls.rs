//! `palan network ls`.

use palan_docker_api::types::Network;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan network ls, palan network list",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "List networks", Arity::None, run)
};

static FLAGS: &[Flag] = &[
    common::filter_flag(Some('f'), "Provide filter values (e.g. \"driver=bridge\")"),
    Flag::string("format", None, FORMAT_HELP),
    Flag::bool("no-trunc", None, "Do not truncate the output"),
    Flag::bool("quiet", Some('q'), "Only display network IDs"),
];

const COLUMNS: &[Column] = &[
    ("CreatedAt", "CREATED AT"),
    ("Driver", "DRIVER"),
    ("ID", "NETWORK ID"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Name", "NAME"),
    ("Scope", "SCOPE"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let quiet = flags.bool("quiet");
    let asked = match flags.string("format") {
        "" if !quiet => app.config().text("networksFormat"),
        asked => asked,
    };
    let format = match asked {
        "" | "table" if quiet => Format::plain("{{.ID}}"),
        "raw" if quiet => Format::plain("network_id: {{.ID}}"),
        "raw" => {
            Format::plain("network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n")
        }
        asked => Format::new(asked, "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"),
    };
    let mut networks = app.client()?.list_networks(&common::filters(flags))?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let truncate = !flags.bool("no-trunc");
    let lines: Vec<Line<'_>> = networks.iter().map(|network| Line { network, truncate }).collect();
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)
}

struct Line<'a> {
    network: &'a Network,
    truncate: bool,
}

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let network = self.network;
        match name {
            "ID" if self.truncate => human::truncate_id(&network.id).to_owned(),
            "ID" => network.id.clone(),
            "Name" => network.name.clone(),
            "Driver" => network.driver.clone(),
            "Scope" => network.scope.clone(),
            "IPv4" => network.enable_ipv4.to_string(),
            "IPv6" => network.enable_ipv6.to_string(),
            "Internal" => network.internal.to_string(),
            "CreatedAt" => go_time(&network.created),
            "Labels" => {
                let labels = network.labels.iter();
                labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
            }
            _ => String::new(),
        }
    }

    fn labels(&self) -> Vec<(&str, &str)> {
        self.network.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// `2006-01-02T15:04:05.9Z` as Go's `Time.String` prints it.
fn go_time(text: &str) -> String {
    let Ok(moment) = text.parse::<jiff::Timestamp>() else { return text.to_owned() };
    let zoned = moment.to_zoned(jiff::tz::TimeZone::UTC);
    let fraction = format!(".{:09}", zoned.subsec_nanosecond());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction} +0000 UTC", zoned.strftime("%Y-%m-%d %H:%M:%S"))
}
