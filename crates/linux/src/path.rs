//! Paths inside a directory that is not trusted: a rootfs, a volume, a layer, a build context.
//!
//! [`RootDir`] resolves every path with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`, so `..`, absolute
//! names and symlinks mean what they mean to a process whose root is that directory, and a concurrent rename can
//! never lead outside. The last component is acted on by [`Directory`], by its single name and without following it,
//! unless a method says otherwise.
//!
//! **Invariant:** no method joins the root's own path with a name; nothing is resolved twice.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

pub use directory::Directory;
pub use remove::remove_tree;

mod directory;
mod remove;

/// A failed operation on a path inside of a root: what was tried on which path; the cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct PathError {
    /// The verb, in words: `open`, `create directory`, …
    pub action: &'static str,
    /// The path as the caller gave it, relative to the root.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl PathError {
    /// The kind of the underlying error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The kernel's error number, if it came from there.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

impl From<PathError> for io::Error {
    fn from(error: PathError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the kinds")]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
    Unknown,
}

impl FileKind {
    fn from_file_type(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharacterDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => Self::Unknown,
        }
    }

    fn to_file_type(self) -> FileType {
        match self {
            Self::Regular => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Symlink => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
            Self::CharacterDevice => FileType::CharacterDevice,
            Self::BlockDevice => FileType::BlockDevice,
            Self::Unknown => FileType::Unknown,
        }
    }
}

/// A point in time as file systems store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// 0 to 999,999,999, counted forward from `seconds`.
    pub nanoseconds: u32,
}

impl Time {
    fn to_timespec(self) -> rustix::fs::Timespec {
        rustix::fs::Timespec { tv_sec: self.seconds, tv_nsec: self.nanoseconds.into() }
    }
}

/// What `stat` tells about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Logical size in bytes.
    pub size: u64,
    /// Disk usage in units of 512 bytes.
    pub blocks: u64,
    /// Modification time.
    pub modified: Time,
    /// Access time.
    pub accessed: Time,
    /// The device that holds the file.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Major and minor number of a device node, `(0, 0)` for others.
    pub node: (u32, u32),
}

