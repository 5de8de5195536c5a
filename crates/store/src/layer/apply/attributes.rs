//! Owner, mode, extended attributes and times of what a layer brings.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use palan_linux::path::{Directory, Time};
use palan_linux::xattr;
use rustix::fs::{Mode, Timespec, Timestamps};
use rustix::io::Errno;

use super::super::tar::{Entry, Kind, lossy};

/// Owner first: changing it clears set-id bits and capabilities.
pub(super) fn dress(file: &impl std::os::fd::AsFd, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(entry.uid), rustix::fs::Gid::from_raw(entry.gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    for (attribute, value) in kept_xattrs(entry) {
        if entry.kind == Kind::Directory && is_inherited(attribute) {
            continue;
        }
        let name = OsStr::from_bytes(attribute);
        let set = rustix::fs::fsetxattr(file, name, value, rustix::fs::XattrFlags::empty());
        tolerate_unsupported(set.map_err(io::Error::from), attribute)?;
    }
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?)
}

/// Takes away what an earlier entry or a lower layer gave a directory: an entry says all that there is to say about it, and a
/// layer that stands alone shows nothing else.
pub(super) fn strip(directory: &Directory, entry: &Entry) -> io::Result<()> {
    for attribute in xattr::list(directory)? {
        let name = attribute.as_bytes();
        let is_of_host = is_of_overlay(name) || name.starts_with(b"security.selinux");
        if !is_of_host && !kept_xattrs(entry).any(|(own, _)| own == name) {
            xattr::remove(directory, &attribute.to_string_lossy())?;
        }
    }
    Ok(())
}

fn is_of_overlay(attribute: &[u8]) -> bool {
    attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
}

/// Overlay's own attributes would let a layer redirect lookups or hide files: only we set them.
pub(super) fn kept_xattrs(entry: &Entry) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
    entry.xattrs.iter().filter(|(name, _)| !is_of_overlay(name))
}

pub(super) fn is_inherited(attribute: &[u8]) -> bool {
    attribute == b"system.posix_acl_default"
}

/// A file system or kernel without an attribute's kind loses it, as in Docker; a capability must not get lost.
pub(super) fn tolerate_unsupported(set: io::Result<()>, attribute: &[u8]) -> io::Result<()> {
    let Err(error) = set else { return Ok(()) };
    let unsupported = match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => true,
        // `user.` exists on files and directories only.
        Some(Errno::PERM) => attribute.starts_with(b"user."),
        // No policy that knows the label.
        Some(Errno::INVAL | Errno::ACCESS) => attribute.starts_with(b"security.selinux"),
        _ => false,
    };
    if unsupported && attribute != b"security.capability" {
        tracing::debug!(attribute = %lossy(attribute), "an extended attribute of a layer can't be kept");
        return Ok(());
    }
    Err(error)
}

pub(super) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
