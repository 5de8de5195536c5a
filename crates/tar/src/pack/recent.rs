//! Small files whose content is still in memory when their tree is packed: it need not be read again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use palan_linux::path::Metadata;

use super::Regular;
use super::ahead::Read;

/// Small files that were just written into a tree which nobody else writes to, by their inodes.
///
/// **Invariant:** what is here is what the file is. So it is kept when the file has its last look, a file with attributes or several names is
/// not, and whoever takes a file out of the tree says so ([`Recent::close`]): its inode may become another file's.
#[derive(Debug, Default)]
pub struct Recent {
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    by_inode: HashMap<u64, (Metadata, Vec<u8>)>,
    bytes: usize,
    is_closed: bool,
}

/// Bytes of all files that are kept in this process.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Beyond this no more are kept, for however many trees.
const MOST: usize = 64 << 20;

/// What a file takes besides its content, in a table that has just grown.
const EACH: usize = 512;

impl Recent {
    /// Keeps a file without attributes, unless there are too many already.
    pub fn keep(&self, metadata: Metadata, content: Vec<u8>) {
        let has_holes = metadata.blocks.saturating_mul(512) < metadata.size;
        let is_whole = content.len() as u64 == metadata.size && !has_holes;
        let mut files = self.files();
        if files.is_closed || !is_whole || metadata.links != 1 {
            return;
        }
        let bytes = content.len() + EACH;
        if KEPT.fetch_add(bytes, Ordering::Relaxed) + bytes > MOST {
            KEPT.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        files.bytes += bytes;
        files.by_inode.insert(metadata.inode, (metadata, content));
    }

    /// Keeps nothing, from now on and of before: a file is taken out of the tree.
    pub fn close(&self) {
        let closed = Files { by_inode: HashMap::new(), bytes: 0, is_closed: true };
        *self.files() = closed;
    }

    /// Gives up the file with this inode.
    pub(super) fn take(&self, inode: u64) -> Option<Read> {
        let (metadata, content) = self.files().by_inode.remove(&inode)?;
        Some(Read { metadata, content: Regular::Bytes(content) })
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
