//! The flags of a bind mount, as runc understands what the specification leaves open.
//!
//! A bind without flags keeps those of its source. With flags, be it only one that takes something away (`dev`), it has
//! exactly those: what is not named is off. Access times are one setting of their own, which stays unless one of them is
//! named; `atime` and `norelatime` name none.
//!
//! In a user namespace flags that the source has are locked (mount_namespaces(7)): they stay, and an entry that wants one
//! off is refused.

use std::os::fd::OwnedFd;

use palan_linux::mount::{self, Attributes, Change};
use rustix::fs::StatVfsMountFlags;

use crate::error::{Context, Error};
use crate::plan::MountPlan;

/// Flags that a bind without them has not.
const ALL: Attributes = Attributes::MOUNT_ATTR_RDONLY
    .union(Attributes::MOUNT_ATTR_NOSUID)
    .union(Attributes::MOUNT_ATTR_NODEV)
    .union(Attributes::MOUNT_ATTR_NOEXEC)
    .union(Attributes::MOUNT_ATTR_NOSYMFOLLOW);

const ACCESS_TIMES: Attributes = Attributes::MOUNT_ATTR_NOATIME
    .union(Attributes::MOUNT_ATTR_STRICTATIME)
    .union(Attributes::MOUNT_ATTR_NODIRATIME);

/// Gives the detached `copy` of a source the flags of its entry. `locked`: they are for a user namespace.
pub(super) fn set(entry: &MountPlan, copy: &OwnedFd, locked: bool) -> Result<(), Error> {
    if (entry.set | entry.clear).is_empty() && !entry.relative_access_times {
        return Ok(());
    }
    let failed = || format!("change the flags of bind mount {}", entry.destination.display());
    if !locked {
        let mut clear = ALL - entry.set;
        if access_times(entry).is_some() {
            clear |= ACCESS_TIMES - entry.set;
        }
        match mount::change(copy, &Change { set: entry.set, clear, ..Change::default() }, false) {
            // The caller itself is in a user namespace, and the source is not its own.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            result => return result.context(failed),
        }
    }
    let has = flags_of(copy).context(failed)?;
    let refuse = |what: &str, flags: Attributes| {
        let names: Vec<_> =
            flags.iter_names().map(|(name, _)| name.trim_start_matches("MOUNT_ATTR_")).collect();
        let place = entry.destination.display();
        Err(Error::Invalid(format!("mount {place}: cannot {what} locked flags {}", names.join(","))))
    };
    let unwanted = has & entry.clear & (ALL - Attributes::MOUNT_ATTR_RDONLY);
    if !unwanted.is_empty() {
        return refuse("clear", unwanted);
    }
    if (has & entry.clear).contains(Attributes::MOUNT_ATTR_RDONLY) {
        // It may be the file system that is read-only, which is no flag of the mount: only then nothing changes.
        let clear = Attributes::MOUNT_ATTR_RDONLY;
        mount::change(copy, &Change { clear, ..Change::default() }, false).context(failed)?;
        if !flags_of(copy).context(failed)?.contains(clear) {
            return refuse("clear", clear);
        }
    }
    if access_times(entry).is_some_and(|wanted| wanted != has & ACCESS_TIMES) {
        return refuse("change", ACCESS_TIMES);
    }
    let change = Change {
        set: entry.set - ACCESS_TIMES,
        clear: Attributes::MOUNT_ATTR_NOSYMFOLLOW - entry.set,
        ..Change::default()
    };
    mount::change(copy, &change, false).context(failed)
}

/// What an entry says about access times.
fn access_times(entry: &MountPlan) -> Option<Attributes> {
    let named = entry.set & ACCESS_TIMES;
    (!named.is_empty() || entry.relative_access_times).then_some(named)
}

/// Flags of the mount and of its file system that can be locked.
fn flags_of(mount: &OwnedFd) -> std::io::Result<Attributes> {
    let found = rustix::fs::fstatvfs(mount)?.f_flag;
    let mut flags = Attributes::empty();
    for (bit, flag) in [
        (StatVfsMountFlags::RDONLY, Attributes::MOUNT_ATTR_RDONLY),
        (StatVfsMountFlags::NOSUID, Attributes::MOUNT_ATTR_NOSUID),
        (StatVfsMountFlags::NODEV, Attributes::MOUNT_ATTR_NODEV),
        (StatVfsMountFlags::NOEXEC, Attributes::MOUNT_ATTR_NOEXEC),
        (StatVfsMountFlags::NOATIME, Attributes::MOUNT_ATTR_NOATIME),
        (StatVfsMountFlags::NODIRATIME, Attributes::MOUNT_ATTR_NODIRATIME),
    ] {
        if found.contains(bit) {
            flags |= flag;
        }
    }
    if !found.intersects(StatVfsMountFlags::NOATIME | StatVfsMountFlags::RELATIME) {
        flags |= Attributes::MOUNT_ATTR_STRICTATIME;
    }
    Ok(flags)
}
