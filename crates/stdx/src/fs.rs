//! File operations whose errors carry the operation and the path.
//!
//! These are for paths that Palan itself owns (its data root, its run root, the host's configuration). A path inside a
//! root file system, a volume, a layer or a build context is reached through `palan_linux::path::RootDir` only.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A failed file operation: what was tried, on which path, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct PathError {
    /// What was tried, as a verb: `open`, `create directory`.
    pub operation: &'static str,
    /// The path as it was given.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
}

impl PathError {
    /// Wraps `source`, which `operation` on `path` ended with.
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { operation, path: path.into(), source: source.into() }
    }

    /// The kind of the underlying error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl From<PathError> for io::Error {
    fn from(error: PathError) -> Self {
        Self::new(error.source.kind(), format!("{error}: {}", error.source))
    }
}

/// Adds the operation and the path to an I/O result.
pub trait PathContext<T> {
    /// Turns the error into a [`PathError`].
    fn path_context(self, operation: &'static str, path: &Path) -> Result<T, PathError>;
}

impl<T, E: Into<io::Error>> PathContext<T> for Result<T, E> {
    fn path_context(self, operation: &'static str, path: &Path) -> Result<T, PathError> {
        self.map_err(|source| PathError::new(operation, path, source))
    }
}

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File, PathError> {
    File::open(path).path_context("open", path)
}

/// Creates a file that must not exist yet, with the given permission bits (before the umask).
pub fn create_new(path: &Path, mode: u32) -> Result<File, PathError> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).path_context("create", path)
}

/// Opens a file for appending, creating it with the given permission bits (before the umask).
pub fn append(path: &Path, mode: u32) -> Result<File, PathError> {
    OpenOptions::new().append(true).create(true).mode(mode).open(path).path_context("open", path)
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, PathError> {
    std::fs::read(path).path_context("read", path)
}

/// Reads a whole file as UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, PathError> {
    std::fs::read_to_string(path).path_context("read", path)
}

/// Reads a file that the kernel makes up while it is read (of /proc, /sys or a cgroup), as UTF-8.
///
/// Such a file has no size to go by, so that std begins with 32 bytes; each call is one of the kernel's too.
pub fn read_generated(mut file: File) -> io::Result<String> {
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// [`read_generated`] by path.
pub fn read_generated_at(path: &Path) -> Result<String, PathError> {
    File::open(path).and_then(read_generated).path_context("read", path)
}

/// Reads a file as UTF-8; `None` where it does not exist.
pub fn read_to_string_if_exists(path: &Path) -> Result<Option<String>, PathError> {
    if_exists(read_to_string(path))
}

/// Writes a whole file in place. Use [`crate::atomic_file::write`] where a half-written file would hurt.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), PathError> {
    std::fs::write(path, bytes).path_context("write", path)
}

/// Creates a directory with the given permission bits (before the umask); it may exist.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), PathError> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.path_context("create directory", path),
    }
}

/// Creates a directory and its parents with the given permission bits (before the umask).
pub fn create_dir_all(path: &Path, mode: u32) -> Result<(), PathError> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).path_context("create directory", path)
}

/// Tells ext4 that the directories in here have nothing to do with each other, so that each gets a place of its own on the
/// disk. Else a new one is put where others were just removed, and ext4 looks at every inode there, one by one, to avoid
/// those deleted in the last seconds: ten times the cost of a file. Other file systems don't know the flag and don't need it.
pub fn spread_subdirectories(directory: &File) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(flags) = ioctl_getflags(directory) {
        // Only speed is lost where it is refused.
        let _ = ioctl_setflags(directory, flags | IFlags::TOPDIR);
    }
}

/// Metadata of the file that `path` leads to.
pub fn metadata(path: &Path) -> Result<Metadata, PathError> {
    std::fs::metadata(path).path_context("stat", path)
}

/// The names in a directory, in no particular order.
pub fn read_dir(path: &Path) -> Result<Vec<std::fs::DirEntry>, PathError> {
    std::fs::read_dir(path).and_then(Iterator::collect).path_context("read directory", path)
}

/// Renames a file or directory.
pub fn rename(from: &Path, to: &Path) -> Result<(), PathError> {
    std::fs::rename(from, to).path_context("rename", from)
}

/// Removes a file; it may be gone already.
pub fn remove_file(path: &Path) -> Result<(), PathError> {
    if_exists(std::fs::remove_file(path).path_context("remove", path)).map(|_| ())
}

/// Removes a directory and all below it; it may be gone already.
pub fn remove_dir_all(path: &Path) -> Result<(), PathError> {
    if_exists(std::fs::remove_dir_all(path).path_context("remove", path)).map(|_| ())
}

/// Turns "does not exist" into `None`.
pub fn if_exists<T>(result: Result<T, PathError>) -> Result<Option<T>, PathError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_operation_and_the_path() {
        let error = read(Path::new("/nonexistent/file")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(io::Error::from(error).to_string().contains("No such file or directory"));
    }

    #[test]
    fn generated_files_are_read_whole() {
        let text = read_generated_at(Path::new("/proc/self/mountinfo")).unwrap();
        assert_eq!(text, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
        // More than the first buffer holds.
        let text = read_generated_at(Path::new("/proc/kallsyms")).unwrap();
        assert!(text.len() > 8192 && text.ends_with('\n'));
    }

    #[test]
    fn what_is_absent_needs_no_removal() {
        remove_file(Path::new("/nonexistent/file")).unwrap();
        remove_dir_all(Path::new("/nonexistent/directory")).unwrap();
        assert_eq!(read_to_string_if_exists(Path::new("/nonexistent/file")).unwrap(), None);
    }
}
