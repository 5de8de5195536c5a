//! Making files of a layer, by several threads: one walks and hands over what is in one directory together.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Scope, ScopedJoinHandle};

use palan_builder::cancel::Cancel;
use palan_builder::content::kept_attributes;
use palan_context::WalkError;
use palan_linux::copy::{copy_content, copy_small};
use palan_linux::path::{Directory, Metadata};
use palan_linux::xattr;
use palan_store::Recent;

use super::{CopyError, Looks, at, own, times, tolerate};

/// Why a file was not made, whose path its caller knows.
pub(super) enum FileError {
    /// A directory is in its way.
    Directory,
    Io(io::Error),
}

impl FileError {
    pub(super) fn of(self, path: &Path) -> CopyError {
        match self {
            Self::Directory => CopyError::Directory(Path::new("/").join(path)),
            Self::Io(source) => at(path)(source),
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Makes a file of what another one is, in the place of one that is there.
pub(super) fn write_file(
    source: &File,
    metadata: &Metadata,
    directory: &Directory,
    name: &OsStr,
    looks: &Looks,
    recent: Option<&Recent>,
) -> Result<(), FileError> {
    let mode = looks.mode.as_ref().map_or(metadata.mode, |mode| mode.apply(metadata.mode, false));
    // Mostly, that's it: what is set later costs about a tenth of the copy. Nobody else gets to a layer in progress.
    let create = || directory.create_file(name, mode & 0o777);
    let target = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = directory.metadata_if_exists(name)?;
            if found.is_some_and(|found| found.is_dir()) {
                return Err(FileError::Directory);
            }
            recent.iter().for_each(|recent| recent.close());
            directory.remove_file(name)?;
            create()?
        }
        other => other?,
    };
    let content = copy_small(source, &target, metadata)?;
    if content.is_none() {
        copy_content(source, &target, metadata)?;
    }
    let made = Metadata::of(&target)?;
    let owner = looks.owner.unwrap_or((metadata.uid, metadata.gid));
    if (made.uid, made.gid) != owner {
        own(&target, owner.0, owner.1)?;
    }
    let attributes = kept_attributes(source)?;
    for (attribute, value) in &attributes {
        let Some(attribute) = attribute.to_str() else { continue };
        tolerate(xattr::set(&target, attribute, value))?;
    }
    // An access control list is an attribute that sets the mode, too.
    if made.mode != mode || !attributes.is_empty() {
        rustix::fs::fchmod(&target, rustix::fs::Mode::from_raw_mode(mode)).map_err(io::Error::from)?;
    }
    rustix::fs::futimens(&target, &times(metadata.accessed, metadata.modified)).map_err(io::Error::from)?;
    // Attributes may come from those of the directory, too.
    if let (Some(recent), Some(content)) = (recent, content)
        && metadata.links == 1
        && xattr::list(&target)?.is_empty()
    {
        recent.keep(Metadata::of(&target)?, content);
    }
    Ok(())
}

/// Files of one directory that are to be made.
pub(super) struct Batch {
    pub(super) source: Arc<Directory>,
    /// Relative to what is copied.
    pub(super) source_path: PathBuf,
    pub(super) target: Arc<Directory>,
    /// Relative to the root.
    pub(super) path: PathBuf,
    pub(super) files: Vec<(OsString, Metadata)>,
    pub(super) bytes: u64,
}

impl Batch {
    const MOST_FILES: usize = 128;
    const MOST_BYTES: u64 = 4 << 20;

    fn write(&self, looks: &Looks, cancel: &Cancel, recent: Option<&Recent>) -> Result<(), CopyError> {
        for (name, metadata) in &self.files {
            if cancel.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let unreadable = |source| WalkError::Read { path: self.source_path.join(name), source };
            let source = self.source.open_file(name).map_err(unreadable)?;
            write_file(&source, metadata, &self.target, name, looks, recent)
                .map_err(|error| error.of(&self.path.join(name)))?;
        }
        Ok(())
    }

