//! Files of inputs into a new layer: `COPY`, `ADD` of what is no archive, and new directories.
//!
//! A copy writes into one of two trees:
//!
//! - **The layer itself**, with a look at what it lies over: directories that are there already are copied up with what they are,
//!   and no overlay is mounted. Files are copied, and not linked to those of a context: a container would see how many names a file
//!   has, and cron passes over tables with more than one.
//! - **The merged tree** (an overlay over the same layer), where an archive is unpacked, which may replace anything.
//!
//! Rules of what meets what are BuildKit's: a directory over a directory adds to it, a file over a file or symlink replaces it,
//! anything else is an error. A directory that is made for a destination is a new one, also if the content of another goes there: it is
//! root's or the flag's, and the kernel's rule of set-group-id holds for it. Symlinks in the destination itself are followed, inside of
//! the root; one within what is copied is never a way.
//!
//! The files of a directory are copied by several threads ([`Writers`]): one walks, looks and makes directories, the others make and fill
//! files. All of it is the kernel's work, which it does for different files at once; for those of one directory it does not, so a thread
//! gets what is in one together.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use palan_builder::backend::StepError;
use palan_builder::cancel::Cancel;
use palan_builder::content::{ContentError, kept_attributes};
use palan_builder::mode::Mode;
use palan_builder::placement::Placed;
use palan_context::{Entry, Ignore, WalkError, walk};
use palan_linux::path::{Directory, FileKind, Metadata, PathError, RootDir, Time};
use palan_linux::xattr;
use palan_store::Recent;

mod writers;

use self::writers::{Batch, Writers, write_file};

/// Symlinks that are followed on the way to a destination.
const MAX_LINKS: usize = 40;

/// What is done with what is copied.
#[derive(Debug, Clone, Default)]
pub(super) struct Looks {
    /// Who owns it; none: whoever owns the source.
    pub(super) owner: Option<(u32, u32)>,
    /// `--chown`: who owns directories that are made for it.
    pub(super) chown: Option<(u32, u32)>,
    /// `--chmod`.
    pub(super) mode: Option<Mode>,
}

impl Looks {
    /// What its destinations get.
    fn destinations(&self) -> NewDirectories {
        // As with BuildKit, an octal mode is also that of what is made on the way, and a symbolic one isn't.
        let mode = match self.mode {
            Some(Mode::Octal(mode)) => mode & 0o777,
            _ => 0o755,
        };
        NewDirectories { owner: self.chown, mode }
    }
}

/// What directories get that are made on the way to a destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewDirectories {
    /// None: root; below a directory with set-group-id, its group.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: u32,
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("cannot copy to non-directory: {}", .0.display())]
    NotADirectory(PathBuf),
    #[error("cannot replace to directory {} with file", .0.display())]
    Directory(PathBuf),
    #[error("{} leads through too many symlinks", .0.display())]
    Links(PathBuf),
    #[error("{} can't be part of an image: in a layer, a name that begins with .wh. removes another; rename it", .0.display())]
    Name(PathBuf),
    #[error("{} can't be part of an image: in a layer, a device 0:0 removes another file", .0.display())]
    Device(PathBuf),
    #[error("cannot copy {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("the build was cancelled")]
    Cancelled,
}

impl From<CopyError> for StepError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Cancelled => Self::Cancelled,
            other => Self::other(other),
        }
    }
}

