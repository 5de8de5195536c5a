//! Files and directories as a tar.
//!
//! Names come in order and nothing of the host is written, so the same tree gives the same bytes. Times are exact (Docker
//! cuts them to seconds), holes stay holes, hard links stay links, all attributes are kept but those that belong to the
//! host: overlay's own and the labels of its security modules. Sockets are left out, as in Docker: they have no content and
//! nobody listens.
//!
//! Somebody may rename and link while this works: a path is resolved once, every name below it is reached by a handle on its
//! directory and never through a symlink, and what changes its kind meanwhile is left out.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::sync::Arc;

use palan_linux::mount::is_kernel_file_system;
use palan_linux::path::{DirEntry, Directory, FileKind, Metadata, PathError, RootDir, Time};
use palan_linux::xattr;
use rustix::fs::SeekFrom as Seek;
use rustix::io::Errno;

use crate::write::{ContentWatch, Writer};
use crate::{Entry, Kind, Segment, lossy};

mod ahead;
mod recent;

pub use recent::Recent;

/// Directories within directories, as many as a layer may have.
pub const MAX_DEPTH: usize = 1024;
/// More pieces than this are written as one, holes and all: the map would be longer than what it saves.
const MAX_SEGMENTS: usize = 4096;

/// Why a tree can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file or directory of it.
    #[error("cannot {action} {path:?}")]
    Read {
        /// In words.
        action: &'static str,
        /// Below the root.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Deeper than any layer may be.
    #[error("{path:?} is nested deeper than {MAX_DEPTH} directories, which no image can hold")]
    Depth {
        /// Where.
        path: String,
    },
    /// A file that in a layer would be the removal of another.
    #[error(
        "{path:?} can't be part of an image: in a layer, a name that begins with .wh. removes another; rename it"
    )]
    Name {
        /// Which.
        path: String,
    },
    /// Whoever takes the archive.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// What a path names: a directory, opened, or an entry of one.
#[derive(Debug)]
pub struct Picked {
    /// What it is.
    pub metadata: Metadata,
    what: What,
}

#[derive(Debug)]
enum What {
    Directory(Directory),
    Entry(Directory, OsString),
}

impl Picked {
    /// Finds what `path` names. Symlinks on the way are followed inside the root, a last one is not, unless the path
    /// `asserts_directory` (it ends in a slash), as in the kernel.
    pub fn find(root: &RootDir, path: &Path, asserts_directory: bool) -> Result<Self, PathError> {
        let at = |source| PathError { action: "inspect", path: path.to_owned(), source };
        let of_directory = |directory: Directory| {
            let metadata = Metadata::of(&directory).map_err(at)?;
            Ok(Self { metadata, what: What::Directory(directory) })
        };
        if asserts_directory || path.file_name().is_none() {
            return of_directory(root.open_dir(path)?);
        }
        let (parent, name) = root.parent_of(path)?;
        let metadata = parent.metadata(&name).map_err(at)?;
        if metadata.is_dir() {
            return of_directory(parent.open_dir(&name).map_err(at)?);
        }
        Ok(Self { metadata, what: What::Entry(parent, name) })
    }

    /// Writes it as a tar whose first entry is called `name`: for a directory `.` and `/` are names, too, in front of all that is
    /// in it, as Docker has it. The kernel's own file systems (`/proc`) are written as empty directories.
    pub fn write(&self, name: &[u8], sink: &mut dyn Write) -> Result<(), TreeError> {
        let mut packer = Packer::new(sink);
        match &self.what {
            What::Entry(directory, own_name) => packer.add(name, directory, own_name, &self.metadata)?,
            What::Directory(directory) => {
                let mut entry = root_entry(directory)?;
                entry.path = name.to_vec();
                if !entry.path.ends_with(b"/") {
                    entry.path.push(b'/');
                }
                packer.bare(&entry)?;
                let top = directory.try_clone().map_err(failed("open", name))?;
                let prefix = entry.path[..entry.path.len() - 1].to_vec();
                pack_below(&mut packer, top, Some(prefix), &is_entrance)?;
            }
        }
        packer.finish().map(drop)
    }

    /// Whether it is on a file system of the kernel's own.
    pub fn is_of_kernel(&self) -> bool {
        match &self.what {
            What::Directory(directory) | What::Entry(directory, _) => is_kernel_file_system(directory),
        }
    }
}

/// Whether a directory is where a file system of the kernel's own begins.
fn is_entrance(above: &Directory, directory: &Directory) -> bool {
    let device = |directory| Metadata::of(directory).map(|metadata| metadata.device).ok();
    device(above) != device(directory) && is_kernel_file_system(directory)
}

