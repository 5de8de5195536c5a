//! What the fuzz targets see of this crate (feature `fuzz`; docs/fuzzing.md).

use crate::{challenge, layer};

/// Parses a `Content-Range` header.
pub fn content_range(header: &str) {
    if let Some((start, Some(whole))) = layer::parse_content_range(header) {
        assert!(start < whole);
    }
}

/// Parses a `WWW-Authenticate` header.
pub fn challenge(header: &str) {
    for challenge in challenge::parse(header) {
        let _ = challenge.parameter("realm");
    }
}
