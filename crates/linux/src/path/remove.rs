//! Recursive removal that needs neither recursion nor a descriptor per level, so no tree is too deep to delete.
//!
//! A directory chain may be deeper than the stack, the descriptor limit and `PATH_MAX` together (a tar builds it
//! through symlinks). The walk therefore keeps one open directory and goes back by `..`, comparing device and
//! inode with what it left: a tree that somebody moves meanwhile ends in an error, never in another directory.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Directory, FileKind, Metadata, PathError, RootDir};

/// A directory that is being emptied.
struct Level {
    /// Its name in the directory above.
    name: OsString,
    /// Device and inode of the directory above.
    above: (u64, u64),
    /// Directories in it that are not empty, to be emptied next.
    pending: Vec<OsString>,
}

/// Removes a directory (or file) of our own by its path, and everything below it, however deep: what containers, archives and steps
/// make decides the depth. Absent is fine, and so is an absent parent. Nothing on the way to it may be somebody else's.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match RootDir::open(parent) {
        Ok(parent) => parent.remove_all(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes `name` and everything below it. Absent is fine; a mount point inside fails with `EBUSY`.
pub(super) fn remove_all(directory: &Directory, name: &OsStr) -> io::Result<()> {
    if remove_leaf(directory, name)? {
        return Ok(());
    }
    let mut current = directory.open_dir(name)?;
    let mut levels =
        vec![Level { name: name.to_owned(), above: identity(directory)?, pending: remove_leaves(&current)? }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            let below = match current.open_dir(&name) {
                Ok(below) => below,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let pending = remove_leaves(&below)?;
            levels.push(Level { name, above: identity(&current)?, pending });
            current = below;
            continue;
        }
        let above = if levels.len() == 1 {
            directory.try_clone()?
        } else {
            directory_above(&current, levels.last())?
        };
        let Some(level) = levels.last_mut() else { break };
        match above.remove_dir(&level.name) {
            // Somebody put something in meanwhile.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                level.pending = remove_leaves(&current)?;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        levels.pop();
        current = above;
    }
    Ok(())
}

/// The directory above, if it is still the one that we came from.
fn directory_above(current: &Directory, level: Option<&Level>) -> io::Result<Directory> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = Directory::from_fd(rustix::fs::openat(current, "..", flags, rustix::fs::Mode::empty())?);
    if level.is_none_or(|level| level.above != identity(&above).unwrap_or_default()) {
        return Err(io::Error::other("the directory was moved while it was being removed"));
    }
    Ok(above)
}

/// Unlinks all that is not a directory and removes empty directories; the names of the others.
fn remove_leaves(directory: &Directory) -> io::Result<Vec<OsString>> {
    let mut left = Vec::new();
    for entry in directory.entries()? {
        if entry.kind == FileKind::Directory {
            match directory.remove_dir(&entry.name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => left.push(entry.name),
                other => other?,
            }
        } else if !remove_leaf(directory, &entry.name)? {
            left.push(entry.name);
        }
    }
    Ok(left)
}

/// Unlinks an entry; `false` when it is a directory.
fn remove_leaf(directory: &Directory, name: &OsStr) -> io::Result<bool> {
    match directory.remove_file(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ISDIR.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

fn identity(directory: &Directory) -> io::Result<(u64, u64)> {
    let metadata = Metadata::of(directory)?;
    Ok((metadata.device, metadata.inode))
}
