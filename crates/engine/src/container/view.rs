//! A container's files as it sees them, for `cp`: with its volumes and bind mounts, whether it runs or not.
//!
//! - **It runs:** the root directory of its first process, in its own mount namespace. What is seen is what it sees, a tmpfs, too.
//! - **It does not:** its root file system and mounts are put together as for a start, in a mount namespace without processes,
//!   which nobody sees and which ends with the view.
//!
//! Nothing of the container is executed or loaded, and no thread of the daemon ever has it as its root (CVE-2019-14271): paths
//! are resolved from a descriptor, inside of it.
//!
//! **Invariant:** an overlay's directory is never mounted twice. A start waits until the views of the container have ended, and
//! makes them end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use palan_linux::mount::{self, Attributes, Change, OverlayOptions, Propagation, overlay};
use palan_linux::namespace::{self, Kind};
use palan_linux::path::{PathError, RootDir};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::driver::Action;
use super::index::Handle;
use super::{Details, MountPoint};
use crate::engine::{Engine, base_layer, waiting_for_client};
use crate::error::Context;
use crate::{Error, Result, identifier};

/// How long a start waits for copies that were told to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a container is looked at again that starts or ends while its files are opened.
const ATTEMPTS: usize = 5;

/// The views of one container that does not run.
#[derive(Debug, Default)]
pub(crate) struct Views {
    lock: Arc<RwLock<()>>,
    /// How many starts wait for the views to end.
    starts: Arc<AtomicUsize>,
}

/// A start's turn: while it lives there is no view of the container as one that does not run.
#[derive(Debug)]
pub(crate) struct NoViews {
    _lock: OwnedRwLockWriteGuard<()>,
}

impl Views {
    /// Ends the views, for a start.
    pub(crate) async fn end(&self) -> Result<NoViews> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.lock).write_owned()).await;
        self.starts.fetch_sub(1, Ordering::Relaxed);
        match turn {
            Ok(lock) => Ok(NoViews { _lock: lock }),
            Err(_) => Err(Error::conflict(
                "files are being copied to or from the container, and that can't be interrupted: end the copy, or wait for it",
            )),
        }
    }
}

/// The files of a container. While it lives, so does what it needs.
#[derive(Debug)]
pub(crate) struct View {
    /// Bounds every path.
    pub(crate) root: RootDir,
    kept: Option<Kept>,
}

/// What a view of a container that does not run needs; the fields are dropped in this order.
#[derive(Debug)]
struct Kept {
    _namespace: OwnedFd,
    _volumes: AttachedVolumes,
    starts: Arc<AtomicUsize>,
    _lock: OwnedRwLockReadGuard<()>,
}

#[derive(Debug)]
struct AttachedVolumes {
    engine: Arc<Engine>,
    owner: String,
}

impl Drop for AttachedVolumes {
    fn drop(&mut self) {
        self.engine.detach_volumes(&self.owner);
    }
}

impl View {
    /// An error when the container is about to start: whoever copies gives up.
    pub(crate) fn check(&self) -> std::io::Result<()> {
        let is_asked = self.kept.as_ref().is_some_and(|kept| kept.starts.load(Ordering::Relaxed) > 0);
        if is_asked { Err(std::io::Error::other("the container was started meanwhile")) } else { Ok(()) }
    }
}

impl Engine {
    /// Opens a container's files.
    pub(crate) async fn open_files(&self, handle: &Arc<Handle>) -> Result<View> {
        for _ in 0..ATTEMPTS {
            let details = handle.details();
            super::files::check_alive(&details, "copy")?;
            if details.state.status.is_live() {
                let pid = details.state.pid;
                let root = waiting_for_client(move || root_of_process(pid)).await;
                // What the supervisor has noted before it answers has arrived: a number that means another process by now is
                // known to be no longer this container's.
                let synced = handle.ask(|reply| Action::Sync { reply }).await;
                let now = handle.details().state.clone();
                if !now.status.is_live() || now.pid != pid {
                    continue;
                }
                synced?;
                return Ok(View { root: root?, kept: None });
            }
            let views = &handle.views;
            let lock = Arc::clone(&views.lock).read_owned().await;
            if handle.details().state.status.is_live() {
                continue;
            }
            let (engine, starts) = (self.shared(), Arc::clone(&views.starts));
            // A server that holds a volume may not answer.
            return waiting_for_client(move || put_together(&engine, &details, starts, lock)).await;
        }
        Err(Error::conflict(format!("container {} starts and ends too often to copy its files", handle.id)))
    }
}

