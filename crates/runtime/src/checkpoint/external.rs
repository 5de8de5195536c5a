//! What a container has from outside of itself: bind mounts, the host's cgroups, namespaces of others, the far ends of
//! its pipes.
//!
//! CRIU saves what is inside and refuses the rest unless it is told: when it saves, that a thing is external, by a key
//! of our choice; when it restores, what stands for that key now. Keys of mounts are their destinations without `.` and
//! `..`, as the specification writes them (and as runc's are as long as no symlink is involved).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use palan_linux::path::{FileKind, Metadata, RootDir};
use palan_oci::runtime_spec::{Namespace, NamespaceKind, Spec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use serde::{Deserialize, Serialize};

use super::criu::text;
use crate::cgroup::{Cgroup, unescape};
use crate::error::{Context, Error};
use crate::init::lexical;
use crate::plan::MountPlan;
use crate::plan::mount::{MountKind, is_bind};

/// The parts of a specification that a checkpoint must know, and the standard streams: kept with the container's
/// state, because its bundle may have changed or gone when the checkpoint is made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct External {
    /// Destinations of bind mounts, and device nodes, which may be some.
    binds: Vec<String>,
    /// Destinations of cgroup mounts.
    cgroups: Vec<String>,
    has_cgroup_namespace: bool,
    masked: Vec<String>,
    /// Those with a path.
    namespaces: Vec<Namespace>,
    /// What descriptors 0 to 2 were when the container was created, as `/proc/<pid>/fd` shows it.
    pub(super) descriptors: Vec<String>,
}

impl External {
    /// What the first process `pid` of a container made from `spec` has from outside.
    pub fn new(spec: &Spec, pid: i32) -> Self {
        Self::with_streams(spec, descriptors(pid))
    }

    /// The same, of a container whose descriptors 0 to 2 were these when it was created, as `/proc/<pid>/fd` shows them.
    pub fn with_streams(spec: &Spec, descriptors: Vec<String>) -> Self {
        let linux = spec.linux.as_ref();
        let devices = linux.map_or(&[][..], |linux| &linux.devices).iter().map(|device| device.path.clone());
        let binds = spec.mounts.iter().filter(|mount| is_bind(mount));
        let cgroups = spec.mounts.iter().filter(|mount| matches!(mount.kind.as_str(), "cgroup" | "cgroup2"));
        let namespaces = linux.map_or(&[][..], |linux| &linux.namespaces).iter();
        Self {
            binds: binds.map(|mount| mount.destination.clone()).chain(devices).collect(),
            cgroups: cgroups.filter(|mount| !is_bind(mount)).map(|mount| mount.destination.clone()).collect(),
            has_cgroup_namespace: has_cgroup_namespace(spec),
            masked: linux.map(|linux| linux.masked_paths.clone()).unwrap_or_default(),
            namespaces: namespaces.filter(|namespace| !namespace.path.is_empty()).cloned().collect(),
            descriptors,
        }
    }

    /// What CRIU has to know to save the process `pid`.
    pub(super) fn to_save(&self, pid: i32, cgroup: &Cgroup) -> Result<Vec<String>, Error> {
        let container = Mounted::of(pid)?;
        let mut found = Vec::new();
        let binds = self.binds.iter().map(PathBuf::from);
        let cgroups = self
            .cgroups
            .iter()
            .flat_map(|destination| cgroup_binds(destination.as_ref(), cgroup, self.has_cgroup_namespace));
        for destination in binds.chain(cgroups.map(|(destination, _)| destination)) {
            if let Some((place, _)) = container.mount_on(&destination)? {
                found.push(external_mount(&place, &key(&destination)?));
            }
        }
        for path in &self.masked {
            // A masked directory has a file system of its own, which is saved.
            if let Some((place, FileKind::CharacterDevice)) = container.mount_on(path.as_ref())? {
                found.push(external_mount(&place, NULL));
            }
        }
        Ok(found)
    }

    /// The same for namespaces, by their inodes: CRIU saves nothing of them.
    pub(super) fn namespaces_to_save(&self) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for namespace in &self.namespaces {
            if let Some((name, key)) = key_of_namespace(namespace.kind) {
                let path = &namespace.path;
                let inode = rustix::fs::stat(path).context(|| format!("find the namespace {path}"))?.st_ino;
                found.push(format!("{name}[{inode}]:{key}"));
            }
        }
        Ok(found)
    }
}

const NULL: &str = "/dev/null";

/// What stands for external mounts when a container made from these plans is restored.
pub(super) fn mounts_to_restore(
    spec: &Spec,
    plans: &[MountPlan],
    cgroup: &Cgroup,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for plan in plans {
        match &plan.kind {
            MountKind::Bind { source, .. } => {
                // CRIU looks it up in the mount table, where no path has `.`, `..` or a symlink.
                let source = std::fs::canonicalize(source).context(|| {
                    format!("find the source of mount {}: {}", plan.destination.display(), source.display())
                })?;
                found.push(external_mount(&key(&plan.destination)?, &text(source)?));
            }
            MountKind::Cgroup => {
                let has_namespace = has_cgroup_namespace(spec);
                for (destination, source) in cgroup_binds(&plan.destination, cgroup, has_namespace) {
                    found.push(external_mount(&key(&destination)?, &text(source)?));
                }
            }
            MountKind::FileSystem { .. } => {}
        }
    }
    if let Some(linux) = &spec.linux {
        if !linux.masked_paths.is_empty() {
            found.push(external_mount(NULL, NULL));
        }
        for device in &linux.devices {
            found.push(external_mount(&key(device.path.as_ref())?, &device.path));
        }
    }
    Ok(found)
}

