//! The handle on the store, and what happens when it is opened.

use std::path::Path;

use crate::{Limits, Result};

/// The store of one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {}

impl Store {
    /// Opens the store below `root` (created if absent), removes what an interrupted process left behind and takes
    /// the lock that keeps a second process out.
    pub fn open(root: &Path, limits: Limits) -> Result<Self> {
        todo!()
    }
}
