//! `palan top`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::Parsed;
use crate::output::table::{self, Layout};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container top, palan top",
    interspersed: false,
    ..Command::new(
        "CONTAINER [ps OPTIONS]",
        "Display the running processes of a container",
        Arity::AtLeast(1),
        run,
    )
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let arguments = flags.args[1..].join(" ");
    let arguments = Some(arguments.as_str()).filter(|arguments| !arguments.is_empty());
    let answer = app.client()?.container_top(&flags.args[0], arguments)?;
    let mut text = answer.titles.join("\t");
    text.push('\n');
    for process in &answer.processes {
        text.push_str(&process.join("\t"));
        text.push('\n');
    }
    app.streams.print(&table::align(&text, Layout { minimum: 20, padding: 3 }))
}
