//! The mounts of the specification, read-only and masked paths.
//!
//! Every target is found with a root-scoped `openat2` and used as a descriptor; every mount is made detached and then
//! attached to that descriptor. Nothing can be swapped in between, wherever a shared volume's other users point
//! symlinks to (CVE-2021-30465, CVE-2024-45310, CVE-2025-31133, CVE-2025-52565).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use palan_linux::mount::{self, Attributes, Change, FileSystem};
use palan_linux::path::{FileKind, Metadata, RootDir};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::rootfs::{BindCopy, BindSource, MountSources, map_ids, open_in_root};
use crate::error::{Context, Error, InField};
use crate::handshake::Channel;
use crate::plan::Plan;
use crate::plan::mount::{MountKind, MountPlan};

/// What later steps need of the mounts made.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The devpts instance at /dev/pts.
    pub(super) devpts: Option<OwnedFd>,
    /// What SELinux calls the files of new file systems.
    label: Option<String>,
    /// Mounts that become read-only at the end: something may yet be put into them.
    read_only: Vec<OwnedFd>,
    /// What is mounted on /proc and /sys. Parts of it are protected where it is, not where a path leads by then: who can exchange
    /// such a directory for another moves the mount along, and would have it bare (of the kind of CVE-2025-52881).
    kernel: Vec<(PathBuf, RootDir)>,
}

impl Outcome {
    fn keep_if_of_kernel(&mut self, plan: &MountPlan, mount: &OwnedFd) -> Result<(), Error> {
        let clean = lexical(&plan.destination);
        if clean == Path::new("proc") || clean == Path::new("sys") {
            let mount = mount.try_clone().context(|| "duplicate a descriptor".to_owned())?;
            self.kernel.push((clean, RootDir::from_fd(mount)));
        }
        Ok(())
    }

    /// The directory that `path` is looked for in, and how it is called there.
    fn place_of<'a>(&'a self, root: &'a RootDir, path: &Path) -> (&'a RootDir, PathBuf) {
        let clean = lexical(path);
        // What is mounted last lies on top.
        let inside = |(place, mount): &'a (PathBuf, RootDir)| {
            let below = clean.strip_prefix(place).ok().filter(|below| !below.as_os_str().is_empty())?;
            Some((mount, below.to_owned()))
        };
        self.kernel.iter().rev().find_map(inside).unwrap_or_else(|| (root, path.to_owned()))
    }
}

pub(super) fn mount_all(
    root: &RootDir,
    all: &Plan,
    sources: MountSources,
    cgroup_v2: bool,
    caller: Option<&Channel>,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome { label: all.mount_label.clone(), ..Outcome::default() };
    let MountSources { binds, mut cgroups } = sources;
    for (index, (plan, source)) in all.mounts.iter().zip(binds).enumerate() {
        let made = match (&plan.kind, source) {
            (MountKind::Bind { .. }, Some(source)) => {
                let copy = match source {
                    BindSource::Copy(copy) => Ok(copy),
                    BindSource::Found(found) => found.copy_as_container_sees(all, plan),
                    BindSource::InRoot { path, id_map } => {
                        open_in_root(all, plan, root, &path, &|copy| match (&id_map, caller) {
                            (None, _) => Ok(()),
                            (Some(mapping), None) => map_ids(plan, copy, mapping),
                            (Some(_), Some(caller)) => caller
                                .ask_for_id_mapping(index, copy.as_fd())
                                .context(|| "have the ids of the mount mapped".to_owned()),
                        })
                    }
                };
                copy.and_then(|source| {
                    outcome.keep_if_of_kernel(plan, &source.copy)?;
                    bind(root, plan, source)
                })
            }
            (MountKind::Cgroup, _) if cgroup_v2 => match cgroups.pop() {
                Some((_, host)) => change_attributes(plan, &host).and_then(|()| {
                    bind(root, plan, BindCopy { copy: host, kind: FileKind::Directory, cgroups: Vec::new() })
                }),
                None => file_system(root, plan, "cgroup2", Some("cgroup"), &mut outcome),
            },
            (MountKind::Cgroup, _) => cgroup_v1(root, plan, std::mem::take(&mut cgroups), &mut outcome),
            (MountKind::FileSystem { kind, source }, _) => {
                file_system(root, plan, kind, source.as_deref(), &mut outcome)
            }
            (MountKind::Bind { .. }, None) => Ok(()),
        };
        made.in_field(&plan.field)?;
    }
    Ok(outcome)
}

