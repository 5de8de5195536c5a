//! What a registry says about an image, without bringing it: `GET /distribution/…/json`, `manifest inspect`.

use bytes::Bytes;
use palan_oci::manifest::DocumentError;
use palan_oci::media_type::{self, Class};
use palan_oci::{Descriptor, Digest, Document, ImageConfig, Platform, Reference};

use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::repository::Repository;

/// An image or index in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Media type, digest and size; for one image its platform, too.
    pub descriptor: Descriptor,
    /// The platforms that it is for, as far as they are known.
    pub platforms: Vec<Platform>,
    /// The document, byte for byte.
    pub body: Bytes,
}

impl Client {
    /// Asks for the manifest or index that a reference names, and for the platforms. With `insecure` the registry may be
    /// spoken to without a valid certificate, or without TLS.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn inspect(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        insecure: bool,
    ) -> Result<Inspected, RegistryError> {
        let reference = reference.clone().or_latest();
        let mut places = self.places(&reference, credentials).await?;
        if insecure {
            places = places.made_insecure();
        }
        while let Some(repository) = places.next() {
            match inspect_at(&repository, &reference).await {
                Ok(inspected) => return Ok(places.worked(inspected)),
                Err(error) => places.failed(error)?,
            }
        }
        Err(places.exhausted())
    }
}

async fn inspect_at(repository: &Repository, reference: &Reference) -> Result<Inspected, RegistryError> {
    let wanted = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or(palan_oci::reference::DEFAULT_TAG).to_owned(),
    };
    let fetched = repository.manifest(&wanted).await?;
    let digest = Digest::of(&fetched.body);
    if let Some(expected) = reference.digest().filter(|expected| *expected != digest) {
        let (expected, found) = (expected.to_string(), digest.to_string());
        return Err(RegistryError::Digest { what: "manifest", expected, found });
    }
    let invalid = |what, error: &(dyn std::error::Error + 'static)| RegistryError::Document {
        what,
        reference: reference.familiar(),
        reason: palan_stdx::error_chain::to_string(error),
    };
    let document =
        Document::parse(&fetched.body, fetched.content_type.as_deref()).map_err(|error| match error {
            DocumentError::SchemaVersion1 => RegistryError::Schema1 { reference: reference.familiar() },
            other => invalid("manifest", &other),
        })?;
    let size = fetched.body.len() as u64;
    let (media_type, platforms) = match document {
        Document::Index(index) => {
            let media_type = index.media_type.unwrap_or_else(|| media_type::OCI_INDEX.to_owned());
            (media_type, index.manifests.into_iter().filter_map(|entry| entry.platform).collect())
        }
        Document::Manifest(manifest) => {
            let media_type = manifest.media_type().to_owned();
            let is_small = manifest.config.size <= palan_oci::manifest::MAX_MANIFEST_SIZE;
            let platform = if is_small && manifest.config.class() == Class::Config {
                let body = repository.small_blob(&manifest.config.digest, manifest.config.size).await?;
                if Digest::of(&body) != manifest.config.digest {
                    return Err(RegistryError::Digest {
                        what: "image configuration",
                        expected: manifest.config.digest.to_string(),
                        found: Digest::of(&body).to_string(),
                    });
                }
                let config =
                    ImageConfig::parse(&body).map_err(|error| invalid("image configuration", &error))?;
                Some(config.platform()).filter(|platform| !platform.os.is_empty())
            } else {
                None
            };
            (media_type, platform.into_iter().collect::<Vec<_>>())
        }
    };
    let descriptor = Descriptor::new(media_type, digest, size);
    Ok(Inspected { descriptor, platforms, body: fetched.body })
}
