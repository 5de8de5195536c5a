//! What refers to an image: signatures, attestations, inventories (distribution specification 1.1, "Listing Referrers").
//!
//! A registry without the API has them in an index under the tag `sha256-<hex>` of the image's digest, which clients keep up.

use palan_oci::manifest::MAX_MANIFEST_SIZE;
use palan_oci::{Descriptor, Digest, Document, Reference};

use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::{RegistryError, RequestError};
use crate::repository::{Fetched, Repository};

/// The most pages of a list.
const MOST_PAGES: usize = 100;

impl Client {
    /// The artifacts whose manifests name `digest`, in the repository of `reference`, as their subject; those of one type
    /// where one is given.
    ///
    /// # Errors
    /// See [`RegistryError`]. That there are none is no error.
    pub async fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
        artifact_type: Option<&str>,
        credentials: &Credentials,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut places = self.places(reference, credentials).await?;
        while let Some(repository) = places.next() {
            match referrers_at(&repository, reference, digest, artifact_type).await {
                Ok(found) => return Ok(places.worked(found)),
                Err(error) => places.failed(error)?,
            }
        }
        Err(places.exhausted())
    }
}

async fn referrers_at(
    repository: &Repository,
    reference: &Reference,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>, RegistryError> {
    let mut found = Vec::new();
    let mut next = Some(repository.referrers_url(digest, artifact_type)?);
    for _ in 0..MOST_PAGES {
        let Some(url) = next.take() else { break };
        let (fetched, following) = match repository.page(url, MAX_MANIFEST_SIZE).await {
            Ok(page) => page,
            Err(error) if is_not_found(&error) && found.is_empty() => {
                let tag = fallback_tag(digest);
                match repository.manifest(&tag).await {
                    Ok(fetched) => (fetched, None),
                    Err(error) if is_not_found(&error) => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        found.extend(entries(reference, &fetched)?);
        next = following;
    }
    // A registry need not filter.
    found.retain(|entry| artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted)));
    Ok(found)
}

fn entries(reference: &Reference, fetched: &Fetched) -> Result<Vec<Descriptor>, RegistryError> {
    let invalid = |reason: String| RegistryError::Document {
        what: "list of referrers",
        reference: reference.familiar(),
        reason,
    };
    match Document::parse(&fetched.body, fetched.content_type.as_deref()) {
        Ok(Document::Index(index)) => Ok(index.manifests),
        Ok(Document::Manifest(_)) => Err(invalid("it is an image".to_owned())),
        Err(error) => Err(invalid(palan_stdx::error_chain::to_string(&error))),
    }
}

fn fallback_tag(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

fn is_not_found(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Request { source: RequestError::Api(api), .. } if api.status == 404)
}
