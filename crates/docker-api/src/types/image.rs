//! Images: list, inspect, history, removal.

use super::{Descriptor, GraphDriver, HealthConfig, ManifestSummary, Platform, StringMap, StringSet};
use crate::json::{is_zero, null_when_empty};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of `GET /images/json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageSummary {
    /// -1 when it was not counted.
    pub containers: i64,
    pub created: i64,
    pub id: String,
    #[serde(serialize_with = "null_when_empty")]
    pub labels: StringMap,
    pub parent_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    pub repo_digests: Vec<String>,
    pub repo_tags: Vec<String>,
    /// -1 when it was not asked for.
    pub shared_size: i64,
    pub size: i64,
    /// Up to 1.43: the same as `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
    /// From 1.47, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ManifestSummary>>,
}

/// `GET /images/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Up to 1.51, as the next ones: later Docker leaves them out when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_config: Option<ImageConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    pub config: ImageConfig,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    pub size: i64,
    /// Up to 1.43.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<GraphDriver>,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: ImageMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// From 1.48, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ManifestSummary>>,
}

/// The image's configuration.
///
/// From 1.50 Docker prints what the OCI specification says (empty fields left out); before, the fields of a container's
/// `Config` that the OCI configuration lacks came as zero values. [`crate::versions`] sets those in `legacy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_stdin: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_stdout: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_stderr: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: StringSet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_stdin: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_once: Option<bool>,
    #[serde(skip_serializing_if = "ListOrNull::is_left_out")]
    pub env: ListOrNull,
    #[serde(skip_serializing_if = "ListOrNull::is_left_out")]
    pub cmd: ListOrNull,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(skip_serializing_if = "SetOrNull::is_left_out")]
    pub volumes: SetOrNull,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "ListOrNull::is_left_out")]
    pub entrypoint: ListOrNull,
    #[serde(skip_serializing_if = "ListOrNull::is_left_out")]
    pub on_build: ListOrNull,
    #[serde(skip_serializing_if = "MapOrNull::is_left_out")]
    pub labels: MapOrNull,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// A collection that is left out when empty in new versions, and `null` when empty in old ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrNull<T> {
    pub items: T,
    /// Print `null` instead of nothing.
    pub keep: bool,
}

pub type ListOrNull = OrNull<Vec<String>>;
pub type MapOrNull = OrNull<StringMap>;
pub type SetOrNull = OrNull<StringSet>;

impl<T: crate::json::Emptiness> OrNull<T> {
    /// Whether the field is not printed.
    pub fn is_left_out(&self) -> bool {
        self.items.has_none() && !self.keep
    }
}

impl<T> From<T> for OrNull<T> {
    fn from(items: T) -> Self {
        Self { items, keep: false }
    }
}

impl<T: Serialize + crate::json::Emptiness> Serialize for OrNull<T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        null_when_empty(&self.items, to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrNull<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(T::deserialize(from)?.into())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootFs {
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageMetadata {
    pub last_tag_time: String,
}

impl Default for ImageMetadata {
    fn default() -> Self {
        Self { last_tag_time: super::ZERO_TIME.to_owned() }
    }
}

/// One line of `DELETE /images/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageDeleteItem {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deleted: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub untagged: String,
}

/// One line of `GET /images/{name}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HistoryItem {
    pub comment: String,
    pub created: i64,
    pub created_by: String,
    pub id: String,
    pub size: i64,
    #[serde(serialize_with = "null_when_empty")]
    pub tags: Vec<String>,
}

/// One line of `GET /images/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    pub star_count: i64,
    pub is_official: bool,
    pub name: String,
    /// Always false: Docker has no such builds any more.
    pub is_automated: bool,
    pub description: String,
}

/// `GET /distribution/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DistributionInspect {
    pub descriptor: Descriptor,
    #[serde(serialize_with = "null_when_empty")]
    pub platforms: Vec<Platform>,
}

/// `GET /distribution/{name}/manifest` (not in Docker's API): what `manifest inspect` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegistryManifest {
    pub descriptor: Descriptor,
    pub platforms: Vec<Platform>,
    /// The document, base64.
    pub raw: String,
}

/// `POST /distribution/{name}/manifest` (not in Docker's API): a list of images that the registry has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestListPush {
    pub media_type: String,
    /// The list, byte for byte.
    pub document: String,
    pub sources: Vec<ManifestSource>,
}

/// Where an image of a list is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestSource {
    pub repository: String,
    pub digest: String,
}

/// What a list's push did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestListPushed {
    pub digest: String,
    /// Images that had to be made known in the list's repository.
    pub pushed: Vec<PushedManifest>,
}

/// An image that a list's push made known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PushedManifest {
    pub reference: String,
    pub digest: String,
}

/// The `aux` of a push: a tag that is in the registry now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PushedTag {
    pub tag: String,
    pub digest: String,
    pub size: u64,
}

/// `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImagesPruned {
    #[serde(serialize_with = "null_when_empty")]
    pub images_deleted: Vec<ImageDeleteItem>,
    pub space_reclaimed: u64,
}
