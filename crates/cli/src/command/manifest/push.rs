//! `palan manifest push`.

use palan_docker_api::types::{ManifestListPush, ManifestSource};

use super::super::{Arity, Command};
use super::store::Store;
use super::{list, reference};
use crate::app::App;
use crate::credentials;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] MANIFEST_LIST", "Push a manifest list to a repository", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[
    Flag::bool("insecure", None, "Allow push to an insecure registry"),
    Flag::bool("purge", Some('p'), "Remove the local manifest list after push"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let target = reference(&flags.args[0])?;
    let store = Store::of(app);
    let images = store.list(&target)?;
    if images.is_empty() {
        return Err(CliError::new(format!("{} not found", target.familiar())));
    }
    if let Some(other) = images.iter().find(|image| image.reference.domain() != target.domain()) {
        return Err(CliError::new(format!(
            "cannot use source images from a different registry than the target image: {} != {}",
            other.reference.domain(),
            target.domain()
        )));
    }
    let (document, media_type) = list::render(&images)?;
    let sources = images.iter().map(|image| ManifestSource {
        repository: image.reference.familiar_name(),
        digest: image.descriptor.digest.clone(),
    });
    let request = ManifestListPush {
        media_type: media_type.to_owned(),
        document: document.clone(),
        sources: sources.collect(),
    };
    let auth = credentials::get(app.config(), &app.environment, target.domain())?;
    let insecure = flags.bool("insecure");
    let answer = app.client()?.push_manifest_list(&target.to_string(), &request, insecure, auth.as_ref())?;
    for pushed in &answer.pushed {
        app.streams.line(&format!("Pushed ref {} with digest: {}", pushed.reference, pushed.digest))?;
    }
    app.streams.line(&answer.digest)?;
    if flags.bool("purge") {
        store.remove(&target)?;
    }
    Ok(())
}
