//! The mount API by file descriptors: making file systems, cloning trees, attaching them, changing their attributes;
//! and overlay on top of it.
//!
//! A mount made here is *detached*: it belongs to a descriptor, is visible nowhere, and disappears when the descriptor
//! closes, unless [`attach`] gave it a place. No function takes a path to mount on: a target is a descriptor, so that
//! nothing can be swapped between looking and mounting.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

/// Attributes of one mount (`MOUNT_ATTR_*`).
pub use rustix::mount::MountAttrFlags as Attributes;

/// A step of making a file system failed.
#[derive(Debug)]
pub struct MountError {
    /// What was being done, e.g. `mount overlay: set lowerdir+`.
    pub operation: String,
    /// What the kernel had to say beyond the error number, one line each.
    pub messages: Vec<String>,
    /// The error number.
    pub source: io::Error,
}

impl MountError {
    fn new(operation: impl Into<String>, errno: Errno) -> Self {
        Self { operation: operation.into(), messages: Vec::new(), source: errno.into() }
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)?;
        for message in &self.messages {
            write!(f, " ({message})")?;
        }
        Ok(())
    }
}

impl std::error::Error for MountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A file system being configured (`fsopen`); [`FileSystem::mount`] turns it into a detached mount.
#[derive(Debug)]
pub struct FileSystem {
    kind: String,
    context: OwnedFd,
}

impl FileSystem {
    /// Starts a file system of type `kind`.
    pub fn new(kind: &str) -> Result<Self, MountError> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| MountError::new(format!("open file system type {kind}"), errno))?;
        Ok(Self { kind: kind.to_owned(), context })
    }

    /// Sets the option `key` to `value`.
    pub fn set(self, key: &str, value: &str) -> Result<Self, MountError> {
        let result = rustix::mount::fsconfig_set_string(&self.context, key, value);
        self.checked(result, || format!("set {key}={value}"))
    }

    /// Sets the option `key`, which has no value.
    pub fn set_flag(self, key: &str) -> Result<Self, MountError> {
        let result = rustix::mount::fsconfig_set_flag(&self.context, key);
        self.checked(result, || format!("set {key}"))
    }

    /// Sets an option as written in a mount table: `key` or `key=value`.
    pub fn set_option(self, option: &str) -> Result<Self, MountError> {
        match option.split_once('=') {
            Some((key, value)) => self.set(key, value),
            None => self.set_flag(option),
        }
    }

    /// Creates the file system and a detached mount of it.
    pub fn mount(self, attributes: Attributes) -> Result<OwnedFd, MountError> {
        let result = rustix::mount::fsconfig_create(&self.context);
        let this = self.checked(result, || "create".to_owned())?;
        match rustix::mount::fsmount(&this.context, FsMountFlags::FSMOUNT_CLOEXEC, attributes) {
            Ok(fd) => Ok(fd),
            Err(errno) => Err(this.failure("mount", errno)),
        }
    }

    fn checked(
        self,
        result: rustix::io::Result<()>,
        step: impl FnOnce() -> String,
    ) -> Result<Self, MountError> {
        match result {
            Ok(()) => Ok(self),
            Err(errno) => Err(self.failure(&step(), errno)),
        }
    }

    fn failure(&self, step: &str, errno: Errno) -> MountError {
        let mut error = MountError::new(format!("mount {}: {step}", self.kind), errno);
        let mut line = [0u8; 512];
        // Each read returns one message of the context's log, ENODATA when there is none left.
        while let Ok(length) = rustix::io::read(&self.context, &mut line) {
            if length == 0 || error.messages.len() == 16 {
                break;
            }
            let text = String::from_utf8_lossy(&line[..length]);
            error.messages.push(text.trim_start_matches(['e', 'w', 'i']).trim().to_owned());
        }
        error
    }
}

/// A detached copy of the mount that `path` (below `directory`) is on, with `path` as its root.
/// `recursive` includes what is mounted below.
pub fn clone_tree(directory: impl AsFd, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(directory, path, flags)?)
}

/// A detached copy of the mount that the open file or directory is on, with it as the root.
pub fn clone_of(file: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    clone_tree(file, c"", recursive)
}

/// The kernel's number of the mount that the open file or directory is on (Linux 5.8). No two mounts have the same at the
/// same time.
pub fn id_of(file: impl AsFd) -> io::Result<u64> {
    let wanted = rustix::fs::StatxFlags::MNT_ID;
    let found = rustix::fs::statx(file, c"", rustix::fs::AtFlags::EMPTY_PATH, wanted)?;
    Ok(found.stx_mnt_id)
}