/// Writes what is in a directory, with names that begin with `prefix` and a slash, if there is one. What `is_closed` says of the
/// directory that another is in, and of that one, is written as empty; of a private one, nothing is.
pub fn pack_below(
    packer: &mut Packer<'_>,
    top: Directory,
    prefix: Option<Vec<u8>>,
    is_closed: &dyn Fn(&Directory, &Directory) -> bool,
) -> Result<(), TreeError> {
    let mut walk = Walk { levels: vec![Level::open(top, prefix)?] };
    if packer.is_private {
        return ahead::pack(packer, &mut walk);
    }
    while let Some(Item { directory, name, path, .. }) = walk.next() {
        let metadata = match directory.metadata(&name) {
            Err(error) if is_gone(&error) => continue,
            other => other.map_err(failed("inspect", &path))?,
        };
        packer.add(&path, &directory, &name, &metadata)?;
        if !metadata.is_dir() {
            continue;
        }
        let below = match directory.open_dir(&name) {
            Err(error) if is_gone(&error) => continue,
            other => other.map_err(failed("open", &path))?,
        };
        if is_closed(&directory, &below) {
            continue;
        }
        if walk.depth() >= MAX_DEPTH {
            return Err(TreeError::Depth { path: absolute(&path) });
        }
        walk.enter(below, path)?;
    }
    Ok(())
}

/// The names of a tree in the order of an archive: depth first, in a directory by their bytes.
struct Walk {
    levels: Vec<Level>,
}

/// One name, and what was there when its directory was listed.
struct Item {
    directory: Arc<Directory>,
    name: OsString,
    path: Vec<u8>,
    kind: FileKind,
    inode: u64,
}

impl Walk {
    fn next(&mut self) -> Option<Item> {
        while let Some(level) = self.levels.last_mut() {
            if let Some(DirEntry { name, kind, inode }) = level.entries.pop() {
                let (directory, path) = (Arc::clone(&level.directory), level.below(&name));
                return Some(Item { directory, name, path, kind, inode });
            }
            self.levels.pop();
        }
        None
    }

    /// Goes on with what is in a directory.
    fn enter(&mut self, directory: Directory, path: Vec<u8>) -> Result<(), TreeError> {
        self.levels.push(Level::open(directory, Some(path))?);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.levels.len()
    }
}

/// A directory in progress.
struct Level {
    directory: Arc<Directory>,
    /// What its names begin with, if they begin with anything but themselves.
    path: Option<Vec<u8>>,
    /// What is left, last first.
    entries: Vec<DirEntry>,
}

impl Level {
    fn open(directory: Directory, path: Option<Vec<u8>>) -> Result<Self, TreeError> {
        let mut entries = directory.entries().map_err(failed("list", path.as_deref().unwrap_or_default()))?;
        entries.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        Ok(Self { directory: Arc::new(directory), path, entries })
    }

    fn below(&self, name: &OsStr) -> Vec<u8> {
        match &self.path {
            Some(path) => [path, b"/".as_slice(), name.as_encoded_bytes()].concat(),
            None => name.as_encoded_bytes().to_vec(),
        }
    }
}

/// The root of a tree as an entry of its own.
pub fn root_entry(root: &Directory) -> Result<Entry, TreeError> {
    let metadata = Metadata::of(root).map_err(failed("inspect", b"/"))?;
    let mut entry = Entry::plain(b"./".to_vec(), Kind::Directory);
    (entry.mode, entry.uid, entry.gid) = (metadata.mode, metadata.uid, metadata.gid);
    entry.modified = metadata.modified;
    entry.xattrs = attributes(root, OsStr::new(".")).map_err(failed("read the attributes of", b"/"))?;
    Ok(entry)
}

/// Writes entries of directories, and remembers which files have several names.
pub struct Packer<'w> {
    writer: Writer<&'w mut dyn Write>,
    /// Where each file with several names was first.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The time of everything.
    time: Option<Time>,
    /// Nobody else writes to what is packed.
    is_private: bool,
    /// What of it need not be read.
    recent: Option<&'w Recent>,
}

impl std::fmt::Debug for Packer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Packer").field("entries", &self.writer.entries()).finish_non_exhaustive()
    }
}

impl<'w> Packer<'w> {
    /// Writes to `sink`.
    pub fn new(sink: &'w mut dyn Write) -> Self {
        Self { writer: Writer::new(sink), links: HashMap::new(), time: None, is_private: false, recent: None }
    }

    /// Gives everything that is added this time.
    pub fn set_time(&mut self, time: Time) {
        self.time = Some(time);
    }

