//! Layers: from transferred bytes to an unpacked directory, in one pass.
//!
//! ```text
//! source ─▶ sha256 (blob) ─▶ part file
//!                └─▶ gzip | zstd | plain ─▶ sha256 (diff-id) ─▶ tar reader ─▶ applier ─▶ layers/.tmp-…
//! ```
//!
//! One [`LayerWriter`] runs on one blocking thread; several run side by side, in any order: a layer is unpacked
//! without its parents. One that turns out not to be self-contained is unpacked again over them when its image is
//! committed, and stored under its chain id.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use palan_linux::mount::{OverlayOptions, overlay};
use palan_linux::path::RootDir;
use palan_oci::{Descriptor, Digest};
use palan_stdx::fs;

use crate::content::{BlobReader, BlobWriter, Busy};
use crate::store::{Inner, State};
use crate::{Lease, Result, Store};

pub(crate) mod apply;
pub(crate) mod decode;
pub(crate) mod name;

pub(crate) use palan_tar as tar;
pub use palan_tar::TarError;

use apply::{Applied, Form};

/// A layer that is wanted.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// The layer as it is transferred: media type, digest, size.
    pub descriptor: Descriptor,
    /// The digest of its tar as the image's configuration names it; `None` if that is not known yet.
    pub diff_id: Option<Digest>,
}

/// What is to be done about a layer.
#[derive(Debug)]
pub enum BeginLayer {
    /// Nothing: it is here.
    Present(LayerInfo),
    /// Somebody else is at it: wait, then ask again.
    Busy(BusyLayer),
    /// It is yours to bring.
    Ready(Box<LayerWriter>),
}

/// A layer that somebody else brings at this moment.
#[derive(Debug)]
pub struct BusyLayer {
    inner: Arc<Inner>,
    digest: Digest,
}

impl BusyLayer {
    /// Blocks until that transfer ended, well or not.
    pub fn wait(self) {
        self.inner.busy.wait_until_free(&self.digest);
    }
}

/// A layer that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The bytes of its files, as Docker counts: each inode once, without directories.
    pub size: u64,
}

/// The right and duty to bring one layer. Dropped without [`LayerWriter::run`] it leaves the kept part as it was.
#[derive(Debug)]
pub struct LayerWriter {
    blob: BlobWriter,
    request: LayerRequest,
    protected: Lease,
}

/// Whether a layer can stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It brings the directories and link targets that its entries need.
    SelfContained,
    /// Parents were made up: right at the bottom of an image, wrong above others.
    MadeUpParents,
    /// It links to a file of a layer below; there is no directory of it alone.
    Incomplete,
}

/// A layer that was unpacked, whether or not a record in the database points to it yet.
#[derive(Debug, Clone)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    /// The blob it was unpacked from.
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    pub(crate) standing: Standing,
    pub(crate) opaque_root: bool,
}

impl LayerRecord {
    pub(crate) fn info(&self) -> LayerInfo {
        LayerInfo { diff_id: self.diff_id, size: self.size }
    }
}

impl LayerWriter {
    /// How many bytes are kept from an earlier attempt: the source must deliver from here on. When it equals the
    /// descriptor's size there is nothing to transfer, and `run` may be given an empty source.
    pub fn offset(&self) -> u64 {
        self.blob.offset()
    }

    /// How many bytes of the blob, as transferred, were unpacked so far; for progress reports from other threads.
    pub fn counter(&self) -> Arc<AtomicU64> {
        self.blob.counter()
    }

    /// Drops the kept bytes, for a source that can't start in the middle: the offset is 0 then.
    pub fn restart(&mut self) -> Result<()> {
        self.blob.restart()
    }

