//! `palan context export`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;

use super::super::{Arity, Command};
use crate::app::App;
use crate::context::archive;
use crate::context::store::DEFAULT;
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::run_flags::key_values::go_open_error;

pub(crate) static COMMAND: Command = Command::new(
    "CONTEXT [FILE|-]",
    "Export a context to a tar archive FILE or a tar stream on STDOUT",
    Arity::Between(1, 2),
    run,
);

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let name = flags.args[0].as_str();
    if name == DEFAULT {
        return Err(CliError::new("the default context is what the environment says, and can't be exported")
            .hint("Make one of it first: 'context create NAME --from default'."));
    }
    let contexts = app.contexts();
    let bytes = archive::write(&contexts.get(name)?, &contexts.tls_files(name)?)
        .map_err(|error| CliError::io("make the archive", &error))?;
    let path = match flags.args.get(1).map(String::as_str) {
        Some("-") if app.streams.output_is_terminal() => {
            return Err(CliError::new("cowardly refusing to export to a terminal, specify a file path"));
        }
        Some("-") => {
            let written = app.streams.output().write_all(&bytes);
            return written.map_err(|error| CliError::of_output(&error));
        }
        Some(path) => path.to_owned(),
        None => format!("{name}.dockercontext"),
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CliError::new(format!("open {path}: file exists")),
        kind => CliError::new(go_open_error(&path, kind, &error)),
    })?;
    file.write_all(&bytes).map_err(|error| CliError::io(&format!("write {path}"), &error))?;
    app.streams.say(&format!("Written file {path:?}"));
    Ok(())
}
