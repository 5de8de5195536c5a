//! Checkpoints.

use serde::{Deserialize, Serialize};

/// `POST /containers/{id}/checkpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CheckpointCreateRequest {
    #[serde(rename = "CheckpointID")]
    pub checkpoint_id: String,
    pub checkpoint_dir: String,
    pub exit: bool,
}

/// `GET /containers/{id}/checkpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CheckpointSummary {
    pub name: String,
}
