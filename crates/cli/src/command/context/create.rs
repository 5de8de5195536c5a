//! `palan context create`.

use palan_stdx::{error_chain, fs};

use super::super::{Arity, Command};
use super::{Asked, DOCKER_FLAG};
use crate::app::App;
use crate::context;
use crate::context::store::{self, Context, DEFAULT, Endpoint, TLS_FILES, TlsMaterial};
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
    if asked.is_some() && !flags.string("from").is_empty() {
        return Err(CliError::new("cannot use --docker flag when --from is set"));
    }
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
        return Ok((String::new(), app.about_target(default)?));
    }
    let context = app.contexts().get(from)?;
    let endpoint = context.endpoint().unwrap_or_default();
    Ok((context.description().to_owned(), (endpoint, app.contexts().tls_files(from)?)))
}

/// The default context: what the environment says, with the certificates that it names.
fn default(asked: &context::Asked<'_>, known: &context::Known<'_>) -> Result<(Endpoint, TlsMaterial)> {
    let host = known
        .host()
        .map_or_else(|| format!("unix://{}", context::DEFAULT_SOCKET), |(_, host)| host.to_owned());
    let Some(files) = &asked.tls else {
        return Ok((Endpoint { host, skip_tls_verify: false }, TlsMaterial::new()));
    };
    let [ca, cert, key] = TLS_FILES;
    let mut material = TlsMaterial::new();
    let identity = files.identity.iter().flat_map(|(certificate, own)| [(cert, certificate), (key, own)]);
    for (name, path) in files.authorities.iter().map(|path| (ca, path)).chain(identity) {
        let content = fs::read(path).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
        material.push((name, content));
    }
    Ok((Endpoint { host, skip_tls_verify: files.authorities.is_none() }, material))
}
