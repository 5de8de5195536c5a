//! What is said about an image in statements that came, or were made, with it.

use palan_oci::{Descriptor, Digest, Manifest, Platform};
use serde_json::Value;

use super::list::{REFERENCE_DIGEST, REFERENCE_TYPE};
use super::store_error;
use crate::build::{PREDICATE_TYPE, STATEMENT};
use crate::engine::{Engine, blocking};
use crate::{Error, Result};

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// Where it is: media type, digest and size, in the image's own words.
    pub descriptor: Descriptor,
    /// The type of what it says.
    pub predicate_type: String,
    /// What it says, if that was asked for.
    pub statement: Option<Value>,
}

/// Which statements are wanted.
#[derive(Debug, Clone, Default)]
pub struct AttestationQuery {
    /// About the image for this platform; none: the host's.
    pub platform: Option<String>,
    /// Types of predicates; none: all.
    pub types: Vec<String>,
    /// With what they say.
    pub statements: bool,
}

/// Statements.
impl Engine {
    /// The statements about an image.
    pub async fn image_attestations(&self, name: &str, query: AttestationQuery) -> Result<Vec<Attestation>> {
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || {
            let image = engine.store.resolve(&name).map_err(store_error)?;
            let wanted = query.platform.as_deref().filter(|text| !text.is_empty());
            let wanted = wanted.map(crate::container::parse_platform).transpose()?;
            let index = engine.store.read_index(&image).map_err(store_error)?;
            let own = image.config.platform();
            let (about, entries) = match index {
                Some((_, _, index)) => {
                    let platform = wanted.clone().unwrap_or_else(Platform::host);
                    (index.select(&platform).map(|entry| entry.digest), index.manifests)
                }
                None => (None, Vec::new()),
            };
            // An image for another platform than the host's is what its name means all the same.
            let is_own = wanted.as_ref().is_none_or(|wanted| wanted.matches(&own));
            let Some(about) = about.or_else(|| is_own.then_some(image.manifest)) else {
                let wanted = wanted.unwrap_or_else(Platform::host);
                return Err(Error::not_found(format!(
                    "no manifest of image {name} is for the platform {wanted}"
                )));
            };
            let about = about.to_string();
            let is_about = |entry: &&Descriptor| {
                entry.annotations.contains_key(REFERENCE_TYPE)
                    && entry.annotations.get(REFERENCE_DIGEST).is_some_and(|digest| *digest == about)
            };
            let mut found = Vec::new();
            for entry in entries.iter().filter(is_about) {
                engine.statements_of(entry, &query, &mut found)?;
            }
            Ok(found)
        })
        .await
    }

    fn statements_of(
        &self,
        entry: &Descriptor,
        query: &AttestationQuery,
        found: &mut Vec<Attestation>,
    ) -> Result<()> {
        let missing = |digest: &Digest| {
            Error::not_found(format!("the statements are not here: {digest} was not pulled with the image"))
        };
        if !self.store.has_blob(&entry.digest) {
            return Err(missing(&entry.digest));
        }
        let content = self.store.read_blob(&entry.digest).map_err(store_error)?;
        let manifest = Manifest::parse(&content, Some(&entry.media_type)).map_err(|source| {
            Error::system(format!("the manifest {} of statements is broken", entry.digest))
                .with_source(source)
        })?;
        for layer in manifest.layers.into_iter().filter(|layer| layer.media_type == STATEMENT) {
            let kind = layer.annotations.get(PREDICATE_TYPE).cloned().unwrap_or_default();
            if !query.types.is_empty() && !query.types.contains(&kind) {
                continue;
            }
            let mut statement = None;
            if query.statements {
                if !self.store.has_blob(&layer.digest) {
                    return Err(missing(&layer.digest));
                }
                let content = self.store.read_blob(&layer.digest).map_err(store_error)?;
                let parsed = serde_json::from_slice(&content).map_err(|source| {
                    Error::system(format!("the statement {} is broken", layer.digest)).with_source(source)
                })?;
                statement = Some(parsed);
            }
            found.push(Attestation { descriptor: layer, predicate_type: kind, statement });
        }
        Ok(())
    }
}
