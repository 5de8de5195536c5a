//! What Docker's API has no words for: the state of the image store. Served below `/palan/`.

use serde::{Deserialize, Serialize};

/// The answer of `POST /palan/system/fsck`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StoreCheck {
    pub images: u64,
    pub blobs: u64,
    pub layers: u64,
    pub problems: Vec<StoreProblem>,
    /// Names of images that were dropped, or (without repair) would be.
    pub pull_again: Vec<String>,
}

/// Something in the store that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StoreProblem {
    pub object: String,
    pub what: String,
    /// What was done about it; empty without repair.
    pub repaired: String,
}

/// The answer of `POST /palan/images/import-docker`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DockerImport {
    pub images: Vec<ImportedImage>,
}

/// An image of a Docker data root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImportedImage {
    #[serde(rename = "ID")]
    pub id: String,
    pub names: Vec<String>,
    /// Why it was not taken over; empty if it was.
    pub error: String,
}
