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
    config.config.labels.extend(request.labels.clone());
    config.rootfs.diff_ids.clone_from(&snapshot.layers);
    config.docker_version.clear();
    let mut times = Vec::with_capacity(snapshot.layers.len());
    for layer in &snapshot.layers {
        let made = engine.store.layer_made_at(layer).map_err(store_error)?;
        times.push(made.and_then(|seconds| Timestamp::from_second(seconds).ok()));
    }
    complete_history(&mut config, &times, Timestamp::now());
    let content = serde_json::to_vec(&config).context(|| "cannot write the image's configuration".into())?;
    let layers: Result<Vec<Descriptor>> = snapshot
        .layers
        .iter()
        .map(|layer| engine.store.describe(layer, lease).map_err(store_error))
        .collect();
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
        cache: None,
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
        made_here: true,
    };
    engine.store.commit_image(&commit, lease).map_err(store_error)?;
    Ok(outcome)
}

/// Entries of this build have no time yet: they get that of their layers, or of what is before them, so that a build that does
/// nothing new gives the same image. A layer without an entry (of a base that has no history, of a stage that is a context) gets one.
fn complete_history(config: &mut ImageConfig, layers: &[Option<Timestamp>], now: Timestamp) {
    let told = config.history.iter().filter(|entry| !entry.empty_layer).count();
    let missing = layers.len().saturating_sub(told);
    let of_base = config.history.iter().take_while(|entry| entry.created.is_some()).count();
    for _ in 0..missing {
        config.history.insert(of_base, HistoryEntry::default());
    }
    let mut layers = layers.iter();
    let mut last = config.created.take();
    for entry in &mut config.history {
        let own = if entry.empty_layer { None } else { layers.next().copied().flatten() };
        if entry.created.is_none() {
            let time = own.map(|time| time.to_string()).or_else(|| last.clone());
            entry.created = Some(time.unwrap_or_else(|| now.to_string()));
        }
        last.clone_from(&entry.created);
    }
    config.created = Some(last.unwrap_or_else(|| now.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_something_has_the_time_of_what_is_before_it() {
        let entry = |created: Option<&str>, empty_layer| HistoryEntry {
            created: created.map(str::to_owned),
            empty_layer,
            ..HistoryEntry::default()
        };
        let mut config = ImageConfig {
            history: vec![
                entry(Some("base"), false),
                entry(None, true),
                entry(None, false),
                entry(None, true),
            ],
            ..ImageConfig::default()
        };
        complete_history(&mut config, &[None, Some(Timestamp::UNIX_EPOCH)], Timestamp::MAX);
        let times: Vec<&str> = config.history.iter().filter_map(|entry| entry.created.as_deref()).collect();
        assert_eq!(times, ["base", "base", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
        let mut config = ImageConfig { created: Some("base".to_owned()), ..ImageConfig::default() };
        complete_history(&mut config, &[None], Timestamp::MAX);
        assert_eq!((config.history.len(), config.created.as_deref()), (1, Some("base")));
    }
}
