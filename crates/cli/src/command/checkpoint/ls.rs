//! `palan checkpoint ls`.

use palan_docker_api::types::CheckpointSummary;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan checkpoint ls, palan checkpoint list",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] CONTAINER", "List checkpoints for a container", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[super::DIRECTORY];

const COLUMNS: &[Column] = &[("Name", "CHECKPOINT NAME")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let [container] = flags.args.as_slice() else { return Ok(()) };
    let checkpoints = app.client()?.list_checkpoints(container, flags.string("checkpoint-dir"))?;
    let lines: Vec<Line<'_>> = checkpoints.iter().map(Line).collect();
    app.streams.print(&list::render(&Format::new("table", "{{.Name}}"), COLUMNS, &lines)?)
}

struct Line<'a>(&'a CheckpointSummary);

impl Row for Line<'_> {
    fn field(&self, _: &str) -> String {
        self.0.name.clone()
    }
}
