//! What the tests share: archives by hand, byte by byte, and images made of them.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use palan_oci::media_type;
use palan_oci::{Descriptor, Digest};

use crate::image::{Image, ImageCommit};
use crate::{BeginLayer, ImageId, LayerInfo, LayerRequest, Limits, Result, Store};

/// An archive in the making. Every entry may lie.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

/// One header, with everything that can be set in it.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) size: u64,
    pub(crate) modified: u64,
    pub(crate) device: (u32, u32),
    pub(crate) magic: [u8; 8],
}

impl Header {
    pub(crate) fn new(name: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            size: 0,
            modified: 1_600_000_000,
            device: (0, 0),
            magic: *b"ustar\x0000",
        }
    }

    pub(crate) fn bytes(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let name = &self.name[..self.name.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], u64::from(self.owner.0));
        octal(&mut block[116..124], u64::from(self.owner.1));
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.modified);
        block[156] = self.kind;
        let link = &self.link[..self.link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(&self.magic);
        octal(&mut block[329..337], u64::from(self.device.0));
        octal(&mut block[337..345], u64::from(self.device.1));
        seal(&mut block);
        block
    }
}

/// Puts the right checksum in a header block.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
}

fn octal(field: &mut [u8], number: u64) {
    let text = format!("{number:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(text.as_bytes());
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        let size = content.len() as u64;
        self.entry(&Header { size, ..Header::new(name, b'0') }, content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(&Header::new(name, b'5'), b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(&Header { link: target.into(), ..Header::new(name, b'2') }, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(&Header { link: target.into(), ..Header::new(name, b'1') }, b"")
    }

    /// A PAX header for the next entry, of these records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', &pax_records(records))
    }

    /// An extended header of any kind and content.
    pub(crate) fn extended(self, kind: u8, content: &[u8]) -> Self {
        let size = content.len() as u64;
        self.entry(&Header { size, ..Header::new("././@LongLink", kind) }, content)
    }

    pub(crate) fn entry(self, header: &Header, content: &[u8]) -> Self {
        self.raw(&header.bytes()).padded(content)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn padded(self, content: &[u8]) -> Self {
        let padding = content.len().wrapping_neg() % 512;
        self.raw(content).raw(&vec![0; padding])
    }

    /// With the two blocks of zeros that end an archive.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    /// Just what was put in.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

pub(crate) fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    content
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("writes to memory");
    encoder.finish().expect("writes to memory")
}

/// A store in a directory of its own, removed at the end.
#[derive(Debug)]
pub(crate) struct TestStore {
    pub(crate) store: Option<Store>,
    pub(crate) directory: TestDirectory,
    pub(crate) limits: Limits,
}

/// Where a store under test is.
#[derive(Debug)]
pub(crate) enum TestDirectory {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

impl TestDirectory {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Given(path) => path,
        }
    }
}

impl std::ops::Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().expect("open")
    }
}

impl TestStore {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path(), limits.clone()).expect("opens");
        Self { store: Some(store), directory: TestDirectory::Own(directory), limits }
    }

    /// In a directory of somebody else, who removes it.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let limits = Limits::default();
        let store = Store::open(path, limits.clone())?;
        Ok(Self { store: Some(store), directory: TestDirectory::Given(path.to_owned()), limits })
    }

    /// As after a kill: what was in memory is gone, what is on disk is looked at anew.
    pub(crate) fn reopen(&mut self) {
        if let Some(store) = self.store.take() {
            // Its background thread holds the lock until it is done.
            store.settle();
        }
        let mut opened = Store::open(self.directory.path(), self.limits.clone());
        while matches!(opened, Err(crate::Error::InUse { .. })) {
            std::thread::yield_now();
            opened = Store::open(self.directory.path(), self.limits.clone());
        }
        let store = opened.expect("opens again");
        store.settle();
        self.store = Some(store);
    }

    /// The names in a directory of the store, those of our own use left out.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = palan_stdx::fs::read_dir(&self.directory.path().join(directory)).expect("lists");
        let names = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != ".empty" && name != ".ingest").collect();
        names.sort();
        names
    }

    /// Brings a layer as a pull would.
    pub(crate) fn layer(&self, lease: &crate::Lease, blob: &[u8]) -> Result<(Descriptor, LayerInfo)> {
        let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, blob);
        let request = LayerRequest { descriptor: descriptor.clone(), diff_id: None };
        let info = match self.begin_layer(&request, lease)? {
            BeginLayer::Present(info) => info,
            BeginLayer::Ready(writer) => {
                // An earlier one may have been killed on its way.
                let kept = usize::try_from(writer.offset()).unwrap_or(usize::MAX);
                writer.run(&mut &blob[kept..])?
            }
            BeginLayer::Busy(_) => panic!("nobody else is at it"),
        };
        Ok((descriptor, info))
    }

    /// The same from a source that may break; nothing is kept of an earlier attempt.
    pub(crate) fn layer_from(
        &self,
        lease: &crate::Lease,
        blob: &[u8],
        source: &mut dyn Read,
    ) -> Result<(Descriptor, LayerInfo)> {
        let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, blob);
        let request = LayerRequest { descriptor: descriptor.clone(), diff_id: None };
        let info = match self.begin_layer(&request, lease)? {
            BeginLayer::Present(info) => info,
            BeginLayer::Ready(writer) => writer.run(source)?,
            BeginLayer::Busy(_) => panic!("nobody else is at it"),
        };
        Ok((descriptor, info))
    }

    /// Makes an image of these tars, bottom first.
    pub(crate) fn make(&self, tag: &str, layers: &[Vec<u8>]) -> Result<Image> {
        let lease = self.lease();
        let mut brought = Vec::new();
        for layer in layers {
            brought.push(self.layer(&lease, &gzip(layer))?);
        }
        self.commit_image(&image_of(tag, &brought), &lease)
    }

    pub(crate) fn file(&self, id: &ImageId, path: &str) -> Option<Vec<u8>> {
        self.view(id).expect("mounts").read(path, 1 << 20).ok()
    }
}

/// Configuration and manifest of an image of these layers.
pub(crate) fn image_of(tag: &str, layers: &[(Descriptor, LayerInfo)]) -> ImageCommit {
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, info)| info.diff_id).collect();
    let descriptors: Vec<&Descriptor> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let history: Vec<_> = layers.iter().map(|_| r#"{"created_by":"test"}"#).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":{}}},"history":[{}]}}"#,
        serde_json::to_string(&diff_ids).expect("serializes"),
        history.join(",")
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":{}}}"#,
        serde_json::to_string(&Descriptor::of(media_type::OCI_CONFIG, config.as_bytes()))
            .expect("serializes"),
        serde_json::to_string(&descriptors).expect("serializes"),
    );
    let tags = if tag.is_empty() { Vec::new() } else { vec![tag.parse().expect("a name")] };
    ImageCommit {
        manifest: manifest.into(),
        manifest_media_type: None,
        config: config.into(),
        tags,
        digests: Vec::new(),
    }
}
