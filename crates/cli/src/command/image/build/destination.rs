//! Files that the command line names for results.
//!
//! ```text
//! nothing, or a regular file      made beside it, and renamed when it is whole: nobody sees half of one
//! a device, a pipe, a symlink     written through: it stays what it is
//! ```
//! A symlink is followed as it stands, for behind `/dev/stdout` is what others write to, too.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Opens what has to be written through; nothing where a new file may take the name. Waits, as any open does, for a pipe's reader.
pub(super) fn through(path: &Path) -> io::Result<Option<File>> {
    let Some(found) = named(path)?.filter(|found| !found.is_file()) else { return Ok(None) };
    // Only behind a symlink may there be nothing yet; a kernel may refuse to "create" a pipe of others that is there.
    OpenOptions::new().write(true).create(found.is_symlink()).truncate(true).open(path).map(Some)
}

/// Removes a file, and nothing else that has its name.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match named(path)? {
        Some(found) if found.is_file() => std::fs::remove_file(path),
        Some(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(()),
    }
}

fn named(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
