//! Docker's archive: `manifest.json` names the configuration, the layers and the tags of each image.

use palan_oci::Reference;
use serde::Deserialize;

use super::spool::Entries;
use super::{ArchiveError, Found};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn images(entries: &Entries) -> Result<Vec<Found>, ArchiveError> {
    let manifest = entries.need_document("manifest.json")?;
    let items: Vec<Item> = serde_json::from_slice(manifest)
        .map_err(|source| ArchiveError::Json { name: "manifest.json".to_owned(), source })?;
    items.into_iter().map(|item| image(entries, item)).collect()
}

fn image(entries: &Entries, item: Item) -> Result<Found, ArchiveError> {
    let names = item.repo_tags.unwrap_or_default();
    let name = |name: String| match Reference::parse(&name) {
        Ok(reference) => Ok(reference.or_latest()),
        Err(source) => Err(ArchiveError::Name { name, source }),
    };
    let layers = item.layers.unwrap_or_default();
    Ok(Found {
        config: entries.need_document(&item.config)?.to_vec(),
        config_name: item.config,
        layers: layers.iter().map(|layer| entries.need_blob(layer)).collect::<Result<_, _>>()?,
        manifest: None,
        names: names.into_iter().map(name).collect::<Result<_, _>>()?,
    })
}
