//! The builder's `Sources`: contexts that come from the client when they are needed, images, downloads.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use palan_builder::backend::{Snapshot, Sources, StepError};
use palan_builder::cancel::Cancel;
use palan_builder::graph::Remote;
use palan_context::{Ignore, remote::redacted};
use palan_linux::path::{FileKind, RootDir, Time};
use palan_oci::digest::Hasher;
use palan_oci::{Digest, ImageConfig};
use palan_store::{Lease, Store};
use tokio::runtime::Handle;

use super::request::{BuildClient, ContextRequest, LentFiles};
use crate::engine::Engine;
use crate::image::registry_error;
use crate::{Error, Result};

/// The contexts of one build. Each is filled once, by whoever needs it first; others wait.
pub(super) struct Contexts {
    directory: PathBuf,
    client: Arc<dyn BuildClient>,
    cancel: Cancel,
    ignore: Mutex<Ignore>,
    filled: Mutex<HashMap<String, Arc<Mutex<Option<Filled>>>>>,
}

/// A context that is here.
struct Filled {
    root: RootDir,
    path: PathBuf,
    identity: Option<Digest>,
    /// Held while the build lasts.
    lent: Option<Box<dyn LentFiles>>,
}

impl Contexts {
    pub(super) fn new(directory: PathBuf, client: Arc<dyn BuildClient>, cancel: Cancel) -> Self {
        Self { directory, client, cancel, ignore: Mutex::default(), filled: Mutex::default() }
    }

    /// What is left out of the main context, from now on and of what is here already.
    pub(super) fn set_ignore(&self, bytes: &[u8]) -> Result<()> {
        let ignore = Ignore::parse(bytes)
            .map_err(|source| Error::invalid("the ignore file can't be read").with_source(source))?;
        *self.ignore.lock().unwrap_or_else(PoisonError::into_inner) = ignore;
        let known = self.filled.lock().unwrap_or_else(PoisonError::into_inner).get("").map(Arc::clone);
        if let Some(known) = known
            && let Some(known) = &mut *known.lock().unwrap_or_else(PoisonError::into_inner)
        {
            self.remove_ignored(known)?;
            settle(&known.root)?;
        }
        Ok(())
    }

    /// What changes with the files of a context, if anything is known to.
    fn identity(&self, name: &str) -> Result<Option<Digest>, StepError> {
        self.get(name)?;
        let place = self.filled.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone);
        Ok(place.and_then(|place| {
            place.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|known| known.identity)
        }))
    }

    /// The files of a context.
    pub(super) fn get(&self, name: &str) -> Result<RootDir, StepError> {
        self.open(name).map_err(StepError::other)
    }

    pub(super) fn open(&self, name: &str) -> Result<RootDir> {
        let place = {
            let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(filled.entry(name.to_owned()).or_default())
        };
        let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| Error::system("cannot keep the build's context").with_source(source);
        if let Some(known) = &*known {
            return known.root.try_clone().map_err(failed);
        }
        let number = self.filled.lock().unwrap_or_else(PoisonError::into_inner).len();
        let path = self.directory.join(format!("context-{number}"));
        palan_stdx::fs::create_dir(&path, 0o700)
            .map_err(|source| Error::system("cannot keep the build's context").with_source(source))?;
        let filling = RootDir::open(&path).map_err(failed)?;
        let ignore = self.ignore.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let none = Ignore::default();
        let wanted = ContextRequest { name, ignore: if name.is_empty() { &ignore } else { &none } };
        let lent = self.client.context(&wanted, &filling, &self.cancel)?;
        let mut here = match lent {
            None => Filled { root: filling, path, identity: None, lent: None },
            Some(lent) => Filled {
                root: RootDir::open(lent.path()).map_err(failed)?,
                path: lent.path().to_owned(),
                identity: Some(lent.identity()),
                lent: Some(lent),
            },
        };
        if name.is_empty() {
            self.remove_ignored(&mut here)?;
        }
        settle(&here.root)?;
        let copy = here.root.try_clone().map_err(failed)?;
        *known = Some(here);
        Ok(copy)
    }

    /// Where a context is that was asked for before.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf, StepError> {
        let place = self.filled.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone);
        let path = place.and_then(|place| {
            place.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|known| known.path.clone())
        });
        path.ok_or_else(|| StepError::other(format!("the context {name:?} is not here")))
    }

    fn remove_ignored(&self, files: &mut Filled) -> Result<()> {
        let ignore = self.ignore.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if ignore.is_empty() {
            return Ok(());
        }
        let root = &files.root;
        let failed = |source: palan_linux::path::PathError| {
            Error::system("cannot leave files out of the build's context").with_source(source)
        };
        // What the walk does not visit is left out.
        let mut kept: std::collections::HashSet<PathBuf> = std::collections::HashSet::new();
        let visited = palan_context::walk::<palan_context::WalkError>(root, &ignore, &mut |entry| {
            kept.insert(entry.path.to_owned());
            Ok(())
        });
        visited.map_err(|source| Error::invalid("the build's context can't be read").with_source(source))?;
        let mut gone = Vec::new();
        let visited =
            palan_context::walk::<palan_context::WalkError>(root, &Ignore::default(), &mut |entry| {
                let is_below = gone.last().is_some_and(|last: &PathBuf| entry.path.starts_with(last));
                if !is_below && !kept.contains(entry.path) {
                    gone.push(entry.path.to_owned());
                }
                Ok(())
            });
        visited.map_err(|source| Error::invalid("the build's context can't be read").with_source(source))?;
        if !gone.is_empty() {
            files.identity = None;
            files.lent.iter().for_each(|lent| lent.altered());
        }
        gone.iter().try_for_each(|path| root.remove_all(path)).map_err(failed)
    }
}

