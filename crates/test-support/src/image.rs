//! Images made from nothing: tar streams, layers, manifests, indexes, and the archives that `load` reads.
//!
//! Written against the specifications and not with the product's own types, so that it can serve as their oracle.

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// `sha256:<hex>` of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Builds a tar stream entry by entry; it allows what a careful tool would refuse (`..`, absolute names, duplicates).
#[derive(Debug, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
}

/// The fields of one tar header.
#[derive(Debug, Clone)]
pub struct TarHeader<'a> {
    /// The entry's name; over 100 bytes it is preceded by a PAX header.
    pub name: &'a str,
    /// The type flag: `0` file, `5` directory, `2` symlink, `1` hard link, `3`/`4` device, `6` FIFO.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Target of a link.
    pub link: &'a str,
    /// Device numbers.
    pub device: (u32, u32),
    /// Modification time, seconds since the epoch.
    pub mtime: u64,
}

impl<'a> TarHeader<'a> {
    /// A header with root as owner and a fixed time.
    pub fn new(name: &'a str, kind: u8, mode: u32) -> Self {
        Self { name, kind, mode, uid: 0, gid: 0, link: "", device: (0, 0), mtime: 1_700_000_000 }
    }
}

impl TarBuilder {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file.
    pub fn file(self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(&TarHeader::new(name, b'0', mode), content.as_ref())
    }

    /// Adds a directory.
    pub fn directory(self, name: &str, mode: u32) -> Self {
        let name = format!("{}/", name.trim_end_matches('/'));
        self.entry(&TarHeader::new(&name, b'5', mode), &[])
    }

    /// Adds a symbolic link.
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(&TarHeader { link: target, ..TarHeader::new(name, b'2', 0o777) }, &[])
    }

    /// Adds a hard link to an earlier entry.
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(&TarHeader { link: target, ..TarHeader::new(name, b'1', 0o644) }, &[])
    }

    /// Adds a whiteout of `name`: `dir/x` becomes `dir/.wh.x`.
    pub fn whiteout(self, name: &str) -> Self {
        let marker = match name.rsplit_once('/') {
            Some((parent, last)) => format!("{parent}/.wh.{last}"),
            None => format!(".wh.{name}"),
        };
        self.file(&marker, 0o644, [])
    }

    /// Marks the directory `name` as opaque.
    pub fn opaque(self, name: &str) -> Self {
        self.file(&format!("{name}/.wh..wh..opq"), 0o644, [])
    }

    /// Adds a PAX extended header that applies to the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            body.extend_from_slice(&pax_record(key, value));
        }
        self.entry(&TarHeader::new("PaxHeaders.0/entry", b'x', 0o644), &body)
    }

    /// Adds any entry.
    pub fn entry(mut self, header: &TarHeader<'_>, content: &[u8]) -> Self {
        if header.name.len() > 100 || header.link.len() > 100 {
            let mut records: Vec<(&str, &[u8])> = Vec::new();
            if header.name.len() > 100 {
                records.push(("path", header.name.as_bytes()));
            }
            if header.link.len() > 100 {
                records.push(("linkpath", header.link.as_bytes()));
            }
            self = self.pax(&records);
        }
        self.bytes.extend_from_slice(&header_block(header, content.len() as u64));
        self.bytes.extend_from_slice(content);
        let padding = content.len().wrapping_neg() % 512;
        self.bytes.extend(std::iter::repeat_n(0, padding));
        self
    }

    /// Adds bytes as they are, for malformed streams.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Ends the stream with its two zero blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend(std::iter::repeat_n(0, 1024));
        self.bytes
    }
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let payload = key.len() + value.len() + 3;
    let mut length = payload + payload.to_string().len();
    if payload + length.to_string().len() != length {
        length = payload + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

fn header_block(header: &TarHeader<'_>, size: u64) -> [u8; 512] {
    let mut block = [0u8; 512];
    put(&mut block[0..100], header.name.as_bytes());
    put(&mut block[100..108], format!("{:07o}\0", header.mode).as_bytes());
    put(&mut block[108..116], format!("{:07o}\0", header.uid).as_bytes());
    put(&mut block[116..124], format!("{:07o}\0", header.gid).as_bytes());
    put(&mut block[124..136], format!("{size:011o}\0").as_bytes());
    put(&mut block[136..148], format!("{:011o}\0", header.mtime).as_bytes());
    block[148..156].fill(b' ');
    block[156] = header.kind;
    put(&mut block[157..257], header.link.as_bytes());
    put(&mut block[257..265], b"ustar\x0000");
    put(&mut block[329..337], format!("{:07o}\0", header.device.0).as_bytes());
    put(&mut block[337..345], format!("{:07o}\0", header.device.1).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block[148..156], format!("{sum:06o}\0 ").as_bytes());
    block
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard (OCI only).
    Zstd,
}

impl Compression {
    /// `bytes` packed this way.
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).expect("writing to memory cannot fail");
                encoder.finish().expect("writing to memory cannot fail")
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect("compressing from memory cannot fail"),
        }
    }
}