    /// Takes the layer from `source`, which starts at [`LayerWriter::offset`] and ends with the layer. Checks size
    /// and both digests, and unpacks on the way.
    ///
    /// An error of `source` itself comes back as [`crate::Error::Source`], and what came so far is kept for the next
    /// attempt (a source may also resume by itself and never end early). With [`crate::Error::Verify`] nothing is
    /// kept; if the offset was not 0, one attempt from scratch is worth it.
    pub fn run(self, source: &mut dyn Read) -> Result<LayerInfo> {
        let Self { blob, request, protected } = self;
        let inner = Arc::clone(blob.inner());
        let temporary = inner.new_layer_directory()?;
        let outcome = unpack(&inner, blob, &request, source, &temporary);
        let record = match outcome {
            Ok(record) => record,
            Err(error) => {
                inner.discard(&temporary.path);
                return Err(error);
            }
        };
        protected.protect(record.diff_id);
        let info = record.info();
        inner.lock().publish(&inner, record, &temporary.path)?;
        Ok(info)
    }
}

impl Store {
    /// Begins to bring a layer. Blob and layer are protected by `lease` from here on.
    pub fn begin_layer(&self, request: &LayerRequest, lease: &Lease) -> Result<BeginLayer> {
        let digest = request.descriptor.digest;
        lease.protect(digest);
        if let Some(diff_id) = request.diff_id {
            lease.protect(diff_id);
        }
        let busy = || BeginLayer::Busy(BusyLayer { inner: Arc::clone(&self.inner), digest });
        let Some(claim) = Busy::claim(&self.inner, digest) else { return Ok(busy()) };
        // Looked up after the claim: whoever had it before is done, and what it brought is seen.
        let known = self.inner.lock().layer_by(request.diff_id.as_ref(), &digest)?;
        // Without its blob a layer can be used, but no image of it could be pushed or saved.
        if let Some(record) = known.filter(|record| self.has_blob(&record.blob)) {
            lease.protect(record.diff_id);
            lease.protect(record.blob);
            return Ok(BeginLayer::Present(record.info()));
        }
        let blob = BlobWriter::open(claim, digest, request.descriptor.size)?;
        let protected = lease.share();
        Ok(BeginLayer::Ready(Box::new(LayerWriter { blob, request: request.clone(), protected })))
    }
}

/// An unpack in progress.
pub(crate) struct TemporaryLayer {
    pub(crate) path: PathBuf,
    pub(crate) root: RootDir,
}

fn unpack(
    inner: &Arc<Inner>,
    blob: BlobWriter,
    request: &LayerRequest,
    source: &mut dyn Read,
    temporary: &TemporaryLayer,
) -> Result<LayerRecord> {
    let digest = request.descriptor.digest;
    let reader = blob.read_from(source)?;
    let (diff_id, applied) = decode_and_apply(&reader, digest, &temporary.root, Form::Alone, inner)?;
    reader.drain()?;
    if let Some(expected) = request.diff_id.filter(|expected| *expected != diff_id) {
        reader.discard();
        return Err(crate::Error::WrongDiffId { blob: digest, expected, actual: diff_id });
    }
    reader.finish()?;
    let standing = match &applied {
        Applied { incomplete: Some(_), .. } => Standing::Incomplete,
        Applied { made_up_parents: true, .. } => Standing::MadeUpParents,
        _ => Standing::SelfContained,
    };
    Ok(LayerRecord { diff_id, blob: digest, size: applied.size, standing, opaque_root: applied.opaque_root })
}

/// The one pass. What is no use keeping, a broken layer or one that fills the disk, is not kept.
fn decode_and_apply(
    reader: &BlobReader<'_>,
    digest: Digest,
    root: &RootDir,
    form: Form,
    inner: &Inner,
) -> Result<(Digest, Applied)> {
    let mut decoded = decode::Decoded::new(reader, &inner.limits);
    let applied = apply::apply(&mut decoded, root, form, &inner.limits);
    let over_limit = decoded.take_error();
    let diff_id = decoded.finish();
    let error = match (applied, reader.take_failure(), over_limit) {
        (Ok(applied), _, _) => return Ok((diff_id, applied)),
        // The reader's own failure (source, disk, size) is the cause of what went wrong further down.
        (Err(_), Some(failure), _) => failure,
        (Err(_), None, Some(source)) => crate::Error::Layer { blob: digest, source },
        (Err(source @ LayerError::Tar(_)), None, None) => match reader.drain() {
            // The digest of the whole decides, so that nobody is told of a broken archive where the transfer was.
            Err(damage @ crate::Error::Verify(_)) => damage,
            _ => crate::Error::Layer { blob: digest, source },
        },
        (Err(source), None, None) => crate::Error::Layer { blob: digest, source },
    };
    if matches!(error, crate::Error::Layer { .. }) || error.is_disk_full() {
        reader.discard();
    }
    Err(error)
}

