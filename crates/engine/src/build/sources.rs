//! The builder's `Sources`: contexts that come when they are needed, from the client or from elsewhere, and images.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use palan_builder::backend::{Snapshot, Sources, StepError, Stream};
use palan_builder::cancel::Cancel;
use palan_builder::content::KnownContent;
use palan_builder::graph::Remote;
use palan_context::Ignore;
use palan_linux::path::{FileKind, RootDir};
use palan_oci::{Digest, ImageConfig};
use palan_store::{Lease, Store};

use super::progress::{ProgressSink, Telling};
use super::remotes::Remotes;
use super::request::{BuildClient, ContextRequest, LentFiles};
use crate::{Error, Result};

/// The contexts of one build. Each is filled once, by whoever needs it first; others wait.
pub(super) struct Contexts<'a> {
    directory: PathBuf,
    client: Arc<dyn BuildClient>,
    cancel: Cancel,
    remotes: &'a Remotes<'a>,
    /// Those that don't come from the client.
    elsewhere: BTreeMap<String, Remote>,
    progress: Arc<dyn ProgressSink>,
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

impl<'a> Contexts<'a> {
    pub(super) fn new(
        directory: PathBuf,
        client: Arc<dyn BuildClient>,
        cancel: Cancel,
        remotes: &'a Remotes<'a>,
        elsewhere: BTreeMap<String, Remote>,
        progress: Arc<dyn ProgressSink>,
    ) -> Self {
        let (ignore, filled) = (Mutex::default(), Mutex::default());
        Self { directory, client, cancel, remotes, elsewhere, progress, ignore, filled }
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

    /// What is known of the content of a context's files.
    fn known_content(&self, name: &str) -> Option<Arc<dyn KnownContent>> {
        let place = self.filled.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)?;
        let known = place.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref()?.lent.as_ref()?.known_content()
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
        let (lent, identity) = match self.elsewhere.get(name) {
            Some(remote) => (None, Some(self.fetch(name, remote, &filling)?)),
            None => (self.client.context(&wanted, &filling, &self.cancel)?, None),
        };
        let mut here = match lent {
            None => Filled { root: filling, path, identity, lent: None },
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

    /// Fills a directory with what is elsewhere, and tells it. Its files are those of a layer in the cache.
    fn fetch(&self, name: &str, remote: &Remote, into: &RootDir) -> Result<Digest> {
        let telling = Telling::begin(&*self.progress, name, remote);
        let fetched = || -> Result<(Digest, bool), StepError> {
            let pinned = self.remotes.pin(remote, &self.cancel)?;
            let (files, was_here) = self
                .remotes
                .fetch(remote, pinned, &self.cancel, &|stream, bytes| telling.output(stream, bytes))?;
            self.remotes.copy(&files, into, &self.cancel)?;
            Ok((files.layers.first().copied().unwrap_or(pinned), was_here))
        };
        let fetched = fetched();
        telling.end(fetched.as_ref().map(|(_, was_here)| *was_here));
        match fetched {
            Ok((identity, _)) => Ok(identity),
            Err(error) => Err(Error::system(palan_stdx::error_chain::to_string(&error))),
        }
    }

    /// `.git` of a repository that is to be kept is not left out, whatever the ignore file says: it is for builds of a directory, too.
    fn keeps_git_dir(&self) -> bool {
        matches!(self.elsewhere.get(""), Some(Remote::Git { keep_git_dir: true, .. }))
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
                let is_git = entry.path.starts_with(".git") && self.keeps_git_dir();
                if !is_below && !is_git && !kept.contains(entry.path) {
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

/// The sources of one build.
pub(super) struct BuildSources<'a> {
    store: &'a Store,
    lease: &'a Lease,
    contexts: &'a Contexts<'a>,
    remotes: &'a Remotes<'a>,
    /// What images are, by their manifests.
    pub(super) images: BTreeMap<Digest, ImageConfig>,
}

impl<'a> BuildSources<'a> {
    pub(super) fn new(
        store: &'a Store,
        lease: &'a Lease,
        contexts: &'a Contexts<'a>,
        remotes: &'a Remotes<'a>,
    ) -> Self {
        Self { store, lease, contexts, remotes, images: BTreeMap::new() }
    }
}

impl Sources for BuildSources<'_> {
    fn context(&self, name: &str) -> Result<RootDir, StepError> {
        self.contexts.get(name)
    }

    fn identity(&self, name: &str) -> Result<Option<Digest>, StepError> {
        self.contexts.identity(name)
    }

    fn known_content(&self, name: &str) -> Result<Option<Arc<dyn KnownContent>>, StepError> {
        Ok(self.contexts.known_content(name))
    }

    fn pin(&self, remote: &Remote, cancel: &Cancel) -> Result<Digest, StepError> {
        self.remotes.pin(remote, cancel)
    }

    fn remote(
        &self,
        remote: &Remote,
        pinned: Digest,
        cancel: &Cancel,
        output: &dyn Fn(Stream, &[u8]),
    ) -> Result<Snapshot, StepError> {
        self.remotes.fetch(remote, pinned, cancel, output).map(|(files, _)| files)
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
