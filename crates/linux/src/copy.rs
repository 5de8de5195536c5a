//! Copies a tree from one root to another with all that makes its files what they are.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::path::{Directory, FileKind, Metadata, PathError, RootDir, Time};
use crate::xattr;

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, directories, links and nodes.
    pub entries: u64,
    /// Bytes of file content, holes included.
    pub bytes: u64,
}

/// Copies what is in directory `from_path` of `from` into directory `to_path` of `to` (both exist), with owners, modes,
/// times, extended attributes, holes, hard links within the tree, and special files; the attributes of the directory itself
/// too. What exists already in the target is an error.
pub fn copy_tree(
    from: &RootDir,
    from_path: &Path,
    to: &RootDir,
    to_path: &Path,
) -> Result<Copied, PathError> {
    copy(from, from_path, to, to_path, Rules::default())
}

/// Copies a layer of an overlay into an empty directory, with what it says of those below it. No time is later than `latest`.
pub fn copy_layer(from: &RootDir, to: &RootDir, latest: Time) -> Result<Copied, PathError> {
    let top = Path::new(".");
    copy(from, top, to, top, Rules { latest: Some(latest), keeps_marks: true })
}

fn copy(
    from: &RootDir,
    from_path: &Path,
    to: &RootDir,
    to_path: &Path,
    rules: Rules,
) -> Result<Copied, PathError> {
    let source = from.open_dir(from_path)?;
    let target = to.open_dir(to_path)?;
    let copy = Copy { first_names: HashMap::new(), target_root: to, copied: Copied::default(), rules };
    copy.tree(source, target, to_path.to_owned())
}

/// What of a file is not as it was.
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    /// Later times become this one.
    latest: Option<Time>,
    /// Overlay's marks of directories that hide what is below them are kept.
    keeps_marks: bool,
}

impl Rules {
    fn time(self, time: Time) -> Time {
        self.latest.map_or(time, |latest| latest.min(time))
    }

    /// Overlay's own marks say something about a layer, not about the file.
    fn is_copied(self, attribute: &OsStr) -> bool {
        let name = attribute.as_bytes();
        let overlay = [&b"trusted.overlay."[..], b"user.overlay."];
        match overlay.iter().find_map(|prefix| name.strip_prefix(*prefix)) {
            Some(mark) => self.keeps_marks && mark == b"opaque",
            None => true,
        }
    }
}

/// Gives directory `to` the owner, mode, times and extended attributes of directory `from`.
pub fn copy_directory_attributes(from: &Directory, to: &Directory) -> io::Result<()> {
    dress(from, to, Rules::default())
}

struct Copy<'a> {
    /// Device and inode of files with several names, and where the first copy is.
    first_names: HashMap<(u64, u64), PathBuf>,
    target_root: &'a RootDir,
    copied: Copied,
    rules: Rules,
}

/// A directory in progress.
struct Level {
    source: Directory,
    target: Directory,
    path: PathBuf,
    /// What is left to copy, last first.
    names: Vec<OsString>,
}

impl Copy<'_> {
    /// Depth first, with the directories' own attributes last, since their content changes them.
    fn tree(mut self, source: Directory, target: Directory, path: PathBuf) -> Result<Copied, PathError> {
        let mut levels = vec![Level::open(source, target, path)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                let done = levels.pop();
                if let Some(level) = done {
                    dress(&level.source, &level.target, self.rules)
                        .map_err(|error| failed("copy the attributes of", &level.path, error))?;
                }
                continue;
            };
            let path = level.path.join(&name);
            let below = self.entry(level, &name, &path).map_err(|error| failed("copy", &path, error))?;
            self.copied.entries += 1;
            if let Some((source, target)) = below {
                levels.push(Level::open(source, target, path)?);
            }
        }
        Ok(self.copied)
    }

    /// Copies one entry; the handles of both sides if it is a directory, whose content comes next.
    fn entry(
        &mut self,
        level: &Level,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<Option<(Directory, Directory)>> {
        let metadata = level.source.metadata(name)?;
        if metadata.is_dir() {
            level.target.create_dir(name, 0o700)?;
            return Ok(Some((level.source.open_dir(name)?, level.target.open_dir(name)?)));
        }
        if metadata.links > 1 {
            if let Some(first) = self.first_names.get(&(metadata.device, metadata.inode)) {
                let (directory, first) = self.target_root.parent_of(first)?;
                level.target.create_hard_link(name, &directory, &first)?;
                return Ok(None);
            }
            self.first_names.insert((metadata.device, metadata.inode), path.to_owned());
        }
        match metadata.kind {
            FileKind::Regular => {
                let source = File::from(level.source.open(name, OFlags::RDONLY | OFlags::NONBLOCK)?);
                let target = level.target.create_file(name, 0o600)?;
                copy_content(&source, &target, &metadata)?;
                self.copied.bytes += metadata.size;
            }
            FileKind::Symlink => {
                let link = level.source.read_link(name)?;
                level.target.create_symlink(name, link.as_os_str())?;
            }
            kind => level.target.create_node(name, kind, 0o600, metadata.node)?,
        }
        dress_entry(level, name, &metadata, self.rules)?;
        Ok(None)
    }
}

