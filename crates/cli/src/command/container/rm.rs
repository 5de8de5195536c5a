//! `palan rm`.

use palan_docker_api::client::RemoveOptions;

use super::super::{Arity, Command, common};
use crate::app::App;
use crate::error::{CliError, Result, join};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container rm, palan container remove, palan rm",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Remove one or more containers",
        Arity::AtLeast(1),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("force", Some('f'), "Force the removal of a running container (uses SIGKILL)"),
    Flag::bool("link", Some('l'), "Remove the specified link"),
    Flag::bool("volumes", Some('v'), "Remove anonymous volumes associated with the container"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let force = flags.bool("force");
    let options = RemoveOptions { force, volumes: flags.bool("volumes"), link: flags.bool("link") };
    let client = app.client()?;
    let results = common::in_parallel(&flags.args, |name| {
        let name = name.trim_matches('/');
        if name.is_empty() {
            return Err(CliError::new("container name cannot be empty"));
        }
        client.remove_container(name, options).map_err(CliError::from)
    });
    let mut failures = Vec::new();
    for (name, result) in flags.args.iter().zip(results) {
        match result {
            Ok(()) => app.streams.line(name)?,
            Err(error) if force && error.message.contains("No such container") => {
                // What should be gone is gone: said, but no failure.
                app.streams.say(&error.to_string());
            }
            Err(error) => failures.push(error),
        }
    }
    join(failures)
}