impl Inner {
    /// An empty directory for a layer, as the layer's root is unless it says otherwise.
    pub(crate) fn new_layer_directory(&self) -> Result<TemporaryLayer> {
        let path = self.layers.join(format!(".tmp-{}", crate::store::random_name()));
        crate::fault::point("create a layer's directory");
        fs::create_dir(&path, 0o755)?;
        let root = RootDir::open(&path)?;
        // The umask may have taken bits away.
        root.set_mode(".", 0o755)?;
        Ok(TemporaryLayer { path, root })
    }

    /// Unpacks `record`'s blob again, into a directory of its own that the caller removes or names.
    pub(crate) fn unpack_alone(self: &Arc<Self>, record: &LayerRecord) -> Result<PathBuf> {
        let temporary = self.new_layer_directory()?;
        let unpack = || {
            let reader = BlobReader::of_content(self.open_blob(&record.blob)?, record.blob);
            let (diff_id, _) = decode_and_apply(&reader, record.blob, &temporary.root, Form::Alone, self)?;
            reader.finish()?;
            if diff_id != record.diff_id {
                let (expected, actual) = (record.diff_id, diff_id);
                return Err(crate::Error::WrongDiffId { blob: record.blob, expected, actual });
            }
            Ok(())
        };
        match unpack() {
            Ok(()) => Ok(temporary.path),
            Err(error) => {
                self.discard(&temporary.path);
                Err(error)
            }
        }
    }

    /// Unpacks `record`'s blob again, over the layers below it, and stores the result as `key`. Returns its size.
    pub(crate) fn unpack_over_parents(
        self: &Arc<Self>,
        record: &LayerRecord,
        key: &str,
        parents: Vec<PathBuf>,
    ) -> Result<u64> {
        let upper = self.new_layer_directory()?;
        let work = self.new_layer_directory()?;
        let unpacked = self.unpack_merged(record, parents, &upper, &work);
        // Overlay leaves a directory of mode 000 in there.
        self.discard(&work.path);
        match unpacked {
            Ok(size) => {
                self.rename_layer(&upper.path, key)?;
                Ok(size)
            }
            Err(error) => {
                self.discard(&upper.path);
                Err(error)
            }
        }
    }

    fn unpack_merged(
        self: &Arc<Self>,
        record: &LayerRecord,
        parents: Vec<PathBuf>,
        upper: &TemporaryLayer,
        work: &TemporaryLayer,
    ) -> Result<u64> {
        self.inherit_root(&parents, upper)?;
        let mount = overlay(&OverlayOptions {
            lowers: parents,
            upper: Some(upper.path.clone()),
            work: Some(work.path.clone()),
            volatile: true,
            ..OverlayOptions::default()
        })
        .map_err(|source| crate::Error::Mount { image: record.diff_id, source })?;
        let merged = RootDir::from_fd(mount);
        let reader = BlobReader::of_content(self.open_blob(&record.blob)?, record.blob);
        let (diff_id, _) = decode_and_apply(&reader, record.blob, &merged, Form::Merged, self)?;
        reader.finish()?;
        if diff_id != record.diff_id {
            return Err(crate::Error::WrongDiffId {
                blob: record.blob,
                expected: record.diff_id,
                actual: diff_id,
            });
        }
        drop(merged);
        apply::tree_size(upper.root.as_directory())
            .map_err(|source| crate::Error::Layer { blob: record.blob, source })
    }