impl Metadata {
    /// The metadata of an open file (`O_PATH` will do).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::fstat(fd)?))
    }

    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::useless_conversion,
        reason = "the field types differ between architectures; sizes and nanoseconds are never negative"
    )]
    fn from_stat(stat: &Stat) -> Self {
        let kind = FileKind::from_file_type(FileType::from_raw_mode(stat.st_mode));
        let is_node = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            modified: Time { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
            accessed: Time { seconds: stat.st_atime as i64, nanoseconds: stat.st_atime_nsec as u32 },
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            links: u64::from(stat.st_nlink),
            node: if is_node {
                (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
            } else {
                (0, 0)
            },
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::Regular
    }

    /// Whether it is overlay's mark for a deleted file: character device 0/0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharacterDevice && self.node == (0, 0)
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The single name.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
    /// Its inode number.
    pub inode: u64,
}

/// A directory that bounds every path used through it. Paths may be absolute or relative: both start at the root.
pub struct RootDir {
    directory: Directory,
}

impl fmt::Debug for RootDir {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("RootDir").field(&self.directory.as_fd()).finish()
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl RootDir {
    /// Opens a directory of the host (a trusted path) as a root.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PathError> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| failed("open directory", path, error.into()))?;
        Ok(Self::from_fd(fd))
    }

    /// Takes an open directory or mount as a root. An `O_PATH` descriptor will do for all but reading its entries.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { directory: Directory::from_fd(fd) }
    }

    /// A second handle on the same root.
    pub fn try_clone(&self) -> Result<Self, PathError> {
        let directory =
            self.directory.try_clone().map_err(|error| failed("duplicate", Path::new("/"), error))?;
        Ok(Self { directory })
    }

    /// Gives up the handle.
    pub fn into_fd(self) -> OwnedFd {
        self.directory.into_fd()
    }

    /// The root itself, for calls that take a single name.
    pub fn as_directory(&self) -> &Directory {
        &self.directory
    }

    // --- Resolving -------------------------------------------------------------------------------------------

    /// Opens whatever the path leads to, symlinks followed inside the root. Add `NOFOLLOW` to stop at a last
    /// symlink. Opening for reading never blocks on a fifo (`NONBLOCK` is set), but check the kind before reading.
    pub fn open_with(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, PathError> {
        let path = path.as_ref();
        self.resolve(path, flags).map_err(|error| failed("open", path, error))
    }

    /// Pins whatever the path leads to with `O_PATH`.
    pub fn open_path(&self, path: impl AsRef<Path>) -> Result<OwnedFd, PathError> {
        self.open_with(path, OFlags::PATH)
    }

    /// Pins whatever the path leads to, as [`Self::open_path`], but refuses what would lead out (`EXDEV`) instead of taking the
    /// root for `/`: a symlink to `/etc`, or `..` above the root. An absolute path leads out, too.
    pub fn open_path_beneath(&self, path: impl AsRef<Path>) -> Result<OwnedFd, PathError> {
        let path = path.as_ref();
        self.resolve_within(path, OFlags::PATH, ResolveFlags::BENEATH)
            .map_err(|error| failed("open", path, error))
    }

    /// Opens a directory for reading and single-name calls.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Directory, PathError> {
        let path = path.as_ref();
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map(Directory::from_fd)
            .map_err(|error| failed("open directory", path, error))
    }

    /// Opens a directory below as a root of its own.
    pub fn open_root(&self, path: impl AsRef<Path>) -> Result<Self, PathError> {
        self.open_dir(path).map(|directory| Self { directory })
    }

    /// Opens a regular file for reading; a directory, device, fifo or socket is refused.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File, PathError> {
        let path = path.as_ref();
        let open = || {
            let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            match Metadata::of(&fd)?.kind {
                FileKind::Regular => Ok(File::from(fd)),
                FileKind::Directory => Err(Errno::ISDIR.into()),
                _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
            }
        };
        open().map_err(|error| failed("open", path, error))
    }

    /// The content of a regular file of at most `limit` bytes.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, PathError> {
        let path = path.as_ref();
        let file = self.open_file(path)?;
        let mut content = Vec::new();
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut content);
        read.map_err(|error| failed("read", path, error))?;
        if content.len() as u64 > limit {
            let error =
                io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"));
            return Err(failed("read", path, error));
        }
        Ok(content)
    }

    /// The directory that holds the last component of `path`, and that component's name. Symlinks before the last
    /// component are followed inside the root. A path that ends in `..` or names the root has no such name (`EINVAL`).
    pub fn parent_of(&self, path: impl AsRef<Path>) -> Result<(Directory, OsString), PathError> {
        let path = path.as_ref();
        self.parent(path).map_err(|error| failed("open the parent directory of", path, error))
    }

    /// Metadata of what the path leads to, symlinks followed inside the root.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, PathError> {
        let path = path.as_ref();
        self.resolve(path, OFlags::PATH)
            .and_then(Metadata::of)
            .map_err(|error| failed("inspect", path, error))
    }

    /// Metadata of the entry itself; a last symlink is not followed.
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, PathError> {
        let path = path.as_ref();
        self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)
            .and_then(Metadata::of)
            .map_err(|error| failed("inspect", path, error))
    }

    /// Where a symlink points to, as written.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, PathError> {
        self.at_parent("read the link", path.as_ref(), |directory, name| directory.read_link(name))
    }

    /// The entries of a directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>, PathError> {
        let path = path.as_ref();
        self.open_dir(path)?.entries().map_err(|error| failed("list", path, error))
    }

    // --- Creating --------------------------------------------------------------------------------------------

    /// Creates a new regular file; anything in the way is `EEXIST`.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File, PathError> {
        self.at_parent("create", path.as_ref(), |directory, name| directory.create_file(name, mode))
    }

    /// Pins the file at `path`, creating an empty regular one first when there is nothing: what a bind mount
    /// needs as its destination. An existing path is followed inside the root; a symlink to nothing (the usual
    /// /etc/resolv.conf of distributions) gets its target created, with the directories above it.
    pub fn ensure_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd, PathError> {
        const MAX_LINKS: usize = 16;
        let given = path.as_ref();
        let mut path = given.to_owned();
        for _ in 0..MAX_LINKS {
            let missing = match self.open_or_create_file(&path, mode) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => error,
                other => return other,
            };
            let Ok(link) = self.read_link(&path) else { return Err(missing) };
            // An absolute target replaces the whole path.
            path = path.parent().unwrap_or(Path::new("/")).join(link);
            if let Some(parent) = path.parent() {
                self.create_dir_all(parent, 0o755)?;
            }
        }
        Err(failed("create", given, Errno::LOOP.into()))
    }

    /// Pins the file at `path`, or a new one.
    fn open_or_create_file(&self, path: &Path, mode: u32) -> Result<OwnedFd, PathError> {
        match self.resolve(path, OFlags::PATH) {
            Ok(fd) => Ok(fd),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let created = self.create_file(path, mode);
                match created {
                    Ok(file) => Ok(file.into()),
                    // Somebody was faster, or it is a symlink to nothing: the second look decides.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_path(path),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(failed("open", path, error)),
        }
    }

    /// Replaces the file at `path` with `content`: written beside it under a temporary name, then renamed, so a
    /// symlink in its place is replaced and not followed.
    pub fn write(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<(), PathError> {
        use io::Write as _;
        self.at_parent("write", path.as_ref(), |directory, name| {
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(".new");
            directory.remove_all(&temporary)?;
            let mut file = directory.create_file(&temporary, mode)?;
            let written = file
                .write_all(content)
                .and_then(|()| Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?))
                .and_then(|()| directory.rename(&temporary, directory, name));
            if written.is_err() {
                // The write's error is the one to tell; a leftover is replaced by the next attempt.
                let _ = directory.remove_file(&temporary);
            }
            written
        })
    }

    /// Creates one directory.
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), PathError> {
        self.at_parent("create directory", path.as_ref(), |directory, name| directory.create_dir(name, mode))
    }

    /// Creates a directory and what is missing above it, and opens it. Existing components are followed inside
    /// the root; a symlink to nothing gets its target created, as a process inside would see it.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<Directory, PathError> {
        let path = path.as_ref();
        self.make_directories(path, mode, |_| Ok(()))
            .map(Directory::from_fd)
            .map_err(|error| failed("create directory", path, error))
    }

    /// Like [`RootDir::create_dir_all`]; every directory that had to be created is handed to `created` while it is
    /// still empty (to set its owner, say).
    pub fn create_dir_all_with(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
        created: impl FnMut(&Directory) -> io::Result<()>,
    ) -> Result<Directory, PathError> {
        let path = path.as_ref();
        self.make_directories(path, mode, created)
            .map(Directory::from_fd)
            .map_err(|error| failed("create directory", path, error))
    }

    /// Creates a symlink.
    pub fn create_symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<(), PathError> {
        let target = target.as_ref().as_os_str();
        self.at_parent("create symlink", path.as_ref(), |directory, name| {
            directory.create_symlink(name, target)
        })
    }

    /// Makes `path` another name of `source`; both are resolved inside the root, a last symlink is linked itself.
    pub fn create_hard_link(
        &self,
        source: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<(), PathError> {
        let (source_directory, source_name) = self.parent_of(source)?;
        self.at_parent("create hard link", path.as_ref(), |directory, name| {
            directory.create_hard_link(name, &source_directory, &source_name)
        })
    }

    /// Creates a fifo, socket or device node.
    pub fn create_node(
        &self,
        path: impl AsRef<Path>,
        kind: FileKind,
        mode: u32,
        device: (u32, u32),
    ) -> Result<(), PathError> {
        self.at_parent("create device node", path.as_ref(), |directory, name| {
            directory.create_node(name, kind, mode, device)
        })
    }

    // --- Changing and removing ---------------------------------------------------------------------------------

    /// Renames inside the root.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), PathError> {
        let (target, target_name) = self.parent_of(to)?;
        self.at_parent("rename", from.as_ref(), |directory, name| {
            directory.rename(name, &target, &target_name)
        })
    }

    /// Removes an entry that is not a directory.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), PathError> {
        self.at_parent("remove", path.as_ref(), Directory::remove_file)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<(), PathError> {
        self.at_parent("remove directory", path.as_ref(), Directory::remove_dir)
    }

    /// Removes an entry and all below it, however deep; absent is fine.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), PathError> {
        self.at_parent("remove", path.as_ref(), Directory::remove_all)
    }

    /// Sets owner and group of the entry itself (a last symlink is not followed).
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<(), PathError> {
        let path = path.as_ref();
        let set = |fd: OwnedFd| {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            Ok(rustix::fs::chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
        };
        self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)
            .and_then(set)
            .map_err(|error| failed("change the owner of", path, error))
    }

    /// Sets the permission bits of an entry; a last symlink is refused.
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), PathError> {
        let path = path.as_ref();
        if is_root(path) {
            return rustix::fs::fchmod(&self.directory, Mode::from_raw_mode(mode))
                .map_err(|error| failed("change the mode of", path, error.into()));
        }
        self.at_parent("change the mode of", path, |directory, name| directory.set_mode(name, mode))
    }

    /// Sets access and modification time of the entry itself.
    pub fn set_times(&self, path: impl AsRef<Path>, accessed: Time, modified: Time) -> Result<(), PathError> {
        self.at_parent("change the times of", path.as_ref(), |directory, name| {
            directory.set_times(name, accessed, modified)
        })
    }

    /// The value of an extended attribute of the entry itself.
    pub fn xattr(&self, path: impl AsRef<Path>, attribute: &OsStr) -> Result<Option<Vec<u8>>, PathError> {
        self.at_parent("read an attribute of", path.as_ref(), |directory, name| {
            crate::xattr::get_at(directory, name, attribute)
        })
    }

    /// Sets an extended attribute of the entry itself.
    pub fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        attribute: &OsStr,
        value: &[u8],
    ) -> Result<(), PathError> {
        self.at_parent("set an attribute of", path.as_ref(), |directory, name| {
            crate::xattr::set_at(directory, name, attribute, value)
        })
    }

    // --- Inside --------------------------------------------------------------------------------------------------

    fn at_parent<T>(
        &self,
        action: &'static str,
        path: &Path,
        act: impl FnOnce(&Directory, &OsStr) -> io::Result<T>,
    ) -> Result<T, PathError> {
        self.parent(path)
            .and_then(|(directory, name)| act(&directory, &name))
            .map_err(|error| failed(action, path, error))
    }

    fn parent(&self, path: &Path) -> io::Result<(Directory, OsString)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or_else(|| Path::new("."));
        let fd = if is_root(parent) {
            rustix::io::fcntl_dupfd_cloexec(&self.directory, 0)?
        } else {
            self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY)?
        };
        Ok((Directory::from_fd(fd), name.to_owned()))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if is_root(path) { Path::new(".") } else { path };
        self.resolve_within(path, flags, ResolveFlags::IN_ROOT)
    }

    fn resolve_within(&self, path: &Path, flags: OFlags, bounds: ResolveFlags) -> io::Result<OwnedFd> {
        let scope = bounds | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: a rename anywhere on the system raced with `..`; the kernel asks to try again.
        for _ in 0..MAX_RESOLVE_ATTEMPTS {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), scope) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    fn make_directories(
        &self,
        path: &Path,
        mode: u32,
        mut created: impl FnMut(&Directory) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let wanted = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.resolve(path, wanted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut remaining: Vec<OsString> = components(path).into_iter().rev().collect();
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(component) = remaining.pop() {
            let above = self.resolve(&done, OFlags::PATH | OFlags::DIRECTORY)?;
            done.push(&component);
            match self.resolve(&done, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let above = Directory::from_fd(above);
            match above.create_dir(&component, mode) {
                Ok(()) => created(&above.open_dir(&component)?)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A symlink to nothing (or somebody was faster, then there is no link to read): its target,
                    // relative to where the link lies, takes the component's place.
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    done.pop();
                    match above.read_link(&component) {
                        Ok(target) => {
                            if target.is_absolute() {
                                done = PathBuf::new();
                            }
                            remaining.extend(components(&target).into_iter().rev());
                        }
                        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                            remaining.push(component);
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.resolve(&done, wanted)
    }
}

/// As many symlinks as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// How often a resolution is tried again while renames race with it.
const MAX_RESOLVE_ATTEMPTS: usize = 10_000;

/// The names of a path, `..` kept, so that each is resolved by the kernel in its turn.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().all(|byte| *byte == b'/') || path == Path::new(".")
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PathError {
    PathError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
