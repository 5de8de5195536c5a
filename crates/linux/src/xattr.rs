//! Extended attributes of whatever an open descriptor or a single directory entry names, never through a symlink.

use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The kernel's limit for one value (`XATTR_SIZE_MAX`).
pub const MAX_VALUE: usize = 65536;

/// The value of `name` on an open file or directory; `None` when it has no such attribute.
pub fn get(fd: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    read_value(|buffer| rustix::fs::fgetxattr(fd.as_fd(), name, buffer))
}

/// Sets `name` on an open file or directory, replacing an earlier value.
pub fn set(fd: impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

/// Removes `name` from an open file or directory; absent is fine.
pub fn remove(fd: impl AsFd, name: &str) -> io::Result<()> {
    absent_is_fine(rustix::fs::fremovexattr(fd, name))
}

/// The names of all attributes of an open file or directory.
pub fn list(fd: impl AsFd) -> io::Result<Vec<OsString>> {
    read_names(|buffer| rustix::fs::flistxattr(fd.as_fd(), buffer))
}

/// The value of `attribute` on entry `name` of `directory`, whatever kind of file it is.
pub fn get_at(directory: impl AsFd, name: &OsStr, attribute: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let path = entry_path(directory.as_fd(), name)?;
    read_value(|buffer| rustix::fs::lgetxattr(path.as_c_str(), attribute, buffer))
}

/// Sets `attribute` on entry `name` of `directory`, whatever kind of file it is.
pub fn set_at(directory: impl AsFd, name: &OsStr, attribute: &OsStr, value: &[u8]) -> io::Result<()> {
    let path = entry_path(directory.as_fd(), name)?;
    Ok(rustix::fs::lsetxattr(path.as_c_str(), attribute, value, XattrFlags::empty())?)
}

/// Removes `attribute` from entry `name` of `directory`; absent is fine.
pub fn remove_at(directory: impl AsFd, name: &OsStr, attribute: &OsStr) -> io::Result<()> {
    let path = entry_path(directory.as_fd(), name)?;
    absent_is_fine(rustix::fs::lremovexattr(path.as_c_str(), attribute))
}

/// The names of all attributes of entry `name` of `directory`, whatever kind of file it is.
pub fn list_at(directory: impl AsFd, name: &OsStr) -> io::Result<Vec<OsString>> {
    let path = entry_path(directory.as_fd(), name)?;
    read_names(|buffer| rustix::fs::llistxattr(path.as_c_str(), buffer))
}

/// `/proc/self/fd/N/name`: before Linux 6.13 the only way to reach the attributes of a symlink or device below
/// a directory handle. The magic link leads to exactly the open directory and the `l` calls don't follow the
/// last component, so nothing is resolved twice.
fn entry_path(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<CString> {
    let mut path = String::from("/proc/self/fd/");
    let _ = write!(path, "{}/", directory.as_raw_fd());
    let mut path = path.into_bytes();
    path.extend_from_slice(name.as_bytes());
    Ok(CString::new(path)?)
}

fn read_value(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if buffer.len() < MAX_VALUE => buffer.resize(MAX_VALUE, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_names(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<OsString>> {
    let mut buffer = vec![0; 1024];
    let length = loop {
        match call(&mut buffer) {
            Ok(length) => break length,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if buffer.len() < MAX_VALUE => buffer.resize(MAX_VALUE, 0),
            Err(error) => return Err(error.into()),
        }
    };
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

fn absent_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
