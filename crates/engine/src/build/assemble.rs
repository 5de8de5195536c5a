//! The images of a build: configuration, history and manifest over the layers of each, and an index over them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use palan_oci::Reference;
use palan_oci::image_config::HistoryEntry;
use palan_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, media_type};
use palan_store::Lease;
use palan_store::image::{ImageCommit, IndexCommit};

use super::attest::{self, About, Materials};
use super::request::{Annotations, Attestations, BuildOutcome, BuildRequest, BuiltImage, Paper};
use super::run::Solved;
use crate::engine::Engine;
use crate::error::Context as _;
use crate::image::store_error;
use crate::{Error, Result};

/// Records what was built, if that is wanted.
pub(super) fn assemble(
    engine: &Engine,
    request: &BuildRequest,
    solved: Vec<Solved>,
    common: &Common<'_>,
    lease: &Lease,
) -> Result<BuildOutcome> {
    let epoch = common.epoch;
    let Attestations { provenance, packages, .. } = &request.attestations;
    let is_said = provenance.is_some() || *packages;
    let is_index = request.image.is_some() && (request.several || solved.len() > 1 || is_said);
    if !is_index && !annotations(request).index.is_empty() {
        return Err(Error::invalid("index annotations not supported for single platform export"));
    }
    let mut made = Vec::with_capacity(solved.len());
    for one in solved {
        made.push(document(engine, request, one, epoch, is_index, lease)?);
    }
    let main = super::platforms::main(made.iter().map(|one| &one.image.platform));
    let several = request.several || made.len() > 1;
    let images = made.iter().map(|one| one.image.clone()).collect();
    let mut outcome =
        BuildOutcome { images, main, index: None, names: Vec::new(), cache: None, epoch, several };
    let Some(output) = &request.image else { return Ok(outcome) };
    outcome.names = output.names.iter().map(|name| name.clone().or_latest()).collect();
    if outcome.names.iter().any(|name| name.digest().is_some()) {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    let commit = ImageCommit {
        manifest: made[main].manifest.clone(),
        manifest_media_type: None,
        config: made[main].config.clone(),
        // Names lead to the whole, once it is there.
        tags: if is_index { Vec::new() } else { outcome.names.clone() },
        digests: Vec::new(),
        // What an index names doesn't change any more.
        made_here: !is_index,
    };
    let image = engine.store.commit_image(&commit, lease).map_err(store_error)?;
    if is_index {
        let index = index(request, made, &outcome.names, common)?;
        engine.store.commit_index(&image.id, &index, lease).map_err(store_error)?;
        outcome.index = Some(paper(media_type::OCI_INDEX, &index.index));
        for name in &outcome.names {
            engine.store.tag(&image.id, name).map_err(store_error)?;
        }
    }
    Ok(outcome)
}

/// What all images of a build have in common.
pub(super) struct Common<'a> {
    /// Its name and its bytes.
    pub(super) dockerfile: (&'a str, &'a [u8]),
    pub(super) started: Timestamp,
    pub(super) epoch: Option<Timestamp>,
}

/// An image's documents.
struct Made {
    image: BuiltImage,
    config: Vec<u8>,
    manifest: Vec<u8>,
    materials: Materials,
    packages: Option<serde_json::Value>,
}

fn document(
    engine: &Engine,
    request: &BuildRequest,
    solved: Solved,
    epoch: Option<Timestamp>,
    is_final: bool,
    lease: &Lease,
) -> Result<Made> {
    let Solved { platform, mut config, snapshot, materials, packages } = solved;
    config.config.labels.extend(request.labels.clone());
    config.rootfs.diff_ids.clone_from(&snapshot.layers);
    config.docker_version.clear();
    let mut times = Vec::with_capacity(snapshot.layers.len());
    for layer in &snapshot.layers {
        let made = engine.store.layer_made_at(layer).map_err(store_error)?;
        times.push(made.and_then(|seconds| Timestamp::from_second(seconds).ok()));
    }
    complete_history(&mut config, &times, Timestamp::now(), epoch);
    let content = serde_json::to_vec(&config).context(|| "cannot write the image's configuration".into())?;
    let layers = match is_final {
        true => engine.store.compressed_layers(&snapshot.layers, lease).map_err(store_error)?,
        false => {
            let layers = snapshot.layers.iter();
            let layers: palan_store::Result<Vec<Descriptor>> =
                layers.map(|layer| engine.store.describe(layer, lease)).collect();
            layers.map_err(store_error)?
        }
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(media_type::OCI_CONFIG, &content),
        layers,
        subject: None,
        annotations: annotations(request).manifest.clone(),
    };
    let manifest = serde_json::to_vec(&manifest).context(|| "cannot write the image's manifest".into())?;
    let image = BuiltImage {
        platform,
        image: Digest::of(&content),
        manifest: paper(media_type::OCI_MANIFEST, &manifest),
        config,
    };
    Ok(Made { image, config: content, manifest, materials, packages })
}

