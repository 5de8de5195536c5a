//! An overlay's upper directory as a layer that is the same wherever it lies: its tar, and what the tar has no word of taken away.
//!
//! The kernel marks every new directory in a merged one as opaque, which spares it lookups, and a whiteout may outlive the file
//! it hid. Over other layers than these both would hide what nobody removed.

use std::ffi::OsStr;

use palan_linux::xattr;
use palan_tar::pack::{Packer, failed};

use super::pack::change;
use super::{OPAQUE, Overlaid, Scope, TreeError, Visited};

impl Overlaid {
    /// Writes what changed as a layer, and takes away what hides nothing.
    pub(crate) fn settle(&self, packer: &mut Packer<'_>) -> Result<(), TreeError> {
        self.walk(Scope::Own, &mut |visited| {
            change(packer, visited)?;
            let Some((directory, metadata)) = &visited.upper else { return Ok(()) };
            if visited.is_whiteout() && visited.lower.is_none() {
                let before =
                    palan_linux::path::Metadata::of(directory).map_err(failed("inspect", visited.path))?;
                directory.remove_file(visited.name).map_err(failed("remove the mark", visited.path))?;
                let restored = rustix::fs::futimens(
                    directory,
                    &rustix::fs::Timestamps {
                        last_access: timespec(before.accessed),
                        last_modification: timespec(before.modified),
                    },
                );
                restored.map_err(|errno| failed("set the time of", visited.path)(errno.into()))?;
            } else if metadata.is_dir() && visited.opaque && !hides(visited) {
                xattr::remove_at(directory, visited.name, OsStr::new(OPAQUE))
                    .map_err(failed("remove the mark of", visited.path))?;
            }
            Ok(())
        })
    }
}

/// Whether the opaque directory hides another.
pub(super) fn hides(visited: &Visited<'_>) -> bool {
    visited.lower.as_ref().is_some_and(|(_, old)| old.is_dir()) && !visited.in_opaque
}

fn timespec(time: palan_linux::path::Time) -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}
