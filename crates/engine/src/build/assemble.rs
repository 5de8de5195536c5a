//! The image of a build: configuration, history and manifest over its layers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use palan_builder::backend::Snapshot;
use palan_oci::image_config::HistoryEntry;
use palan_oci::{Descriptor, Digest, ImageConfig, Manifest, media_type};
use palan_store::Lease;
use palan_store::image::ImageCommit;

use super::request::{BuildOutcome, BuildRequest};
use crate::engine::Engine;
use crate::error::Context as _;
use crate::image::store_error;
use crate::{Error, Result};

/// Records the image, if that is wanted.
pub(super) fn assemble(
    engine: &Engine,
    request: &BuildRequest,
    mut config: ImageConfig,
    snapshot: &Snapshot,
    lease: &Lease,
) -> Result<BuildOutcome> {
    let now = Timestamp::now().to_string();
    config.config.labels.extend(request.labels.clone());
    config.rootfs.diff_ids.clone_from(&snapshot.layers);
    config.created = Some(now.clone());
    config.docker_version.clear();
    complete_history(&mut config, snapshot.layers.len(), &now);
    let content = serde_json::to_vec(&config).context(|| "cannot write the image's configuration".into())?;
    let layers: Result<Vec<Descriptor>> =
        snapshot.layers.iter().map(|layer| engine.store.describe(layer, lease).map_err(store_error)).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(media_type::OCI_CONFIG, &content),
        layers: layers?,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let manifest = serde_json::to_vec(&manifest).context(|| "cannot write the image's manifest".into())?;
    let mut outcome = BuildOutcome {
        image: Digest::of(&content),
        manifest: Digest::of(&manifest),
        media_type: media_type::OCI_MANIFEST.to_owned(),
        size: manifest.len() as u64,
        config,
        names: Vec::new(),
    };
    let Some(output) = &request.image else { return Ok(outcome) };
    outcome.names = output.names.iter().map(|name| name.clone().or_latest()).collect();
    if outcome.names.iter().any(|name| name.digest().is_some()) {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    let commit = ImageCommit {
        manifest,
        manifest_media_type: None,
        config: content,
        tags: outcome.names.clone(),
        digests: Vec::new(),
    };
    engine.store.commit_image(&commit, lease).map_err(store_error)?;
    Ok(outcome)
}

/// Entries of this build have no time yet; and a layer without a word of it (of a stage that is a context) gets one.
fn complete_history(config: &mut ImageConfig, layers: usize, now: &str) {
    let told = config.history.iter().filter(|entry| !entry.empty_layer).count();
    let missing = layers.saturating_sub(told);
    let of_base = config.history.iter().take_while(|entry| entry.created.is_some()).count();
    for _ in 0..missing {
        let entry = HistoryEntry { created_by: "FROM a build context".to_owned(), ..HistoryEntry::default() };
        config.history.insert(of_base, entry);
    }
    for entry in config.history.iter_mut().filter(|entry| entry.created.is_none()) {
        entry.created = Some(now.to_owned());
    }
}
