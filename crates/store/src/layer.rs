//! Layers: from transferred bytes to an unpacked directory, in one pass.
//!
//! ```text
//! source ─▶ sha256 (blob) ─▶ part file
//!                └─▶ gzip | zstd | plain ─▶ sha256 (diff-id) ─▶ tar reader ─▶ applier ─▶ layers/.tmp-…
//! ```
//!
//! One [`LayerWriter`] runs on one blocking thread; several run side by side, in any order: a layer is unpacked
//! without its parents. One that turns out not to be self-contained is unpacked again over them when its image is committed.

use std::io::Read;

use palan_oci::{Descriptor, Digest};

use crate::{Lease, Result, Store};

/// A layer that is wanted.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// The layer as it is transferred: media type, digest, size.
    pub descriptor: Descriptor,
    /// The digest of its tar as the image's configuration names it; `None` if that is not known yet.
    pub diff_id: Option<Digest>,
}

/// What is to be done about a layer.
#[derive(Debug)]
pub enum BeginLayer {
    /// Nothing: it is here.
    Present(LayerInfo),
    /// Somebody else is at it: wait, then ask again.
    Busy(BusyLayer),
    /// It is yours to bring.
    Ready(LayerWriter),
}

/// A layer that somebody else brings at this moment.
#[derive(Debug)]
pub struct BusyLayer {}

impl BusyLayer {
    /// Blocks until that transfer ended, well or not.
    pub fn wait(self) {
        todo!()
    }
}

/// A layer that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The bytes of its files, as Docker counts: each inode once, without directories.
    pub size: u64,
}

/// The right and duty to bring one layer. Dropped without [`LayerWriter::run`] it leaves the kept part as it was.
#[derive(Debug)]
pub struct LayerWriter {}

impl LayerWriter {
    /// How many bytes are kept from an earlier attempt: the source must deliver from here on. When it equals the
    /// descriptor's size there is nothing to transfer, and `run` may be given an empty source.
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// Drops the kept bytes, for a source that can't start in the middle: the offset is 0 then.
    pub fn restart(&mut self) -> Result<()> {
        todo!()
    }

    /// Takes the layer from `source`, which starts at [`LayerWriter::offset`] and ends with the layer. Checks size
    /// and both digests, and unpacks on the way.
    ///
    /// An error of `source` itself comes back as [`crate::Error::Source`], and what came so far is kept for the next
    /// attempt (a source may also resume by itself and never end early). With [`crate::Error::Verify`] nothing is
    /// kept; if the offset was not 0, one attempt from scratch is worth it.
    pub fn run(self, source: &mut dyn Read) -> Result<LayerInfo> {
        todo!()
    }
}

impl Store {
    /// Begins to bring a layer. Blob and layer are protected by `lease` from here on.
    pub fn begin_layer(&self, request: &LayerRequest, lease: &Lease) -> Result<BeginLayer> {
        todo!()
    }
}

/// Why a layer can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {}
