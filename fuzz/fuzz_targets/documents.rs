//! Manifests, indexes and configurations, as a registry or an archive delivers them.

#![no_main]

use palan_oci::{Document, ImageConfig, Manifest, Platform};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(Document::Index(index)) = Document::parse(bytes, None) {
        index.select(&Platform::host());
    }
    for delivered_as in [palan_oci::media_type::OCI_MANIFEST, palan_oci::media_type::DOCKER_MANIFEST] {
        if let Ok(manifest) = Manifest::parse(bytes, Some(delivered_as)) {
            manifest.media_type();
        }
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        config.platform();
        assert_eq!(config.chain_ids().len(), config.rootfs.diff_ids.len());
    }
});
