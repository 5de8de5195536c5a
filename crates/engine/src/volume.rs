//! Volumes: directories below the data root that outlive containers. Made by name on first use or anonymously; only the
//! driver `local` exists.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Label of volumes made without a name, as Docker sets it.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// One volume as the database stores it and `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Directory on the host.
    pub mountpoint: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// A request for a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name; generated when empty.
    pub name: String,
    /// Driver; empty or `local`.
    pub driver: String,
    /// Options of the driver (none are supported).
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names or ids of what is gone.
    pub deleted: Vec<String>,
    /// Bytes given back.
    pub space_reclaimed: u64,
}
