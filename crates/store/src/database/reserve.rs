//! Disk space that is set aside, so that images can be removed when there is no other: a removal writes to the database before it
//! frees anything.
//!
//! It is given up for transactions that make room, and for those alone: what a pull could eat is no reserve. It is made again
//! when there is space.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use palan_stdx::fs;
use rusqlite::Connection;

/// Many times what a removal writes.
const BYTES: u64 = 1 << 20;

/// Where it is.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("images.db-reserve")
}

/// Makes the file with its blocks, if it is not there. Without space there is no reserve; that is no error.
pub(crate) fn make(root: &Path) {
    let path = path(root);
    if path.exists() {
        return;
    }
    crate::fault::point("create the reserve");
    let Ok(file) = fs::create_new(&path, 0o600) else { return };
    crate::fault::point("fill the reserve");
    if rustix::fs::fallocate(file.as_fd(), rustix::fs::FallocateFlags::empty(), 0, BYTES).is_err() {
        // What has no blocks keeps no place free.
        let _ = fs::remove_file(&path);
    }
}

/// Gives the space back; false when there was none.
pub(super) fn give_up(db: &Connection) -> bool {
    let Some(root) = db.path().and_then(|path| Path::new(path).parent()) else { return false };
    let path = path(root);
    let given = path.exists() && fs::remove_file(&path).is_ok();
    if given {
        tracing::warn!("the disk is full, the image database uses its reserve");
    }
    given
}
