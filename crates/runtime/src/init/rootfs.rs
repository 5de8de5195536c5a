//! The root of the container: attached in the new mount namespace, then made the only one.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use palan_linux::mount::{self, Attributes, Change, FileSystem, Propagation};
use palan_linux::namespace::{self, Kind};
use palan_linux::path::{FileKind, Metadata, RootDir};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use super::mounts::{change_recursively, lexical};
use crate::cgroup::unescape;
use crate::error::{Context, Error, InField};
use crate::id_maps::Mappings;
use crate::plan::mount::{IdMapPlan, MountKind};
use crate::plan::{MountPlan, Plan, RootPlan, RootSource, UserNamespace};

/// What of the host's cgroups a container may see.
#[derive(Debug)]
pub(crate) struct Host {
    /// What a container without a cgroup namespace sees of the host, by hierarchy.
    pub(crate) cgroup_views: Vec<(String, PathBuf)>,
    /// Whether the host has nothing but cgroup v2.
    pub(crate) cgroup_v2: bool,
}

/// What a container takes from the host, as detached copies; opened while the host's paths still exist.
#[derive(Debug)]
pub(crate) struct Sources {
    mounts: MountSources,
    /// The root, if it is a directory of the host.
    root: Option<OwnedFd>,
}

/// What mounts take from the host.
#[derive(Debug)]
pub(super) struct MountSources {
    /// One for each entry of the plan, for binds.
    pub(super) binds: Vec<Option<BindSource>>,
    /// What shows the container its cgroups, by hierarchy. With nothing but v2, and a cgroup namespace that is not the
    /// host's, there is none: a new mount shows it there.
    pub(super) cgroups: Vec<(String, OwnedFd)>,
}

/// What a bind mount shows.
#[derive(Debug)]
pub(super) enum BindSource {
    /// Something of the host.
    Copy(BindCopy),
    /// The same, to be copied when its turn comes: the table of mounts is sorted by when they were made.
    Found(Found),
    /// What an earlier entry of the same specification mounts or covers: it can be opened only then.
    InRoot {
        /// Where it is in the root.
        path: PathBuf,
        /// A user namespace with the mapping of its ids.
        id_map: Option<OwnedFd>,
    },
}

impl BindSource {
    fn copy(&self) -> Option<&OwnedFd> {
        match self {
            Self::Copy(source) => Some(&source.copy),
            Self::Found(_) | Self::InRoot { .. } => None,
        }
    }
}

/// A detached copy of what a bind mount shows.
#[derive(Debug)]
pub(super) struct BindCopy {
    /// The mount.
    pub(super) copy: OwnedFd,
    /// What its top is.
    pub(super) kind: FileKind,
    /// Cgroup file systems that are mounted below it, relative to it, if they must become read-only with it.
    pub(super) cgroups: Vec<PathBuf>,
}

impl Sources {
    /// By a caller with all rights on the host's mounts, for a container with fewer: the owner of a user namespace can't
    /// reach what only root may, and can't loosen what root has set.
    pub(crate) fn open_in_caller(plan: &Plan, host: &Host) -> Result<Self, Error> {
        let has_cgroup_namespace = plan.namespaces.new_cgroup
            || plan.namespaces.join.iter().any(|(kind, _)| *kind == Kind::Cgroup)
            || !is_in_initial_cgroup_namespace()?;
        let sources = Self::open(plan, host, has_cgroup_namespace, true)?;
        if plan.root.propagation != Propagation::Shared {
            // As in the new namespace, the copies must not pass on what the container mounts.
            let propagation = Change { propagation: Some(Propagation::Slave), ..Change::default() };
            let copies = sources.mounts.binds.iter().flatten().filter_map(BindSource::copy);
            let all = copies.chain(&sources.root);
            for copy in all.chain(sources.mounts.cgroups.iter().map(|(_, copy)| copy)) {
                mount::change(copy, &propagation, true)
                    .context(|| "change the propagation of a mount".to_owned())?;
            }
        }
        Ok(sources)
    }

