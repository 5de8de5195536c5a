//! Reading: what a document is, and where a key leads to.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_oci::manifest::{DocumentError, MAX_LAYERS};
use palan_oci::media_type::{Class, Compression};
use palan_oci::{Descriptor, Digest, Document, ImageConfig, Manifest};
use serde::Deserialize;

use super::{
    CONFIG_TYPE, CREATED, Config, ConfigLayer, DIFF_ID, ImageWithCache, Layer, MAX_DOCUMENT, MAX_ENTRIES,
    Record,
};
use crate::backend::Snapshot;

/// The longest text that is a time.
const MAX_TIME: usize = 64;

/// The most images of an index whose caches are read.
pub const MAX_IMAGES: usize = 16;

/// What a reference of a cache leads to.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A cache: where its configuration is, and its layers.
    Cache {
        /// The configuration.
        config: Descriptor,
        /// The layers, in no order.
        layers: Vec<Descriptor>,
    },
    /// An image, whose configuration may have a cache.
    Image(Manifest),
    /// A choice of images.
    Images(Vec<Descriptor>),
}

/// Why a cache can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum CacheError {
    #[error("the document has {size} bytes, more than the {MAX_DOCUMENT} that are read")]
    TooLarge { size: u64 },
    #[error("the {what} is no JSON of that kind")]
    Json { what: &'static str, source: serde_json::Error },
    #[error("the document is both an index and a manifest")]
    Ambiguous,
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("the image's cache is not in base64")]
    Base64,
    #[error("it has {count} {what}, more than the {MAX_ENTRIES} that are read")]
    TooMany { what: &'static str, count: usize },
    #[error("layer {number} is named, but there is none")]
    NoLayer { number: i64 },
    #[error("layer {number} lies on itself")]
    Circle { number: usize },
    #[error("layer {number} lies on more than {MAX_LAYERS} others")]
    TooDeep { number: usize },
    #[error("the image's configuration has {diff_ids} layers, its manifest {layers}")]
    Mismatch { diff_ids: usize, layers: usize },
}

/// A cache, ready to be asked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RemoteCache {
    /// None: it can't be fetched, because nothing says what it is.
    layers: Vec<(Option<Layer>, Option<usize>)>,
    results: HashMap<Digest, Lead>,
}

/// Where a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lead {
    /// A layer, with all below it.
    Top(usize),
    /// These layers.
    Each(Vec<usize>),
}

/// A manifest or index as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    config: Option<Kind>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
}

#[derive(Deserialize)]
struct Lists {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    config: Option<Descriptor>,
}

impl Place {
    /// Reads a manifest or index.
    pub fn read(document: &[u8]) -> Result<Self, CacheError> {
        let size = document.len() as u64;
        if size > MAX_DOCUMENT {
            return Err(CacheError::TooLarge { size });
        }
        let json = |source| CacheError::Json { what: "manifest", source };
        let probe: Probe = serde_json::from_slice(document).map_err(json)?;
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
            return Err(CacheError::Ambiguous);
        }
        let is_cache = |config: &Kind| config.media_type.as_deref() == Some(CONFIG_TYPE);
        if probe.manifests.is_none() && !probe.config.as_ref().is_some_and(is_cache) {
            return match Document::parse(document, None)? {
                Document::Manifest(manifest) => Ok(Self::Image(manifest)),
                Document::Index(_) => Err(CacheError::Ambiguous),
            };
        }
        // With more layers than an image may have.
        let Lists { manifests, layers, config } = serde_json::from_slice(document).map_err(json)?;
        check("entries", manifests.len())?;
        check("layers", layers.len())?;
        if let Some(config) = config {
            return Ok(Self::Cache { config, layers });
        }
        let (mut configs, others): (Vec<Descriptor>, Vec<Descriptor>) =
            manifests.into_iter().partition(|entry| entry.media_type == CONFIG_TYPE);
        Ok(match configs.pop() {
            Some(config) => Self::Cache { config, layers: others },
            None => {
                let images = others.into_iter().filter(|entry| entry.class() == Class::Manifest);
                Self::Images(images.collect())
            }
        })
    }
}

impl RemoteCache {
    /// Reads the configuration of a cache with these layers.
    pub fn read(config: &[u8], layers: &[Descriptor]) -> Result<Self, CacheError> {
        let size = config.len() as u64;
        if size > MAX_DOCUMENT {
            return Err(CacheError::TooLarge { size });
        }
        let config: Config = serde_json::from_slice(config)
            .map_err(|source| CacheError::Json { what: "configuration of a cache", source })?;
        check("layers", config.layers.len())?;
        let known: HashMap<Digest, &Descriptor> = layers.iter().map(|layer| (layer.digest, layer)).collect();
        let mut found = Vec::with_capacity(config.layers.len());
        for layer in &config.layers {
            let below = match layer.parent {
                -1 => None,
                parent => Some(number(parent, config.layers.len())?),
            };
            found.push((known.get(&layer.blob).and_then(|descriptor| described(descriptor, layer)), below));
        }
        Self::new(found, config.records)
    }

