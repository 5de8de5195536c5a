//! What has layers and is no image, such as a cache of builds: documents and layers are read one by one, and written in the same way. What they
//! mean is the caller's to know.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use palan_oci::{Descriptor, Digest, Reference};
use palan_store::Store;

use crate::client::Client;
use crate::credentials::Credentials;
use crate::error::RegistryError;
use crate::progress::{LayerStatus, UploadStatus};
use crate::pull::bring_layer;
use crate::push::{in_dockers_words, is_missing, put_manifest, sources};
use crate::repository::Repository;
use crate::session::{Begun, Session};
use crate::upload::{Upload, is_there};

/// Which artifact.
#[derive(Debug, Clone)]
pub struct ArtifactRequest {
    /// Its name; without tag and digest it is `latest`.
    pub reference: Reference,
    /// The user's credentials for the registry.
    pub credentials: Credentials,
    /// Whether the registry may be spoken to without a valid certificate, or without TLS.
    pub insecure: bool,
}

/// An artifact in a registry, at the place that had it.
#[derive(Debug, Clone)]
pub struct Artifact {
    client: Client,
    repository: Repository,
    reference: Reference,
    /// The manifest or index, byte for byte.
    pub document: Bytes,
}

/// An artifact on its way to a registry.
#[derive(Debug, Clone)]
pub struct ArtifactPush {
    client: Client,
    repository: Repository,
    reference: Reference,
}

impl Client {
    /// Finds an artifact.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn artifact(&self, request: &ArtifactRequest) -> Result<Artifact, RegistryError> {
        let reference = request.reference.clone().or_latest();
        let mut places = self.places(&reference, &request.credentials).await?;
        if request.insecure {
            places = places.made_insecure();
        }
        while let Some(repository) = places.next() {
            let wanted = match reference.digest() {
                Some(digest) => digest.to_string(),
                None => reference.tag().unwrap_or(palan_oci::reference::DEFAULT_TAG).to_owned(),
            };
            let found = repository.manifest(&wanted).await.and_then(|fetched| {
                reference.digest().map_or(Ok(()), |digest| verify("manifest", &fetched.body, &digest))?;
                Ok(fetched.body)
            });
            match found {
                Ok(document) => {
                    let artifact =
                        Artifact { client: self.clone(), repository, reference: reference.clone(), document };
                    return Ok(places.worked(artifact));
                }
                Err(error) => places.failed(error)?,
            }
        }
        Err(places.exhausted())
    }

    /// Begins to push one.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_artifact(&self, request: &ArtifactRequest) -> Result<ArtifactPush, RegistryError> {
        let reference = request.reference.clone().or_latest();
        let repository = self.repository_to_push_to(&reference, &request.credentials, request.insecure).await;
        Ok(ArtifactPush {
            client: self.clone(),
            repository: repository.map_err(in_dockers_words)?,
            reference,
        })
    }
}

impl Artifact {
    /// Its name.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A manifest of the same repository.
    pub async fn manifest(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let body = self.repository.manifest(&digest.to_string()).await?.body;
        verify("manifest", &body, digest)?;
        Ok(body)
    }

    /// A blob that is small: more than its descriptor's size is not read.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        let body = self.repository.small_blob(&descriptor.digest, descriptor.size).await?;
        verify("blob", &body, &descriptor.digest)?;
        Ok(body)
    }

    /// Brings a layer into the store, checked and unpacked like one of a pull. Protect it by a lease before. `tell` is called from within the
    /// future.
    pub async fn layer(
        &self,
        store: &Store,
        descriptor: &Descriptor,
        diff_id: Digest,
        tell: impl Fn(LayerStatus),
    ) -> Result<(), RegistryError> {
        bring_layer(&self.client, store, &self.repository, descriptor.clone(), diff_id, tell).await
    }
}

impl ArtifactPush {
    /// Brings blobs of the store to the registry, side by side. What is neither here nor there is returned; `from` is a repository of the same
    /// registry that may have them.
    ///
    /// `tell` is called from within the future and must not block.
    ///
    /// # Errors
    /// See [`RegistryError`]. The first failure ends it.
    pub async fn bring(
        &self,
        store: &Store,
        blobs: &[Descriptor],
        from: Option<&Reference>,
        tell: &(dyn Fn(&Digest, UploadStatus) + Send + Sync),
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let wanted = blobs.iter().map(|blob| blob.digest).collect();
        let known = sources(store, &self.reference, wanted).await?;
        let from = from.filter(|from| from.domain() == self.reference.domain());
        let from =
            from.filter(|from| from.path() != self.reference.path()).map(|from| from.path().to_owned());
        let mut bringing: FuturesUnordered<_> =
            blobs.iter().map(|blob| self.bring_one(store, blob, &known, from.as_deref(), tell)).collect();
        let mut missing = Vec::new();
        while let Some(outcome) = bringing.next().await {
            missing.extend(outcome.map_err(in_dockers_words)?);
        }
        Ok(missing)
    }

    /// The blob, if it is missing.
    async fn bring_one(
        &self,
        store: &Store,
        blob: &Descriptor,
        known: &HashMap<Digest, Vec<String>>,
        from: Option<&str>,
        tell: &(dyn Fn(&Digest, UploadStatus) + Send + Sync),
    ) -> Result<Option<Descriptor>, RegistryError> {
        let mut sources = known.get(&blob.digest).cloned().unwrap_or_default();
        sources.extend(from.map(str::to_owned));
        let upload = Upload {
            repository: &self.repository,
            store,
            slots: &self.client.upload_slots,
            descriptor: blob,
            sources: &sources,
            tell: &|status| tell(&blob.digest, status),
        };
        match upload.run().await {
            Ok(()) => Ok(None),
            Err(error) if is_missing(&error) => Ok(Some(blob.clone())),
            Err(error) => Err(error),
        }
    }

    /// Stores a small blob.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob(&self, content: Bytes) -> Result<(), RegistryError> {
        let descriptor = Descriptor::of("application/octet-stream", &content);
        let digest = descriptor.digest;
        let store = async {
            if is_there(&self.repository, &descriptor).await? {
                return Ok(());
            }
            match Session::begin(&self.repository, &digest, None).await? {
                Begun::Mounted => Ok(()),
                Begun::Open(session) => session.finish_with(&self.repository, &digest, content).await,
            }
        };
        store.await.map_err(in_dockers_words)
    }

    /// Stores the manifest or index under the artifact's name, or its digest if that is the name. Last: what it names must be there.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest(&self, media_type: &str, document: &Bytes) -> Result<(), RegistryError> {
        let digest = Digest::of(document);
        let name = match self.reference.digest() {
            Some(_) => digest.to_string(),
            None => self.reference.tag().unwrap_or(palan_oci::reference::DEFAULT_TAG).to_owned(),
        };
        put_manifest(&self.repository, &name, media_type, document).await.map_err(in_dockers_words)
    }
}

fn verify(what: &'static str, body: &[u8], expected: &Digest) -> Result<(), RegistryError> {
    let found = Digest::of(body);
    if found == *expected {
        return Ok(());
    }
    Err(RegistryError::Digest { what, expected: expected.to_string(), found: found.to_string() })
}