/// Makes the directory of a context what everybody may read, and what says nothing of when it came: a copy of it has its looks, and a
/// mount of it may be used by any user. That nobody else gets there, the directory above sees to.
fn settle(root: &RootDir) -> Result<()> {
    let failed =
        |source: std::io::Error| Error::system("cannot keep the build's context").with_source(source);
    root.set_mode("/", 0o755).map_err(|error| failed(error.into()))?;
    let fixed = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
    // By the last access front doors see which directories that they lent were used last.
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: fixed };
    rustix::fs::futimens(root.as_directory(), &times).map_err(|errno| failed(errno.into()))
}

/// A file that was downloaded for this build.
#[derive(Debug, Clone)]
struct Downloaded {
    path: PathBuf,
    digest: Digest,
    modified: Time,
}

/// The sources of one build.
pub(super) struct BuildSources<'a> {
    pub(super) engine: &'a Engine,
    pub(super) store: &'a Store,
    pub(super) lease: &'a Lease,
    pub(super) contexts: &'a Contexts,
    pub(super) runtime: Handle,
    /// What images are, by their manifests.
    pub(super) images: BTreeMap<Digest, ImageConfig>,
    downloads: Mutex<HashMap<String, Downloaded>>,
    directory: PathBuf,
}

impl<'a> BuildSources<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        lease: &'a Lease,
        contexts: &'a Contexts,
        runtime: Handle,
        directory: PathBuf,
    ) -> Self {
        Self {
            engine,
            store: &engine.store,
            lease,
            contexts,
            runtime,
            images: BTreeMap::new(),
            downloads: Mutex::default(),
            directory,
        }
    }

    /// Downloads a file, once for the build.
    fn download(&self, url: &str, cancel: &Cancel) -> Result<Downloaded, StepError> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = downloads.get(url) {
            return Ok(known.clone());
        }
        self.contexts.client.allow(url).map_err(StepError::other)?;
        let path = self.directory.join(format!("download-{}", downloads.len()));
        let downloaded = self.runtime.block_on(self.fetch(url, path, cancel))?;
        downloads.insert(url.to_owned(), downloaded.clone());
        Ok(downloaded)
    }

    async fn fetch(&self, url: &str, path: PathBuf, cancel: &Cancel) -> Result<Downloaded, StepError> {
        let failed = |error| StepError::other(registry_error(error).report());
        let mut download = self.engine.registry.download(url).await.map_err(failed)?;
        let modified = download.modified().and_then(http_date).unwrap_or_default();
        let mut file = palan_stdx::fs::create_new(&path, 0o600).map_err(StepError::other)?;
        let mut hasher = Hasher::new();
        while let Some(piece) = download.next().await.map_err(failed)? {
            if cancel.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            hasher.update(&piece);
            file.write_all(&piece).map_err(StepError::other)?;
        }
        Ok(Downloaded { path, digest: hasher.finish(), modified })
    }
}