/// What stands for namespaces with a path.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Those that CRIU takes as a descriptor, with their keys.
    pub(super) open: Vec<(&'static str, OwnedFd)>,
    /// Those that it joins itself, by its name of their kind.
    pub(super) join: Vec<(&'static str, String)>,
}

pub(super) fn namespaces_to_restore(spec: &Spec) -> Result<Namespaces, Error> {
    let mut found = Namespaces::default();
    let all = spec.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces).iter();
    for Namespace { kind, path } in all.filter(|namespace| !namespace.path.is_empty()) {
        if let Some((_, key)) = key_of_namespace(*kind) {
            let namespace = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("open the namespace {path}"))?;
            found.open.push((key, namespace));
            continue;
        }
        match kind {
            NamespaceKind::Ipc => found.join.push(("ipc", path.clone())),
            NamespaceKind::Uts => found.join.push(("uts", path.clone())),
            _ => {
                return Err(Error::Invalid(format!(
                    "a container can't be restored into the {kind:?} namespace {path}: CRIU knows no way"
                )));
            }
        }
    }
    Ok(found)
}

/// CRIU's name of the kinds that it takes from outside, and the key that runc gives them.
fn key_of_namespace(kind: NamespaceKind) -> Option<(&'static str, &'static str)> {
    match kind {
        NamespaceKind::Network => Some(("net", "extRootNetNS")),
        NamespaceKind::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

fn has_cgroup_namespace(spec: &Spec) -> bool {
    let mut namespaces = spec.linux.iter().flat_map(|linux| &linux.namespaces);
    namespaces.any(|namespace| namespace.kind == NamespaceKind::Cgroup)
}

/// What a cgroup mount shows of the host, by destination. v1 has a mount of the container's directory for each
/// hierarchy; v2 with a namespace one that is the container's own, which CRIU saves and restores.
fn cgroup_binds(destination: &Path, cgroup: &Cgroup, has_namespace: bool) -> Vec<(PathBuf, PathBuf)> {
    let views = cgroup.views().into_iter();
    match (cgroup.is_v2(), has_namespace) {
        (false, _) => views.map(|(name, source)| (destination.join(name), source)).collect(),
        (true, false) => views.map(|(_, source)| (destination.to_owned(), source)).collect(),
        (true, true) => Vec::new(),
    }
}

fn external_mount(what: &str, stands_for: &str) -> String {
    format!("mnt[{what}]:{stands_for}")
}

fn key(destination: &Path) -> Result<String, Error> {
    Ok(format!("/{}", text(lexical(destination))?))
}

/// What descriptors 0 to 2 of a process are. One that can't be looked at is none that a restore could replace.
pub(super) fn descriptors(pid: i32) -> Vec<String> {
    let show = |number| std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
    (0..3)
        .map(|number| show(number).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default())
        .collect()
}

/// The mounts of a running container as its first process sees them.
struct Mounted {
    root: RootDir,
    table: String,
}

impl Mounted {
    fn of(pid: i32) -> Result<Self, Error> {
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))
            .context(|| "read the container's mounts".to_owned())?;
        Ok(Self { root: RootDir::open(format!("/proc/{pid}/root"))?, table })
    }

    /// The place of the mount whose root is at `path`, by the container's mount table, and what its root is. `None` if
    /// there is no such file, or it is no mount (any more).
    fn mount_on(&self, path: &Path) -> Result<Option<(String, FileKind)>, Error> {
        let file = match self.root.open_path(path) {
            Ok(file) => file,
            Err(error) => {
                return match error.kind() {
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(None),
                    _ => Err(error.into()),
                };
            }
        };
        let inspect = || format!("inspect {} in the container", path.display());
        let found = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context(inspect)?;
        if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(None);
        }
        let kind = Metadata::of(&file).context(inspect)?.kind;
        Ok(place_of(&self.table, found.stx_mnt_id).map(|place| (place, kind)))
    }
}

/// The mount point of mount `id` in a `mountinfo` table.
fn place_of(table: &str, id: u64) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()?.parse() == Ok(id)).then(|| fields.nth(3).map(unescape)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_clean_destinations() {
        for (destination, expected) in [("/a/b", "/a/b"), ("a//b/", "/a/b"), ("/a/../b/.", "/b")] {
            assert_eq!(key(destination.as_ref()).unwrap(), expected);
        }
    }

    #[test]
    fn mount_points_are_found_by_number() {
        let table = "20 1 0:1 / / rw - ext4 a rw\n21 20 0:2 /x /a\\040b rw shared:1 - tmpfs t rw\n22 x\n";
        assert_eq!(place_of(table, 21).as_deref(), Some("/a b"));
        assert_eq!(place_of(table, 22), None);
        assert_eq!(place_of(table, 2), None);
    }

    #[test]
    fn what_comes_from_outside() {
        let spec = Spec::from_json(
            br#"{"mounts":[{"destination":"/a","type":"bind","source":"/s"},
                {"destination":"/b","source":"/s","options":["rbind"]},{"destination":"/proc","type":"proc"},
                {"destination":"/sys/fs/cgroup","type":"cgroup"}],
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/proc/self/ns/net"}]}}"#,
        )
        .unwrap();
        let external = External::new(&spec, 0);
        assert_eq!(external.binds, ["/a", "/b"]);
        assert_eq!(external.cgroups, ["/sys/fs/cgroup"]);
        let inode = rustix::fs::stat("/proc/self/ns/net").unwrap().st_ino;
        assert_eq!(external.namespaces_to_save().unwrap(), [format!("net[{inode}]:extRootNetNS")]);
        let namespaces = namespaces_to_restore(&spec).unwrap();
        assert_eq!((namespaces.open.len(), namespaces.join.len()), (1, 0));
    }
}