    /// Maps the ids of what the new process has copied from the root for entry `index`, as it can't in its user namespace.
    pub(crate) fn map_ids(&self, plan: &Plan, index: usize, copy: &OwnedFd) -> Result<(), Error> {
        let asked = self.mounts.binds.get(index).and_then(Option::as_ref).zip(plan.mounts.get(index));
        let Some((BindSource::InRoot { id_map: Some(mapping), .. }, entry)) = asked else {
            return Err(Error::Invalid(format!("mounts[{index}]: it has no ids to be mapped")));
        };
        map_ids(entry, copy, mapping).in_field(&entry.field)
    }

    /// By the new process, in its mount namespace.
    pub(super) fn open_in_new_namespace(plan: &Plan, host: &Host) -> Result<Self, Error> {
        Self::open(plan, host, !is_in_initial_cgroup_namespace()?, false)
    }

    /// What the mounts take, and the root.
    pub(super) fn split(self) -> (MountSources, Option<OwnedFd>) {
        (self.mounts, self.root)
    }

    /// With all copies made `at_once`, or some later.
    fn open(plan: &Plan, host: &Host, has_cgroup_namespace: bool, at_once: bool) -> Result<Self, Error> {
        let bind = |(index, entry): (usize, &MountPlan)| match source_in_root(plan, index) {
            Some(path) => {
                let id_map = entry.id_map.as_ref().map(|id_map| mapping_of(plan, id_map)).transpose();
                Ok(Some(BindSource::InRoot { path, id_map: id_map.in_field(&entry.field)? }))
            }
            None => open_bind(plan, entry, at_once).in_field(&entry.field),
        };
        let binds = plan.mounts.iter().enumerate().map(bind).collect::<Result<_, Error>>()?;
        let wants_cgroup = plan.mounts.iter().any(|entry| entry.kind == MountKind::Cgroup);
        let mut cgroups = Vec::new();
        if wants_cgroup && (!host.cgroup_v2 || !has_cgroup_namespace) {
            for (name, path) in &host.cgroup_views {
                let open = || -> std::io::Result<OwnedFd> {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    mount::clone_of(rustix::fs::openat(CWD, path, flags, Mode::empty())?, false)
                };
                let directory = open().context(|| format!("bind cgroup {}", path.display()))?;
                cgroups.push((name.clone(), directory));
            }
        }
        let root = match &plan.root.source {
            RootSource::Mount(_) => None,
            RootSource::Directory(path) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())
                    .context(|| format!("open the rootfs {}", path.display()))?;
                let copy = mount::clone_of(&directory, true)
                    .context(|| format!("bind the rootfs {}", path.display()))?;
                Some(copy)
            }
        };
        Ok(Self { mounts: MountSources { binds, cgroups }, root })
    }
}

/// What a bind mount shows; `None` for other mounts.
pub(super) fn open_source(entry: &MountPlan) -> Result<Option<BindCopy>, Error> {
    find_source(entry)?.map(|found| found.copy(entry)).transpose()
}

/// A source of the host's, by a handle.
#[derive(Debug)]
pub(super) struct Found {
    file: OwnedFd,
    kind: FileKind,
    /// See [`BindCopy`].
    cgroups: Vec<PathBuf>,
    /// A user namespace with the mapping of its ids.
    id_map: Option<OwnedFd>,
}

impl Found {
    /// A copy as it is.
    fn copy(self, entry: &MountPlan) -> Result<BindCopy, Error> {
        let MountKind::Bind { source, recursive } = &entry.kind else {
            return Err(Error::Invalid("only a bind mount has a source".to_owned()));
        };
        let copy = mount::clone_of(&self.file, *recursive)
            .context(|| format!("bind {} to {}", source.display(), entry.destination.display()))?;
        Ok(BindCopy { copy, kind: self.kind, cgroups: self.cgroups })
    }

    /// A copy with the ids and attributes that the container sees.
    pub(super) fn copy_as_container_sees(
        mut self,
        plan: &Plan,
        entry: &MountPlan,
    ) -> Result<BindCopy, Error> {
        let id_map = self.id_map.take();
        let source = self.copy(entry)?;
        id_map.map_or(Ok(()), |mapping| map_ids(entry, &source.copy, &mapping))?;
        make_as_container_sees(plan, entry, &source.copy)?;
        Ok(source)
    }

