//! The document that a list becomes.

use palan_docker_api::types::{Descriptor, Platform};
use palan_oci::manifest::MAX_MANIFEST_SIZE;
use palan_oci::{Document, media_type};
use palan_stdx::error_chain;
use serde::Serialize;

use super::store::Stored;
use crate::error::{CliError, Result};
use crate::output::json;

/// The entries of a document if it is a list.
pub(super) fn entries(raw: &[u8]) -> Result<Option<Vec<Descriptor>>> {
    let document =
        Document::parse(raw, None).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
    let Document::Index(index) = document else { return Ok(None) };
    let entry = |entry: palan_oci::Descriptor| Descriptor {
        media_type: entry.media_type,
        digest: entry.digest.to_string(),
        size: i64::try_from(entry.size).unwrap_or(i64::MAX),
        platform: entry.platform.map(|platform| Platform {
            architecture: platform.architecture,
            os: platform.os,
            os_version: platform.os_version.unwrap_or_default(),
            os_features: platform.os_features,
            variant: platform.variant.unwrap_or_default(),
        }),
        ..Descriptor::default()
    };
    Ok(Some(index.manifests.into_iter().map(entry).collect()))
}

/// In the order of Docker's own type: what it pushes has the same bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<Item<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    media_type: &'a str,
    size: i64,
    digest: &'a str,
    platform: Option<Platform>,
}

/// The list as it is pushed and shown: an OCI index where all images are OCI's, else Docker's manifest list.
pub(super) fn render(images: &[Stored]) -> Result<(String, &'static str)> {
    let all_oci = images.iter().all(|image| image.descriptor.media_type == media_type::OCI_MANIFEST);
    let media_type = if all_oci { media_type::OCI_INDEX } else { media_type::DOCKER_MANIFEST_LIST };
    let manifests = images.iter().map(|image| {
        let Descriptor { media_type, digest, size, platform, .. } = &image.descriptor;
        Item { media_type, size: *size, digest, platform: Some(platform.clone().unwrap_or_default()) }
    });
    let list = List { schema_version: 2, media_type, manifests: manifests.collect() };
    let text = serde_json::to_string(&list).map_err(|error| CliError::new(error.to_string()))?;
    let text = json::indent(&text, "   ");
    if text.len() as u64 > MAX_MANIFEST_SIZE {
        return Err(CliError::new("the list is larger than registries accept"));
    }
    Ok((text, media_type))
}