/// Copies into one tree.
pub(super) struct Copier<'a> {
    /// What the layer lies over; none: what is there is in the target.
    base: Option<&'a RootDir>,
    target: &'a RootDir,
    cancel: &'a Cancel,
    /// Where small files are kept for whoever packs the target, if nobody else writes to it.
    recent: Option<&'a Recent>,
    /// Directories of the target that are there, and whether the base has them, too. Without symlinks on the way.
    known: HashMap<PathBuf, bool>,
    /// Times that directories get at the end, when nothing is made in them any more.
    times: Vec<(PathBuf, Time, Time)>,
    /// The directory in which something was made last: mostly, the next thing is made there, too.
    last: Option<(PathBuf, Arc<Directory>)>,
    /// Files of the directory that is copied which have several names, and where the first one went.
    names: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(base: Option<&'a RootDir>, target: &'a RootDir, cancel: &'a Cancel) -> Self {
        let known = HashMap::from([(PathBuf::new(), true)]);
        Self {
            base,
            target,
            cancel,
            recent: None,
            known,
            times: Vec::new(),
            last: None,
            names: HashMap::new(),
        }
    }

    /// Keeps small files there, which is of the layer that is the target.
    pub(super) fn set_recent(&mut self, recent: &'a Recent) {
        self.recent = Some(recent);
    }

    /// A directory of the target that is there.
    fn handle(&mut self, path: &Path) -> Result<Arc<Directory>, CopyError> {
        if let Some((open, handle)) = &self.last
            && open == path
        {
            return Ok(Arc::clone(handle));
        }
        let handle = Arc::new(self.target.open_dir(dot(path))?);
        self.last = Some((path.to_owned(), Arc::clone(&handle)));
        Ok(handle)
    }

    /// Where a path leads, with every symlink followed, relative to the root. What is not there is taken by its letters.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, CopyError> {
        let mut resolved = PathBuf::new();
        let mut left: Vec<PathBuf> = vec![path.to_owned()];
        let mut links = 0;
        while let Some(path) = left.pop() {
            let mut components = path.components();
            let Some(component) = components.next() else { continue };
            left.push(components.as_path().to_owned());
            match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    resolved.pop();
                }
                Component::Normal(name) => {
                    let next = resolved.join(name);
                    if self.look(&next)?.is_some_and(|found| found.kind == FileKind::Symlink) {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(CopyError::Links(Path::new("/").join(next)));
                        }
                        let target = self.read_link(&next)?;
                        if target.is_absolute() {
                            resolved = PathBuf::new();
                        }
                        left.push(target);
                    } else {
                        resolved = next;
                    }
                }
            }
        }
        Ok(resolved)
    }

    /// What a path without symlinks on the way is: in the layer, or below it.
    pub(super) fn look(&self, path: &Path) -> Result<Option<Metadata>, CopyError> {
        if path.as_os_str().is_empty() {
            return Ok(Some(self.target.metadata(".")?));
        }
        match if_there(self.target.symlink_metadata(path))? {
            Some(found) => Ok(Some(found)),
            None => match self.base {
                Some(base) => if_there(base.symlink_metadata(path)),
                None => Ok(None),
            },
        }
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, CopyError> {
        match (self.target.read_link(path), self.base) {
            (Err(error), Some(base)) if error.kind() == io::ErrorKind::NotFound => Ok(base.read_link(path)?),
            (other, _) => Ok(other?),
        }
    }

    /// Makes a directory and what is missing above it; what is only below the layer is copied up. The path has no symlinks on the
    /// way. Whether it was made anew.
    pub(super) fn directory(&mut self, path: &Path, new: NewDirectories) -> Result<bool, CopyError> {
        let mut made = false;
        let mut here = PathBuf::new();
        let mut in_base = true;
        for name in path {
            let above = here.clone();
            here.push(name);
            if let Some(known) = self.known.get(&here) {
                in_base = *known;
                continue;
            }
            in_base = self.one_directory(&above, name, &here, in_base, new, &mut made)?;
            self.known.insert(here.clone(), in_base);
        }
        let _ = in_base;
        Ok(made)
    }

    fn one_directory(
        &mut self,
        above: &Path,
        name: &OsStr,
        here: &Path,
        above_is_in_base: bool,
        new: NewDirectories,
        made: &mut bool,
    ) -> Result<bool, CopyError> {
        let not_one = || CopyError::NotADirectory(Path::new("/").join(here));
        let below = match self.base.filter(|_| above_is_in_base) {
            Some(base) => if_there(base.symlink_metadata(here))?,
            None => None,
        };
        if let Some(found) = if_there(self.target.symlink_metadata(here))? {
            return if found.is_dir() {
                Ok(below.is_some_and(|below| below.is_dir()))
            } else {
                Err(not_one())
            };
        }
        check_name(name, here)?;
        let parent = self.target.open_dir(dot(above))?;
        parent.create_dir(name, 0o700).map_err(at(here))?;
        let directory = parent.open_dir(name).map_err(at(here))?;
        match (below, self.base) {
            (Some(below), _) if !below.is_dir() => Err(not_one()),
            (Some(below), Some(base)) => {
                let source = base.open_dir(here)?;
                palan_linux::copy::copy_directory_attributes(&source, &directory).map_err(at(here))?;
                self.times.push((here.to_owned(), below.accessed, below.modified));
                Ok(true)
            }
            _ => {
                let above = self.target.metadata(dot(above))?;
                let inherited = above.mode & 0o2000;
                let group = if inherited == 0 { 0 } else { above.gid };
                dress(&directory, new.owner.unwrap_or((0, group)), new.mode | inherited).map_err(at(here))?;
                *made = true;
                Ok(false)
            }
        }
    }

    /// Copies one source to its place. `to` is relative and has no symlinks on the way.
    pub(super) fn source(
        &mut self,
        from: &RootDir,
        placed: &Placed,
        to: &Path,
        exclude: &Ignore,
        looks: &Looks,
    ) -> Result<(), CopyError> {
        if placed.is_directory {
            let source = from.open_root(&placed.from)?;
            self.directory(to, looks.destinations())?;
            self.names.clear();
            return std::thread::scope(|scope| {
                let mut writers = Writers::new(scope, looks, self.cancel, self.recent);
                let walked = walk::<CopyError>(&source, exclude, &mut |entry| {
                    self.entry(entry, &to.join(entry.path), looks, &mut writers)
                });
                let written = writers.finish(walked.is_ok());
                walked.and(written)
            });
        }
        // A symlink that is named itself stands for what it leads to.
        let name = to.file_name().unwrap_or_default().to_owned();
        let parent = to.parent().unwrap_or(Path::new("")).to_owned();
        self.directory(&parent, looks.destinations())?;
        let metadata = from.metadata(&placed.from)?;
        match metadata.kind {
            FileKind::Regular => {
                check_name(&name, to)?;
                self.check_base(&parent, to)?;
                let source = from.open_file(&placed.from)?;
                let directory = self.handle(&parent)?;
                write_file(&source, &metadata, &directory, &name, looks, self.recent)
                    .map_err(|error| error.of(to))
            }
            _ => {
                self.make_way(&parent, &name, to)?;
                let (directory, last) = from.parent_of(&placed.from)?;
                self.other(&directory, &last, &metadata, &parent, &name, looks)
            }
        }
    }

    /// One entry of a directory that is copied.
    fn entry(
        &mut self,
        entry: &Entry<'_>,
        to: &Path,
        looks: &Looks,
        writers: &mut Writers<'_, '_>,
    ) -> Result<(), CopyError> {
        if self.cancel.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let (directory, own_name) = entry.place();
        let metadata = &entry.metadata;
        if metadata.is_dir() {
            self.directory(to, looks.destinations())?;
            let source = directory.open_dir(own_name).map_err(at(to))?;
            return self.dress_directory(&source, metadata, to, looks);
        }
        let name = to.file_name().unwrap_or_default();
        let parent = to.parent().unwrap_or(Path::new(""));
        if !self.known.contains_key(parent) {
            self.directory(parent, looks.destinations())?;
        }
        if metadata.kind != FileKind::Regular {
            self.make_way(parent, name, to)?;
            return self.other(directory, own_name, metadata, parent, name, looks);
        }
        check_name(name, to)?;
        self.check_base(parent, to)?;
        if metadata.links > 1 {
            let identity = (metadata.device, metadata.inode);
            if let Some(other) = self.names.get(&identity) {
                self.make_way(parent, name, to)?;
                return Ok(self.target.create_hard_link(other, to)?);
            }
            // Its next name needs it to be there.
            self.names.insert(identity, to.to_owned());
            let (source, target) = (entry.open()?, self.handle(parent)?);
            return write_file(&source, metadata, &target, name, looks, self.recent)
                .map_err(|error| error.of(to));
        }
        if !writers.is_at(parent) {
            let target = self.handle(parent)?;
            writers.enter(Batch {
                source: Arc::new(directory.try_clone().map_err(at(parent))?),
                source_path: entry.path.parent().map(Path::to_owned).unwrap_or_default(),
                target,
                path: parent.to_owned(),
                files: Vec::new(),
                bytes: 0,
            })?;
        }
        writers.take(name, metadata)
    }

    /// Takes what a file is to replace out of its way, or refuses.
    fn make_way(&self, parent: &Path, name: &OsStr, to: &Path) -> Result<(), CopyError> {
        check_name(name, to)?;
        let is_directory = || CopyError::Directory(Path::new("/").join(to));
        match if_there(self.target.symlink_metadata(to))? {
            Some(found) if found.is_dir() => return Err(is_directory()),
            Some(_) => {
                self.recent.iter().for_each(|recent| recent.close());
                self.target.open_dir(dot(parent))?.remove_file(name).map_err(at(to))?;
            }
            None => {}
        }
        self.check_base(parent, to)
    }

    /// Refuses to put a file where the base has a directory.
    fn check_base(&self, parent: &Path, to: &Path) -> Result<(), CopyError> {
        match self.base.filter(|_| self.known.get(parent).is_none_or(|in_base| *in_base)) {
            Some(base) if if_there(base.symlink_metadata(to))?.is_some_and(|found| found.is_dir()) => {
                Err(CopyError::Directory(Path::new("/").join(to)))
            }
            _ => Ok(()),
        }
    }

    /// A symlink, fifo or device.
    fn other(
        &self,
        source: &Directory,
        source_name: &OsStr,
        metadata: &Metadata,
        parent: &Path,
        name: &OsStr,
        looks: &Looks,
    ) -> Result<(), CopyError> {
        let path = parent.join(name);
        if metadata.is_whiteout() {
            return Err(CopyError::Device(Path::new("/").join(path)));
        }
        let copy = || -> io::Result<()> {
            let target = self.target.open_dir(dot(parent))?;
            if metadata.kind == FileKind::Symlink {
                target.create_symlink(name, source.read_link(source_name)?.as_os_str())?;
            } else {
                target.create_node(name, metadata.kind, 0o600, metadata.node)?;
            }
            let (uid, gid) = looks.owner.unwrap_or((metadata.uid, metadata.gid));
            target.set_owner(name, uid, gid)?;
            if metadata.kind != FileKind::Symlink {
                let mode = looks.mode.as_ref().map_or(metadata.mode, |mode| mode.apply(metadata.mode, false));
                target.set_mode(name, mode)?;
            }
            target.set_times(name, metadata.accessed, metadata.modified)
        };
        copy().map_err(at(&path))
    }

    /// Gives a directory of the target what it is in the source.
    fn dress_directory(
        &mut self,
        source: &Directory,
        metadata: &Metadata,
        to: &Path,
        looks: &Looks,
    ) -> Result<(), CopyError> {
        let target = self.target.open_dir(dot(to))?;
        let give = || -> io::Result<()> {
            let (uid, gid) = looks.owner.unwrap_or((metadata.uid, metadata.gid));
            own(&target, uid, gid)?;
            for (attribute, value) in kept_attributes(source)? {
                let Some(attribute) = attribute.to_str() else { continue };
                tolerate(xattr::set(&target, attribute, &value))?;
            }
            let mode = looks.mode.as_ref().map_or(metadata.mode, |mode| mode.apply(metadata.mode, true));
            Ok(rustix::fs::fchmod(&target, rustix::fs::Mode::from_raw_mode(mode))?)
        };
        give().map_err(at(to))?;
        self.times.push((to.to_owned(), metadata.accessed, metadata.modified));
        Ok(())
    }

    /// A directory above what is copied with `--parents`, with what it is in the source if it is new.
    pub(super) fn parent(
        &mut self,
        from: &RootDir,
        source: &Path,
        to: &Path,
        looks: &Looks,
    ) -> Result<(), CopyError> {
        if self.directory(to, looks.destinations())? {
            let source = from.open_root(source)?;
            let metadata = source.metadata(".")?;
            self.dress_directory(source.as_directory(), &metadata, to, looks)?;
        }
        Ok(())
    }

    /// A file with this content.
    pub(super) fn inline(&mut self, to: &Path, content: &[u8], looks: &Looks) -> Result<(), CopyError> {
        let name = to.file_name().unwrap_or_default().to_owned();
        let parent = to.parent().unwrap_or(Path::new("")).to_owned();
        let owner = looks.owner.unwrap_or((0, 0));
        self.directory(&parent, looks.destinations())?;
        self.make_way(&parent, &name, to)?;
        let write = || -> io::Result<()> {
            let mut target = self.target.open_dir(dot(&parent))?.create_file(&name, 0o600)?;
            io::Write::write_all(&mut target, content)?;
            own(&target, owner.0, owner.1)?;
            let mode = looks.mode.as_ref().map_or(0o644, |mode| mode.apply(0o644, false));
            Ok(rustix::fs::fchmod(&target, rustix::fs::Mode::from_raw_mode(mode))?)
        };
        write().map_err(at(to))
    }

    /// Sets the times that only last when nothing is made any more.
    pub(super) fn finish(self) -> Result<(), CopyError> {
        for (path, accessed, modified) in self.times.iter().rev() {
            let directory = self.target.open_dir(dot(path))?;
            rustix::fs::futimens(&directory, &times(*accessed, *modified))
                .map_err(|errno| at(path)(errno.into()))?;
        }
        Ok(())
    }
}

fn dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CopyError + '_ {
    move |source| CopyError::Io { path: Path::new("/").join(path), source }
}

fn check_name(name: &OsStr, path: &Path) -> Result<(), CopyError> {
    match name.as_bytes().starts_with(b".wh.") {
        true => Err(CopyError::Name(Path::new("/").join(path))),
        false => Ok(()),
    }
}

fn if_there(found: Result<Metadata, PathError>) -> Result<Option<Metadata>, CopyError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn dress(directory: &Directory, (uid, gid): (u32, u32), mode: u32) -> io::Result<()> {
    own(directory, uid, gid)?;
    Ok(rustix::fs::fchmod(directory, rustix::fs::Mode::from_raw_mode(mode))?)
}

fn own(file: impl std::os::fd::AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
}

fn times(accessed: Time, modified: Time) -> rustix::fs::Timestamps {
    let time = |time: Time| rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    rustix::fs::Timestamps { last_access: time(accessed), last_modification: time(modified) }
}

/// A file system without this kind of attribute.
fn tolerate(set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::OPNOTSUPP) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