    /// Whether the container's root is attached below it, and would be a part of a later copy.
    fn holds(&self, place: &Path) -> std::io::Result<bool> {
        if self.kind != FileKind::Directory {
            return Ok(false);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(CWD, place, flags, Mode::empty())?;
        let path = |file: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(path(&place)?.starts_with(path(&self.file)?))
    }
}

fn find_source(entry: &MountPlan) -> Result<Option<Found>, Error> {
    let MountKind::Bind { source, recursive } = &entry.kind else { return Ok(None) };
    let file =
        rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(|| {
            format!("open the source of mount {}: {}", entry.destination.display(), source.display())
        })?;
    let cgroups = if *recursive && entry.is_read_only() && !entry.wants_writable_below() {
        cgroups_below(&file).context(|| format!("find what is mounted below {}", source.display()))?
    } else {
        Vec::new()
    };
    Ok(Some(Found { kind: kind_of(entry, &file)?, file, cgroups, id_map: None }))
}

fn kind_of(entry: &MountPlan, source: &OwnedFd) -> Result<FileKind, Error> {
    let found = Metadata::of(source)
        .context(|| format!("inspect the source of mount {}", entry.destination.display()))?;
    Ok(found.kind)
}

/// Where cgroup file systems are mounted below `directory`, relative to it.
fn cgroups_below(directory: &OwnedFd) -> std::io::Result<Vec<PathBuf>> {
    // Seen by this process, whose mounts they are: before the root changes.
    let own = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let found = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let is_cgroup = matches!(kind.split(' ').next()?, "cgroup" | "cgroup2");
        let place = PathBuf::from(unescape(mount.split(' ').nth(4).filter(|_| is_cgroup)?));
        let below = place.strip_prefix(&own).ok()?;
        (!below.as_os_str().is_empty()).then(|| below.to_owned())
    });
    Ok(found.collect())
}

/// The source of a bind, copied `at_once`, or as soon as nothing of the container would be in the copy.
fn open_bind(plan: &Plan, entry: &MountPlan, at_once: bool) -> Result<Option<BindSource>, Error> {
    let mapping = || entry.id_map.as_ref().map(|id_map| mapping_of(plan, id_map)).transpose();
    if let Some(given) = &entry.given {
        // It is a copy already, and kernels before 6.15 make none of a detached mount.
        let copy = given.try_clone().context(|| "duplicate a descriptor".to_owned())?;
        mapping()?.map_or(Ok(()), |mapping| map_ids(entry, &copy, &mapping))?;
        make_as_container_sees(plan, entry, &copy)?;
        let kind = kind_of(entry, &copy)?;
        return Ok(Some(BindSource::Copy(BindCopy { copy, kind, cgroups: Vec::new() })));
    }
    let Some(mut found) = find_source(entry)? else { return Ok(None) };
    found.id_map = mapping()?;
    let recursive = matches!(entry.kind, MountKind::Bind { recursive: true, .. });
    let holds_root =
        || found.holds(&plan.root.place).context(|| "find out what the source of a mount shows".to_owned());
    if at_once || (recursive && holds_root()?) {
        return found.copy_as_container_sees(plan, entry).map(BindSource::Copy).map(Some);
    }
    Ok(Some(BindSource::Found(found)))
}

/// Where in the root the source of a bind lies that an earlier entry mounts or covers. The specification has its mounts
/// made in order, so it is what that mount shows.
fn source_in_root(plan: &Plan, index: usize) -> Option<PathBuf> {
    let entry = &plan.mounts[index];
    let MountKind::Bind { source, .. } = &entry.kind else { return None };
    if entry.given.is_some() {
        return None;
    }
    let RootSource::Directory(root) = &plan.root.source else { return None };
    let inside = lexical(source).strip_prefix(lexical(root)).ok()?.to_owned();
    let covers = |earlier: &MountPlan| inside.starts_with(lexical(&earlier.destination));
    plan.mounts[..index].iter().any(covers).then_some(inside)
}

