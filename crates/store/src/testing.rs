//! What the tests share: archives by hand, byte by byte (from `palan_tar::testing`), and images made of them.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use palan_oci::media_type;
use palan_oci::{Descriptor, Digest};
pub(crate) use palan_tar::testing::{Header, Tar};

use crate::image::{Image, ImageCommit};
use crate::{BeginLayer, ImageId, LayerInfo, LayerRequest, Limits, Result, Store};

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
        made_here: false,
    }
}
