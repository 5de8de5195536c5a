//! Recursive removal that needs neither recursion nor a descriptor per level, so no tree is too deep to delete.
//!
//! A directory chain may be deeper than the stack, the descriptor limit and `PATH_MAX` together (a tar builds it
//! through symlinks). The walk therefore keeps one open directory and goes back by `..`, comparing device and
//! inode with what it left: a tree that somebody moves meanwhile ends in an error, never in another directory.

use std::ffi::{OsStr, OsString};
use std::io;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Directory, FileKind, Metadata};

struct Level {
    /// Device and inode of the directory that holds the one being emptied.
    parent: (u64, u64),
    /// The name of the directory being emptied, in that parent.
    name: OsString,
}

/// Removes `name` and everything below it. Absent is fine; a mount point inside fails with `EBUSY`.
pub(super) fn remove_all(directory: &Directory, name: &OsStr) -> io::Result<()> {
    if remove_leaf(directory, name)? {
        return Ok(());
    }
    let mut levels = vec![Level { parent: identity(directory)?, name: name.to_owned() }];
    let mut current = directory.open_dir(name)?;
    loop {
        if let Some(subdirectory) = empty_or_find_subdirectory(&current)? {
            let below = match current.open_dir(&subdirectory) {
                Ok(below) => below,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            levels.push(Level { parent: identity(&current)?, name: subdirectory });
            current = below;
            continue;
        }
        let Some(level) = levels.pop() else { return Ok(()) };
        if levels.is_empty() {
            return absent_is_fine(directory.remove_dir(&level.name));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = Directory::from_fd(rustix::fs::openat(&current, "..", flags, rustix::fs::Mode::empty())?);
        if identity(&above)? != level.parent {
            return Err(io::Error::other("the directory was moved while it was being removed"));
        }
        current = above;
        absent_is_fine(current.remove_dir(&level.name))?;
    }
}

/// Unlinks all that is not a directory and removes empty directories; names one that is not empty, if any.
fn empty_or_find_subdirectory(directory: &Directory) -> io::Result<Option<OsString>> {
    for entry in directory.entries()? {
        if entry.kind == FileKind::Directory {
            match directory.remove_dir(&entry.name) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    return Ok(Some(entry.name));
                }
                Err(error) => return Err(error),
            }
        } else if !remove_leaf(directory, &entry.name)? {
            return Ok(Some(entry.name));
        }
    }
    Ok(None)
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

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