/// A detached copy of what a bind shows of the root, now that what it needs is mounted there.
pub(super) fn open_in_root(
    plan: &Plan,
    entry: &MountPlan,
    root: &RootDir,
    path: &Path,
    map_ids: &dyn Fn(&OwnedFd) -> Result<(), Error>,
) -> Result<BindCopy, Error> {
    let recursive = matches!(entry.kind, MountKind::Bind { recursive: true, .. });
    let copy = root
        .open_path(path)
        .map_err(std::io::Error::from)
        .and_then(|file| mount::clone_of(&file, recursive))
        .context(|| format!("bind /{} of the rootfs to {}", path.display(), entry.destination.display()))?;
    map_ids(&copy)?;
    make_as_container_sees(plan, entry, &copy)?;
    // The cgroups that it may show are the container's own.
    Ok(BindCopy { kind: kind_of(entry, &copy)?, copy, cgroups: Vec::new() })
}

/// Maps the ids of a detached mount as user namespace `mapping` does.
pub(super) fn map_ids(entry: &MountPlan, copy: &OwnedFd, mapping: &OwnedFd) -> Result<(), Error> {
    let recursive = entry.id_map.as_ref().is_some_and(|id_map| id_map.recursive);
    let mapped = Change { id_mapping: Some(mapping.as_fd()), ..Change::default() };
    mount::change(copy, &mapped, recursive).context(|| {
        format!(
            "map the ids of mount {}; the file system of its source may not support it",
            entry.destination.display(),
        )
    })
}

fn make_as_container_sees(plan: &Plan, entry: &MountPlan, copy: &OwnedFd) -> Result<(), Error> {
    change_recursively(entry, copy)?;
    super::bind_flags::set(entry, copy, plan.namespaces.user.is_some())
}

/// A user namespace with the mapping of an id-mapped mount.
fn mapping_of(plan: &Plan, id_map: &IdMapPlan) -> Result<OwnedFd, Error> {
    let mappings = match (&id_map.own, &plan.namespaces.user) {
        (Some((users, groups)), _) => Mappings { users: users.clone(), groups: groups.clone() },
        (None, Some(UserNamespace::New { users, groups })) => {
            Mappings { users: users.clone(), groups: groups.clone() }
        }
        (None, Some(UserNamespace::Join(namespace))) => {
            return namespace.try_clone().context(|| "duplicate a descriptor".to_owned());
        }
        (None, None) => {
            return Err(Error::Invalid(
                "an id-mapped mount needs uidMappings and gidMappings, or a user namespace of the container"
                    .to_owned(),
            ));
        }
    };
    mappings.make_namespace()
}

/// Cuts the new namespace's tree loose from the host's.
pub(super) fn cut_loose(plan: &RootPlan) -> Result<(), Error> {
    // An unbindable tree is private, and nothing could be bound from it.
    let propagation = match plan.propagation {
        Propagation::Unbindable => Propagation::Private,
        other => other,
    };
    mount::set_root_propagation(propagation)
        .context(|| "change the propagation of the host's mounts".to_owned())
}

/// Whether this process has the cgroup namespace that the kernel made at boot. From there a new mount of cgroup2 would
/// take the options of the host's mount, such as `nsdelegate`, away: they belong to the hierarchy, not to the mount.
fn is_in_initial_cgroup_namespace() -> Result<bool, Error> {
    // PROC_CGROUP_INIT_INO
    const INITIAL: u64 = 0xefff_fffb;
    namespace::open(0, Kind::Cgroup)
        .and_then(namespace::identity)
        .map(|(_, inode)| inode == INITIAL)
        .context(|| "look at the cgroup namespace".to_owned())
}