/// The family of media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `application/vnd.docker.…`
    Docker,
    /// `application/vnd.oci.…`
    Oci,
}

impl Flavour {
    /// The media type of manifests.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    /// The media type of indexes (Docker: manifest lists).
    pub fn index(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }

    /// The media type of image configurations.
    pub fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    /// The media type of layers packed with `compression`.
    pub fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// One layer: its packed blob and the tar inside.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The packed bytes.
    pub blob: Vec<u8>,
    /// The digest of `blob`.
    pub digest: String,
    /// The tar stream.
    pub tar: Vec<u8>,
    /// The digest of `tar`.
    pub diff_id: String,
    /// The media type in the manifest.
    pub media_type: String,
    /// `urls` of the descriptor (foreign layers).
    pub urls: Vec<String>,
}

impl Layer {
    /// Packs a tar stream.
    pub fn new(tar: Vec<u8>, flavour: Flavour, compression: Compression) -> Self {
        let blob = compression.pack(&tar);
        Self {
            digest: digest(&blob),
            diff_id: digest(&tar),
            blob,
            tar,
            media_type: flavour.layer(compression).to_owned(),
            urls: Vec::new(),
        }
    }

    fn descriptor(&self) -> Value {
        let mut descriptor =
            json!({"mediaType": self.media_type, "digest": self.digest, "size": self.blob.len()});
        if !self.urls.is_empty() {
            descriptor["urls"] = json!(self.urls);
        }
        descriptor
    }
}

/// Describes an image to be made; see [`Image`].
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    flavour: Flavour,
    compression: Compression,
    architecture: String,
    variant: Option<String>,
    config: Value,
    layers: Vec<Layer>,
    history: Option<Value>,
    manifest_patch: Value,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An OCI image for this machine with gzip layers and an empty configuration.
    pub fn new() -> Self {
        Self {
            flavour: Flavour::Oci,
            compression: Compression::Gzip,
            architecture: host_architecture().to_owned(),
            variant: None,
            config: json!({}),
            layers: Vec::new(),
            history: None,
            manifest_patch: json!({}),
        }
    }

    /// Sets the family of media types; say it before adding layers.
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    /// Sets how the layers that follow are packed.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets the architecture, `amd64` or `arm64`, and its variant.
    pub fn architecture(mut self, architecture: &str, variant: Option<&str>) -> Self {
        self.architecture = architecture.to_owned();
        self.variant = variant.map(str::to_owned);
        self
    }

    /// Sets a key of the configuration's `config` object, such as `Cmd` or `Env`.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Sets the history, an array of steps; by default each layer has one.
    pub fn history(mut self, steps: Value) -> Self {
        self.history = Some(steps);
        self
    }

    /// Adds a layer from a tar stream.
    pub fn layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(Layer::new(tar, self.flavour, self.compression));
        self
    }

    /// Adds a layer as it is.
    pub fn packed_layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Adds one layer with one file.
    pub fn file(self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.layer(TarBuilder::new().file(name, mode, content).finish())
    }

    /// Overwrites a key of the manifest, to make it lie.
    pub fn manifest_key(mut self, key: &str, value: Value) -> Self {
        self.manifest_patch[key] = value;
        self
    }

    /// Makes the image.
    pub fn build(self) -> Image {
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let history = self.history.unwrap_or_else(|| {
            (0..self.layers.len()).map(|n| json!({"created_by": format!("layer {n}")})).collect()
        });
        let mut config = json!({
            "created": "2024-01-02T03:04:05Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        if let Some(variant) = &self.variant {
            config["variant"] = json!(variant);
        }
        let config = serde_json::to_vec(&config).expect("JSON values serialise");
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.flavour.manifest(),
            "config": {"mediaType": self.flavour.config(), "digest": digest(&config), "size": config.len()},
            "layers": self.layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        });
        if let Some(patch) = self.manifest_patch.as_object() {
            for (key, value) in patch {
                manifest[key] = value.clone();
            }
        }
        let manifest = serde_json::to_vec(&manifest).expect("JSON values serialise");
        Image {
            flavour: self.flavour,
            architecture: self.architecture,
            variant: self.variant,
            manifest_digest: digest(&manifest),
            manifest,
            config_digest: digest(&config),
            config,
            layers: self.layers,
        }
    }
}

