//! Pushes a list of images that the registry has already, in this repository or in others: `manifest push`.
//!
//! An image of another repository is made known in the target's first: its blobs are mounted, its manifest is stored under its
//! digest. No blob passes through this machine.

use bytes::Bytes;
use palan_oci::{Digest, Document, Reference};

use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::push::put_manifest;
use crate::repository::{Access, Repository};
use crate::session::{Begun, Session};

/// A list that is to be pushed.
#[derive(Debug, Clone)]
pub struct ListPush {
    /// The name that it gets.
    pub reference: Reference,
    /// The list, byte for byte.
    pub document: Bytes,
    /// Its media type.
    pub media_type: String,
    /// The repositories of the registry that have its images, by the images' digests.
    pub sources: Vec<Reference>,
    /// The user's credentials for the registry.
    pub credentials: Credentials,
    /// Whether the registry may be spoken to without a valid certificate, or without TLS.
    pub insecure: bool,
}

impl Client {
    /// Pushes a list. Returns the images that had to be made known in its repository.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_list(&self, list: &ListPush) -> Result<Vec<Digest>, RegistryError> {
        let invalid = |reason: String| RegistryError::Document {
            what: "manifest list",
            reference: list.reference.familiar(),
            reason,
        };
        match Document::parse(&list.document, Some(&list.media_type)) {
            Ok(Document::Index(_)) => {}
            Ok(Document::Manifest(_)) => return Err(invalid("it is an image".to_owned())),
            Err(error) => return Err(invalid(palan_stdx::error_chain::to_string(&error))),
        }
        let target = self.repository_to_push_to(&list.reference, &list.credentials, list.insecure).await?;
        let mut pushed = Vec::new();
        for source in list.sources.iter().filter(|source| source.path() != list.reference.path()) {
            if source.domain() != list.reference.domain() {
                return Err(invalid(format!("{} is in another registry", source.familiar())));
            }
            let Some(digest) = source.digest() else { continue };
            bring_image(&target, source, digest).await?;
            pushed.push(digest);
        }
        let tag = list.reference.tag().unwrap_or(palan_oci::reference::DEFAULT_TAG);
        put_manifest(&target, tag, &list.media_type, &list.document).await?;
        Ok(pushed)
    }
}

/// Makes an image of another repository known in the target.
async fn bring_image(target: &Repository, source: &Reference, digest: Digest) -> Result<(), RegistryError> {
    let from = target.sibling(source.path(), Access::Pull);
    let fetched = from.manifest(&digest.to_string()).await?;
    let found = Digest::of(&fetched.body);
    if found != digest {
        let (expected, found) = (digest.to_string(), found.to_string());
        return Err(RegistryError::Digest { what: "manifest", expected, found });
    }
    let invalid =
        |reason: String| RegistryError::Document { what: "manifest", reference: source.familiar(), reason };
    let document = Document::parse(&fetched.body, fetched.content_type.as_deref())
        .map_err(|error| invalid(palan_stdx::error_chain::to_string(&error)))?;
    let Document::Manifest(manifest) = document else {
        return Err(invalid("a list in a list".to_owned()));
    };
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        match Session::begin(target, &blob.digest, Some(source.path())).await? {
            Begun::Mounted => {}
            Begun::Open(session) => {
                session.cancel(target).await;
                return Err(invalid(format!(
                    "the registry does not mount {} from {}: push the image to the list's repository first",
                    blob.digest,
                    source.familiar_name()
                )));
            }
        }
    }
    put_manifest(target, &digest.to_string(), manifest.media_type(), &fetched.body).await
}
