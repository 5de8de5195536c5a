//! `palan rmi`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result, join};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image rm, palan image remove, palan rmi",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] IMAGE [IMAGE...]", "Remove one or more images", Arity::AtLeast(1), run)
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::bool("force", Some('f'), "Force removal of the image"),
    Flag::bool("no-prune", None, "Do not delete untagged parents"),
    Flag::list("platform", None, "Remove only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")").named("strings"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let client = app.client()?;
    let force = flags.bool("force");
    let platforms = super::platforms(flags)?;
    let mut failures = Vec::new();
    let mut fatal = false;
    for name in &flags.args {
        match client.remove_image(name, force, flags.bool("no-prune"), &platforms) {
            Ok(removed) => {
                for item in removed {
                    if item.deleted.is_empty() {
                        app.streams.line(&format!("Untagged: {}", item.untagged))?;
                    } else {
                        app.streams.line(&format!("Deleted: {}", item.deleted))?;
                    }
                }
            }
            Err(error) => {
                fatal |= !error.is_not_found();
                failures.push(CliError::from(error));
            }
        }
    }
    match join(failures) {
        // What should be gone is gone: said, but no failure.
        Err(error) if force && !fatal => {
            app.streams.say(&error.to_string());
            Ok(())
        }
        result => result,
    }
}
