//! `palan context show`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::Parsed;

pub(crate) static COMMAND: Command =
    Command::new("", "Print the name of the current context", Arity::None, run);

fn run(app: &App, _: &Parsed) -> Result<()> {
    app.streams.line(&app.context())
}
