//! Changes of files, manifests of images, and what takes how much of the disk.

use super::{ContainerSummary, Descriptor, ImageSummary, Platform, Volume};
use crate::json::is_zero;
use serde::{Deserialize, Serialize};

/// One line of `GET /containers/{id}/changes`. Kinds: 0 changed, 1 added, 2 deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FilesystemChange {
    pub path: String,
    pub kind: u8,
}

/// An image as a manifest: `Manifests` of `GET /images/json` and `GET /images/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestSummary {
    #[serde(rename = "ID")]
    pub id: String,
    pub descriptor: Descriptor,
    pub available: bool,
    pub size: ManifestSize,
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_data: Option<ManifestImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_data: Option<ManifestAttestation>,
}

/// Which image statements are about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestAttestation {
    #[serde(rename = "For")]
    pub about: String,
}

/// One line of `GET /images/{name}/attestations`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AttestationStatement {
    pub descriptor: Descriptor,
    pub predicate_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestSize {
    pub content: i64,
    pub total: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestImage {
    pub platform: Platform,
    pub containers: Vec<String>,
    pub size: UnpackedSize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UnpackedSize {
    pub unpacked: i64,
}

/// `GET /system/df`. Up to 1.51 it lists objects ([`UsageBefore52`]), later it adds them up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DiskUsage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_usage: Option<KindUsage<ImageSummary>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage: Option<KindUsage<ContainerSummary>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_usage: Option<KindUsage<Volume>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache_usage: Option<KindUsage<BuildCache>>,
}

/// What the objects of one kind take together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", bound(deserialize = "T: Deserialize<'de>"))]
pub struct KindUsage<T> {
    #[serde(default)]
    pub active_count: i64,
    #[serde(default)]
    pub total_count: i64,
    #[serde(default)]
    pub reclaimable: i64,
    #[serde(default)]
    pub total_size: i64,
    /// Only when asked for with `verbose`.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<T>,
}

impl<T> Default for KindUsage<T> {
    fn default() -> Self {
        Self { active_count: 0, total_count: 0, reclaimable: 0, total_size: 0, items: Vec::new() }
    }
}

/// From 1.52, where `verbose` is not set: both forms, since clients such as docker-py take the newest version there is
/// without knowing it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct UsageInBothForms {
    #[serde(flatten)]
    pub before_52: UsageBefore52,
    #[serde(flatten)]
    pub usage: DiskUsage,
}

/// `GET /system/df` up to 1.51; a kind that was not asked for is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UsageBefore52 {
    #[serde(skip_serializing_if = "is_zero")]
    pub layers_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageSummary>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<ContainerSummary>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<Vec<BuildCache>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub builder_size: i64,
}

impl From<UsageBefore52> for DiskUsage {
    /// Adds up what an older daemon lists, as its clients did.
    fn from(usage: UsageBefore52) -> Self {
        let UsageBefore52 { layers_size, images, containers, volumes, build_cache, builder_size } = usage;
        let own = |image: &ImageSummary| {
            let is_known = image.containers != 0 && image.size != -1 && image.shared_size != -1;
            if is_known { image.size - image.shared_size } else { 0 }
        };
        Self {
            image_usage: images.map(|items| KindUsage {
                active_count: count(items.iter().filter(|image| image.containers > 0)),
                total_count: count(items.iter()),
                reclaimable: layers_size - items.iter().map(own).sum::<i64>(),
                total_size: layers_size,
                items,
            }),
            container_usage: containers.map(|items| {
                let size = |one: &ContainerSummary| one.size_rw;
                let is_active = |one: &&ContainerSummary| {
                    matches!(one.state.as_str(), "running" | "paused" | "restarting")
                };
                KindUsage {
                    active_count: count(items.iter().filter(is_active)),
                    total_count: count(items.iter()),
                    reclaimable: items.iter().filter(|one| !is_active(one)).map(size).sum(),
                    total_size: items.iter().map(size).sum(),
                    items,
                }
            }),
            volume_usage: volumes.map(|items| {
                let users = |one: &Volume| one.usage_data.as_ref().map_or(0, |usage| usage.ref_count);
                let size = |one: &Volume| one.usage_data.as_ref().map_or(0, |usage| usage.size.max(0));
                KindUsage {
                    active_count: count(items.iter().filter(|one| users(one) > 0)),
                    total_count: count(items.iter()),
                    reclaimable: items.iter().filter(|one| users(one) == 0).map(size).sum(),
                    total_size: items.iter().map(size).sum(),
                    items,
                }
            }),
            build_cache_usage: build_cache.map(|items| KindUsage {
                active_count: count(items.iter().filter(|one| one.in_use)),
                total_count: count(items.iter()),
                reclaimable: items.iter().filter(|one| !one.in_use && !one.shared).map(|one| one.size).sum(),
                total_size: builder_size
                    .max(items.iter().filter(|one| !one.shared).map(|one| one.size).sum()),
                items,
            }),
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> i64 {
    i64::try_from(items.count()).unwrap_or(i64::MAX)
}

/// One record of the build cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BuildCache {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Type")]
    pub kind: String,
    pub description: String,
    pub in_use: bool,
    pub shared: bool,
    pub size: i64,
    pub created_at: String,
    pub last_used_at: Option<String>,
    pub usage_count: i64,
}

/// What `POST /build/prune` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BuildCachePruned {
    pub caches_deleted: Vec<String>,
    pub space_reclaimed: u64,
}

/// What a build tells programs: the image's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuiltImage {
    #[serde(rename = "ID")]
    pub id: String,
}