fn invalid(what: &str) -> Error {
    Error::Invalid(what.to_owned())
}

/// The destination without `.` and `..`, relative to the root: for comparisons only, never to be opened.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Makes the places that mounts need and the root file system lacks, with the bind mounts in place that places lie in:
/// for a restore, where all else is mounted by CRIU. What lies below another file system is CRIU's to restore.
pub(crate) fn make_places(root: &RootDir, plans: &[MountPlan]) -> Result<(), Error> {
    let mut unreachable: Vec<PathBuf> = Vec::new();
    for plan in plans {
        let clean = lexical(&plan.destination);
        let hidden = unreachable.iter().any(|above| clean.starts_with(above) && clean != *above);
        match super::rootfs::open_source(plan)? {
            Some(source) if !hidden => {
                bind(root, plan, source)?;
                continue;
            }
            None if !hidden && plan.kind != MountKind::Cgroup => drop(target(root, plan, true)?),
            _ => {}
        }
        unreachable.push(clean);
    }
    Ok(())
}

/// Finds the place for a mount, making what is missing.
fn target(root: &RootDir, plan: &MountPlan, directory: bool) -> Result<OwnedFd, Error> {
    let path = &plan.destination;
    let clean = lexical(path);
    let found = if ["proc", "sys", "dev"].iter().any(|name| clean == Path::new(name)) && directory {
        system_directory(root, &clean)?
    } else if directory {
        root.create_dir_all(path, 0o755)?.into_fd()
    } else {
        if let Some(parent) = path.parent() {
            root.create_dir_all(parent, 0o755)?;
        }
        ensure_file(root, path)?
    };
    check_proc(plan, &clean, &found)?;
    Ok(found)
}

/// Opens /proc, /sys or /dev, which decide where everything else ends up. An image in which one is a symlink wants to lead it
/// elsewhere (CVE-2023-28642, CVE-2026-41579, CVE-2026-47766).
fn system_directory(root: &RootDir, name: &Path) -> Result<OwnedFd, Error> {
    let open = || root.open_with(name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW);
    let found = open().or_else(|error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Err(error);
        }
        root.create_dir(name, 0o755)?;
        open()
    });
    found.map_err(|error| match error.errno() {
        Some(Errno::NOTDIR | Errno::LOOP) => {
            invalid("it must be mounted on ordinary directory, and the image has something else there")
        }
        _ => error.into(),
    })
}

/// Opens the file at `path`, making an empty one if there is none.
pub(super) fn ensure_file(root: &RootDir, path: &Path) -> Result<OwnedFd, Error> {
    Ok(root.ensure_file(path, 0o755)?)
}

/// Nothing may be mounted into a procfs but what containers are known to replace there, and nothing but a procfs on
/// /proc (CVE-2019-16884, CVE-2023-27561).
fn check_proc(plan: &MountPlan, clean: &Path, found: &OwnedFd) -> Result<(), Error> {
    const REPLACEABLE: [&str; 11] = [
        "proc/cpuinfo",
        "proc/diskstats",
        "proc/meminfo",
        "proc/stat",
        "proc/swaps",
        "proc/uptime",
        "proc/loadavg",
        "proc/slabinfo",
        "proc/net/dev",
        "proc/sys/kernel/ns_last_pid",
        "proc/sys/crypto/fips_enabled",
    ];
    let is_proc = matches!(&plan.kind, MountKind::FileSystem { kind, .. } if kind == "proc");
    if clean == Path::new("proc") {
        let binds = matches!(plan.kind, MountKind::Bind { .. });
        return if is_proc || binds {
            Ok(())
        } else {
            Err(invalid("only a proc file system can be mounted on /proc"))
        };
    }
    let inside = is_procfs(found).context(|| format!("inspect {}", plan.destination.display()))?;
    if inside && !REPLACEABLE.iter().any(|path| clean == Path::new(path)) {
        return Err(invalid("it cannot be mounted because it is inside /proc"));
    }
    Ok(())
}