/// The architecture of this machine in the words of image platforms.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A finished image: all its blobs in memory.
#[derive(Debug, Clone)]
pub struct Image {
    /// The family of media types.
    pub flavour: Flavour,
    /// The architecture as in the configuration.
    pub architecture: String,
    /// The variant as in the configuration.
    pub variant: Option<String>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The digest of the manifest.
    pub manifest_digest: String,
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// The digest of the configuration, which is the image's id.
    pub config_digest: String,
    /// The layers from bottom to top.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The media type of the manifest.
    pub fn media_type(&self) -> &'static str {
        self.flavour.manifest()
    }

    /// All blobs but the manifest, by digest.
    pub fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let mut blobs: Vec<_> =
            self.layers.iter().map(|layer| (layer.digest.clone(), layer.blob.clone())).collect();
        blobs.push((self.config_digest.clone(), self.config.clone()));
        blobs
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type(), "digest": self.manifest_digest, "size": self.manifest.len()})
    }

    fn platform(&self) -> Value {
        let mut platform = json!({"architecture": self.architecture, "os": "linux"});
        if let Some(variant) = &self.variant {
            platform["variant"] = json!(variant);
        }
        platform
    }

    /// The archive that `docker save` writes (the classic form): `manifest.json`, `repositories`, `<id>.json`, `<layer>/layer.tar`.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let config_name = format!("{}.json", hex(&self.config_digest));
        let mut tar = TarBuilder::new();
        let mut names: Vec<String> = Vec::new();
        for layer in &self.layers {
            let directory = hex(&layer.diff_id).to_owned();
            let name = format!("{directory}/layer.tar");
            if !names.contains(&name) {
                tar = tar
                    .directory(&directory, 0o755)
                    .file(&format!("{directory}/VERSION"), 0o644, "1.0")
                    .file(&name, 0o644, &layer.tar);
            }
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        let mut repositories = json!({});
        for tag in tags {
            if let (Some((name, tag)), Some(top)) = (tag.rsplit_once(':'), self.layers.last()) {
                repositories[name][tag] = json!(hex(&top.diff_id));
            }
        }
        tar.file(&config_name, 0o644, &self.config)
            .file("manifest.json", 0o644, manifest.to_string())
            .file("repositories", 0o644, repositories.to_string())
            .finish()
    }

    /// A tar of an OCI image layout, its index naming the image `name` where one is given.
    pub fn oci_layout(&self, name: Option<&str>) -> Vec<u8> {
        let mut descriptor = self.descriptor();
        if let Some(name) = name {
            let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
            descriptor["annotations"] =
                json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
        }
        layout(&[descriptor], &[self], &[])
    }
}

/// An index (manifest list) over several images.
#[derive(Debug, Clone)]
pub struct Index {
    /// The index's bytes.
    pub body: Vec<u8>,
    /// The digest of `body`.
    pub digest: String,
    /// The media type.
    pub media_type: String,
    /// The images that it points to.
    pub images: Vec<Image>,
}

impl Index {
    /// An index with one entry for each image, platforms taken from them.
    pub fn new(flavour: Flavour, images: Vec<Image>) -> Self {
        let manifests: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.descriptor();
                descriptor["platform"] = image.platform();
                descriptor
            })
            .collect();
        Self::from_json(
            flavour,
            &json!({"schemaVersion": 2, "mediaType": flavour.index(), "manifests": manifests}),
            images,
        )
    }

    /// An index with a body of one's own.
    pub fn from_json(flavour: Flavour, body: &Value, images: Vec<Image>) -> Self {
        let body = serde_json::to_vec(body).expect("JSON values serialise");
        Self { digest: digest(&body), body, media_type: flavour.index().to_owned(), images }
    }

    /// A tar of an OCI image layout whose `index.json` points to this index.
    pub fn oci_layout(&self, name: &str) -> Vec<u8> {
        let descriptor = json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.body.len(),
            "annotations": {"io.containerd.image.name": name},
        });
        let images: Vec<&Image> = self.images.iter().collect();
        layout(&[descriptor], &images, &[(&self.digest, &self.body)])
    }
}

fn layout(descriptors: &[Value], images: &[&Image], more: &[(&str, &[u8])]) -> Vec<u8> {
    let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
    for image in images {
        blobs.extend(image.blobs());
        blobs.push((image.manifest_digest.clone(), image.manifest.clone()));
    }
    blobs.extend(more.iter().map(|(digest, bytes)| ((*digest).to_owned(), bytes.to_vec())));
    blobs.sort();
    blobs.dedup();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": descriptors,
    });
    let mut tar = TarBuilder::new().directory("blobs", 0o755).directory("blobs/sha256", 0o755);
    for (digest, bytes) in &blobs {
        tar = tar.file(&format!("blobs/sha256/{}", hex(digest)), 0o444, bytes);
    }
    tar.file("index.json", 0o644, index.to_string())
        .file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#)
        .finish()
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// Bytes that do not compress, the same for each `seed`.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_count_themselves() {
        assert_eq!(pax_record("path", b"x"), b"9 path=x\n");
        for length in 1..300 {
            let record = pax_record("path", &vec![b'a'; length]);
            let declared: usize =
                std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(declared, record.len());
        }
    }

    #[test]
    fn an_image_names_its_blobs() {
        let image = ImageBuilder::new().file("a", 0o644, "hello").build();
        let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], json!(image.config_digest));
        assert_eq!(manifest["layers"][0]["digest"], json!(digest(&image.layers[0].blob)));
        assert_eq!(image.docker_archive(&["a/b:c"]).len() % 512, 0);
    }
}
