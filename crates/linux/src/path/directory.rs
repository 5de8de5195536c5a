//! One open directory and its direct entries: every call takes a single name and never follows a symlink.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use super::{DirEntry, FileKind, Metadata, Time};

/// A directory handle whose methods reach its direct entries only.
///
/// A name with a slash, `.`, `..` or the empty name is refused with `EINVAL`, so no call can leave the directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

impl Directory {
    /// Wraps an open directory (an `O_PATH` descriptor will do for all but `entries` and `sync`).
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)? })
    }

    /// Gives up the handle.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// What the entry is, without following it.
    pub fn metadata(&self, name: &OsStr) -> io::Result<Metadata> {
        let stat = rustix::fs::statat(&self.fd, checked(name)?, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Metadata::from_stat(&stat))
    }

    /// Like [`Directory::metadata`], with `None` for an entry that does not exist.
    pub fn metadata_if_exists(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match self.metadata(name) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the entry with the given flags, never through a symlink (`ELOOP`).
    pub fn open(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, checked(name)?, flags, Mode::empty())?)
    }

    /// Opens the entry for reading if it is a regular file. Anything else is looked at and not opened: a device may take that as
    /// an order, and it may have taken the file's name a moment ago.
    pub fn open_regular(&self, name: &OsStr) -> io::Result<Option<File>> {
        let pinned = self.open(name, OFlags::PATH)?;
        if !Metadata::of(&pinned)?.is_file() {
            return Ok(None);
        }
        // The very file that was looked at, whatever has its name by now.
        let same = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        let file = rustix::fs::open(same, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Some(File::from(file)))
    }

    /// Opens a regular file for reading, where nobody puts a device in its place; anything else is `EINVAL`, and a fifo does not block.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        let fd = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match Metadata::of(&fd)?.is_file() {
            true => Ok(File::from(fd)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// Opens a subdirectory for reading; a symlink is refused.
    pub fn open_dir(&self, name: &OsStr) -> io::Result<Self> {
        Ok(Self { fd: self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)? })
    }

    /// Creates a new regular file for writing (and reading); anything in the way is `EEXIST`.
    pub fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, checked(name)?, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// Creates a directory; the process's umask applies to `mode`.
    pub fn create_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, checked(name)?, Mode::from_raw_mode(mode))?)
    }

    /// Creates a symlink; the target is data and not looked at.
    pub fn create_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, checked(name)?)?)
    }

    /// Creates a fifo, socket or device node; the process's umask applies to `mode`.
    pub fn create_node(&self, name: &OsStr, kind: FileKind, mode: u32, device: (u32, u32)) -> io::Result<()> {
        let device = rustix::fs::makedev(device.0, device.1);
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::mknodat(&self.fd, checked(name)?, kind.to_file_type(), mode, device)?)
    }

    /// Makes `name` another link of `source_name` in `source`; a symlink is linked itself, not what it points to.
    pub fn create_hard_link(&self, name: &OsStr, source: &Self, source_name: &OsStr) -> io::Result<()> {
        let (source_name, name) = (checked(source_name)?, checked(name)?);
        Ok(rustix::fs::linkat(&source.fd, source_name, &self.fd, name, AtFlags::empty())?)
    }

    /// Renames within or between directories, replacing what the kernel lets `rename` replace.
    pub fn rename(&self, name: &OsStr, target: &Self, target_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, checked(name)?, &target.fd, checked(target_name)?)?)
    }

    /// Moves an entry, which must not replace anything (`EEXIST`).
    pub fn rename_new(&self, name: &OsStr, target: &Self, target_name: &OsStr) -> io::Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let (name, target_name) = (checked(name)?, checked(target_name)?);
        Ok(rustix::fs::renameat_with(&self.fd, name, &target.fd, target_name, flags)?)
    }

    /// Where the symlink `name` points to.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, checked(name)?, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Removes an entry that is not a directory.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, checked(name)?, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, checked(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes the entry and all below it, however deep; see [`super::remove`].
    pub fn remove_all(&self, name: &OsStr) -> io::Result<()> {
        super::remove::remove_all(self, checked(name)?)
    }

    /// Sets owner and group of the entry itself. The kernel clears set-id bits and `security.capability`.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        Ok(rustix::fs::chownat(&self.fd, checked(name)?, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the permission bits of an entry that is not a symlink (`ELOOP`).
    ///
    /// `fchmodat` knows no `AT_SYMLINK_NOFOLLOW` before Linux 6.6, so the entry is pinned with `O_PATH` and
    /// changed through its magic link, as glibc does.
    pub fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let pinned = self.open(name, OFlags::PATH)?;
        if Metadata::of(&pinned)?.kind == FileKind::Symlink {
            return Err(Errno::LOOP.into());
        }
        let link = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        Ok(rustix::fs::chmod(link, Mode::from_raw_mode(mode))?)
    }

    /// Sets access and modification time of the entry itself.
    pub fn set_times(&self, name: &OsStr, accessed: Time, modified: Time) -> io::Result<()> {
        let times =
            Timestamps { last_access: accessed.to_timespec(), last_modification: modified.to_timespec() };
        Ok(rustix::fs::utimensat(&self.fd, checked(name)?, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The entries, without `.` and `..`, in the kernel's order.
    pub fn entries(&self) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = match entry.file_type() {
                    rustix::fs::FileType::Unknown => self.metadata(OsStr::from_bytes(name))?.kind,
                    known => FileKind::from_file_type(known),
                };
                entries.push(DirEntry { name: OsString::from_vec(name.to_vec()), kind, inode: entry.ino() });
            }
        }
        Ok(entries)
    }

    /// `fsync` of the directory: entries created, renamed or removed before it survive a power loss.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Refuses what is not a single file name.
fn checked(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}
