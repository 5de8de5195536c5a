//! Image manifests and indexes, parsed so that no document can be taken for both (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::descriptor::Descriptor;
use crate::media_type::{self, Class};
use crate::platform::Platform;

/// The largest manifest or index that is accepted, as in Docker's registry client.
pub const MAX_MANIFEST_SIZE: u64 = 4 << 20;
/// More layers than overlay can stack.
pub const MAX_LAYERS: usize = 500;
/// More entries than any sensible index.
const MAX_MANIFESTS: usize = 10_000;

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Optional in OCI, required in Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// For artifacts that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's configuration; its digest is the image's id.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Untrusted remarks.
    #[serde(
        default,
        deserialize_with = "crate::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// One image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Optional in OCI, required in Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// For artifacts that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// One manifest (or nested index) for each platform.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Untrusted remarks.
    #[serde(
        default,
        deserialize_with = "crate::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// What is found where an image is expected.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than [`MAX_MANIFEST_SIZE`].
    #[error("the document has {size} bytes, more than the {MAX_MANIFEST_SIZE} that are accepted")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Not JSON, or not of the promised shape.
    #[error("the document is not a valid {expected}")]
    Json {
        /// What it should be.
        expected: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It has the fields of an index and of a manifest, so two readers could see two different images.
    #[error("the document is ambiguous: it has both \"manifests\" and \"layers\" or \"config\"")]
    Ambiguous,
    /// It has neither.
    #[error("the document is neither an image manifest nor an index")]
    Neither,
    /// A schema 1 manifest.
    #[error(
        "the image has a manifest of schema version 1, which is no longer supported: push it again with a current tool"
    )]
    SchemaVersion1,
    /// Another schema version than 2.
    #[error("the document has schema version {version}, only 2 is supported")]
    SchemaVersion {
        /// What it says.
        version: u32,
    },
    /// The media type in the document and the one it was delivered or referenced with differ.
    #[error("the document says that it is {inside}, but it was delivered as {outside}")]
    MediaTypeMismatch {
        /// Inside the document.
        inside: String,
        /// In the descriptor or the `Content-Type`.
        outside: String,
    },
    /// The media type says one thing and the fields another.
    #[error("the document has media type {media_type}, but the fields of {actual}")]
    WrongFields {
        /// What it claims.
        media_type: String,
        /// What it is.
        actual: &'static str,
    },
    /// Too many entries.
    #[error("the document lists {count} {what}, more than the {limit} that are accepted")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

/// Only whether the fields are there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses a manifest or index. `delivered_as` is the media type of the descriptor or response that led here;
    /// where it is a known one, the document must agree.
    pub fn parse(content: &[u8], delivered_as: Option<&str>) -> Result<Self, DocumentError> {
        let size = content.len() as u64;
        if size > MAX_MANIFEST_SIZE {
            return Err(DocumentError::TooLarge { size });
        }
        let probe: Probe = from_json(content, "image manifest or index")?;
        let delivered_as = delivered_as.map(media_type::without_parameters);
        let media_type = agreed_media_type(&probe, delivered_as)?;
        let class = media_type.map(Class::of);
        if class == Some(Class::ManifestV1) || probe.schema_version == Some(1) || probe.fs_layers.is_some() {
            return Err(DocumentError::SchemaVersion1);
        }
        let is_index = probe.manifests.is_some();
        let is_manifest = probe.layers.is_some() || probe.config.is_some();
        match (is_index, is_manifest) {
            (true, true) => return Err(DocumentError::Ambiguous),
            (false, false) => return Err(DocumentError::Neither),
            _ => {}
        }
        let wrong_fields = |actual| DocumentError::WrongFields {
            media_type: media_type.unwrap_or_default().to_owned(),
            actual,
        };
        match class {
            Some(Class::Manifest) if is_index => return Err(wrong_fields("an index")),
            Some(Class::Index) if is_manifest => return Err(wrong_fields("an image manifest")),
            _ => {}
        }
        match probe.schema_version {
            Some(2) => {}
            other => return Err(DocumentError::SchemaVersion { version: other.unwrap_or(0) }),
        }
        if is_index {
            let index: Index = from_json(content, "image index")?;
            check_count("manifests", index.manifests.len(), MAX_MANIFESTS)?;
            Ok(Self::Index(index))
        } else {
            let manifest: Manifest = from_json(content, "image manifest")?;
            check_count("layers", manifest.layers.len(), MAX_LAYERS)?;
            Ok(Self::Manifest(manifest))
        }
    }
}

impl Manifest {
    /// Parses a document that must be an image manifest.
    pub fn parse(content: &[u8], delivered_as: Option<&str>) -> Result<Self, DocumentError> {
        match Document::parse(content, delivered_as)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(DocumentError::WrongFields {
                media_type: delivered_as.unwrap_or("an image manifest").to_owned(),
                actual: "an index",
            }),
        }
    }

    /// Its media type, OCI's where it says none.
    pub fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST)
    }
}

impl Index {
    /// The entry that serves `wanted` best, the first of equals. An entry without a platform is chosen only when it
    /// is the only one.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let is_image = |entry: &&Descriptor| matches!(entry.class(), Class::Manifest | Class::Index);
        let ranked = self.manifests.iter().filter(is_image).filter_map(|entry| {
            let rank = wanted.rank(entry.platform.as_ref()?)?;
            Some((rank, entry))
        });
        let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
        best.or_else(|| match &self.manifests[..] {
            [only] if only.platform.is_none() && is_image(&only) => Some(only),
            _ => None,
        })
    }
}

