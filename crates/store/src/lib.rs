//! Images on disk: verified content, unpacked layers, references; crash-safe and synchronous.
//!
//! ```text
//! <root>/                        the data root
//!   blobs/sha256/<hex>           content: manifests, configurations, layers as they were transferred
//!   blobs/sha256/.ingest/<hex>.part   a transfer that did not finish, to be resumed
//!   layers/<diff-id>/            an unpacked layer in overlay's form, shared by all images that have it
//!   layers/chain-<chain-id>/     the same for a layer that only makes sense over its parents
//!   layers/.tmp-<random>/        an unpack in progress; layers/.trash-<random>  a layer or large blob that is being removed
//!   recipes/<hex>                how a blob is made again from its layer; the blob itself is gone then
//!   images.db                    names, images, layers, leases (SQLite)
//! ```
//!
//! **Invariant:** content is complete and verified before it gets its name, and has its name before a record points
//! to it. So after a kill at any point [`Store::open`] finds either a whole image or none, and what no record points
//! to is removed (layers) or becomes a resumable part again (blobs). See [`durability`] for power loss.
//!
//! Everything here blocks: async callers go through one blocking seam. [`Store`] is a cheap handle to share.

#![forbid(unsafe_code)]

pub mod archive;
pub mod check;
pub mod compress;
pub mod content;
pub mod docker_root;
pub mod durability;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod gc;
pub mod image;
pub mod layer;
pub mod lease;
pub mod made;
pub mod recipe;
pub mod tree;

#[cfg(test)]
mod crash;
mod database;
mod error;
mod fault;
mod garbage;
mod share;
mod store;
#[cfg(test)]
mod testing;
pub mod usage;

pub use content::BlobContent;
pub use error::StoreError as Error;
pub use image::{Image, ImageId};
pub use layer::{BeginLayer, LayerInfo, LayerRequest, LayerWriter};
pub use lease::Lease;
pub use made::{MadeLayer, NewLayer};
pub use palan_tar::Limits;
pub use palan_tar::pack::Recent;
pub use store::Store;
pub use usage::Usage;

/// What most calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
