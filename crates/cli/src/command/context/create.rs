//! `palan context create`.

use super::super::{Arity, Command};
use super::{Asked, DOCKER_FLAG};
use crate::app::App;
use crate::context::store::{self, Context, DEFAULT, Endpoint, TlsMaterial};
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    long: with_endpoint_help!("Create a context"),
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] CONTEXT", "Create a context", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[
    Flag::string("description", None, "Description of the context"),
    DOCKER_FLAG,
    Flag::string("from", None, "create context from a named context"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let name = flags.args[0].as_str();
    store::check_name(name)?;
    let contexts = app.contexts();
    if contexts.has(name)? {
        return Err(CliError::new(format!("context {name:?} already exists")));
    }
    let asked = Asked::read(flags)?;
    let (endpoint, files) = match (&asked, flags.string("from")) {
        (Some(asked), "") => match asked.from {
            Some(from) => copied(app, from)?.1,
            None => asked.endpoint()?,
        },
        (None, "") => copied(app, &app.context())?.1,
        (_, from) => copied(app, from)?.1,
    };
    let mut context = Context::new(name);
    context.set_endpoint(&endpoint);
    context.set_description(flags.string("description"));
    if !flags.changed("description") && asked.is_none() && !flags.string("from").is_empty() {
        context.set_description(&copied(app, flags.string("from"))?.0);
    }
    contexts.save(&context, Some(&files))?;
    app.streams.line(name)?;
    app.streams.say(&format!("Successfully created context {name:?}"));
    Ok(())
}

/// Description and endpoint of a context that is there; of the default one as it is now.
fn copied(app: &App, from: &str) -> Result<(String, (Endpoint, TlsMaterial))> {
    if from == DEFAULT {
        let host = app.target()?.host.to_string();
        return Ok((String::new(), (Endpoint { host, skip_tls_verify: false }, TlsMaterial::new())));
    }
    let context = app.contexts().get(from)?;
    let endpoint = context.endpoint().unwrap_or_default();
    Ok((context.description().to_owned(), (endpoint, app.contexts().tls_files(from)?)))
}