fn annotations(request: &BuildRequest) -> &Annotations {
    static NONE: Annotations = Annotations {
        manifest: BTreeMap::new(),
        manifest_descriptor: BTreeMap::new(),
        index: BTreeMap::new(),
    };
    request.image.as_ref().map_or(&NONE, |image| &image.annotations)
}

fn paper(media_type: &str, content: &[u8]) -> Paper {
    Paper { digest: Digest::of(content), media_type: media_type.to_owned(), size: content.len() as u64 }
}

/// All images as one, and what is said about them behind them.
fn index(
    request: &BuildRequest,
    made: Vec<Made>,
    names: &[Reference],
    common: &Common<'_>,
) -> Result<IndexCommit> {
    let mut manifests = Vec::new();
    let mut said = Vec::new();
    let mut commit = IndexCommit::default();
    let finished = Timestamp::now();
    for one in made {
        let platform = one.image.config.platform();
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &one.manifest);
        let about = About {
            platform: &platform,
            manifest: &entry,
            names,
            materials: &one.materials,
            packages: one.packages.as_ref(),
            dockerfile: common.dockerfile,
            // With an epoch the same build gives the same statements.
            started: common.epoch.unwrap_or(common.started),
            finished: common.epoch.unwrap_or(finished),
        };
        if let Some(statements) = attest::statements(&request.attestations, &about)? {
            said.push(statements.entry);
            commit.papers.extend(statements.papers);
        }
        entry.platform = Some(platform);
        entry.annotations.extend(annotations(request).manifest_descriptor.clone());
        manifests.push(entry);
        commit.papers.extend([one.manifest, one.config]);
    }
    manifests.extend(said);
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.to_owned()),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: annotations(request).index.clone(),
    };
    commit.index = serde_json::to_vec(&index).context(|| "cannot write the image's index".into())?;
    Ok(commit)
}

/// Entries of this build have no time yet: they get that of their layers, or of what is before them, so that a build that does
/// nothing new gives the same image; none is later than `epoch`. A layer without an entry (of a base that has no history, of a stage that is a context) gets one.
fn complete_history(
    config: &mut ImageConfig,
    layers: &[Option<Timestamp>],
    now: Timestamp,
    epoch: Option<Timestamp>,
) {
    let now = epoch.map_or(now, |epoch| epoch.min(now));
    // One that can't be read is the base's, and stays.
    let limited = |text: String| match (epoch, text.parse::<Timestamp>()) {
        (Some(epoch), Ok(time)) if time > epoch => epoch.to_string(),
        _ => text,
    };
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
            entry.created = Some(time.map_or_else(|| now.to_string(), &limited));
        }
        last.clone_from(&entry.created);
    }
    config.created = Some(last.map_or_else(|| now.to_string(), &limited));
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
        complete_history(&mut config, &[None, Some(Timestamp::UNIX_EPOCH)], Timestamp::MAX, None);
        let times: Vec<&str> = config.history.iter().filter_map(|entry| entry.created.as_deref()).collect();
        assert_eq!(times, ["base", "base", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
        let mut config = ImageConfig { created: Some("base".to_owned()), ..ImageConfig::default() };
        complete_history(&mut config, &[None], Timestamp::MAX, None);
        assert_eq!((config.history.len(), config.created.as_deref()), (1, Some("base")));
    }

    #[test]
    fn nothing_of_this_build_is_later_than_its_epoch() {
        let entry = |created: Option<&str>| HistoryEntry {
            created: created.map(str::to_owned),
            ..HistoryEntry::default()
        };
        let late = "2020-01-01T00:00:00Z";
        let mut config = ImageConfig {
            history: vec![entry(Some(late)), entry(None), entry(None)],
            ..ImageConfig::default()
        };
        let epoch = Timestamp::from_second(7).expect("a time");
        let layers = [None, Some(Timestamp::UNIX_EPOCH), Some(Timestamp::MAX)];
        complete_history(&mut config, &layers, Timestamp::MAX, Some(epoch));
        let times: Vec<&str> = config.history.iter().filter_map(|entry| entry.created.as_deref()).collect();
        assert_eq!(times, [late, "1970-01-01T00:00:00Z", "1970-01-01T00:00:07Z"]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:07Z"));
        let mut config = ImageConfig { created: Some(late.to_owned()), ..ImageConfig::default() };
        complete_history(&mut config, &[], Timestamp::MAX, Some(epoch));
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:07Z"));
    }
}
