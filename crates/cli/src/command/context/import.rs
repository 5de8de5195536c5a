//! `palan context import`.

use std::io::Read;

use super::super::{Arity, Command};
use crate::app::App;
use crate::context::archive::{self, MAX_ARCHIVE};
use crate::context::store;
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::run_flags::key_values::go_open_error;

pub(crate) static COMMAND: Command =
    Command::new("CONTEXT FILE|-", "Import a context from a tar file", Arity::Exactly(2), run);

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (name, path) = (flags.args[0].as_str(), flags.args[1].as_str());
    store::check_name(name)?;
    let contexts = app.contexts();
    if contexts.has(name)? {
        return Err(CliError::new(format!("context {name:?} already exists")));
    }
    let mut bytes = Vec::new();
    if path == "-" {
        let read = app.streams.take_input().take(MAX_ARCHIVE + 1).read_to_end(&mut bytes);
        read.map_err(|error| CliError::io("read stdin", &error))?;
    } else {
        let file = std::fs::File::open(path);
        let file = file.map_err(|error| CliError::new(go_open_error(path, error.kind(), &error)))?;
        let read = file.take(MAX_ARCHIVE + 1).read_to_end(&mut bytes);
        read.map_err(|error| CliError::new(go_open_error(path, error.kind(), &error)))?;
    }
    let (mut context, files) = archive::read(&bytes)?;
    name.clone_into(&mut context.name);
    contexts.save(&context, Some(&files))?;
    app.streams.line(name)?;
    app.streams.say(&format!("Successfully imported context {name:?}"));
    Ok(())
}