    /// The root of the stack is the topmost layer's: without an entry of its own it must look like the one below.
    fn inherit_root(&self, parents: &[PathBuf], upper: &TemporaryLayer) -> Result<()> {
        let Some(below) = parents.first() else { return Ok(()) };
        let below = RootDir::open(below)?.metadata("/")?;
        upper.root.set_owner("/", below.uid, below.gid)?;
        upper.root.set_mode("/", below.mode)?;
        Ok(())
    }
}

impl State {
    /// Gives an unpacked layer its name. From here on others find it, though only a commit records it.
    fn publish(&mut self, inner: &Inner, record: LayerRecord, temporary: &std::path::Path) -> Result<()> {
        if record.standing == Standing::Incomplete {
            inner.discard(temporary);
        } else {
            inner.rename_layer(temporary, &layer_key(&record.diff_id))?;
        }
        let known = self.pending.get(&record.diff_id).map(|known| known.standing);
        if known != Some(Standing::SelfContained) {
            self.pending.insert(record.diff_id, record);
        }
        Ok(())
    }
}

/// The name of a layer's directory.
pub(crate) fn layer_key(diff_id: &Digest) -> String {
    diff_id.hex()
}

/// The name of the directory of a layer that stands on particular parents.
pub(crate) fn chain_key(chain: &Digest) -> String {
    format!("chain-{}", chain.hex())
}

/// Why a layer can't be unpacked. Every variant names the entry or the limit.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive itself is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The disk or the kernel refused.
    #[error("cannot {action} {entry:?}")]
    Entry {
        /// In words.
        action: &'static str,
        /// The entry as written.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// A name that leads out.
    #[error("entry {entry:?} is outside of the layer")]
    Outside {
        /// The entry as written.
        entry: String,
    },
    /// A name that no file can have.
    #[error("entry {entry:?} has a NUL in its name")]
    Nul {
        /// The entry as written.
        entry: String,
    },
    /// Too many components.
    #[error("entry {entry:?} is more than {limit} directories deep")]
    Depth {
        /// The entry as written.
        entry: String,
        /// The limit.
        limit: usize,
    },
    /// The whiteout of nothing.
    #[error("whiteout {entry:?} names no file")]
    InvalidWhiteout {
        /// The entry as written.
        entry: String,
    },
    /// The layer would replace its own root.
    #[error("entry {entry:?} makes something else than a directory of the layer's root")]
    RootNotDirectory {
        /// The entry as written.
        entry: String,
    },
    /// A hard link out of the layer.
    #[error("hard link {entry:?} leads to {target:?}, which is outside of the layer")]
    HardLinkOutside {
        /// The entry as written.
        entry: String,
        /// Its target as written.
        target: String,
    },
    /// A hard link to what can't be linked.
    #[error("hard link {entry:?} leads to {target:?}, which is not there or no file")]
    HardLinkTarget {
        /// The entry as written.
        entry: String,
        /// Its target as written.
        target: String,
    },
    /// A directory is in the place of a file, or the other way round, and was to stay. Docker's words.
    #[error(
        "cannot overwrite {}directory {existing:?} with {}directory {target:?}",
        if *by_directory { "non-" } else { "" },
        if *by_directory { "" } else { "non-" }
    )]
    OtherKind {
        /// What is there.
        existing: String,
        /// Where the archive is unpacked.
        target: String,
        /// The archive has the directory.
        by_directory: bool,
    },
    /// Too many entries.
    #[error("the layer has more than {limit} entries")]
    Entries {
        /// The limit.
        limit: u64,
    },
    /// Too many directories to remember.
    #[error("the names of the layer's directories need more than {limit} bytes")]
    Directories {
        /// The limit.
        limit: usize,
    },
    /// Too many bytes.
    #[error("the layer unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A decompression bomb.
    #[error("the layer unpacks to more than {ratio} times its size: {unpacked} bytes from {compressed}")]
    Bomb {
        /// The limit.
        ratio: u64,
        /// Bytes so far.
        unpacked: u64,
        /// Bytes they came from.
        compressed: u64,
    },
}