/// Whether the open file is on a file system whose files are the kernel's state and no stored data: procfs, sysfs, cgroups and
/// their like (`linux/magic.h`).
pub fn is_kernel_file_system(file: impl AsFd) -> bool {
    const MAGICS: [u64; 13] = [
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x1cd1,      // devpts
        0x1980_0202, // mqueue
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0xcafe_4a11, // bpf
        0xf97c_ff8c, // selinuxfs
        0xde5e_81e4, // efivarfs
        0x0765_5821, // rdtgroup
    ];
    let found = rustix::fs::fstatfs(file).ok().and_then(|found| u64::try_from(found.f_type).ok());
    found.is_some_and(|magic| MAGICS.contains(&magic))
}

/// Whether the mount that the open file is on, or its file system, is read-only.
pub fn is_read_only(file: impl AsFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatvfs(file)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// The root of the mount that the open `directory` is on, for [`change`], which takes nothing below it.
pub fn root_of(directory: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut root = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let id = id_of(&root)?;
    loop {
        let parent = rustix::fs::openat(&root, c"..", flags, Mode::empty())?;
        let is_same = rustix::fs::fstat(&parent)?.st_ino == rustix::fs::fstat(&root)?.st_ino;
        if is_same || id_of(&parent)? != id {
            return Ok(root);
        }
        root = parent;
    }
}

/// Where something is mounted on the open `directory` or below it, in the caller's mount namespace: absolute paths in the order
/// of mounting.
pub fn mounted_at_or_below(directory: impl AsFd) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    let own = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()))?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    let places =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let paths = places.map(|place| PathBuf::from(std::ffi::OsString::from_vec(unescape_octal(place))));
    Ok(paths.filter(|path| path.starts_with(&own)).collect())
}

/// The mount that an open file or directory is on, as the kernel's table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Where it is mounted, in the caller's mount namespace.
    pub place: PathBuf,
    /// Mounts on it spread to others.
    pub is_shared: bool,
    /// Mounts on others spread to it.
    pub is_slave: bool,
}

/// Finds the mount that `file` is on; none if it is not in the caller's mount namespace.
pub fn placed(file: impl AsFd) -> io::Result<Option<Placed>> {
    use std::os::unix::ffi::OsStringExt;
    let id = id_of(file)?.to_string();
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut lines = table.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b' '));
    let Some(mut fields) = lines.find(|fields| fields.clone().next() == Some(id.as_bytes())) else {
        return Ok(None);
    };
    let place = fields.nth(4).map(unescape_octal).unwrap_or_default();
    // After the options come what is optional, up to a hyphen.
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let has = |kind: &[u8]| optional.iter().any(|field| field.starts_with(kind));
    Ok(Some(Placed {
        place: std::ffi::OsString::from_vec(place).into(),
        is_shared: has(b"shared:"),
        is_slave: has(b"master:"),
    }))
}

/// Undoes the escapes of the kernel's tables: space, tab, line break and backslash are `\` and three octal digits.
fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match (byte, digits) {
            (b'\\', Some(digits)) => {
                plain.push(digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8) + (digit - b'0')));
                rest = &after[3..];
            }
            _ => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    plain
}

/// Attaches the detached `mount` on `target`, an open (O_PATH) file or directory of the caller's mount namespace.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// What [`change`] does to a mount.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Attributes to switch on.
    pub set: Attributes,
    /// Attributes to switch off.
    pub clear: Attributes,
    /// New propagation.
    pub propagation: Option<Propagation>,
    /// User namespace whose id mapping the mount gets.
    pub id_mapping: Option<BorrowedFd<'a>>,
}

impl Default for Change<'_> {
    fn default() -> Self {
        Self { set: Attributes::empty(), clear: Attributes::empty(), propagation: None, id_mapping: None }
    }
}

/// How mounts spread between the copies of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// Bits of an access time policy, which is one field rather than separate flags.
const ACCESS_TIME_MASK: u32 = 0x70;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes attributes of the mount at `mount` (`mount_setattr`, Linux 5.12), with all below it if `recursive`.
pub fn change(mount: impl AsFd, change: &Change<'_>, recursive: bool) -> io::Result<()> {
    let mut clear = change.clear.bits();
    if change.set.bits() & ACCESS_TIME_MASK != 0 || clear & ACCESS_TIME_MASK != 0 {
        clear |= ACCESS_TIME_MASK;
    }
    let mut attributes = MountAttr {
        attr_set: change.set.bits().into(),
        attr_clr: clear.into(),
        propagation: match change.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
            Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        },
        userns_fd: 0,
    };
    if let Some(user) = change.id_mapping {
        attributes.attr_set |= MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::from(user.as_raw_fd().unsigned_abs());
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the attributes live through the call and their size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Changes the propagation of the caller's whole tree of mounts.
pub fn set_root_propagation(propagation: Propagation) -> io::Result<()> {
    let flag = match propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
    };
    Ok(rustix::mount::mount_change("/", flag | MountPropagationFlags::REC)?)
}

