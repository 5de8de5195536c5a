//! `image import-docker`: takes over the images that a Docker daemon has under its data root, without a registry.
//!
//! ```text
//! image/overlay2/repositories.json                    names
//! image/overlay2/imagedb/content/sha256/<id>          configurations
//! image/overlay2/imagedb/metadata/sha256/<id>/parent  what the classic builder made it from
//! image/overlay2/layerdb/sha256/<chain>/cache-id      which directory of overlay2/ has the content
//!                                      /tar-split.json.gz   everything of the layer's tar but the content of files
//! overlay2/<cache-id>/diff                            the content
//! ```
//!
//! Docker keeps each layer as a directory and, by `tar-split`, what makes the exact tar again. So layers come in as plain tars
//! whose digest is the diff-id that the image's configuration names: what differs is refused, an image that came is right.
//! Ids are the same as in Docker. The compressed blobs are not there, so the digests of manifests are others, and names by
//! digest are not taken over.
//!
//! Nothing under Docker's root is changed, and nothing of it is trusted: it is read through a root-scoped handle, and all
//! content is checked. The daemon need not be stopped, but what it removes meanwhile fails to come.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use flate2::read::GzDecoder;
use palan_linux::path::RootDir;
use palan_oci::{ChainId, Descriptor, Digest, ImageConfig, Manifest, Reference, media_type};
use serde::Deserialize;

use crate::image::{ImageCommit, ImageId};
use crate::layer::name::Name;
use crate::recipe::LayerFiles;
use crate::{BeginLayer, LayerRequest, Lease, Limits, Result, Store};

/// Bytes of a document in Docker's root at most.
const MAX_DOCUMENT: u64 = 64 << 20;
/// Bytes of one line of `tar-split.json` at most: a header of a tar, with extended ones, in base64.
const MAX_LINE: u64 = 16 << 20;

/// An image that was found under Docker's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenOver {
    /// Its id.
    pub id: ImageId,
    /// Its names.
    pub names: Vec<Reference>,
    /// Why it did not come.
    pub error: Option<String>,
}