impl Level {
    fn open(source: Directory, target: Directory, path: PathBuf) -> Result<Self, PathError> {
        let entries = source.entries().map_err(|error| failed("list", &path, error))?;
        let names = entries.into_iter().map(|entry| entry.name).collect();
        Ok(Self { source, target, path, names })
    }
}

/// Copies the pieces between the holes into an empty file; in the kernel where that is possible (a reflink where the file system has
/// them), and by hand where that is faster.
pub fn copy_content(source: &File, target: &File, metadata: &Metadata) -> io::Result<()> {
    let size = metadata.size;
    if copy_small(source, target, metadata)?.is_some() {
        return Ok(());
    }
    if metadata.blocks.saturating_mul(512) >= size {
        let copied = copy_range(source, target, 0, size)?;
        // It became shorter meanwhile.
        return if copied < size { target.set_len(size) } else { Ok(()) };
    }
    let mut position = 0;
    while position < size {
        let data = match rustix::fs::seek(source, SeekFrom::Data(position)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(data))?.min(size);
        copy_range(source, target, data, end)?;
        position = end.max(data + 1);
    }
    target.set_len(size)
}

/// Up to here two system calls are faster than what the kernel does for one that copies.
const SMALL: u64 = 16 * 1024;

/// Copies a small file without holes into an empty one. What is in it; nothing of one that is not such a file, which is not copied.
pub fn copy_small(source: &File, target: &File, metadata: &Metadata) -> io::Result<Option<Vec<u8>>> {
    use std::os::unix::fs::FileExt;
    if metadata.size > SMALL || metadata.blocks.saturating_mul(512) < metadata.size {
        return Ok(None);
    }
    let mut content = vec![0; usize::try_from(metadata.size).unwrap_or_default()];
    let mut length = 0;
    while length < content.len() {
        match source.read_at(&mut content[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    content.truncate(length);
    target.write_all_at(&content, 0)?;
    if length as u64 != metadata.size {
        // It became shorter meanwhile.
        target.set_len(metadata.size)?;
    }
    Ok(Some(content))
}

/// Up to where was copied.
fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<u64> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let wanted = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => return Ok(from),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(from)
}

fn copy_by_hand(source: &File, target: &File, mut position: u64, end: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 256 * 1024];
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(buffer.len()).min(buffer.len());
        let length = source.read_at(&mut buffer[..wanted], position)?;
        if length == 0 {
            break;
        }
        target.write_all_at(&buffer[..length], position)?;
        position += length as u64;
    }
    Ok(position)
}

/// Owner before attributes and mode: changing it clears capabilities and set-id bits.
fn dress_entry(level: &Level, name: &OsStr, metadata: &Metadata, rules: Rules) -> io::Result<()> {
    level.target.set_owner(name, metadata.uid, metadata.gid)?;
    for attribute in xattr::list_at(&level.source, name)?.iter().filter(|name| rules.is_copied(name)) {
        if let Some(value) = xattr::get_at(&level.source, name, attribute)? {
            tolerate(xattr::set_at(&level.target, name, attribute, &value))?;
        }
    }
    if metadata.kind != FileKind::Symlink {
        level.target.set_mode(name, metadata.mode)?;
    }
    level.target.set_times(name, rules.time(metadata.accessed), rules.time(metadata.modified))
}