/// Makes the mount whose root is `root` the caller's root, and detaches the old root with all below it.
/// The working directory is the new root afterwards. With `shared` the old tree's mounts are shared with another
/// namespace, which must not lose them too.
pub fn pivot_root(root: impl AsFd, shared: bool) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // Old root stacked on the new one: no directory inside is needed for it (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".")?;
    if shared {
        rustix::mount::mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Moves the mount whose root is `root` over the caller's root and makes it the root directory: for a root that
/// [`pivot_root`] can't leave, a ramfs. The old tree stays below, out of reach of every path.
pub fn move_to_root(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// Detaches what is mounted at the absolute path or working directory `path`.
pub fn detach(path: &CStr) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// The layers of an overlay.
#[derive(Debug, Clone)]
pub struct OverlayOptions {
    /// Read-only layers, topmost first; at least one (two if there is no `upper`).
    pub lowers: Vec<PathBuf>,
    /// Where changes go; none for a read-only view.
    pub upper: Option<PathBuf>,
    /// The empty directory beside `upper` that overlay works in.
    pub work: Option<PathBuf>,
    /// Skip every sync of the upper layer: for one that is thrown away.
    pub volatile: bool,
    /// Attributes of the mount.
    pub attributes: Attributes,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        Self { lowers: Vec::new(), upper: None, work: None, volatile: false, attributes: Attributes::empty() }
    }
}

/// Most lower layers of one overlay that Palan allows.
pub const MAX_OVERLAY_LAYERS: usize = 500;

/// Mounts an overlay, detached.
///
/// Redirects are never followed, metadata-only copies and the index are off, so that no attribute in a layer can make
/// the kernel open a path of its choice.
/// Layers are given to the kernel as `/proc/self/fd/N`: long paths, commas and colons need no care, the descriptors
/// can't be swapped, and the container's mount table shows no path of the host. `lowerdir+` needs Linux 6.5; before
/// that fifteen layers fit into one option of 255 bytes, and more of them take mount(2) with a place to mount on for a
/// moment: the parent directory of `work`.
pub fn overlay(options: &OverlayOptions) -> Result<OwnedFd, MountError> {
    if options.lowers.len() > MAX_OVERLAY_LAYERS {
        let message =
            format!("mount overlay: {} layers, {MAX_OVERLAY_LAYERS} are possible", options.lowers.len());
        return Err(MountError::new(message, Errno::TOOBIG));
    }
    let layers = OverlayLayers::open(options)?;
    match layers.mount_separately() {
        Err(error) if error.source.raw_os_error() == Some(libc::EINVAL) => {}
        other => return other,
    }
    let joined = layers.joined_lowers();
    if joined.len() < 256 {
        return layers.configure(FileSystem::new("overlay")?.set("lowerdir", &joined)?);
    }
    layers.mount_by_path(&joined)
}

/// The open directories of an overlay.
struct OverlayLayers<'a> {
    options: &'a OverlayOptions,
    lowers: Vec<OwnedFd>,
    upper: Option<(OwnedFd, OwnedFd)>,
}

