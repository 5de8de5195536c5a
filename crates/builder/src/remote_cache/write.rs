//! Writing: results with their keys become a cache.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_oci::{Descriptor, Digest, media_type};
use serde_json::json;

use super::{CONFIG_TYPE, Chain, Config, ConfigLayer, Layer, Record, Top, annotated, no_time};
use crate::backend::Snapshot;

/// A cache in the making. The same results give the same documents, in whichever order they come.
#[derive(Debug, Default, Clone)]
pub struct Results {
    by_key: BTreeMap<Digest, Vec<Layer>>,
}

/// The form of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// An image manifest, which every registry takes; else an index, as BuildKit wrote before 0.22.
    pub image_manifest: bool,
    /// OCI's media types; else Docker's.
    pub oci: bool,
}

/// A cache, written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The layers that it needs, each once.
    pub layers: Vec<Layer>,
    /// Its configuration.
    pub config: Vec<u8>,
    /// What names both.
    pub manifest: Vec<u8>,
    /// The manifest's media type.
    pub media_type: &'static str,
}

impl Results {
    /// Adds what a key leads to; the lowest layer comes first.
    pub fn add(&mut self, key: Digest, layers: &[Layer]) {
        if !layers.is_empty() {
            self.by_key.insert(key, layers.to_vec());
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Writes all documents.
    pub fn write(&self, form: Form) -> Written {
        let mut layers: Vec<Layer> = Vec::new();
        let mut blobs: BTreeSet<Digest> = BTreeSet::new();
        // By the blob and what is below it.
        let mut numbers: BTreeMap<(Digest, i64), i64> = BTreeMap::new();
        let mut config = Config::default();
        for (key, chain) in &self.by_key {
            let mut below = -1;
            for layer in chain {
                let blob = layer.descriptor.digest;
                if blobs.insert(blob) {
                    layers.push(layer.clone());
                }
                below = *numbers.entry((blob, below)).or_insert_with(|| {
                    config.layers.push(ConfigLayer { blob, parent: below, annotations: None });
                    i64::try_from(config.layers.len() - 1).unwrap_or(i64::MAX)
                });
            }
            config.records.push(record(*key, below, chain.last()));
        }
        let config = serde_json::to_vec(&config).unwrap_or_default();
        let (manifest, media_type) = manifest(&layers, &config, form);
        Written { layers, config, manifest, media_type }
    }

    /// What the configuration of an image with these layers says; none if no key leads to layers of it.
    pub fn inline(&self, image: &Snapshot) -> Option<String> {
        let mut records = Vec::new();
        for (key, chain) in &self.by_key {
            let is_bottom = chain.len() <= image.layers.len()
                && chain.iter().map(|layer| &layer.diff_id).eq(&image.layers[..chain.len()]);
            if is_bottom {
                let top = i64::try_from(chain.len() - 1).unwrap_or(i64::MAX);
                records.push(record(*key, top, chain.last()));
                continue;
            }
            let place = |layer: &Layer| image.layers.iter().position(|known| *known == layer.diff_id);
            let places: Option<Vec<usize>> = chain.iter().map(place).collect();
            if let Some(places) = places {
                let layers = places.into_iter().filter_map(|place| i64::try_from(place).ok()).collect();
                let chains = vec![Chain { layers, created: time(chain.last()) }];
                records.push(Record { digest: key.to_string(), chains, ..Record::default() });
            }
        }
        (!records.is_empty()).then(|| STANDARD.encode(serde_json::to_vec(&records).unwrap_or_default()))
    }
}

fn record(key: Digest, top: i64, layer: Option<&Layer>) -> Record {
    let top = Top { layer: top, created: time(layer) };
    Record { digest: key.to_string(), layers: vec![top], ..Record::default() }
}

/// BuildKit refuses what is no time.
fn time(layer: Option<&Layer>) -> String {
    layer.and_then(|layer| layer.created.clone()).unwrap_or_else(no_time)
}

fn manifest(layers: &[Layer], config: &[u8], form: Form) -> (Vec<u8>, &'static str) {
    let entry = |layer: &Layer| {
        let descriptor = annotated(layer);
        let media_type = if form.oci { oci(&descriptor) } else { docker(&descriptor) };
        Descriptor { media_type, ..descriptor }
    };
    let mut entries: Vec<Descriptor> = layers.iter().map(entry).collect();
    let config = Descriptor::of(CONFIG_TYPE, config);
    let (document, media_type) = if form.image_manifest {
        let media_type = media_type::OCI_MANIFEST;
        let document =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": entries});
        (document, media_type)
    } else {
        entries.push(config);
        let media_type = if form.oci { media_type::OCI_INDEX } else { media_type::DOCKER_MANIFEST_LIST };
        (json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}), media_type)
    };
    (document.to_string().into_bytes(), media_type)
}

fn oci(layer: &Descriptor) -> String {
    use media_type as known;
    match layer.media_type.as_str() {
        known::DOCKER_LAYER => known::OCI_LAYER.to_owned(),
        known::DOCKER_LAYER_GZIP => known::OCI_LAYER_GZIP.to_owned(),
        known::DOCKER_LAYER_ZSTD => known::OCI_LAYER_ZSTD.to_owned(),
        other => other.to_owned(),
    }
}

fn docker(layer: &Descriptor) -> String {
    use media_type as known;
    match layer.media_type.as_str() {
        known::OCI_LAYER => known::DOCKER_LAYER.to_owned(),
        known::OCI_LAYER_GZIP => known::DOCKER_LAYER_GZIP.to_owned(),
        known::OCI_LAYER_ZSTD => known::DOCKER_LAYER_ZSTD.to_owned(),
        other => other.to_owned(),
    }
}
