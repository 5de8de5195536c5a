//! Image configurations: what an image is made of and how it wants to be run (OCI's fields and Docker's).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{Digest, Hasher};
use crate::manifest::{MAX_LAYERS, MAX_MANIFEST_SIZE};
use crate::platform::Platform;

/// An image configuration. Unknown fields are ignored: the stored bytes stay as they came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `amd64`, …
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// `v8`, …
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Of Windows.
    #[serde(
        rename = "os.version",
        deserialize_with = "crate::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// When it was made, RFC 3339, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What `import -m` and `commit -m` leave.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The Docker that built it.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// How it wants to be run.
    #[serde(deserialize_with = "crate::null_is_default")]
    pub config: ExecutionConfig,
    /// What its file system is made of.
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(deserialize_with = "crate::null_is_default")]
    pub history: Vec<HistoryEntry>,
    /// BuildKit's cache of the build that made it. Only written: what is made from the image has another one.
    #[serde(rename = "moby.buildkit.cache.v0", skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<String>,
}

/// The `config` object, with the names it has on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecutionConfig {
    /// `name|uid[:group|gid]`, untrusted.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`, untrusted.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run, before `cmd`; absent and empty mean the same.
    #[serde(deserialize_with = "string_or_list", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or what is run if there is no entrypoint.
    #[serde(deserialize_with = "string_or_list", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get an anonymous volume.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Where the process starts.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Remarks; untrusted, never select what the host does (CVE-2026-53488).
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What `stop` sends first.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// How long `stop` waits, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How to tell whether the container is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What runs a `RUN` or `CMD` line in shell form.
    #[serde(deserialize_with = "string_or_list", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for builds on top.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `cmd` is one command line, already escaped (Windows).
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
}

/// An empty JSON object; what stands behind each port and volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `{}` usually, `null` or anything from odd tools: it says nothing.
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// A health check, times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`; empty inherits.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// While failures don't count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the layers' tars, not compressed, bottom first.
    #[serde(default, deserialize_with = "crate::null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// How a layer, or a change without one, came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// RFC 3339, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// It changed the configuration only.
    #[serde(deserialize_with = "crate::null_is_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageConfigError {
    /// Larger than a manifest may be.
    #[error("the image configuration has {size} bytes, more than the {MAX_MANIFEST_SIZE} that are accepted")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Not JSON, or not of that shape.
    #[error("the image configuration is not valid")]
    Json(#[source] serde_json::Error),
    /// Layers of another kind.
    #[error("the image has a root file system of type {kind:?}, only \"layers\" is supported")]
    RootFsType {
        /// What it says.
        kind: String,
    },
    /// More than can be stacked.
    #[error("the image has {count} layers, more than the {MAX_LAYERS} that are accepted")]
    TooManyLayers {
        /// How many.
        count: usize,
    },
}

impl ImageConfig {
    /// Parses a configuration.
    pub fn parse(content: &[u8]) -> Result<Self, ImageConfigError> {
        let size = content.len() as u64;
        if size > MAX_MANIFEST_SIZE {
            return Err(ImageConfigError::TooLarge { size });
        }
        let config: Self = serde_json::from_slice(content).map_err(ImageConfigError::Json)?;
        if config.rootfs.kind != "layers" {
            return Err(ImageConfigError::RootFsType { kind: config.rootfs.kind });
        }
        let count = config.rootfs.diff_ids.len();
        if count > MAX_LAYERS {
            return Err(ImageConfigError::TooManyLayers { count });
        }
        Ok(config)
    }

    /// What it runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: Some(self.variant.clone()).filter(|variant| !variant.is_empty()),
            os_version: Some(self.os_version.clone()).filter(|version| !version.is_empty()),
            os_features: Vec::new(),
        }
    }

    /// The chain ids of its layers, bottom first.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        chain_ids(&self.rootfs.diff_ids)
    }
}

/// The identity of a layer together with all below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain id of a layer on top of others.
    pub fn extend(parent: Option<Self>, diff_id: &Digest) -> Self {
        let Some(Self(parent)) = parent else { return Self(*diff_id) };
        let mut hasher = Hasher::new();
        hasher.update(parent.to_string().as_bytes());
        hasher.update(b" ");
        hasher.update(diff_id.to_string().as_bytes());
        Self(hasher.finish())
    }

    /// The digest that it is.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The chain ids of a stack of layers, bottom first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<ChainId> {
    let mut parent = None;
    let chain = diff_ids.iter().map(|diff_id| {
        let id = ChainId::extend(parent, diff_id);
        parent = Some(id);
        id
    });
    chain.collect()
}

/// Docker accepts one string where a list of words is due, and makes it a list of one.
fn string_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_configuration_with_nulls_and_strings() {
        let content = br#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z","config":{
            "Env":null,"Cmd":"sh","Entrypoint":["/e"],"Volumes":{"/data":{}},"Labels":null,"OnBuild":null,
            "ExposedPorts":{"80/tcp":null},"Healthcheck":{"Test":["CMD","x"],"Interval":5}},
            "container_config":{"Hostname":"x"},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::parse(content).expect("valid");
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(config.config.healthcheck.as_ref().map(|check| check.interval), Some(5));
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
        let again = serde_json::to_vec(&config).expect("serializes");
        assert_eq!(ImageConfig::parse(&again).expect("valid"), config);
    }

    #[test]
    fn a_configuration_may_be_nearly_empty_but_not_of_another_kind() {
        assert!(ImageConfig::parse(b"{}").is_ok());
        assert!(ImageConfig::parse(br#"{"config":null}"#).is_ok());
        let other = ImageConfig::parse(br#"{"rootfs":{"type":"image"}}"#);
        assert!(matches!(other, Err(ImageConfigError::RootFsType { .. })));
        let lying = ImageConfig::parse(br#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#);
        assert!(matches!(lying, Err(ImageConfigError::Json(_))));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain[0].digest(), a);
        assert_eq!(chain[1].digest(), Digest::of(format!("{a} {b}")));
    }
}