impl<'a> OverlayLayers<'a> {
    fn open(options: &'a OverlayOptions) -> Result<Self, MountError> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|errno| MountError::new(format!("open layer {}", path.display()), errno))
        };
        let lowers = options.lowers.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        let upper = match (&options.upper, &options.work) {
            (Some(upper), Some(work)) => Some((open(upper)?, open(work)?)),
            (None, None) => None,
            _ => return Err(MountError::new("mount overlay: upper without work", Errno::INVAL)),
        };
        Ok(Self { options, lowers, upper })
    }

    fn mount_separately(&self) -> Result<OwnedFd, MountError> {
        let mut file_system = FileSystem::new("overlay")?;
        for lower in &self.lowers {
            file_system = file_system.set("lowerdir+", &proc_path(lower))?;
        }
        self.configure(file_system)
    }

    fn configure(&self, mut file_system: FileSystem) -> Result<OwnedFd, MountError> {
        if let Some((upper, work)) = &self.upper {
            file_system = file_system.set("upperdir", &proc_path(upper))?.set("workdir", &proc_path(work))?;
        }
        for option in self.plain_options() {
            file_system = file_system.set_option(option)?;
        }
        file_system.mount(self.options.attributes)
    }

    fn plain_options(&self) -> impl Iterator<Item = &'static str> {
        let volatile = self.options.volatile && self.upper.is_some();
        ["redirect_dir=nofollow", "metacopy=off", "index=off"]
            .into_iter()
            .chain(volatile.then_some("volatile"))
    }

    fn joined_lowers(&self) -> String {
        self.lowers.iter().map(proc_path).collect::<Vec<_>>().join(":")
    }

    /// mount(2) knows no detached mounts: it goes onto a directory of ours, is cloned from there, and taken off.
    fn mount_by_path(&self, lowers: &str) -> Result<OwnedFd, MountError> {
        let place = self.options.work.as_deref().and_then(Path::parent).ok_or_else(|| {
            let message =
                format!("mount overlay: {} layers without an upper layer need Linux 6.5", self.lowers.len());
            MountError::new(message, Errno::NOTSUP)
        })?;
        let failed = |errno: Errno| MountError::new(format!("mount overlay on {}", place.display()), errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(place, flags, Mode::empty()).map_err(failed)?;
        let mut data = format!("lowerdir={lowers}");
        if let Some((upper, work)) = &self.upper {
            data.push_str(&format!(",upperdir={},workdir={}", proc_path(upper), proc_path(work)));
        }
        for option in self.plain_options() {
            data.push(',');
            data.push_str(option);
        }
        let data = std::ffi::CString::new(data).map_err(|_| failed(Errno::INVAL))?;
        let target = proc_path(&directory);
        rustix::mount::mount("overlay", &*target, "overlay", rustix::mount::MountFlags::empty(), &*data)
            .map_err(failed)?;
        let cloned = rustix::fs::open(place, flags, Mode::empty())
            .and_then(|root| {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH;
                rustix::mount::open_tree(&root, c"", flags)
            })
            .map_err(failed);
        rustix::mount::unmount(place, UnmountFlags::DETACH).map_err(failed)?;
        let cloned = cloned?;
        if !self.options.attributes.is_empty() {
            let wanted = Change { set: self.options.attributes, ..Change::default() };
            change(&cloned, &wanted, false).map_err(|source| MountError {
                operation: "mount overlay: set attributes".to_owned(),
                messages: Vec::new(),
                source,
            })?;
        }
        Ok(cloned)
    }
}

fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A private, detached procfs of the caller's PID namespace: nothing can be mounted over parts of it.
pub fn private_proc() -> Result<OwnedFd, MountError> {
    FileSystem::new("proc")?.mount(
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_mount_is_found() {
        let open = |path: &str| std::fs::File::open(path).unwrap();
        let identity = |fd: &dyn AsRawFd| {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let stat = rustix::fs::stat(path).unwrap();
            (stat.st_dev, stat.st_ino)
        };
        for (inside, root) in [("/proc/sys/kernel", "/proc"), ("/proc", "/proc"), ("/", "/")] {
            let found = root_of(open(inside)).unwrap();
            assert_eq!(identity(&found), identity(&open(root)), "{inside}");
            assert_eq!(id_of(&found).unwrap(), id_of(open(inside)).unwrap());
        }
        assert_ne!(id_of(open("/proc")).unwrap(), id_of(open("/")).unwrap());
    }

    #[test]
    fn a_file_is_found_on_its_mount() {
        let found = placed(std::fs::File::open("/proc/sys/kernel").unwrap()).unwrap().unwrap();
        assert!(found.place.starts_with("/proc"), "{found:?}");
        // What is detached is in no table.
        let Ok(detached) = private_proc() else { return };
        assert_eq!(placed(detached).unwrap(), None);
    }

    #[test]
    fn what_is_mounted_where_is_read_from_the_kernels_table() {
        let found = mounted_at_or_below(std::fs::File::open("/proc").unwrap()).unwrap();
        assert!(found.contains(&PathBuf::from("/proc")), "{found:?}");
        assert!(found.iter().all(|path| path.starts_with("/proc")), "{found:?}");
        let below = mounted_at_or_below(std::fs::File::open("/proc/sys/kernel").unwrap()).unwrap();
        assert!(!below.contains(&PathBuf::from("/proc")));
        for (text, plain) in [("a\\040b", "a b"), ("\\134", "\\"), ("\\", "\\"), ("\\09x", "\\09x"), ("", "")]
        {
            assert_eq!(unescape_octal(text.as_bytes()), plain.as_bytes());
        }
    }
}
