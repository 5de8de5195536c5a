//! `palan context update`.

use super::super::{Arity, Command};
use super::{Asked, DOCKER_FLAG};
use crate::app::App;
use crate::context::store;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    long: with_endpoint_help!("Update a context"),
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] CONTEXT", "Update a context", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[Flag::string("description", None, "Description of the context"), DOCKER_FLAG];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let name = flags.args[0].as_str();
    store::check_name(name)?;
    let contexts = app.contexts();
    let mut context = contexts.get(name)?;
    let mut files = None;
    if flags.changed("description") {
        context.set_description(flags.string("description"));
    }
    if let Some(asked) = Asked::read(flags)? {
        let (endpoint, tls) = match asked.from {
            Some(from) => (contexts.get(from)?.endpoint().unwrap_or_default(), contexts.tls_files(from)?),
            None => asked.endpoint()?,
        };
        context.set_endpoint(&endpoint);
        files = Some(tls);
    }
    contexts.save(&context, files.as_ref())?;
    app.streams.line(name)?;
    app.streams.say(&format!("Successfully updated context {name:?}"));
    Ok(())
}
