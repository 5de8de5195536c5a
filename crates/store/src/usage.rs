//! How much of the disk images take.

use palan_stdx::fs;

use crate::{Result, Store};

/// Bytes that images take, each layer and each blob counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Unpacked layers.
    pub layers: u64,
    /// Content as it was transferred: manifests, configurations, layers.
    pub blobs: u64,
}

impl Usage {
    /// Both.
    pub fn total(&self) -> u64 {
        self.layers + self.blobs
    }
}

impl Store {
    /// How much of the disk images take. What is being transferred or removed at the moment is not counted.
    pub fn usage(&self) -> Result<Usage> {
        let mut blobs = 0;
        for entry in fs::read_dir(&self.inner.blobs)? {
            // One that went since takes nothing.
            let Ok(metadata) = entry.metadata() else { continue };
            blobs += if metadata.is_file() { metadata.len() } else { 0 };
        }
        Ok(Usage { layers: self.layers_size()?, blobs })
    }
}
