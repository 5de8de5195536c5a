//! Descriptors: how one document points to another, by media type, digest and size.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::media_type::Class;
use crate::platform::Platform;

/// A typed, sized and digested pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its exact size in bytes. A negative number or a fraction is a parse error.
    pub size: u64,
    /// Where else it may be fetched; untrusted.
    #[serde(default, deserialize_with = "crate::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Untrusted remarks.
    #[serde(
        default,
        deserialize_with = "crate::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on; in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact a manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing optional.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// A descriptor of bytes at hand.
    pub fn of(media_type: impl Into<String>, content: &[u8]) -> Self {
        Self::new(media_type, Digest::of(content), content.len() as u64)
    }

    /// The class of its media type.
    pub fn class(&self) -> Class {
        Class::of(&self.media_type)
    }
}