fn is_procfs(file: &OwnedFd) -> std::io::Result<bool> {
    const PROC_MAGIC: u64 = 0x9fa0;
    let found = rustix::fs::fstatfs(file)?.f_type;
    Ok(u64::try_from(found).is_ok_and(|magic| magic == PROC_MAGIC))
}

fn change(plan: &MountPlan, mount: &OwnedFd, recursive: bool, wanted: &Change<'_>) -> Result<(), Error> {
    mount::change(mount, wanted, recursive)
        .context(|| format!("change the attributes of mount {}", plan.destination.display()))
}

fn attach(plan: &MountPlan, mount: &OwnedFd, target: &OwnedFd) -> Result<(), Error> {
    mount::attach(mount, target).context(|| format!("attach mount {}", plan.destination.display()))?;
    if let Some((propagation, recursive)) = plan.propagation {
        change(plan, mount, recursive, &Change { propagation: Some(propagation), ..Change::default() })?;
    }
    Ok(())
}

fn bind(root: &RootDir, plan: &MountPlan, source: BindCopy) -> Result<(), Error> {
    let BindCopy { copy, kind, cgroups } = source;
    if lexical(&plan.destination) == Path::new("proc") {
        let inspected = is_procfs(&copy).context(|| "inspect the source of mount /proc".to_owned())?;
        if !inspected {
            return Err(invalid("only a proc file system can be mounted on /proc"));
        }
    }
    let target = target(root, plan, kind == FileKind::Directory)?;
    attach(plan, &copy, &target)?;
    if cgroups.is_empty() { Ok(()) } else { protect_cgroups(plan, copy, &cgroups) }
}

/// Makes cgroup file systems below a read-only bind read-only. That a bind is read-only says nothing of what is mounted below
/// it, but who binds the host's /sys read-only does not mean to hand out its cgroups (CVE-2023-25809). Once it is attached:
/// kernels before 6.15 change nothing below the top of a detached tree, unless everything.
fn protect_cgroups(plan: &MountPlan, bound: OwnedFd, cgroups: &[PathBuf]) -> Result<(), Error> {
    const CGROUP: u64 = 0x0027_e0eb;
    const CGROUP2: u64 = 0x6367_7270;
    let bound = RootDir::from_fd(bound);
    for path in cgroups {
        let protect = || -> std::io::Result<()> {
            let file = match bound.open_path(path) {
                Ok(file) => file,
                // Covered by another mount.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(std::io::Error::other(error)),
            };
            let kind = u64::try_from(rustix::fs::fstatfs(&file)?.f_type);
            if kind.is_ok_and(|kind| matches!(kind, CGROUP | CGROUP2)) {
                mount::change(&file, &READ_ONLY, false)?;
            }
            Ok(())
        };
        protect().context(|| {
            format!("make {} below mount {} read-only", path.display(), plan.destination.display())
        })?;
    }
    Ok(())
}

/// Gives a detached copy, with all below it, the attributes of its entry that are for all.
pub(super) fn change_recursively(plan: &MountPlan, copy: &OwnedFd) -> Result<(), Error> {
    if !(plan.set_recursive | plan.clear_recursive).is_empty() {
        let wanted = Change { set: plan.set_recursive, clear: plan.clear_recursive, ..Change::default() };
        change(plan, copy, true, &wanted)?;
    }
    Ok(())
}

