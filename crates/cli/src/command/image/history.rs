//! `palan history`.

use std::time::SystemTime;

use jiff::Timestamp;
use palan_docker_api::types::HistoryItem;
use palan_stdx::size;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image history, palan history",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] IMAGE", "Show the history of an image", Arity::Exactly(1), run)
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::string("format", None, FORMAT_HELP),
    Flag::bool("human", Some('H'), "Print sizes and dates in human readable format").default("true"),
    Flag::bool("no-trunc", None, "Don't truncate output"),
    Flag::string("platform", None, "Show history for the given platform. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")"),
    Flag::bool("quiet", Some('q'), "Only show image IDs"),
];

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let human = flags.bool("human");
    let created =
        if human { "{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}" } else { "{{.CreatedAt}}" };
    let default = format!("{{{{.ID}}}}\t{created}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}");
    let format = match flags.string("format") {
        "" | "table" if flags.bool("quiet") => Format::plain("{{.ID}}"),
        asked => Format::new(asked, &default),
    };
    let items = app.client()?.image_history(&flags.args[0], super::platform(flags)?.as_deref())?;
    let (truncate, now) = (!flags.bool("no-trunc"), SystemTime::now());
    let lines: Vec<Line<'_>> = items.iter().map(|item| Line { item, human, truncate, now }).collect();
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)
}

struct Line<'a> {
    item: &'a HistoryItem,
    human: bool,
    truncate: bool,
    now: SystemTime,
}

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let item = self.item;
        match name {
            "ID" if self.truncate => human::truncate_id(&item.id).to_owned(),
            "ID" => item.id.clone(),
            // The table says so, too, and every other format gets no more.
            "CreatedSince" if item.created <= 0 => "N/A".to_owned(),
            "CreatedSince" => human::ago(item.created, self.now),
            "CreatedAt" => Timestamp::from_second(item.created)
                .map(|moment| moment.to_zoned(common::zone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
                .map(|text| text.replace("+00:00", "Z"))
                .unwrap_or_default(),
            "CreatedBy" => {
                let command = item.created_by.replace('\t', " ");
                if self.truncate { human::ellipsis(&command, 45) } else { command }
            }
            "Size" if self.human => size::format_decimal_short(u64::try_from(item.size).unwrap_or(0)),
            "Size" => item.size.to_string(),
            "Comment" => item.comment.clone(),
            _ => String::new(),
        }
    }
}
