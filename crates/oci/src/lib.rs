//! The vocabulary of the OCI specifications: digests, references, platforms, manifests, configurations. No I/O.
//!
//! Everything here is parsed from what strangers wrote, so every parser has limits and none panics.

#![forbid(unsafe_code)]

pub mod digest;
pub mod reference;

pub mod media_type;
pub mod platform;

pub mod descriptor;
pub mod image_config;
pub mod manifest;

pub mod runtime_spec;
pub mod runtime_state;

pub use descriptor::Descriptor;
pub use digest::Digest;
pub use image_config::{ChainId, ImageConfig};
pub use manifest::{Document, Index, Manifest};
pub use platform::Platform;
pub use reference::Reference;

use serde::{Deserialize, Deserializer};

/// Takes `null` for an absent field: Go writes it for empty lists and maps.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
