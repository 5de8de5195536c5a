//! Media types of Docker and OCI documents and layers, and the classes they fall into.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// OCI layer that may only be fetched from its own URLs, not compressed (deprecated).
pub const OCI_LAYER_NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// OCI layer that may only be fetched from its own URLs, gzip (deprecated).
pub const OCI_LAYER_NONDISTRIBUTABLE_GZIP: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// OCI layer that may only be fetched from its own URLs, zstd (deprecated).
pub const OCI_LAYER_NONDISTRIBUTABLE_ZSTD: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// OCI's empty JSON object, the configuration of artifacts.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd (written by some tools).
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker layer that may only be fetched from its own URLs, not compressed.
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker layer that may only be fetched from its own URLs, gzip.
pub const DOCKER_FOREIGN_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Docker's first manifest format, which is refused.
pub const DOCKER_MANIFEST_V1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// The same, signed.
pub const DOCKER_MANIFEST_V1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// What a client sends as `Accept` when it asks for a manifest by tag or digest.
pub const ACCEPTED_MANIFESTS: [&str; 4] = [DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, OCI_INDEX, OCI_MANIFEST];

/// What a media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// An image manifest.
    Manifest,
    /// An index or manifest list.
    Index,
    /// An image configuration.
    Config,
    /// A layer's tar.
    Layer {
        /// How it is compressed, as far as the media type says.
        compression: Compression,
        /// Only to be fetched from the descriptor's own URLs ("foreign").
        foreign: bool,
    },
    /// A schema 1 manifest: too old.
    ManifestV1,
    /// Anything else: artifacts, signatures, attestations.
    Other,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Class {
    /// Classifies a media type; parameters (`; charset=…`) are ignored.
    pub fn of(media_type: &str) -> Self {
        let layer = |compression, foreign| Self::Layer { compression, foreign };
        match without_parameters(media_type) {
            OCI_MANIFEST | DOCKER_MANIFEST => Self::Manifest,
            OCI_INDEX | DOCKER_MANIFEST_LIST => Self::Index,
            OCI_CONFIG | DOCKER_CONFIG => Self::Config,
            OCI_LAYER | DOCKER_LAYER => layer(Compression::None, false),
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => layer(Compression::Gzip, false),
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => layer(Compression::Zstd, false),
            OCI_LAYER_NONDISTRIBUTABLE | DOCKER_FOREIGN_LAYER => layer(Compression::None, true),
            OCI_LAYER_NONDISTRIBUTABLE_GZIP | DOCKER_FOREIGN_LAYER_GZIP => layer(Compression::Gzip, true),
            OCI_LAYER_NONDISTRIBUTABLE_ZSTD => layer(Compression::Zstd, true),
            DOCKER_MANIFEST_V1 | DOCKER_MANIFEST_V1_SIGNED => Self::ManifestV1,
            _ => Self::Other,
        }
    }
}

impl Compression {
    /// What the first bytes of content say. Four bytes are enough; fewer are plain.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which zstd:chunked and pzstd put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The bare type of a `Content-Type` value.
pub fn without_parameters(media_type: &str) -> &str {
    media_type.split_once(';').map_or(media_type, |(bare, _)| bare).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        assert_eq!(Class::of("application/vnd.oci.image.index.v1+json; charset=utf-8"), Class::Index);
        assert_eq!(
            Class::of(DOCKER_FOREIGN_LAYER_GZIP),
            Class::Layer { compression: Compression::Gzip, foreign: true }
        );
        assert_eq!(Class::of("application/vnd.in-toto+json"), Class::Other);
        for accepted in ACCEPTED_MANIFESTS {
            assert!(matches!(Class::of(accepted), Class::Manifest | Class::Index));
        }
    }

    #[test]
    fn compression_by_magic() {
        assert_eq!(Compression::detect(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
        assert_eq!(Compression::detect(&[0x28, 0xb5, 0x2f, 0xfd, 1]), Compression::Zstd);
        assert_eq!(Compression::detect(&[0x5e, 0x2a, 0x4d, 0x18]), Compression::Zstd);
        assert_eq!(Compression::detect(b"etc/\0\0"), Compression::None);
        assert_eq!(Compression::detect(&[0x1f]), Compression::None);
    }
}