    /// Says that nobody else writes to the directories of what is added: what was a regular file is still one when it is opened, and need
    /// not be looked at a second time, or in its turn. What of [`pack_below`]'s files is `recent` is not looked at.
    pub fn set_private(&mut self, recent: Option<&'w Recent>) {
        (self.is_private, self.recent) = (true, recent);
    }

    /// See [`Writer::watch_content`].
    pub fn watch_content(&mut self, told: ContentWatch) {
        self.writer.watch_content(told);
    }

    /// An entry without content.
    pub fn bare(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.writer.entry(entry).map_err(TreeError::Write)
    }

    /// Ends the archive. Whether there was anything in it.
    pub fn finish(self) -> Result<bool, TreeError> {
        let any = self.writer.entries() > 0;
        self.writer.finish().map_err(TreeError::Write)?;
        Ok(any)
    }

    /// Writes what `name` in `directory` is, under the name `path`. A socket is left out, and what is something else by now.
    pub fn add(
        &mut self,
        path: &[u8],
        directory: &Directory,
        name: &OsStr,
        metadata: &Metadata,
    ) -> Result<(), TreeError> {
        self.entry(path, directory, name, metadata, None)
    }

    fn entry(
        &mut self,
        path: &[u8],
        directory: &Directory,
        name: &OsStr,
        metadata: &Metadata,
        opened: Option<Regular>,
    ) -> Result<(), TreeError> {
        let kind = match metadata.kind {
            FileKind::Regular => Kind::Regular,
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink => Kind::Symlink,
            FileKind::Fifo => Kind::Fifo,
            FileKind::CharacterDevice => Kind::CharacterDevice,
            FileKind::BlockDevice => Kind::BlockDevice,
            FileKind::Socket | FileKind::Unknown => return Ok(()),
        };
        let mut entry = Entry::plain(path.to_vec(), kind);
        (entry.mode, entry.uid, entry.gid) = (metadata.mode, metadata.uid, metadata.gid);
        entry.modified = self.time.unwrap_or(metadata.modified);
        entry.device = metadata.node;
        if kind == Kind::Directory {
            entry.path.push(b'/');
        }
        let inode = (metadata.device, metadata.inode);
        let has_names = metadata.links > 1 && kind != Kind::Directory;
        if let Some(first) = self.links.get(&inode).filter(|_| has_names) {
            (entry.kind, entry.link) = (Kind::HardLink, first.clone());
            return self.writer.entry(&entry).map_err(TreeError::Write);
        }
        let written = if kind == Kind::Regular {
            let opened = match opened {
                Some(file) => Some((file, metadata.clone())),
                None => {
                    let opened = self.open(path, directory, name)?;
                    opened.map(|(file, metadata)| (Regular::File(file), metadata))
                }
            };
            match opened {
                Some((file, metadata)) => self.file(entry, path, file, &metadata)?,
                None => return Ok(()),
            }
            true
        } else {
            self.other(entry, path, directory, name)?
        };
        // What went meanwhile is nothing to link to.
        if written && has_names {
            self.links.insert(inode, path.to_vec());
        }
        Ok(())
    }

    /// Whether it was still there.
    fn other(
        &mut self,
        mut entry: Entry,
        path: &[u8],
        directory: &Directory,
        name: &OsStr,
    ) -> Result<bool, TreeError> {
        match attributes(directory, name) {
            Err(error) if is_gone(&error) => return Ok(false),
            other => entry.xattrs = other.map_err(failed("read the attributes of", path))?,
        }
        if entry.kind == Kind::Symlink {
            match directory.read_link(name) {
                Err(error) if is_gone(&error) => return Ok(false),
                other => {
                    let target = other.map_err(failed("read the link", path))?;
                    entry.link = target.into_os_string().into_encoded_bytes();
                }
            }
        }
        self.writer.entry(&entry).map_err(TreeError::Write)?;
        Ok(true)
    }

    /// Opens a regular file; none if it is gone, or something else took its name.
    fn open(
        &self,
        path: &[u8],
        directory: &Directory,
        name: &OsStr,
    ) -> Result<Option<(File, Metadata)>, TreeError> {
        let opened = if self.is_private {
            directory.open(name, READING).map(|file| Some(File::from(file)))
        } else {
            directory.open_regular(name)
        };
        let file = match opened {
            Err(error) if is_gone(&error) => return Ok(None),
            other => other.map_err(failed("open", path))?,
        };
        let Some(file) = file else { return Ok(None) };
        let metadata = Metadata::of(&file).map_err(failed("inspect", path))?;
        Ok(Some((file, metadata)))
    }

