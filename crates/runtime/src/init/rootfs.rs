//! The root of the container: attached in the new mount namespace, then made the only one.

use std::os::fd::{AsFd, OwnedFd};

use palan_linux::mount::{self, Change, Propagation};
use palan_linux::namespace::{self, Kind};
use palan_linux::path::RootDir;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::error::{Context, Error};
use crate::plan::mount::{MountKind, MountPlan};
use crate::plan::{Plan, RootPlan, RootSource};

/// What mounts take from the host, as detached copies; opened while the host's paths still exist.
#[derive(Debug)]
pub(super) struct Sources {
    /// One for each entry of the plan, for binds.
    pub(super) binds: Vec<Option<OwnedFd>>,
    /// What shows the container its cgroups, by hierarchy. With nothing but v2, and a cgroup namespace that is not the
    /// host's, there is none: a new mount shows it there.
    pub(super) cgroups: Vec<(String, OwnedFd)>,
}

/// Cuts the new namespace's tree loose from the host's and copies what will be bound.
pub(super) fn open_sources(
    plan: &Plan,
    cgroup_views: &[(String, std::path::PathBuf)],
    cgroup_v2: bool,
) -> Result<Sources, Error> {
    mount::set_root_propagation(plan.root.propagation)
        .context(|| "change the propagation of the host's mounts".to_owned())?;
    let mut binds = Vec::with_capacity(plan.mounts.len());
    let mut wants_cgroup = false;
    for entry in &plan.mounts {
        wants_cgroup |= entry.kind == MountKind::Cgroup;
        binds.push(open_bind(entry)?);
    }
    let mut cgroups = Vec::new();
    if wants_cgroup && (!cgroup_v2 || is_in_initial_cgroup_namespace()?) {
        for (name, path) in cgroup_views {
            let open = || -> std::io::Result<OwnedFd> {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                mount::clone_of(rustix::fs::openat(CWD, path, flags, Mode::empty())?, false)
            };
            let directory = open().context(|| format!("bind cgroup {}", path.display()))?;
            cgroups.push((name.clone(), directory));
        }
    }
    Ok(Sources { binds, cgroups })
}

/// A detached copy of what a bind mount shows; `None` for other mounts.
pub(super) fn open_bind(entry: &MountPlan) -> Result<Option<OwnedFd>, Error> {
    let MountKind::Bind { source, recursive } = &entry.kind else { return Ok(None) };
    let file =
        rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(|| {
            format!("open the source of mount {}: {}", entry.destination.display(), source.display())
        })?;
    let copy = mount::clone_of(&file, *recursive)
        .context(|| format!("bind {} to {}", source.display(), entry.destination.display()))?;
    Ok(Some(copy))
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

/// Attaches the root and pivots into it. Returns a handle on it.
pub(super) fn pivot(plan: &RootPlan) -> Result<RootDir, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, &plan.place, flags, Mode::empty())
        .context(|| format!("open {}", plan.place.display()))?;
    let root = match &plan.source {
        RootSource::Mount(mount) => {
            rustix::io::fcntl_dupfd_cloexec(mount, 0).context(|| "duplicate a descriptor".to_owned())?
        }
        RootSource::Directory(path) => {
            // Through the open directory, not the path again.
            mount::clone_of(&place, true).context(|| format!("bind the rootfs {}", path.display()))?
        }
    };
    if plan.propagation == Propagation::Shared {
        // A mount on a shared one would appear on the host, and pivot_root refuses it.
        let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
        mount::change(mount_root_of(&place)?, &private, false)
            .context(|| "make the mount below the rootfs private".to_owned())?;
    }
    mount::attach(&root, &place).context(|| "attach the rootfs".to_owned())?;
    mount::pivot_root(&root, plan.propagation == Propagation::Shared)
        .context(|| "pivot into the rootfs".to_owned())?;
    Ok(RootDir::from_fd(root))
}

/// The root directory of the mount that `directory` is on.
fn mount_root_of(directory: &OwnedFd) -> Result<OwnedFd, Error> {
    let mount_id = |fd: &OwnedFd| {
        rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .map(|found| (found.stx_mnt_id, found.stx_ino))
            .context(|| "find the mount below the rootfs".to_owned())
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut current =
        directory.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor".to_owned())?;
    loop {
        let (mount, inode) = mount_id(&current)?;
        let parent = rustix::fs::openat(&current, "..", flags, Mode::empty())
            .context(|| "find the mount below the rootfs".to_owned())?;
        let (parent_mount, parent_inode) = mount_id(&parent)?;
        // The root of the whole tree is its own parent.
        if parent_mount != mount || parent_inode == inode {
            return Ok(current);
        }
        current = parent;
    }
}
