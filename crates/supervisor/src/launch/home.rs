//! This process's own mount namespace, root and working directory, for when it is in another one for a moment. It has one thread.

use std::os::fd::OwnedFd;

use palan_linux::namespace::{self, Kind};
use rustix::fs::{CWD, Mode, OFlags};

/// The place that this process returns to.
#[derive(Debug)]
pub(super) struct Home {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Home {
    /// Where it is now.
    pub(super) fn note() -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &str| rustix::fs::openat(CWD, path, flags, Mode::empty());
        Ok(Self { namespace: namespace::open(0, Kind::Mount)?, root: open("/")?, directory: open(".")? })
    }

    /// Returns. To stay elsewhere must not happen: whatever followed would be done there.
    pub(super) fn enter(&self) {
        let enter = || -> std::io::Result<()> {
            namespace::join(&self.namespace, Kind::Mount)?;
            rustix::process::fchdir(&self.root)?;
            rustix::process::chroot(".")?;
            Ok(rustix::process::fchdir(&self.directory)?)
        };
        if enter().is_err() {
            palan_linux::process::exit_now(1);
        }
    }
}