    fn file(
        &mut self,
        mut entry: Entry,
        path: &[u8],
        content: Regular,
        metadata: &Metadata,
    ) -> Result<(), TreeError> {
        entry.size = metadata.size;
        let file = match content {
            Regular::File(file) => file,
            Regular::Bytes(bytes) => {
                return self.writer.file(&entry, &mut &bytes[..]).map_err(TreeError::Write);
            }
        };
        entry.xattrs = attributes_of(&file).map_err(failed("read the attributes of", path))?;
        let segments = if metadata.blocks.saturating_mul(512) < metadata.size {
            segments(&file, metadata.size).map_err(failed("find the holes of", path))?
        } else {
            None
        };
        let mut source = Source { file, failure: None };
        let written = match segments {
            Some(segments) => {
                entry.sparse = Some(segments.clone());
                self.writer.sparse_file(&entry, &segments, |offset| {
                    let mut file = source.file.try_clone()?;
                    file.seek(SeekFrom::Start(offset))?;
                    Ok(Box::new(file))
                })
            }
            None => self.writer.file(&entry, &mut source),
        };
        match (written, source.failure) {
            (Err(_), Some(failure)) => Err(failed("read", path)(failure)),
            (written, _) => written.map_err(TreeError::Write),
        }
    }
}

/// Opens what is taken for a regular file.
const READING: rustix::fs::OFlags = rustix::fs::OFlags::NONBLOCK.union(rustix::fs::OFlags::NOCTTY);

/// A regular file that was opened, or read.
#[derive(Debug)]
enum Regular {
    File(File),
    /// Of one without attributes.
    Bytes(Vec<u8>),
}

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A file whose failures are told apart from those of the archive.
struct Source {
    file: File,
    failure: Option<io::Error>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).map_err(|error| {
            let told = io::Error::from(error.kind());
            self.failure = Some(error);
            told
        })
    }
}

/// The attributes that belong to the file and not to this host, sorted.
fn attributes(directory: &Directory, name: &OsStr) -> io::Result<Xattrs> {
    let read = |attribute: &OsStr| xattr::get_at(directory, name, attribute);
    kept(xattr::list_at(directory, name)?, read)
}

/// The same of an open file.
fn attributes_of(file: &File) -> io::Result<Xattrs> {
    let read = |attribute: &OsStr| match attribute.to_str() {
        Some(attribute) => xattr::get(file, attribute),
        None => Ok(None),
    };
    kept(xattr::list(file)?, read)
}

/// Whether it has any of them.
fn has_attributes(file: &File) -> io::Result<bool> {
    Ok(xattr::list(file)?.iter().any(|attribute| !is_of_host(attribute)))
}

/// Overlay's own, and the labels of security modules.
fn is_of_host(attribute: &OsStr) -> bool {
    let text = attribute.as_bytes();
    text.starts_with(b"trusted.overlay.")
        || text.starts_with(b"user.overlay.")
        || (text.starts_with(b"security.") && text != b"security.capability")
}

fn kept(names: Vec<OsString>, read: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>) -> io::Result<Xattrs> {
    let mut attributes = Vec::new();
    for attribute in names {
        if !is_of_host(&attribute)
            && let Some(value) = read(&attribute)?
        {
            attributes.push((attribute.into_vec(), value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// Where a file has content; nothing if it is better written whole.
fn segments(file: &File, size: u64) -> io::Result<Option<Vec<Segment>>> {
    let mut segments = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(file, Seek::Data(position)) {
            Ok(start) => start.min(size),
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, Seek::Hole(start))?.min(size);
        if end > start {
            segments.push(Segment { offset: start, length: end - start });
        }
        if segments.len() > MAX_SEGMENTS || end <= position {
            break;
        }
        position = end;
    }
    rustix::fs::seek(file, Seek::Start(0))?;
    let is_whole = segments.iter().map(|segment| segment.length).sum::<u64>() == size;
    if is_whole || segments.len() > MAX_SEGMENTS {
        return Ok(None);
    }
    // GNU tar ends the map at the file's end, so that a hole there is seen.
    if segments.last().is_none_or(|last| last.offset + last.length < size) {
        segments.push(Segment { offset: size, length: 0 });
    }
    Ok(Some(segments))
}

/// It went, or became something else, between two looks.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Makes an error of what the kernel said about a path below the root.
pub fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> TreeError {
    let path = absolute(path);
    move |source| TreeError::Read { action, path, source }
}

/// A path as the container sees it.
pub fn absolute(path: &[u8]) -> String {
    format!("/{}", lossy(path))
}
