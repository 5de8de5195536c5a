//! A container's changes as a layer's tar, and its whole tree as a tar.
//!
//! Names come in order and nothing of the host is written, so the same tree gives the same bytes. Times are exact (Docker
//! cuts them to seconds), holes stay holes, hard links stay links, all attributes are kept but those that belong to the
//! host: overlay's own and the labels of its security modules. Sockets are left out, as in Docker: they have no content and
//! nobody listens.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt as _;

use palan_linux::path::{Directory, FileKind, Metadata};
use palan_linux::xattr;
use rustix::fs::{OFlags, SeekFrom as Seek};

use super::{Overlaid, Scope, TreeError, Visited, absolute, failed, is_gone};
use crate::layer::tar::write::Writer;
use crate::layer::tar::{Entry, Kind, Segment};

/// More pieces than this are written as one, holes and all: the map would be longer than what it saves.
const MAX_SEGMENTS: usize = 4096;

impl Overlaid {
    /// Writes what changed as a layer: applied to the lower side it gives what the container sees. Whether there was
    /// anything to write.
    pub fn write_layer(&self, sink: &mut dyn Write) -> Result<bool, TreeError> {
        let mut packer = Packer::new(sink);
        self.walk(Scope::Own, &mut |visited| packer.change(visited))?;
        packer.finish()
    }

    /// Writes all that the container sees.
    pub fn write_all(&self, sink: &mut dyn Write) -> Result<(), TreeError> {
        let mut packer = Packer::new(sink);
        self.walk(Scope::Visible, &mut |visited| match (&visited.upper, &visited.lower) {
            _ if visited.is_whiteout() => Ok(()),
            (Some((directory, metadata)), _) | (None, Some((directory, metadata))) => {
                packer.add(visited.path, directory, visited.name, metadata)
            }
            (None, None) => Ok(()),
        })?;
        packer.finish().map(drop)
    }
}

/// The root of a tree as an entry of its own.
pub(super) fn root_entry(root: &Directory) -> Result<Entry, TreeError> {
    let metadata = Metadata::of(root).map_err(failed("inspect", b"/"))?;
    let mut entry = Entry::plain(b"./".to_vec(), Kind::Directory);
    (entry.mode, entry.uid, entry.gid) = (metadata.mode, metadata.uid, metadata.gid);
    entry.modified = metadata.modified;
    entry.xattrs = attributes(root, OsStr::new(".")).map_err(failed("read the attributes of", b"/"))?;
    Ok(entry)
}

pub(super) struct Packer<'w> {
    writer: Writer<&'w mut dyn Write>,
    /// Where each file with several names was first.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<'w> Packer<'w> {
    pub(super) fn new(sink: &'w mut dyn Write) -> Self {
        Self { writer: Writer::new(sink), links: HashMap::new() }
    }

    /// An entry without content.
    pub(super) fn bare(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.writer.entry(entry).map_err(TreeError::Write)
    }

    pub(super) fn finish(self) -> Result<bool, TreeError> {
        let any = self.writer.entries() > 0;
        self.writer.finish().map_err(TreeError::Write)?;
        Ok(any)
    }

    fn change(&mut self, visited: &Visited<'_>) -> Result<(), TreeError> {
        let Some((directory, metadata)) = &visited.upper else { return Ok(()) };
        if visited.is_whiteout() {
            // What hides nothing is not worth telling.
            return if visited.lower.is_some() { self.whiteout(visited) } else { Ok(()) };
        }
        if visited.name.as_bytes().starts_with(b".wh.") {
            return Err(TreeError::Name { path: absolute(visited.path) });
        }
        self.add(visited.path, directory, visited.name, metadata)?;
        let hides = visited.lower.as_ref().is_some_and(|(_, old)| old.is_dir()) && !visited.in_opaque;
        if visited.opaque && hides {
            let path = [visited.path, b"/.wh..wh..opq"].concat();
            return self.mark(path);
        }
        Ok(())
    }

    fn whiteout(&mut self, visited: &Visited<'_>) -> Result<(), TreeError> {
        let start = visited.path.len() - visited.name.len();
        let path = [&visited.path[..start], b".wh.", visited.name.as_bytes()].concat();
        self.mark(path)
    }

    fn mark(&mut self, path: Vec<u8>) -> Result<(), TreeError> {
        let mut entry = Entry::plain(path, Kind::Regular);
        entry.mode = 0;
        self.writer.entry(&entry).map_err(TreeError::Write)
    }

    pub(super) fn add(
        &mut self,
        path: &[u8],
        directory: &Directory,
        name: &OsStr,
        metadata: &Metadata,
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
        entry.modified = metadata.modified;
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
        match attributes(directory, name) {
            Err(error) if is_gone(&error) => return Ok(()),
            other => entry.xattrs = other.map_err(failed("read the attributes of", path))?,
        }
        let written = match kind {
            Kind::Regular => self.file(entry, path, directory, name)?,
            _ => self.other(entry, path, directory, name)?,
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

    /// Whether it was still there.
    fn file(
        &mut self,
        mut entry: Entry,
        path: &[u8],
        directory: &Directory,
        name: &OsStr,
    ) -> Result<bool, TreeError> {
        let opened = directory.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        let file = match opened {
            Err(error) if is_gone(&error) => return Ok(false),
            other => File::from(other.map_err(failed("open", path))?),
        };
        let metadata = Metadata::of(&file).map_err(failed("inspect", path))?;
        if !metadata.is_file() {
            // Something else took its name.
            return Ok(false);
        }
        entry.size = metadata.size;
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
            (written, _) => written.map(|()| true).map_err(TreeError::Write),
        }
    }
}

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
fn attributes(directory: &Directory, name: &OsStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for attribute in xattr::list_at(directory, name)? {
        let text = attribute.as_bytes();
        let is_of_host = text.starts_with(b"trusted.overlay.")
            || text.starts_with(b"user.overlay.")
            || (text.starts_with(b"security.") && text != b"security.capability");
        if !is_of_host && let Some(value) = xattr::get_at(directory, name, &attribute)? {
            attributes.push((text.to_vec(), value));
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
