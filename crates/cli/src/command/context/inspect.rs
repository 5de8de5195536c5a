//! `palan context inspect`.

use serde_json::{Value, json};

use super::super::common::{self, INSPECT_FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::context::store::{Context, DEFAULT, Endpoint};
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::json::Ordered;
use crate::output::template::Complete;

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] [CONTEXT] [CONTEXT...]",
        "Display detailed information on one or more contexts",
        Arity::AtLeast(0),
        run,
    )
};

static FLAGS: &[Flag] = &[Flag::string("format", Some('f'), INSPECT_FORMAT_HELP)];

/// A context has the same members always.
const COMPLETE: Complete<'static> = Complete { optional: &[], maps: &[], pointers: &[] };

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let own = [app.context()];
    let names: &[String] = if flags.args.is_empty() { &own } else { &flags.args };
    common::inspect(app, names, flags.string("format"), &COMPLETE, |name| Ok(shown(app, name)?.into_bytes()))
}

/// The JSON of a context, its members in Docker's order.
fn shown(app: &App, name: &str) -> Result<String> {
    let contexts = app.contexts();
    let (context, files, meta, tls) = if name == DEFAULT {
        let host = app.about_target(|_, known| known.host().map(|(_, host)| host.to_owned()));
        let host = host.unwrap_or_else(|| format!("unix://{}", crate::context::DEFAULT_SOCKET));
        let mut context = Context::new(name);
        context.set_endpoint(&Endpoint { host, skip_tls_verify: false });
        // Docker's words for what lies in no file.
        (context, Vec::new(), "<IN MEMORY>".to_owned(), "<IN MEMORY>".to_owned())
    } else {
        let path = |path: std::path::PathBuf| path.display().to_string();
        let (meta, tls) = (path(contexts.meta_directory(name)), path(contexts.tls_directory(name)));
        (contexts.get(name)?, contexts.tls_files(name)?, meta, tls)
    };
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let material = if names.is_empty() { json!({}) } else { json!({ "docker": names }) };
    let text = |value: &Value| value.to_string();
    let storage = [("MetadataPath", meta), ("TLSPath", tls)];
    let storage = storage.map(|(key, value)| (key.to_owned(), Ordered::String(value)));
    let mut paths = String::new();
    Ordered::Map(storage.into()).write(&mut paths, true);
    Ok(format!(
        "{{\"Name\":{},\"Metadata\":{},\"Endpoints\":{},\"TLSMaterial\":{},\"Storage\":{paths}}}",
        text(&json!(context.name)),
        text(&json!(context.metadata)),
        text(&json!(context.endpoints)),
        text(&material),
    ))
}
