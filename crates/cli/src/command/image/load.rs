//! `palan load`.

use std::fs::File;
use std::io::Read;

use super::super::{Arity, Command};
use super::pull::{To, show};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::key_values::go_open_error;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image load, palan load",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Load an image from a tar archive or STDIN", Arity::None, run)
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::string("input", Some('i'), "Read from tar archive file, instead of STDIN"),
    Flag::list("platform", None, "Load only the given platform(s). Formatted as a comma-separated list of \"os[/arch[/variant]]\" (e.g., \"linux/amd64,linux/arm64/v8\")").named("strings"),
    Flag::bool("quiet", Some('q'), "Suppress the load output"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let platforms = super::platforms(flags)?;
    let path = flags.string("input");
    let mut input: Box<dyn Read + Send> = match path {
        "" if app.streams.input_is_terminal() => {
            return Err(CliError::new("requested load from stdin, but stdin is empty"));
        }
        "" => app.streams.take_input(),
        path => Box::new(open(path)?),
    };
    let quiet = flags.bool("quiet") || !app.streams.output_is_terminal();
    let progress = app.client()?.load_images(&mut input, quiet, &platforms)?;
    show(app, progress, false, To::Output)
}

/// Opens a file to send, with Go's error text.
pub(crate) fn open(path: &str) -> Result<File> {
    let file = File::open(path).map_err(|error| CliError::new(go_open_error(path, error.kind(), &error)))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(CliError::new(format!("read {path}: is a directory"))),
        _ => Ok(file),
    }
}