fn dress(from: &Directory, to: &Directory, rules: Rules) -> io::Result<()> {
    let metadata = Metadata::of(from)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(metadata.uid), rustix::fs::Gid::from_raw(metadata.gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    for attribute in xattr::list(from)?.iter().filter(|name| rules.is_copied(name)) {
        let Some(name) = attribute.to_str() else { continue };
        if let Some(value) = xattr::get(from, name)? {
            tolerate(xattr::set(to, name, &value))?;
        }
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(metadata.mode))?;
    let times = |time: Time| rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    let times = rustix::fs::Timestamps {
        last_access: times(rules.time(metadata.accessed)),
        last_modification: times(rules.time(metadata.modified)),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

/// A target without an attribute's kind loses it.
fn tolerate(set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PathError {
    PathError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, symlink};

    use super::*;

    #[test]
    fn everything_that_makes_a_file_is_copied() {
        let (from, to) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
        let source = RootDir::open(from.path()).expect("opens");
        source.create_dir("a", 0o750).expect("creates");
        let file = source.create_file("a/sparse", 0o640).expect("creates");
        file.write_all_at(b"end", 10 << 20).expect("writes");
        file.set_len(20 << 20).expect("sets");
        source.set_xattr("a/sparse", OsStr::new("user.x"), b"value").expect("sets");
        source.set_owner("a/sparse", 12, 34).expect("owns");
        source.set_mode("a/sparse", 0o4755).expect("sets");
        source.create_hard_link("a/sparse", "link").expect("links");
        symlink("/nowhere", from.path().join("symlink")).expect("links");
        source.create_node("a/fifo", FileKind::Fifo, 0o600, (0, 0)).expect("creates");
        source.set_mode("a", 0o1777).expect("sets");
        let target = RootDir::open(to.path()).expect("opens");
        target.create_dir("in", 0o755).expect("creates");
        let copied = copy_tree(&source, Path::new("/"), &target, Path::new("/in")).expect("copies");
        assert_eq!(copied, Copied { entries: 5, bytes: 20 << 20 });
        let one = target.metadata("in/a/sparse").expect("there");
        assert_eq!((one.size, one.uid, one.gid, one.mode, one.links), (20 << 20, 12, 34, 0o4755, 2));
        assert!(one.blocks < 1000, "holes stay holes: {} blocks", one.blocks);
        assert_eq!(one.inode, target.metadata("in/link").expect("there").inode);
        assert_eq!(
            target.xattr("in/a/sparse", OsStr::new("user.x")).expect("reads").as_deref(),
            Some(&b"value"[..])
        );
        assert_eq!(target.read_link("in/symlink").expect("there"), Path::new("/nowhere"));
        assert_eq!(target.symlink_metadata("in/a/fifo").expect("there").kind, FileKind::Fifo);
        assert_eq!(target.metadata("in/a").expect("there").mode, 0o1777);
        assert_eq!(
            std::fs::metadata(to.path().join("in/a")).expect("there").mtime(),
            std::fs::metadata(from.path().join("a")).expect("there").mtime()
        );
    }

    #[test]
    fn a_layer_is_copied_without_later_times() {
        let (from, to) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
        let source = RootDir::open(from.path()).expect("opens");
        let at = |seconds| Time { seconds, nanoseconds: 7 };
        source.create_dir("d", 0o755).expect("creates");
        for (name, seconds) in [("d/early", 50), ("d/late", 150)] {
            drop(source.create_file(name, 0o644).expect("creates"));
            source.set_times(name, at(seconds), at(seconds)).expect("sets");
        }
        symlink("late", from.path().join("d/link")).expect("links");
        source.create_node("d/gone", FileKind::CharacterDevice, 0, (0, 0)).expect("creates");
        source.set_xattr("d", OsStr::new("trusted.overlay.opaque"), b"y").expect("sets");
        source.set_xattr("d", OsStr::new("trusted.overlay.origin"), b"x").expect("sets");
        let target = RootDir::open(to.path()).expect("opens");
        let latest = Time { seconds: 100, nanoseconds: 0 };
        copy_layer(&source, &target, latest).expect("copies");
        let time = |name: &str| target.symlink_metadata(name).expect("there").modified;
        assert_eq!(
            (time("d/early"), time("d/late"), time("d/link"), time("d")),
            (at(50), latest, latest, latest)
        );
        assert!(target.symlink_metadata("d/gone").expect("there").is_whiteout());
        let mark = |name: &str| target.xattr("d", OsStr::new(name)).expect("reads");
        assert_eq!(mark("trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
        assert_eq!(mark("trusted.overlay.origin"), None);
    }

    #[test]
    fn a_symlink_on_the_way_stays_inside() {
        let (from, to) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
        let source = RootDir::open(from.path()).expect("opens");
        symlink("/etc", from.path().join("volume")).expect("links");
        let target = RootDir::open(to.path()).expect("opens");
        assert!(copy_tree(&source, Path::new("/volume"), &target, Path::new("/")).is_err(), "CVE-2022-23648");
    }
}
