//! Blobs by digest: verified on the way in, complete before they have their name.
//!
//! ```text
//! absent ──begin──▶ .ingest/<hex>.part ──all bytes, digest right──▶ <hex>
//!                      │     ▲                                        │
//!                  killed, network error: kept, resumed        no record points to it (at open)
//! ```

use std::fs::File;

use palan_oci::Digest;

use crate::{Result, Store};

impl Store {
    /// Whether a blob is complete here.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        todo!()
    }

    /// Opens a blob for reading. It was verified when it came.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        todo!()
    }

    /// The content of a small blob: a manifest or configuration of at most 4 MiB.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        todo!()
    }

    /// Stores a small blob. It must be protected by a lease before, or it may go at the next removal of an image.
    pub fn put_blob(&self, content: &[u8]) -> Result<Digest> {
        todo!()
    }
}