/// The media type that document and delivery agree on. A `Content-Type` that is no manifest type at all
/// (`application/json`, `text/plain` of a simple server) leaves the word to the document.
fn agreed_media_type<'a>(
    probe: &'a Probe,
    delivered_as: Option<&'a str>,
) -> Result<Option<&'a str>, DocumentError> {
    let inside = probe.media_type.as_deref().filter(|inside| !inside.is_empty());
    let outside = delivered_as
        .filter(|outside| matches!(Class::of(outside), Class::Manifest | Class::Index | Class::ManifestV1));
    match (inside, outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            Err(DocumentError::MediaTypeMismatch { inside: inside.to_owned(), outside: outside.to_owned() })
        }
        _ => Ok(inside.or(outside)),
    }
}

fn from_json<'a, T: Deserialize<'a>>(content: &'a [u8], expected: &'static str) -> Result<T, DocumentError> {
    serde_json::from_slice(content).map_err(|source| DocumentError::Json { expected, source })
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), DocumentError> {
    if count > limit {
        return Err(DocumentError::TooMany { what, count, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn descriptor(media_type: &str) -> String {
        let descriptor = Descriptor::of(media_type, b"content");
        serde_json::to_string(&descriptor).expect("serializes")
    }

    fn manifest(extra: &str) -> String {
        let config = descriptor(media_type::OCI_CONFIG);
        format!(r#"{{"schemaVersion":2,{extra}"config":{config},"layers":[]}}"#)
    }

    #[test]
    fn a_manifest_and_an_index() {
        let parsed = Document::parse(manifest("").as_bytes(), Some(media_type::OCI_MANIFEST)).expect("valid");
        assert!(
            matches!(parsed, Document::Manifest(manifest) if manifest.config.digest == Digest::of(b"content"))
        );
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(index.as_bytes(), None), Ok(Document::Index(_))));
        // A simple file server says application/octet-stream; the document decides then.
        assert!(Document::parse(index.as_bytes(), Some("application/octet-stream")).is_ok());
    }

    #[test]
    fn type_confusion_is_refused() {
        let check = |content: &str, delivered_as: Option<&str>, expected: fn(&DocumentError) -> bool| {
            let error = Document::parse(content.as_bytes(), delivered_as).expect_err(content);
            assert!(expected(&error), "{content}: {error}");
        };
        let both = manifest(r#""manifests":[],"#);
        check(&both, None, |error| matches!(error, DocumentError::Ambiguous));
        check(&both, Some(media_type::OCI_INDEX), |error| matches!(error, DocumentError::Ambiguous));
        check(&manifest(""), Some(media_type::OCI_INDEX), |error| {
            matches!(error, DocumentError::WrongFields { .. })
        });
        let lying = manifest(&format!(r#""mediaType":"{}","#, media_type::OCI_INDEX));
        check(&lying, None, |error| matches!(error, DocumentError::WrongFields { .. }));
        let other = manifest(&format!(r#""mediaType":"{}","#, media_type::DOCKER_MANIFEST));
        let mismatch = |error: &DocumentError| matches!(error, DocumentError::MediaTypeMismatch { .. });
        check(&other, Some(media_type::OCI_MANIFEST), mismatch);
        check(r#"{"schemaVersion":2}"#, None, |error| matches!(error, DocumentError::Neither));
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, |error| {
            matches!(error, DocumentError::SchemaVersion1)
        });
        check(&manifest(r#""layers":[],"#), None, |error| matches!(error, DocumentError::Json { .. }));
    }

    #[test]
    fn lies_about_sizes_and_digests_are_parse_errors() {
        for (good, bad) in
            [("\"size\":7", "\"size\":-7"), ("\"size\":7", "\"size\":1e30"), ("sha256:", "sha256:../")]
        {
            let content = manifest("").replace(good, bad);
            assert!(
                matches!(Document::parse(content.as_bytes(), None), Err(DocumentError::Json { .. })),
                "{bad}"
            );
        }
        let deep = "[".repeat(100_000);
        assert!(Document::parse(deep.as_bytes(), None).is_err());
        let large = vec![b' '; usize::try_from(MAX_MANIFEST_SIZE).expect("fits") + 1];
        assert!(matches!(Document::parse(&large, None), Err(DocumentError::TooLarge { .. })));
    }

    #[test]
    fn the_best_platform_is_selected() {
        let entry = |platform: Option<&str>, content: &[u8]| Descriptor {
            platform: platform.map(|text| text.parse().expect("platform")),
            ..Descriptor::of(media_type::OCI_MANIFEST, content)
        };
        let index = |manifests| Index {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let several = index(vec![
            entry(Some("linux/arm/v6"), b"6"),
            entry(Some("linux/arm64"), b"64"),
            entry(Some("linux/arm/v7"), b"7"),
        ]);
        let selected =
            |platform: &str| several.select(&platform.parse().expect("platform")).map(|found| found.digest);
        assert_eq!(selected("linux/arm64"), Some(Digest::of(b"64")));
        assert_eq!(selected("linux/arm/v7"), Some(Digest::of(b"7")));
        assert_eq!(selected("linux/amd64"), None);
        assert!(index(vec![entry(None, b"only")]).select(&Platform::host()).is_some());
    }
}
