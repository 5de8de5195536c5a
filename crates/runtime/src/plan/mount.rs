//! One entry of `mounts`, with its options sorted into what they mean.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use palan_linux::mount::{Attributes, Propagation};
use palan_oci::runtime_spec::{IdMapping, Mount};

use super::container_path;
use super::user_namespace::check_mappings;
use crate::error::{Context, Error, InField};

/// A mount to make.
#[derive(Debug)]
pub(crate) struct MountPlan {
    /// Where in the specification it is, with its destination: `mounts[2] (/data)`.
    pub(crate) field: String,
    pub(crate) destination: PathBuf,
    pub(crate) kind: MountKind,
    /// What a bind shows, if the caller has opened it; the path of its source is for messages only then.
    pub(crate) given: Option<OwnedFd>,
    /// Attributes of the mount itself.
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
    /// Whether `relatime` is asked for, which is the absence of any other.
    pub(crate) relative_access_times: bool,
    /// Attributes of it and of all below it.
    pub(crate) set_recursive: Attributes,
    pub(crate) clear_recursive: Attributes,
    pub(crate) propagation: Option<(Propagation, bool)>,
    /// Whose numbers the owners of a bind's files are.
    pub(crate) id_map: Option<IdMapPlan>,
    /// Fill a tmpfs with what it covers.
    pub(crate) copy_up: bool,
    /// Options of the file system; those of a bind's have no effect.
    pub(crate) data: Vec<String>,
}

/// An id-mapped mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IdMapPlan {
    /// Also what is mounted below.
    pub(crate) recursive: bool,
    /// Mappings of the mount's own; those of the container's user namespace otherwise.
    pub(crate) own: Option<(Vec<IdMapping>, Vec<IdMapping>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A file or directory of the host.
    Bind { source: PathBuf, recursive: bool },
    /// The container's cgroup.
    Cgroup,
    /// A new file system of this type.
    FileSystem { kind: String, source: Option<String> },
}

/// What one option does.
enum Meaning {
    Set(Attributes),
    Clear(Attributes),
    RelativeAccessTimes,
    SetRecursive(Attributes),
    ClearRecursive(Attributes),
    Propagate(Propagation, bool),
    Bind {
        recursive: bool,
    },
    IdMap {
        recursive: bool,
    },
    CopyUp,
    /// Has no effect here: it is the default, an instruction to mount(8), or one that the mount API has no word for because
    /// it changes nothing but the kernel's log (`silent`) or what the file system decides by itself (`iversion`).
    Nothing,
}

fn meaning(option: &str) -> Option<Meaning> {
    use Meaning::{
        Bind, Clear, ClearRecursive, CopyUp, IdMap, Nothing, Propagate, RelativeAccessTimes, Set,
        SetRecursive,
    };
    const RO: Attributes = Attributes::MOUNT_ATTR_RDONLY;
    const NOSUID: Attributes = Attributes::MOUNT_ATTR_NOSUID;
    const NODEV: Attributes = Attributes::MOUNT_ATTR_NODEV;
    const NOEXEC: Attributes = Attributes::MOUNT_ATTR_NOEXEC;
    const NOATIME: Attributes = Attributes::MOUNT_ATTR_NOATIME;
    const STRICTATIME: Attributes = Attributes::MOUNT_ATTR_STRICTATIME;
    const NODIRATIME: Attributes = Attributes::MOUNT_ATTR_NODIRATIME;
    const NOSYMFOLLOW: Attributes = Attributes::MOUNT_ATTR_NOSYMFOLLOW;
    Some(match option {
        "ro" => Set(RO),
        "rw" => Clear(RO),
        "nosuid" => Set(NOSUID),
        "suid" => Clear(NOSUID),
        "nodev" => Set(NODEV),
        "dev" => Clear(NODEV),
        "noexec" => Set(NOEXEC),
        "exec" => Clear(NOEXEC),
        "noatime" => Set(NOATIME),
        "atime" => Clear(NOATIME),
        "relatime" => RelativeAccessTimes,
        "strictatime" => Set(STRICTATIME),
        "nostrictatime" | "norelatime" => Clear(STRICTATIME),
        "nodiratime" => Set(NODIRATIME),
        "diratime" => Clear(NODIRATIME),
        "nosymfollow" => Set(NOSYMFOLLOW),
        "symfollow" => Clear(NOSYMFOLLOW),
        "rro" => SetRecursive(RO),
        "rrw" => ClearRecursive(RO),
        "rnosuid" => SetRecursive(NOSUID),
        "rsuid" => ClearRecursive(NOSUID),
        "rnodev" => SetRecursive(NODEV),
        "rdev" => ClearRecursive(NODEV),
        "rnoexec" => SetRecursive(NOEXEC),
        "rexec" => ClearRecursive(NOEXEC),
        "rnoatime" => SetRecursive(NOATIME),
        "ratime" | "rrelatime" => ClearRecursive(NOATIME),
        "rstrictatime" => SetRecursive(STRICTATIME),
        "rnostrictatime" | "rnorelatime" => ClearRecursive(STRICTATIME),
        "rnodiratime" => SetRecursive(NODIRATIME),
        "rdiratime" => ClearRecursive(NODIRATIME),
        "rnosymfollow" => SetRecursive(NOSYMFOLLOW),
        "rsymfollow" => ClearRecursive(NOSYMFOLLOW),
        "private" => Propagate(Propagation::Private, false),
        "rprivate" => Propagate(Propagation::Private, true),
        "slave" => Propagate(Propagation::Slave, false),
        "rslave" => Propagate(Propagation::Slave, true),
        "shared" => Propagate(Propagation::Shared, false),
        "rshared" => Propagate(Propagation::Shared, true),
        "unbindable" => Propagate(Propagation::Unbindable, false),
        "runbindable" => Propagate(Propagation::Unbindable, true),
        "bind" => Bind { recursive: false },
        "rbind" => Bind { recursive: true },
        "idmap" => IdMap { recursive: false },
        "ridmap" => IdMap { recursive: true },
        "tmpcopyup" => CopyUp,
        "" | "defaults" | "async" | "loud" | "silent" | "nomand" | "iversion" | "noiversion"
        | "nolazytime" | "remount" => Nothing,
        _ => return None,
    })
}