/// Gives the copy of the host's cgroup mount the attributes of its entry.
fn change_attributes(plan: &MountPlan, copy: &OwnedFd) -> Result<(), Error> {
    change_recursively(plan, copy)?;
    if !(plan.set | plan.clear).is_empty() {
        change(plan, copy, false, &Change { set: plan.set, clear: plan.clear, ..Change::default() })?;
    }
    Ok(())
}

/// File systems that show something of the kernel and take no label.
const KERNELS_OWN: [&str; 5] = ["proc", "sysfs", "cgroup", "cgroup2", "mqueue"];

fn file_system(
    root: &RootDir,
    plan: &MountPlan,
    kind: &str,
    source: Option<&str>,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let is_tmpfs = kind == "tmpfs";
    let has_mode = plan.data.iter().any(|option| option.starts_with("mode="));
    // A tmpfs looks like the directory that it covers; where there was none it is everybody's, as the kernel makes it.
    let covered = if is_tmpfs { root.metadata(&plan.destination).ok() } else { None };
    let target = target(root, plan, true)?;
    let mut context = FileSystem::new(kind)?;
    if let Some(covered) = covered.filter(|_| !has_mode) {
        context = context.set("mode", &format!("{:o}", covered.mode & 0o7777))?;
    }
    if let Some(source) = source {
        context = context.set("source", source)?;
    }
    for option in &plan.data {
        context = context.set_option(option)?;
    }
    // The kernel's own file systems have labels of their own.
    if let Some(label) = outcome.label.as_ref().filter(|_| !KERNELS_OWN.contains(&kind)) {
        context =
            context.set("context", label).in_field("linux.mountLabel (is SELinux enabled on this host?)")?;
    }
    let mut attributes = plan.set | plan.set_recursive;
    let read_only_later = is_tmpfs && attributes.contains(Attributes::MOUNT_ATTR_RDONLY);
    if read_only_later {
        attributes -= Attributes::MOUNT_ATTR_RDONLY;
    }
    // On /sys without a network namespace of its own and the like the kernel says no; that is the error to show.
    let mount = context.mount(attributes)?;
    if plan.copy_up {
        copy_up(plan, &mount, &target)?;
    }
    attach(plan, &mount, &target)?;
    outcome.keep_if_of_kernel(plan, &mount)?;
    if kind == "devpts" && lexical(&plan.destination) == Path::new("dev/pts") {
        outcome.devpts = Some(mount);
    } else if read_only_later {
        outcome.read_only.push(mount);
    }
    Ok(())
}

/// Fills a tmpfs with what it is about to cover. Its own mode stays.
fn copy_up(plan: &MountPlan, mount: &OwnedFd, covered: &OwnedFd) -> Result<(), Error> {
    let own = Metadata::of(mount).context(|| format!("inspect {}", plan.destination.display()))?;
    let readable = |fd: &OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(fd, ".", flags, Mode::empty())
            .map(RootDir::from_fd)
            .context(|| format!("open {}", plan.destination.display()))
    };
    let filled = readable(mount)?;
    palan_linux::copy::copy_tree(&readable(covered)?, Path::new("/"), &filled, Path::new("/"))?;
    rustix::fs::fchmod(&filled, Mode::from_raw_mode(own.mode))
        .context(|| format!("set the mode of {}", plan.destination.display()))
}

/// A tmpfs with a directory for each hierarchy, showing the container's own part of it.
fn cgroup_v1(
    root: &RootDir,
    plan: &MountPlan,
    cgroups: Vec<(String, OwnedFd)>,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    if let Some(option) = plan.data.first() {
        return Err(invalid(&format!("options: cgroup v1 has no option {option:?}")));
    }
    let target = target(root, plan, true)?;
    let top = FileSystem::new("tmpfs")?
        .set("source", "tmpfs")?
        .set("mode", "755")?
        .mount(plan.set - Attributes::MOUNT_ATTR_RDONLY)?;
    attach(plan, &top, &target)?;
    let place = RootDir::from_fd(top);
    for (name, mount) in cgroups {
        let directory = place.as_directory();
        let directory = directory
            .create_dir(name.as_ref(), 0o755)
            .and_then(|()| directory.open(name.as_ref(), OFlags::PATH | OFlags::DIRECTORY))
            .context(|| format!("make a place for cgroup {name}"))?;
        change(plan, &mount, false, &Change { set: plan.set, clear: plan.clear, ..Change::default() })?;
        mount::attach(&mount, &directory).context(|| format!("attach cgroup {name}"))?;
        if name.contains(',') {
            for controller in name.split(',') {
                place.create_symlink(&name, controller)?;
            }
        }
    }
    if plan.set.contains(Attributes::MOUNT_ATTR_RDONLY) {
        outcome.read_only.push(place.into_fd());
    }
    Ok(())
}

