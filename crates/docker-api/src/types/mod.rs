//! The wire types of the newest API version, one file per resource.
//!
//! Field order is Docker's, since `inspect` prints it. Lists that Docker leaves nil print `null`, those it always fills
//! print `[]`; a field that only some versions have is an `Option` that is left out, and [`crate::versions`] fills it.
//! Times are the RFC 3339 strings of the wire.
#![allow(missing_docs, reason = "the fields are Docker's, described in the Engine API reference")]

mod auth;
mod checkpoint;
mod container;
mod create;
mod event;
mod exec;
mod image;
mod network;
mod path_stat;
mod stats;
mod store;
mod system;
mod usage;
mod volume;

pub use auth::*;
pub use checkpoint::*;
pub use container::*;
pub use create::*;
pub use event::*;
pub use exec::*;
pub use image::*;
pub use network::*;
pub use path_stat::*;
pub use stats::*;
pub use store::*;
pub use system::*;
pub use usage::*;
pub use volume::*;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Go's zero time.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The value of Go's `map[string]struct{}`: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Labels, annotations, options.
pub type StringMap = BTreeMap<String, String>;

/// A set, written as an object with empty objects.
pub type StringSet = BTreeMap<String, Empty>;

/// Container ports (`80/tcp`) and where they are published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortBinding {
    pub host_ip: String,
    pub host_port: String,
}

/// Every error answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorResponse {
    pub message: String,
}

/// `{"Id": …}`: exec create, commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IdResponse {
    pub id: String,
}

/// A content descriptor of the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: StringMap,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A platform of the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}