    /// Takes all files out, into one of their own.
    fn split(&mut self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            source_path: self.source_path.clone(),
            target: Arc::clone(&self.target),
            path: self.path.clone(),
            files: std::mem::take(&mut self.files),
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    fn is_full(&self) -> bool {
        self.files.len() >= Self::MOST_FILES || self.bytes >= Self::MOST_BYTES
    }
}

/// The threads that make files.
pub(super) struct Writers<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    looks: &'env Looks,
    cancel: &'env Cancel,
    recent: Option<&'env Recent>,
    /// What is not given to anybody yet.
    batch: Option<Batch>,
    /// How many files were given.
    count: usize,
    /// None before there are enough files for it.
    queue: Option<mpsc::SyncSender<Batch>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    failure: Arc<Mutex<Option<CopyError>>>,
}

impl<'scope, 'env: 'scope> Writers<'scope, 'env> {
    /// So many files are not worth a thread.
    const FEW: usize = 32;
    const MOST_THREADS: usize = 4;
    /// Each has two open directories.
    const QUEUE: usize = 8;

    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        looks: &'env Looks,
        cancel: &'env Cancel,
        recent: Option<&'env Recent>,
    ) -> Self {
        Self {
            scope,
            looks,
            cancel,
            recent,
            batch: None,
            count: 0,
            queue: None,
            threads: Vec::new(),
            failure: Arc::default(),
        }
    }

    /// Whether what is taken next goes there.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.path == path)
    }

    /// What is taken next goes from one directory to another: into this batch, which is empty.
    pub(super) fn enter(&mut self, batch: Batch) -> Result<(), CopyError> {
        match self.batch.replace(batch) {
            Some(before) => self.give(before),
            None => Ok(()),
        }
    }

    /// Has a file made, now or soon. An error may be that of one before.
    pub(super) fn take(&mut self, name: &OsStr, metadata: &Metadata) -> Result<(), CopyError> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        batch.bytes += metadata.size;
        batch.files.push((name.to_owned(), metadata.clone()));
        match batch.is_full() {
            true => {
                let full = batch.split();
                self.give(full)
            }
            false => Ok(()),
        }
    }

    fn give(&mut self, batch: Batch) -> Result<(), CopyError> {
        self.count += batch.files.len();
        if self.count <= Self::FEW && self.queue.is_none() {
            return batch.write(self.looks, self.cancel, self.recent);
        }
        let queue = match &self.queue {
            Some(queue) => queue,
            None => {
                let queue = self.start().map_err(at(&batch.path))?;
                &*self.queue.insert(queue)
            }
        };
        match queue.send(batch) {
            Ok(()) => Ok(()),
            // They have all ended, which they do for a failure.
            Err(_) => Err(self.failure().unwrap_or(CopyError::Cancelled)),
        }
    }

    fn start(&mut self) -> io::Result<mpsc::SyncSender<Batch>> {
        let (queue, batches) = mpsc::sync_channel::<Batch>(Self::QUEUE);
        let batches = Arc::new(Mutex::new(batches));
        // One more than there are processors: each waits for the disk now and then, where new inodes lie in blocks that are not in memory.
        let threads = std::thread::available_parallelism().map_or(1, usize::from) + 1;
        let threads = threads.min(Self::MOST_THREADS);
        for _ in 0..threads {
            let (batches, failure) = (Arc::clone(&batches), Arc::clone(&self.failure));
            let (looks, cancel, recent) = (self.looks, self.cancel, self.recent);
            let work = move || {
                loop {
                    let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(batch) = next else { return };
                    if failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                        return;
                    }
                    if let Err(error) = batch.write(looks, cancel, recent) {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("build-copy".into());
            match thread.spawn_scoped(self.scope, work) {
                Err(error) if self.threads.is_empty() => return Err(error),
                // Then it is done with those that there are.
                Err(_) => break,
                Ok(thread) => self.threads.push(thread),
            }
        }
        Ok(queue)
    }

    /// Waits until all files are there, or, if there is no use in it any more, until no more are made.
    pub(super) fn finish(mut self, is_wanted: bool) -> Result<(), CopyError> {
        if !is_wanted {
            self.batch = None;
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(CopyError::Cancelled);
        }
        let last = self.batch.take().map_or(Ok(()), |batch| self.give(batch));
        self.queue = None;
        for thread in std::mem::take(&mut self.threads) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.failure().map_or(last, Err)
    }

    fn failure(&self) -> Option<CopyError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