/// Whether it shows something of the host: said by its type or by an option.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.kind == "bind" || mount.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"))
}

impl MountPlan {
    pub(crate) fn new(index: usize, mount: &Mount, bundle: &Path) -> Result<Self, Error> {
        let place = format!("mounts[{index}]");
        let destination = container_path(&mount.destination).in_field(format_args!("{place}.destination"))?;
        let refuse = |what: &str| Err(Error::Invalid(format!("{place} ({}): {what}", mount.destination)));
        let mut plan = Self {
            field: format!("{place} ({})", mount.destination),
            destination,
            kind: MountKind::Cgroup,
            given: None,
            set: Attributes::empty(),
            clear: Attributes::empty(),
            relative_access_times: false,
            set_recursive: Attributes::empty(),
            clear_recursive: Attributes::empty(),
            propagation: None,
            id_map: None,
            copy_up: false,
            data: Vec::new(),
        };
        if [&mount.kind, &mount.source].iter().any(|text| text.contains('\0')) {
            return refuse("type or source contains a NUL byte");
        }
        let mut bind = (mount.kind == "bind").then_some(false);
        for option in &mount.options {
            // Later options win over earlier ones.
            match meaning(option) {
                Some(Meaning::Set(bits)) => (plan.set, plan.clear) = (plan.set | bits, plan.clear - bits),
                Some(Meaning::Clear(bits)) => (plan.set, plan.clear) = (plan.set - bits, plan.clear | bits),
                Some(Meaning::RelativeAccessTimes) => {
                    plan.set -= Attributes::MOUNT_ATTR_NOATIME | Attributes::MOUNT_ATTR_STRICTATIME;
                    plan.relative_access_times = true;
                }
                Some(Meaning::SetRecursive(bits)) => {
                    plan.set_recursive |= bits;
                    plan.clear_recursive -= bits;
                }
                Some(Meaning::ClearRecursive(bits)) => {
                    plan.set_recursive -= bits;
                    plan.clear_recursive |= bits;
                }
                Some(Meaning::Propagate(kind, recursive)) => plan.propagation = Some((kind, recursive)),
                Some(Meaning::Bind { recursive }) => bind = Some(recursive || bind == Some(true)),
                Some(Meaning::IdMap { recursive }) => plan.id_map = Some(IdMapPlan { recursive, own: None }),
                Some(Meaning::CopyUp) => plan.copy_up = true,
                Some(Meaning::Nothing) => {}
                None if option.contains('\0') => {
                    return refuse(&format!("options: {option:?} contains a NUL byte"));
                }
                None => plan.data.push(option.clone()),
            }
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            if mount.uid_mappings.is_empty() || mount.gid_mappings.is_empty() {
                return refuse("uidMappings and gidMappings go together");
            }
            check_mappings(&format!("{place}.uidMappings"), &mount.uid_mappings)?;
            check_mappings(&format!("{place}.gidMappings"), &mount.gid_mappings)?;
            let recursive = plan.id_map.as_ref().is_some_and(|map| map.recursive);
            let own = Some((mount.uid_mappings.clone(), mount.gid_mappings.clone()));
            plan.id_map = Some(IdMapPlan { recursive, own });
        }
        if plan.id_map.is_some() && bind.is_none() {
            return refuse("only a bind mount can have id mappings");
        }
        if plan.copy_up && mount.kind != "tmpfs" {
            return refuse("tmpcopyup is for a tmpfs only");
        }
        if let Some(recursive) = bind {
            // The specification has unknown options given to mount(2), which looks at none for a bind, and callers rely on it.
            // A word without a value may be a slip of the pen for one that protects something, though.
            if let Some(option) = plan.data.iter().find(|option| !option.contains('=')) {
                return refuse(&format!("options: a bind mount has no option {option:?}"));
            }
            if mount.source.is_empty() {
                return refuse("source: a bind mount needs one");
            }
            // An absolute source replaces the bundle's path.
            plan.kind = MountKind::Bind { source: bundle.join(&mount.source), recursive };
        } else if !matches!(mount.kind.as_str(), "cgroup" | "cgroup2") {
            if mount.kind.is_empty() || mount.kind == "none" {
                return refuse("type: it has none");
            }
            plan.kind = MountKind::FileSystem {
                kind: mount.kind.clone(),
                source: Some(mount.source.clone()).filter(|source| !source.is_empty()),
            };
        }
        Ok(plan)
    }