const READ_ONLY: Change<'static> = Change {
    set: Attributes::MOUNT_ATTR_RDONLY,
    clear: Attributes::empty(),
    propagation: None,
    id_mapping: None,
};

/// Read-only and masked paths. One that does not exist needs no protection.
pub(super) fn protect(
    root: &RootDir,
    outcome: &Outcome,
    read_only: &[PathBuf],
    masked: &[PathBuf],
) -> Result<(), Error> {
    let existing = |path: &Path| {
        let (directory, path) = outcome.place_of(root, path);
        existing(directory, &path)
    };
    for path in read_only {
        let Some(file) = existing(path)? else { continue };
        let protect = || -> std::io::Result<()> {
            let copy = mount::clone_of(&file, true)?;
            mount::change(&copy, &READ_ONLY, true)?;
            mount::attach(&copy, &file)
        };
        protect().context(|| format!("make {} read-only", path.display()))?;
    }
    let (mut null, mut empty) = (None, None);
    let mut seen = std::collections::HashSet::new();
    for path in masked {
        if !seen.insert(lexical(path)) {
            continue;
        }
        let Some(file) = existing(path)? else { continue };
        let kind = Metadata::of(&file).context(|| format!("inspect {}", path.display()))?.kind;
        let cover = if kind == FileKind::Directory {
            match &empty {
                // One for all: each would be a file system of its own to make and to tear down.
                Some(empty) => {
                    mount::clone_of(empty, false).context(|| "copy an empty directory".to_owned())?
                }
                None => {
                    FileSystem::new("tmpfs")?.set("source", "tmpfs")?.mount(Attributes::MOUNT_ATTR_RDONLY)?
                }
            }
        } else {
            let null = match &null {
                Some(null) => null,
                None => null.insert(null_device(root)?),
            };
            mount::clone_of(null, false).context(|| "copy /dev/null".to_owned())?
        };
        mount::attach(&cover, &file).context(|| format!("mask {}", path.display()))?;
        if kind == FileKind::Directory && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// The container's null device, for sure: an image can have a symlink of that name (CVE-2025-31133).
fn null_device(root: &RootDir) -> Result<OwnedFd, Error> {
    let null = root.open_with("/dev/null", OFlags::PATH | OFlags::NOFOLLOW)?;
    let found = Metadata::of(&null).context(|| "inspect /dev/null".to_owned())?;
    if found.kind == FileKind::CharacterDevice && found.node == (1, 3) {
        Ok(null)
    } else {
        Err(Error::Invalid("masked paths need a null device as /dev/null".to_owned()))
    }
}

fn existing(root: &RootDir, path: &Path) -> Result<Option<OwnedFd>, Error> {
    match root.open_path(path) {
        Ok(file) => Ok(Some(file)),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes read-only what was asked to be, now that everything is in place.
pub(super) fn finish(root: &RootDir, outcome: Outcome, read_only_root: bool) -> Result<(), Error> {
    for mount in outcome.read_only {
        mount::change(&mount, &READ_ONLY, false).context(|| "make a mount read-only".to_owned())?;
    }
    if read_only_root {
        mount::change(root.as_fd(), &READ_ONLY, false).context(|| "make the rootfs read-only".to_owned())?;
    }
    Ok(())
}