/// The root directory of a process in a mount namespace of its own.
fn root_of_process(pid: i32) -> Result<RootDir> {
    const OVERLAYFS: u64 = 0x794c_7630;
    let what = || "cannot open the container's files".to_owned();
    let pid = u32::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| Error::conflict("the container has no process at the moment"))?;
    let own = namespace::open_of_thread(Kind::Mount).and_then(namespace::identity).context(what)?;
    let its = namespace::open(pid, Kind::Mount).and_then(namespace::identity).context(what)?;
    let root = open_path(Path::new(&format!("/proc/{pid}/root"))).context(what)?;
    let kind = rustix::fs::fstatfs(&root).map_err(std::io::Error::from).context(what)?.f_type;
    if own == its || u64::try_from(kind).ok() != Some(OVERLAYFS) {
        // A virtual machine, say: its process has the host's files.
        return Err(Error::conflict(
            "the files of a container that runs under this runtime can't be reached from the host: stop it first",
        ));
    }
    Ok(RootDir::from_fd(root))
}

fn put_together(
    engine: &Arc<Engine>,
    details: &Arc<Details>,
    starts: Arc<AtomicUsize>,
    lock: OwnedRwLockReadGuard<()>,
) -> Result<View> {
    let owner = format!("copy-{}", identifier::new_id());
    let volumes = AttachedVolumes { engine: Arc::clone(engine), owner };
    engine.attach_volumes(&volumes.owner, details.volume_names())?;
    let (builder, plan) = (Arc::clone(engine), Arc::clone(details));
    // A thread of its own: whoever enters a mount namespace can't come back.
    let thread = std::thread::Builder::new().name("files".to_owned()).stack_size(256 * 1024);
    let thread =
        thread.spawn(move || assemble(&builder, &plan)).context(|| "cannot start a thread".into())?;
    let assembled = thread.join().map_err(|_| Error::system("an internal thread failed"))?;
    let (root, namespace) = assembled?;
    Ok(View { root, kept: Some(Kept { _namespace: namespace, _volumes: volumes, starts, _lock: lock }) })
}

/// Puts root file system and mounts together in a new mount namespace of the calling thread.
fn assemble(engine: &Engine, details: &Details) -> Result<(RootDir, OwnedFd)> {
    let what = || format!("cannot put the files of container {} together", details.name);
    namespace::unshare(Kind::Mount.bit()).context(what)?;
    mount::set_root_propagation(Propagation::Private).context(what)?;
    let mut lowers: Vec<_> = details.overlay.lowers.iter().map(Into::into).collect();
    lowers.push(base_layer(&engine.config));
    let root = overlay(&OverlayOptions {
        lowers,
        upper: Some((&details.overlay.upper).into()),
        work: Some((&details.overlay.work).into()),
        volatile: details.host.auto_remove,
        attributes: Attributes::empty(),
    });
    let root = root.context(what)?;
    mount::attach(&root, open_path(&engine.config.run_root).context(what)?).context(what)?;
    let root = RootDir::from_fd(root);
    for file in own_files(details) {
        mount_one(engine, &root, &file)?;
    }
    for mount in details.mounts.iter().filter(|mount| mount.kind != "tmpfs") {
        mount_one(engine, &root, mount)?;
    }
    if details.host.readonly_rootfs {
        let read_only = Change { set: Attributes::MOUNT_ATTR_RDONLY, ..Change::default() };
        mount::change(&root, &read_only, false).context(what)?;
    }
    let namespace = namespace::open_of_thread(Kind::Mount).context(what)?;
    // The host's mounts are let go, so that nothing of them is held while a client takes its time. On a ramfs that can't be done,
    // and it does no harm.
    if let Err(error) = mount::pivot_root(&root, false) {
        tracing::debug!(%error, "a container's files are looked at with the host's mounts beside them");
    }
    Ok((root, namespace))
}

