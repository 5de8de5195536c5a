//! `palan diff`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container diff, palan diff",
    ..Command::new(
        "CONTAINER",
        "Inspect changes to files or directories on a container's filesystem",
        Arity::Exactly(1),
        run,
    )
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let container = flags.args[0].as_str();
    if container.is_empty() {
        return Err(CliError::new("Container name cannot be empty"));
    }
    let mut text = String::new();
    for change in app.client()?.container_changes(container)? {
        let kind = match change.kind {
            0 => "C",
            1 => "A",
            2 => "D",
            _ => "",
        };
        text.push_str(&format!("{kind} {}\n", change.path));
    }
    app.streams.print(&text)
}