/// A date as HTTP has it; nothing where it can't be read.
fn http_date(text: &str) -> Option<Time> {
    let parsed = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Time { seconds: parsed.timestamp().as_second(), nanoseconds: 0 })
}

fn no_git(remote: &str) -> StepError {
    StepError::other(format!(
        "ADD of a git repository is not supported: {}; clone it in a RUN step, or bring it with the build context",
        redacted(remote)
    ))
}

impl Sources for BuildSources<'_> {
    fn context(&self, name: &str) -> Result<RootDir, StepError> {
        self.contexts.get(name)
    }

    fn identity(&self, name: &str) -> Result<Option<Digest>, StepError> {
        self.contexts.identity(name)
    }

    fn pin(&self, remote: &Remote, cancel: &Cancel) -> Result<Digest, StepError> {
        match remote {
            Remote::Git { remote, .. } => Err(no_git(remote)),
            Remote::Http { url, checksum, .. } => {
                let found = self.download(url, cancel)?;
                match checksum {
                    Some(wanted) if *wanted != found.digest => Err(StepError::other(format!(
                        "digest mismatch {} (expected: {wanted}) of {}",
                        found.digest,
                        redacted(url)
                    ))),
                    _ => Ok(found.digest),
                }
            }
        }
    }

    fn remote(&self, remote: &Remote, pinned: Digest, cancel: &Cancel) -> Result<Snapshot, StepError> {
        let Remote::Http { url, name, .. } = remote else {
            let Remote::Git { remote, .. } = remote else { return Err(no_git("")) };
            return Err(no_git(remote));
        };
        let found = self.download(url, cancel)?;
        if found.digest != pinned {
            return Err(StepError::other(format!("{} has changed during the build", redacted(url))));
        }
        let layer = self.store.new_layer().map_err(StepError::other)?;
        let mut source = palan_stdx::fs::open(&found.path).map_err(StepError::other)?;
        let target = layer.root().create_file(name, 0o600).map_err(StepError::other)?;
        std::io::copy(&mut source, &mut &target).map_err(StepError::other)?;
        drop(target);
        layer.root().set_mode(name, 0o600).map_err(StepError::other)?;
        layer.root().set_times(name, found.modified, found.modified).map_err(StepError::other)?;
        let made = self.store.keep_layer(layer, None, self.lease).map_err(StepError::other)?;
        Ok(Snapshot { layers: vec![made.diff_id] })
    }

    fn image(&self, name: &str, manifest: Digest, _cancel: &Cancel) -> Result<Snapshot, StepError> {
        let config = self.images.get(&manifest);
        let config = config.ok_or_else(|| StepError::other(format!("image {name} is not known")))?;
        let snapshot = Snapshot { layers: config.rootfs.diff_ids.clone() };
        match self.store.layer_dirs(&snapshot.layers, self.lease) {
            Ok(Some(_)) => Ok(snapshot),
            Ok(None) => Err(StepError::other(format!("a layer of image {name} is gone; pull it again"))),
            Err(error) => Err(StepError::other(error)),
        }
    }
}

/// Reads a file of a context, if it is there; symlinks are followed inside of it.
pub(super) fn read_file(root: &RootDir, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let is_missing = |error: &palan_linux::path::PathError| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
    };
    let cannot =
        |source| Error::invalid(format!("cannot read {path} of the build context")).with_source(source);
    match root.metadata(path) {
        Ok(metadata) if metadata.kind == FileKind::Regular => {}
        Ok(_) => return Err(Error::invalid(format!("{path} of the build context is not a regular file"))),
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(cannot(error)),
    }
    root.read(path, limit).map(Some).map_err(cannot)
}