    /// The cache in an image's configuration; none if it has none.
    pub fn inline(config: &[u8], layers: &[Descriptor]) -> Result<Option<Self>, CacheError> {
        let size = config.len() as u64;
        if size > MAX_DOCUMENT {
            return Err(CacheError::TooLarge { size });
        }
        let json = |source| CacheError::Json { what: "image configuration", source };
        let image: ImageWithCache = serde_json::from_slice(config).map_err(json)?;
        let Some(cache) = image.cache.filter(|cache| !cache.is_empty()) else { return Ok(None) };
        let image: ImageConfig = serde_json::from_slice(config).map_err(json)?;
        let diff_ids = &image.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(CacheError::Mismatch { diff_ids: diff_ids.len(), layers: layers.len() });
        }
        let records = STANDARD.decode(cache).map_err(|_| CacheError::Base64)?;
        let records: Option<Vec<Record>> = serde_json::from_slice(&records)
            .map_err(|source| CacheError::Json { what: "cache in an image", source })?;
        let mut times = image.history.iter().filter(|entry| !entry.empty_layer).map(|entry| &entry.created);
        let found = layers.iter().zip(diff_ids).enumerate().map(|(number, (descriptor, diff_id))| {
            let created = times.next().and_then(Option::as_ref);
            (Some(layer(descriptor, *diff_id, created.map(String::as_str))), number.checked_sub(1))
        });
        Self::new(found.collect(), records.unwrap_or_default()).map(Some)
    }

    fn new(layers: Vec<(Option<Layer>, Option<usize>)>, records: Vec<Record>) -> Result<Self, CacheError> {
        check("records", records.len())?;
        check_chains(&layers)?;
        let mut results = HashMap::new();
        for record in records {
            // Of each kind the first is as good as any.
            let mut result = None;
            for top in &record.layers {
                let top = number(top.layer, layers.len())?;
                result.get_or_insert(Lead::Top(top));
            }
            // More than an image may have are of no use.
            for chain in record.chains.iter().filter(|chain| chain.layers.len() <= MAX_LAYERS) {
                let each: Result<Vec<usize>, CacheError> =
                    chain.layers.iter().map(|layer| number(*layer, layers.len())).collect();
                result.get_or_insert(Lead::Each(each?));
            }
            let is_linked = record.inputs.is_some_and(|inputs| !inputs.is_empty());
            let key = record.digest.parse::<Digest>().ok().filter(|_| !is_linked);
            if let (Some(key), Some(result)) = (key, result) {
                results.insert(key, result);
            }
        }
        Ok(Self { layers, results })
    }

    /// The layers that a key leads to, the lowest first. None: the key is not known, or one of them can't be fetched.
    pub fn find(&self, key: &Digest) -> Option<Vec<&Layer>> {
        let numbers = match self.results.get(key)? {
            Lead::Each(each) => each.clone(),
            Lead::Top(top) => {
                let mut chain = vec![*top];
                while let Some((_, Some(below))) = chain.last().and_then(|last| self.layers.get(*last)) {
                    chain.push(*below);
                }
                chain.reverse();
                chain
            }
        };
        numbers.into_iter().map(|number| self.layers.get(number)?.0.as_ref()).collect()
    }

    /// Every key that leads to these layers.
    pub fn keys_of(&self, snapshot: &Snapshot) -> BTreeSet<Digest> {
        let keys = self.results.keys().filter(|key| {
            let found = self.find(key);
            found.is_some_and(|found| found.iter().map(|layer| &layer.diff_id).eq(&snapshot.layers))
        });
        keys.copied().collect()
    }

    /// How many keys it knows.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }
}

fn described(descriptor: &Descriptor, layer: &ConfigLayer) -> Option<Layer> {
    let Class::Layer { compression, .. } = descriptor.class() else { return None };
    let annotated = descriptor.annotations.get(DIFF_ID).and_then(|text| text.parse().ok());
    let said = layer.annotations.as_ref();
    let diff_id = annotated.or(said.and_then(|said| said.diff_id));
    let diff_id = diff_id.or((compression == Compression::None).then_some(descriptor.digest))?;
    let created = descriptor.annotations.get(CREATED);
    let created = created.or_else(|| said.and_then(|said| said.created_at.as_ref()));
    Some(self::layer(descriptor, diff_id, created.map(String::as_str)))
}

/// A layer with nothing that could be long: a configuration may name it as often as it likes.
fn layer(descriptor: &Descriptor, diff_id: Digest, created: Option<&str>) -> Layer {
    let Descriptor { media_type, digest, size, .. } = descriptor;
    let created = created.filter(|text| text.len() <= MAX_TIME).map(str::to_owned);
    Layer { descriptor: Descriptor::new(media_type, *digest, *size), diff_id, created }
}

fn check(what: &'static str, count: usize) -> Result<(), CacheError> {
    if count > MAX_ENTRIES { Err(CacheError::TooMany { what, count }) } else { Ok(()) }
}

fn number(number: i64, count: usize) -> Result<usize, CacheError> {
    usize::try_from(number).ok().filter(|index| *index < count).ok_or(CacheError::NoLayer { number })
}

/// Each layer leads to the bottom, in no more steps than an image has layers.
fn check_chains(layers: &[(Option<Layer>, Option<usize>)]) -> Result<(), CacheError> {
    // How many a layer has below it, once it is known.
    let mut depths: Vec<Option<usize>> = vec![None; layers.len()];
    for number in 0..layers.len() {
        let mut path = Vec::new();
        let mut at = Some(number);
        let mut depth = loop {
            let Some(layer) = at else { break 0 };
            if let Some(depth) = depths[layer] {
                break depth + 1;
            }
            if path.len() >= MAX_LAYERS {
                let is_circle = path.contains(&layer);
                return Err(match is_circle {
                    true => CacheError::Circle { number },
                    false => CacheError::TooDeep { number },
                });
            }
            path.push(layer);
            at = layers[layer].1;
        };
        for layer in path.into_iter().rev() {
            if depth >= MAX_LAYERS {
                return Err(CacheError::TooDeep { number });
            }
            depths[layer] = Some(depth);
            depth += 1;
        }
    }
    Ok(())
}
