//! `palan manifest …`: lists of images for several platforms, made here and pushed to a registry.
//!
//! A list is kept in Docker's place and form (`manifests/` beside the client's `config.json`, see [`store`]) until it is
//! pushed. What a registry has is asked through the daemon, which has the certificates, mirrors and proxies.

mod annotate;
mod create;
mod inspect;
mod list;
mod push;
mod rm;
mod store;

use palan_oci::Reference;

use super::{Entry, Group};
use crate::app::App;
use crate::credentials;
use crate::error::{CliError, Result};
use store::Stored;

/// The commands on manifests.
pub(crate) const GROUP: Group = Group {
    name: "manifest",
    short: "Manage image manifests and manifest lists",
    entries: &[
        Entry(&["annotate"], &annotate::COMMAND),
        Entry(&["create"], &create::COMMAND),
        Entry(&["inspect"], &inspect::COMMAND),
        Entry(&["push"], &push::COMMAND),
        Entry(&["rm"], &rm::COMMAND),
    ],
    missing: &[],
};

fn reference(text: &str) -> Result<Reference> {
    let reference = Reference::parse(text).map_err(|error| CliError::new(error.to_string()))?;
    Ok(reference.or_latest())
}

/// What a registry has under a name.
enum Remote {
    Image(Box<Stored>),
    List(Vec<Stored>),
}

/// Asks the registry for an image or list.
fn ask(app: &App, reference: &Reference, insecure: bool) -> Result<Remote> {
    let auth = credentials::get(app.config(), &app.environment, reference.domain())?;
    let answer = app.client()?.registry_manifest(&reference.to_string(), insecure, auth.as_ref())?;
    let Some(entries) = list::entries(&answer.raw)? else {
        let image = Stored::of(reference, &answer, answer.platforms.first())?;
        return Ok(Remote::Image(Box::new(image)));
    };
    // Docker names the entries of a list by its tag and their digests.
    let whole = reference.to_string();
    let name = whole.split_once('@').map_or(whole.as_str(), |(name, _)| name);
    let mut list = Vec::new();
    for entry in entries {
        let named = self::reference(&format!("{name}@{}", entry.digest))?;
        let answer = app.client()?.registry_manifest(&named.to_string(), insecure, auth.as_ref())?;
        list.push(Stored::of(&named, &answer, entry.platform.as_ref())?);
    }
    Ok(Remote::List(list))
}

/// One image, from the store of the list or from its registry.
fn image(app: &App, list: &Reference, reference: &Reference, insecure: bool) -> Result<Stored> {
    if let Some(known) = store::Store::of(app).get(list, reference)? {
        return Ok(known);
    }
    match ask(app, reference, insecure)? {
        Remote::Image(image) => Ok(*image),
        Remote::List(_) => Err(CliError::new(format!("{} is a manifest list", reference.familiar()))),
    }
}
