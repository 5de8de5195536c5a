//! Copies a tree from one root to another with all that makes its files what they are.

use std::path::Path;

use palan_linux::path::{PathError, RootDir};

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files, directories, links and nodes.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Copies what is in directory `from_path` of `from` into directory `to_path` of `to` (both exist), with owners, modes,
/// times, extended attributes, holes, hard links within the tree, and special files; the attributes of the directory itself too.
pub fn copy_tree(
    from: &RootDir,
    from_path: &Path,
    to: &RootDir,
    to_path: &Path,
) -> Result<Copied, PathError> {
    todo!()
}
