//! Requests that go to registries and are no pull: push, search, and what a registry says about an image.

use std::sync::Arc;

use palan_oci::{Descriptor, Platform, Reference};
pub use palan_registry::SearchResult;
use palan_registry::{ListPush, PushRequest};
use tokio::sync::mpsc;

use crate::db::Change;
use crate::engine::Engine;
use crate::image::{
    Auth, BACKLOG, Progress, Teller, credentials, event, give_memory_back, reference_error, registry_error,
};
use crate::spec::Filters;
use crate::stream::Items;
use crate::{Error, Result};

/// What to push.
#[derive(Debug, Clone, Default)]
pub struct PushSpec {
    /// The repository as typed; a tag in it counts where `tag` is empty.
    pub name: String,
    /// The tag; every tag of the repository where it is empty.
    pub tag: String,
    /// The platform that the image must be for.
    pub platform: Option<Platform>,
    /// Credentials.
    pub auth: Option<Auth>,
}

/// What to search for.
///
/// Filters: `is-automated` (nothing is any more), `is-official`, `stars` (at least).
#[derive(Debug, Clone, Default)]
pub struct SearchSpec {
    /// A word, behind the index's host if it is not Docker's.
    pub term: String,
    /// How many results to ask for; 0 is the default.
    pub limit: i64,
    /// Filters.
    pub filters: Filters,
    /// Credentials.
    pub auth: Option<Auth>,
}

/// An image or index as its registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryImage {
    /// Media type, digest, size.
    pub descriptor: Descriptor,
    /// The platforms that it is for.
    pub platforms: Vec<Platform>,
    /// The document, byte for byte.
    pub body: Vec<u8>,
}

/// A list of images to push.
#[derive(Debug, Clone, Default)]
pub struct ListSpec {
    /// The name that it gets.
    pub name: String,
    /// The list, byte for byte.
    pub document: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// Repository and digest of each image.
    pub sources: Vec<(String, String)>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Whether the registry's certificate need not be valid.
    pub insecure: bool,
}

/// How many results a search asks for by default.
const USUAL_RESULTS: u32 = 25;
/// The most that it may ask for.
const MOST_RESULTS: u32 = 100;

impl Engine {
    /// Pushes an image or all tags of a repository. Errors that come before the first progress are returned; later ones are
    /// the stream's last item.
    pub async fn push(&self, spec: PushSpec) -> Result<Items<Progress>> {
        let mut reference = Reference::parse(&spec.name).map_err(reference_error)?;
        if !spec.tag.is_empty() {
            reference = reference.with_tag(&spec.tag).map_err(reference_error)?;
        }
        if reference.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let request = PushRequest { reference, platform: spec.platform, credentials: credentials(spec.auth) };
        let (sender, items) = Items::channel(BACKLOG);
        tokio::spawn(push(self.shared(), request, sender));
        items.begun().await
    }
}

impl Engine {
    /// Searches an index.
    pub async fn search(&self, spec: SearchSpec) -> Result<Vec<SearchResult>> {
        spec.filters.check(&["is-automated", "is-official", "stars"])?;
        let official = spec.filters.boolean("is-official")?;
        if spec.filters.boolean("is-automated")? == Some(true) {
            return Ok(Vec::new());
        }
        let mut least = None;
        for value in spec.filters.values("stars") {
            let stars: i64 =
                value.parse().map_err(|_| Error::invalid(format!("invalid filter 'stars=[{value}]'")))?;
            least = least.max(Some(stars));
        }
        let limit = match u32::try_from(spec.limit) {
            Ok(0) => USUAL_RESULTS,
            Ok(limit) if limit <= MOST_RESULTS => limit,
            _ => {
                let message = format!("limit {} is outside the range of [1, {MOST_RESULTS}]", spec.limit);
                return Err(Error::invalid(message));
            }
        };
        let (domain, term) = split_term(&spec.term)?;
        let found = self.registry.search(domain, term, limit, &credentials(spec.auth)).await;
        let fits = |result: &SearchResult| {
            official.is_none_or(|official| official == result.is_official)
                && least.is_none_or(|least| result.star_count >= least)
        };
        Ok(found.map_err(registry_error)?.into_iter().filter(fits).collect())
    }

