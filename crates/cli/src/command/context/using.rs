//! `palan context use`.

use super::super::{Arity, Command};
use crate::app::App;
use crate::context::store::DEFAULT;
use crate::error::Result;
use crate::flags::Parsed;

pub(crate) static COMMAND: Command =
    Command::new("CONTEXT", "Set the default context", Arity::Exactly(1), run);

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let name = flags.args[0].as_str();
    if name == DEFAULT {
        app.choose_context("")?;
    } else {
        app.contexts().get(name)?;
        app.choose_context(name)?;
    }
    app.streams.line(name)?;
    app.streams.say(&format!("Current context is now {name:?}"));
    let variable = app.about_target(|_, known| known.host().map(|(variable, _)| variable));
    if let Some(variable) = variable.filter(|_| name != DEFAULT) {
        app.streams.say(&format!(
            "Warning: {variable} environment variable overrides the active context. To use {name:?}, either set the \
             global --context flag, or unset {variable} environment variable."
        ));
    }
    Ok(())
}