/// The files that the daemon writes for a container.
fn own_files(details: &Details) -> Vec<MountPoint> {
    let files = BTreeMap::from([
        ("/etc/hostname", &details.hostname_path),
        ("/etc/hosts", &details.hosts_path),
        ("/etc/resolv.conf", &details.resolv_conf_path),
    ]);
    let there = files.into_iter().filter(|(_, source)| Path::new(source).exists());
    let bind = |(destination, source): (&str, &String)| MountPoint {
        kind: "bind".into(),
        source: source.clone(),
        destination: destination.into(),
        writable: !details.host.readonly_rootfs,
        ..MountPoint::default()
    };
    there.map(bind).collect()
}

fn mount_one(engine: &Engine, root: &RootDir, point: &MountPoint) -> Result<()> {
    let what = || format!("cannot mount {} for the copy", point.destination);
    let source = source_of(engine, point)?;
    let destination = Path::new(&point.destination);
    // Pinned before anything is mounted on it: another container may write to the volume that it lies in.
    let target = match root.open_path(destination) {
        Err(error) if error.errno() == Some(Errno::NOENT) => {
            make_place(root, destination, &source).context(what)?;
            root.open_path(destination).context(what)?
        }
        other => other.context(what)?,
    };
    if !point.writable {
        let read_only = Change { set: Attributes::MOUNT_ATTR_RDONLY, ..Change::default() };
        mount::change(&source, &read_only, !point.read_only_non_recursive).context(what)?;
    }
    mount::attach(&source, &target).context(what)
}

/// Makes what a mount needs to lie on, as a start does.
fn make_place(root: &RootDir, destination: &Path, source: &OwnedFd) -> Result<(), PathError> {
    let is_directory = palan_linux::path::Metadata::of(source).is_ok_and(|metadata| metadata.is_dir());
    if is_directory {
        return root.create_dir_all(destination, 0o755).map(drop);
    }
    if let Some(parent) = destination.parent() {
        root.create_dir_all(parent, 0o755)?;
    }
    root.ensure_file(destination, 0o755).map(drop)
}

/// A detached mount of what a mount of the container shows.
fn source_of(engine: &Engine, point: &MountPoint) -> Result<OwnedFd> {
    let what = || format!("cannot open what is mounted on {}", point.destination);
    let whole = if point.kind == "image" {
        // An overlay has two layers at least; these are empty.
        let empty = ["proc", "sys"].map(|name| base_layer(&engine.config).join(name));
        let lowers = point.layers.iter().map(Into::into).chain(empty).collect();
        let attributes = Attributes::MOUNT_ATTR_RDONLY;
        let image =
            overlay(&OverlayOptions { lowers, attributes, ..OverlayOptions::default() }).context(what)?;
        if point.subpath.is_empty() {
            return Ok(image);
        }
        // Only what is attached can be cloned before Linux 6.15. It stays below, out of sight.
        mount::attach(&image, open_path(&engine.config.run_root.join("containers")).context(what)?)
            .context(what)?;
        image
    } else {
        open_path(Path::new(&point.source)).context(what)?
    };
    let part = if point.subpath.is_empty() {
        whole
    } else {
        let subpath = Path::new(&point.subpath);
        RootDir::from_fd(whole).open_path_beneath(subpath).context(what)?
    };
    mount::clone_of(&part, !point.non_recursive).context(what)
}

/// A directory or file of the host, or a trusted path of procfs.
fn open_path(path: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}