    /// Makes it show the detached mount `source`.
    pub(crate) fn give_source(&mut self, source: &OwnedFd) -> Result<(), Error> {
        if !matches!(self.kind, MountKind::Bind { .. }) {
            return Err(Error::Invalid(format!("{}: only a bind mount can be given a source", self.field)));
        }
        self.given = Some(source.try_clone().context(|| "duplicate a descriptor".to_owned())?);
        Ok(())
    }

    /// With a destination that starts with the host's path of the root taken for one inside of it, as runc does.
    pub(crate) fn without_root(mut self, root: &Path) -> Self {
        if root.parent().is_some()
            && let Ok(inside) = self.destination.strip_prefix(root)
        {
            self.destination = Path::new("/").join(inside);
        }
        self
    }

    /// What has no effect, one sentence each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let without_effect = self.data.iter().filter(|_| matches!(self.kind, MountKind::Bind { .. }));
        let told = |option| {
            let place = &self.field;
            format!(
                "{place}: options: {option:?} has no effect on a bind mount, whose file system is mounted already"
            )
        };
        without_effect.map(told).collect()
    }

    /// Whether nothing can be written through the mount itself.
    pub(crate) fn is_read_only(&self) -> bool {
        (self.set | self.set_recursive).contains(Attributes::MOUNT_ATTR_RDONLY)
    }

    /// Whether it is said that what is mounted below can be written to all the same.
    pub(crate) fn wants_writable_below(&self) -> bool {
        self.clear_recursive.contains(Attributes::MOUNT_ATTR_RDONLY)
    }

    /// Whether the user brings a whole /dev.
    pub(crate) fn binds_dev(&self) -> bool {
        matches!(self.kind, MountKind::Bind { .. })
            && self.destination.components().eq(Path::new("/dev").components())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: &str, source: &str, options: &[&str]) -> Result<MountPlan, Error> {
        let mount = Mount {
            destination: "/x".into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        };
        MountPlan::new(0, &mount, Path::new("/bundle"))
    }

    #[test]
    fn options_are_sorted() {
        let tmpfs = plan("tmpfs", "tmpfs", &["nosuid", "rw", "ro", "suid", "size=64k", "mode=755"]).unwrap();
        assert_eq!(tmpfs.set, Attributes::MOUNT_ATTR_RDONLY);
        assert_eq!(tmpfs.data, ["size=64k", "mode=755"]);
        let bind = plan("", "data", &["rbind", "rprivate", "ro"]).unwrap();
        assert_eq!(bind.kind, MountKind::Bind { source: "/bundle/data".into(), recursive: true });
        assert_eq!(bind.propagation, Some((Propagation::Private, true)));
        let bind = plan("bind", "/data", &[]).unwrap();
        assert_eq!(bind.kind, MountKind::Bind { source: "/data".into(), recursive: false });
    }

    #[test]
    fn a_bind_keeps_the_options_of_its_file_system() {
        let bind = plan("", "/data", &["nosuid", "mode=755", "bind", "size=1k"]).unwrap();
        let told = |option: &str| {
            format!(
                "mounts[0] (/x): options: {option:?} has no effect on a bind mount, whose file system is mounted already"
            )
        };
        assert_eq!(bind.warnings(), [told("mode=755"), told("size=1k")]);
        assert!(plan("tmpfs", "", &["mode=755"]).unwrap().warnings().is_empty());
        // What has no value may be meant for the mount.
        assert!(plan("bind", "/data", &["mode=755", "nosiud"]).is_err());
    }

    #[test]
    fn nothing_is_ignored() {
        assert!(plan("proc", "", &["tmpcopyup"]).is_err());
        assert!(plan("tmpfs", "", &["idmap"]).is_err());
        assert!(plan("", "", &[]).is_err());
        assert!(plan("bind", "", &[]).is_err());
    }
}
