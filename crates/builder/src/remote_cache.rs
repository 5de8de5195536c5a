//! Caches of builds that are somewhere else, in BuildKit's format (its `cache/remotecache/v1`).
//!
//! ```text
//! manifest or index ─▶ configuration, `application/vnd.buildkit.cacheconfig.v0` ─▶ { layers, records }
//!                  └─▶ layers, each with its diff-id in an annotation
//! image ─▶ its configuration, `moby.buildkit.cache.v0` ─▶ base64 of the records alone, whose layers are the image's
//! ```
//!
//! A record has a key and the layers that it leads to: `layers` names the topmost of a chain, each of which names the one below it; `chains` names all
//! of them. Records of BuildKit's are linked by their inputs. Keys here say all of what a vertex depends on by themselves ([`crate`]), so records that
//! are written here have no inputs, and records that have some are of no use here.
//!
//! Who reads is in [`read`], who writes in [`write`].
//!
//! **Invariant:** what is read may come from anybody. Numbers and sizes are bounded, a chain that leads nowhere or in a circle is an error
//! when it is read, and whoever fetches a layer checks blob and diff-id against their digests.
//!
//! *Absent:* I/O; times but as text.

use std::collections::BTreeMap;

use palan_oci::{Descriptor, Digest};
use serde::{Deserialize, Deserializer, Serialize};

pub mod read;
pub mod write;

/// The media type of the configuration.
pub const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The field of an image's configuration that has records.
pub const INLINE_FIELD: &str = "moby.buildkit.cache.v0";
/// The annotation of a layer that has its diff-id.
pub const DIFF_ID: &str = "containerd.io/uncompressed";
/// The annotation of a layer that says when it was made, in RFC 3339.
pub const CREATED: &str = "buildkit/createdat";

/// The largest configuration, manifest or image configuration that is read.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// The most layers of a cache, and its most records.
const MAX_ENTRIES: usize = 1 << 16;

/// A layer of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub descriptor: Descriptor,
    /// The digest of its tar.
    pub diff_id: Digest,
    /// When it was made, as written: RFC 3339 if it is right.
    pub created: Option<String>,
}

/// The configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Config {
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    layers: Vec<ConfigLayer>,
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    records: Vec<Record>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ConfigLayer {
    blob: Digest,
    /// -1: there is none. The first is 0, and may be left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
    #[serde(default, skip_serializing)]
    annotations: Option<LayerAnnotations>,
}

/// Of caches that have no manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerAnnotations {
    #[serde(rename = "diffID")]
    diff_id: Option<Digest>,
    created_at: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Top>,
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    chains: Vec<Chain>,
    /// BuildKit has other kinds of digests, too.
    #[serde(default)]
    digest: String,
    #[serde(default, skip_serializing)]
    inputs: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Top {
    layer: i64,
    #[serde(rename = "createdAt", default = "no_time")]
    created: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Chain {
    layers: Vec<i64>,
    #[serde(rename = "createdAt", default = "no_time")]
    created: String,
}

/// What of an image's configuration matters.
#[derive(Debug, Deserialize)]
struct ImageWithCache {
    #[serde(rename = "moby.buildkit.cache.v0")]
    cache: Option<String>,
}

/// Time's zero in Go, which wants one.
fn no_time() -> String {
    "0001-01-01T00:00:00Z".to_owned()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes `null` for a list that is not there.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A descriptor with what is known of the layer.
fn annotated(layer: &Layer) -> Descriptor {
    let mut annotations = BTreeMap::from([(DIFF_ID.to_owned(), layer.diff_id.to_string())]);
    annotations.extend(layer.created.clone().map(|created| (CREATED.to_owned(), created)));
    Descriptor { annotations, ..layer.descriptor.clone() }
}

#[cfg(test)]
mod tests;