/// What is wrong with a Docker data root, or with an image in it.
#[derive(Debug, thiserror::Error)]
pub enum DockerRootError {
    /// Not a data root with the overlay2 driver.
    #[error(
        "{} is no data root of Docker with the overlay2 storage driver: it has no image/overlay2 (an image store of \
         containerd is not supported: use `docker save` and `palan load`)", root.display()
    )]
    NotDocker {
        /// What was given.
        root: PathBuf,
    },
    /// A file in it.
    #[error("cannot read {path} in Docker's data root")]
    Read {
        /// Relative to the root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file in it says something impossible.
    #[error("{path} in Docker's data root is not valid: {reason}")]
    Invalid {
        /// Relative to the root.
        path: String,
        /// What.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Repositories {
    #[serde(rename = "Repositories", default)]
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl Store {
    /// Takes over all images under `root`. One that can't come is reported and does not stop the others.
    pub fn import_docker(&self, root: &Path) -> Result<Vec<TakenOver>> {
        let handle = RootDir::open(root)?;
        if handle.open_dir("image/overlay2").is_err() {
            return Err(DockerRootError::NotDocker { root: root.to_owned() }.into());
        }
        let docker = DockerRoot { root: handle };
        let names = docker.names()?;
        let mut wanted = docker.unnamed(&names)?;
        wanted.extend(names.keys().copied());
        let taken = wanted.into_iter().map(|id| {
            let names = names.get(&id).cloned().unwrap_or_default();
            let error = self.import_docker_image(&docker, id, names.clone()).err();
            TakenOver { id, names, error: error.map(|error| palan_stdx::error_chain::to_string(&error)) }
        });
        let taken = taken.collect();
        // What came for an image that failed.
        self.collect()?;
        Ok(taken)
    }

    fn import_docker_image(&self, docker: &DockerRoot, id: ImageId, tags: Vec<Reference>) -> Result<()> {
        if self.image(&id)?.is_some() {
            for name in &tags {
                self.tag(&id, name)?;
            }
            return Ok(());
        }
        let config =
            docker.document(&format!("image/overlay2/imagedb/content/sha256/{}", id.digest().hex()))?;
        let parsed = ImageConfig::parse(&config)
            .map_err(|source| crate::Error::Config { digest: id.digest(), source })?;
        let lease = self.lease();
        let mut layers = Vec::new();
        let mut chain = None;
        for diff_id in &parsed.rootfs.diff_ids {
            let own = ChainId::extend(chain, diff_id);
            chain = Some(own);
            layers.push(self.import_docker_layer(docker, own, *diff_id, &lease)?);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(media_type::OCI_CONFIG, &config),
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let commit = ImageCommit {
            // Only maps with keys that are no strings can fail, and there are none.
            manifest: serde_json::to_vec(&manifest).unwrap_or_default(),
            manifest_media_type: None,
            config,
            tags,
            digests: Vec::new(),
            made_here: true,
        };
        self.commit_image(&commit, &lease).map(drop)
    }

    fn import_docker_layer(
        &self,
        docker: &DockerRoot,
        chain: ChainId,
        diff_id: Digest,
        lease: &Lease,
    ) -> Result<Descriptor> {
        let size = docker.layer(chain, &self.inner.limits)?.1;
        let descriptor = Descriptor::new(media_type::OCI_LAYER, diff_id, size);
        let request = LayerRequest { descriptor: descriptor.clone(), diff_id: Some(diff_id) };
        loop {
            match self.begin_layer(&request, lease)? {
                BeginLayer::Present(_) => return Ok(descriptor),
                BeginLayer::Busy(busy) => busy.wait(),
                BeginLayer::Ready(mut writer) => {
                    writer.restart()?;
                    let mut tar = docker.layer(chain, &self.inner.limits)?.0;
                    // A complete blob without its layer needs no source.
                    let mut source: &mut dyn Read = &mut tar;
                    let mut nothing = io::empty();
                    if writer.offset() == size {
                        source = &mut nothing;
                    }
                    writer.run(source)?;
                    return Ok(descriptor);
                }
            }
        }
    }
}

struct DockerRoot {
    root: RootDir,
}

impl DockerRoot {
    fn document(&self, path: &str) -> Result<Vec<u8>, DockerRootError> {
        self.root.read(path, MAX_DOCUMENT).map_err(|error| failed(path, error.into()))
    }

    /// The names of each image, those by digest left out.
    fn names(&self) -> Result<BTreeMap<ImageId, Vec<Reference>>, DockerRootError> {
        let path = "image/overlay2/repositories.json";
        let invalid = |reason: String| DockerRootError::Invalid { path: path.to_owned(), reason };
        let content = match self.document(path) {
            Err(DockerRootError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            other => other?,
        };
        let parsed: Repositories =
            serde_json::from_slice(&content).map_err(|error| invalid(error.to_string()))?;
        let mut names: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
        for (name, id) in parsed.repositories.into_values().flatten() {
            let id: ImageId = id.parse().map_err(|_| invalid(format!("{id:?} is no image id")))?;
            let reference = Reference::parse(&name).map_err(|error| invalid(format!("{name:?}: {error}")))?;
            let own = names.entry(id).or_default();
            if reference.digest().is_none() {
                own.push(reference);
            }
        }
        Ok(names)
    }

    /// Images without a name that no other one was made from.
    fn unnamed(
        &self,
        names: &BTreeMap<ImageId, Vec<Reference>>,
    ) -> Result<BTreeSet<ImageId>, DockerRootError> {
        let path = "image/overlay2/imagedb/content/sha256";
        let entries = self.root.read_dir(path).map_err(|error| failed(path, error.into()))?;
        let ids = entries.iter().filter_map(|entry| Digest::from_hex(entry.name.to_str()?).ok().map(ImageId));
        let all: BTreeSet<ImageId> = ids.collect();
        let parents: BTreeSet<ImageId> = all
            .iter()
            .filter_map(|id| {
                let path = format!("image/overlay2/imagedb/metadata/sha256/{}/parent", id.digest().hex());
                let parent = self.root.read(path, 100).ok()?;
                std::str::from_utf8(&parent).ok()?.trim().parse().ok()
            })
            .collect();
        Ok(all.into_iter().filter(|id| !parents.contains(id) && !names.contains_key(id)).collect())
    }

    /// The tar of a layer, and how many bytes it has.
    fn layer(&self, chain: ChainId, limits: &Limits) -> Result<(TarSplit, u64), DockerRootError> {
        let layer = format!("image/overlay2/layerdb/sha256/{}", chain.digest().hex());
        let path = format!("{layer}/cache-id");
        let cache_id = self.root.read(&path, 200).map_err(|error| failed(&path, error.into()))?;
        let cache_id = String::from_utf8_lossy(&cache_id).trim().to_owned();
        let is_name =
            !cache_id.is_empty() && cache_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name {
            return Err(DockerRootError::Invalid { path, reason: format!("{cache_id:?} is no cache id") });
        }
        let diff = format!("overlay2/{cache_id}/diff");
        let split = format!("{layer}/tar-split.json.gz");
        let open = || -> Result<TarSplit, DockerRootError> {
            let content = self.root.open_root(&diff).map_err(|error| failed(&diff, error.into()))?;
            let split = self.root.open_file(&split).map_err(|error| failed(&split, error.into()))?;
            Ok(TarSplit::new(split, content, limits.clone()))
        };
        let size = open()?.size().map_err(|error| failed(&split, error))?;
        Ok((open()?, size))
    }
}

fn failed(path: &str, source: io::Error) -> DockerRootError {
    DockerRootError::Read { path: path.to_owned(), source }
}

/// A line of `tar-split.json` (github.com/vbatts/tar-split, `tar/storage/entry.go`).
#[derive(Deserialize)]
struct Line {
    /// 1: a file of the directory; 2: bytes.
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: String,
    /// Where the name is no UTF-8.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

/// The tar of a layer of Docker, made while it is read.
struct TarSplit {
    lines: BufReader<GzDecoder<File>>,
    files: LayerFiles,
    limits: Limits,
    bytes: io::Cursor<Vec<u8>>,
    file: Option<io::Take<File>>,
}

impl TarSplit {
    fn new(split: File, content: RootDir, limits: Limits) -> Self {
        Self {
            lines: BufReader::new(GzDecoder::new(split)),
            files: LayerFiles::new(content),
            limits,
            bytes: io::Cursor::default(),
            file: None,
        }
    }

    /// How many bytes it will make.
    fn size(mut self) -> io::Result<u64> {
        let mut size = 0u64;
        while let Some(line) = self.line()? {
            let bytes = if line.kind == 2 { decoded(&line.payload)?.len() as u64 } else { line.size };
            size = size.checked_add(bytes).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(size)
    }

    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut text = Vec::new();
        (&mut self.lines).take(MAX_LINE).read_until(b'\n', &mut text)?;
        if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&text)?)) }
    }

    /// Opens what comes next; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Some(line) = self.line()? else { return Ok(false) };
        match line.kind {
            2 => self.bytes = io::Cursor::new(decoded(&line.payload)?),
            1 if line.size > 0 => {
                let name = match &line.name_raw {
                    Some(_) => decoded(&line.name_raw)?,
                    None => line.name.into_bytes(),
                };
                let name = Name::parse(&name, &self.limits).map_err(io::Error::other)?;
                let file = self.files.open(name.as_bytes())?;
                if file.metadata()?.len() != line.size {
                    let text = format!(
                        "{} has not the size that Docker noted",
                        String::from_utf8_lossy(name.as_bytes())
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                self.file = Some(file.take(line.size));
            }
            1 => {}
            kind => {
                let text = format!("tar-split.json has a line of type {kind}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(true)
    }
}

impl Read for TarSplit {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let length = self.bytes.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            if let Some(file) = &mut self.file {
                match file.read(buffer)? {
                    0 if file.limit() > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    0 => self.file = None,
                    length => return Ok(length),
                }
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

fn decoded(text: &Option<String>) -> io::Result<Vec<u8>> {
    let text = text.as_deref().unwrap_or_default();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests;