    /// Asks a registry about an image without bringing it.
    pub async fn inspect_in_registry(
        &self,
        name: &str,
        auth: Option<Auth>,
        insecure: bool,
    ) -> Result<RegistryImage> {
        let reference = Reference::parse(name).map_err(reference_error)?;
        let credentials = credentials(auth);
        let found =
            self.registry.inspect(&reference, &credentials, insecure).await.map_err(registry_error)?;
        Ok(RegistryImage {
            descriptor: found.descriptor,
            platforms: found.platforms,
            body: found.body.to_vec(),
        })
    }
}

impl Engine {
    /// Pushes a list of images that the registry has. Returns its digest, and the images that had to be made known in its
    /// repository.
    pub async fn push_list(&self, spec: ListSpec) -> Result<(String, Vec<String>)> {
        let parse = |text: &str| Reference::parse(text).map_err(reference_error);
        let sources = spec.sources.iter().map(|(repository, digest)| {
            let digest = digest.parse().map_err(|error| Error::invalid(format!("{digest}: {error}")))?;
            Ok(parse(repository)?.with_digest(digest))
        });
        let list = ListPush {
            reference: parse(&spec.name)?.or_latest(),
            sources: sources.collect::<Result<_>>()?,
            document: spec.document.into(),
            media_type: spec.media_type,
            credentials: credentials(spec.auth),
            insecure: spec.insecure,
        };
        let digest = palan_oci::Digest::of(&list.document).to_string();
        let pushed = self.registry.push_list(&list).await.map_err(registry_error)?;
        let name_of = |digest: palan_oci::Digest| {
            let source = list.sources.iter().find(|source| source.digest() == Some(digest));
            source.map_or_else(|| digest.to_string(), |_| list.reference.with_digest(digest).to_string())
        };
        Ok((digest, pushed.into_iter().map(name_of).collect()))
    }
}

/// The index's domain and what to look for there.
fn split_term(text: &str) -> Result<(&str, &str)> {
    if text.contains("://") {
        let message = format!("invalid repository name: repository name ({text}) should not have a scheme");
        return Err(Error::invalid(message));
    }
    let (domain, term) = match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (palan_oci::reference::DEFAULT_DOMAIN, text),
    };
    // The official images are known without their first part.
    let is_hub = matches!(domain, "docker.io" | "index.docker.io");
    let domain = if is_hub { palan_oci::reference::DEFAULT_DOMAIN } else { domain };
    Ok((domain, if is_hub { term.strip_prefix("library/").unwrap_or(term) } else { term }))
}

async fn push(engine: Arc<Engine>, request: PushRequest, sender: mpsc::Sender<Result<Progress>>) {
    let teller = Teller::new(&sender);
    let tell = |event| teller.tell(event);
    let work = async {
        if request.reference.tag().is_none() {
            engine.registry.push_all_tags(&request, &engine.store, tell).await.map(drop)
        } else {
            engine.registry.push(&request, &engine.store, tell).await.map(drop)
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome.map_err(registry_error),
        // Nobody waits for it any more: what has come is there for the next push.
        () = sender.closed() => return,
    };
    give_memory_back().await;
    teller.finish().await;
    let recorded = match outcome {
        Ok(()) => {
            let name = request.reference.familiar();
            let change = Change::new().event(event("push", &name, &request.reference.familiar_name()));
            engine.db.commit(change).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = recorded {
        // The client may have gone.
        let _ = sender.send(Err(error)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_name_their_index() {
        let split = |text| split_term(text).ok();
        assert_eq!(split("debian"), Some(("docker.io", "debian")));
        assert_eq!(split("library/debian"), Some(("docker.io", "debian")));
        assert_eq!(split("docker.io/team/app"), Some(("docker.io", "team/app")));
        assert_eq!(split("localhost:5000/app"), Some(("localhost:5000", "app")));
        assert_eq!(split("http://r.example/app"), None);
    }
}