/// Attaches the root at its place in the host's tree. Returns a handle on it.
pub(super) fn attach(plan: &RootPlan, copy: Option<OwnedFd>) -> Result<RootDir, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, &plan.place, flags, Mode::empty())
        .context(|| format!("open {}", plan.place.display()))?;
    let root = match (&plan.source, copy) {
        (_, Some(copy)) => copy,
        (RootSource::Mount(mount), None) => {
            rustix::io::fcntl_dupfd_cloexec(mount, 0).context(|| "duplicate a descriptor".to_owned())?
        }
        (RootSource::Directory(path), None) => {
            // Through the open directory, not the path again.
            mount::clone_of(&place, true).context(|| format!("bind the rootfs {}", path.display()))?
        }
    };
    if plan.propagation == Propagation::Shared {
        // A mount on a shared one would appear on the host, and pivot_root refuses it, as it refuses a root that has
        // peers there.
        let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
        mount::change(&root, &private, false)
            .and_then(|()| mount::change(mount_root_of(&place)?, &private, false))
            .context(|| "make the mount below the rootfs private".to_owned())?;
    }
    mount::attach(&root, &place).context(|| "attach the rootfs".to_owned())?;
    Ok(RootDir::from_fd(root))
}

/// Makes the attached root the only one: from here on no path leads out.
pub(super) fn pivot(plan: &RootPlan, root: &RootDir, proc: &OwnedFd) -> Result<(), Error> {
    if plan.no_pivot {
        hide_kernel_file_systems(plan, proc)?;
        return mount::move_to_root(root).context(|| "move the rootfs over the host's root".to_owned());
    }
    mount::pivot_root(root, plan.propagation == Propagation::Shared)
        .context(|| "pivot into the rootfs".to_owned())?;
    if plan.propagation == Propagation::Slave {
        // It has no master: nothing is left to say.
        return Ok(());
    }
    let propagation = Change { propagation: Some(plan.propagation), ..Change::default() };
    mount::change(root, &propagation, false).context(|| "set the propagation of the root".to_owned())
}

/// Takes off, or covers, every procfs and sysfs outside of the root that stays in the namespace: as long as one is there to be
/// seen, a user namespace made in the container may mount another, with nothing masked in it.
fn hide_kernel_file_systems(plan: &RootPlan, proc: &OwnedFd) -> Result<(), Error> {
    let place = std::fs::canonicalize(&plan.place).context(|| format!("find {}", plan.place.display()))?;
    let table = rustix::fs::openat(proc, "self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| std::io::read_to_string(std::fs::File::from(file)))
        .context(|| "read the table of mounts".to_owned())?;
    let found = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        matches!(kind.split(' ').next()?, "proc" | "sysfs").then(|| mount.split(' ').nth(4))?
    });
    // What is mounted last lies on top.
    let found: Vec<String> = found.map(unescape).collect();
    for path in found.iter().rev().filter(|path| !std::path::Path::new(path).starts_with(&place)) {
        let name = std::ffi::CString::new(path.as_str()).map_err(std::io::Error::other);
        let detached = name.and_then(|name| mount::detach(&name));
        if detached.is_err() {
            // One that belongs to another user namespace can't go.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let target = rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty())
                .context(|| format!("open {path}"))?;
            let cover = FileSystem::new("tmpfs")?.set("size", "0")?.mount(Attributes::MOUNT_ATTR_RDONLY)?;
            mount::attach(&cover, &target).context(|| format!("cover {path}"))?;
        }
    }
    Ok(())
}

/// Makes the attached root the root directory, in a namespace whose mounts are not the container's to change.
pub(super) fn change_root(root: &RootDir) -> Result<(), Error> {
    rustix::process::fchdir(root)
        .and_then(|()| rustix::process::chroot("."))
        .context(|| "change the root directory".to_owned())
}

/// The root directory of the mount that `directory` is on.
fn mount_root_of(directory: &OwnedFd) -> std::io::Result<OwnedFd> {
    let mount_id = |fd: &OwnedFd| {
        rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .map(|found| (found.stx_mnt_id, found.stx_ino))
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut current = directory.as_fd().try_clone_to_owned()?;
    loop {
        let (mount, inode) = mount_id(&current)?;
        let parent = rustix::fs::openat(&current, "..", flags, Mode::empty())?;
        let (parent_mount, parent_inode) = mount_id(&parent)?;
        // The root of the whole tree is its own parent.
        if parent_mount != mount || parent_inode == inode {
            return Ok(current);
        }
        current = parent;
    }
}
