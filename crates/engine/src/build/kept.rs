//! Contexts that front doors keep between builds: part of the build cache, wherever they lie.
//!
//! A build cache that is too large loses them first: they are only sent again.

use std::sync::Arc;
use std::time::SystemTime;

use super::prune::{BuildCacheRecord, timestamp};
use crate::Result;
use crate::engine::Engine;
use crate::error::Context as _;

/// What BuildKit calls such a record.
pub(super) const KIND: &str = "source.local";

/// A context that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptContext {
    /// Its name, which is nobody else's.
    pub id: String,
    /// The bytes that its removal frees.
    pub size: u64,
    /// When it was used last.
    pub used: SystemTime,
    /// A build has it, or it is being filled.
    pub in_use: bool,
}

/// Who keeps contexts. Every method blocks.
pub trait KeptContexts: Send + Sync {
    /// All that are kept.
    fn list(&self) -> std::io::Result<Vec<KeptContext>>;

    /// Removes one that is not in use. Whether it was there and has gone.
    fn remove(&self, id: &str) -> std::io::Result<bool>;
}

impl Engine {
    /// From now on these contexts are part of the build cache.
    pub fn keep_contexts(&self, contexts: Arc<dyn KeptContexts>) {
        // There is one front door that keeps any.
        let _ = self.builds.kept.0.set(contexts);
    }

    pub(super) fn kept_contexts(&self) -> Result<Vec<BuildCacheRecord>> {
        let Some(kept) = self.builds.kept.0.get() else { return Ok(Vec::new()) };
        let list = kept.list().context(|| "cannot list the contexts that clients have sent".into())?;
        let record = |context: KeptContext| {
            let used = timestamp(context.used);
            BuildCacheRecord {
                id: context.id,
                kind: KIND.to_owned(),
                description: "local source".to_owned(),
                in_use: context.in_use,
                shared: false,
                size: context.size,
                created: used.unwrap_or_default(),
                used,
            }
        };
        Ok(list.into_iter().map(record).collect())
    }

    pub(super) fn remove_context(&self, id: &str) -> Result<bool> {
        match self.builds.kept.0.get() {
            Some(kept) => kept.remove(id).context(|| "cannot remove a context that a client has sent".into()),
            None => Ok(false),
        }
    }

    /// Removes those that were not used for longest, until there are no more bytes of them than these. How many are left.
    pub(super) fn limit_contexts(&self, max_bytes: u64) -> Result<u64> {
        let mut contexts = self.kept_contexts()?;
        contexts.sort_by_key(|context| context.used);
        let mut left: u64 = contexts.iter().map(|context| context.size).sum();
        for context in contexts {
            if left > max_bytes && context.size > 0 && self.remove_context(&context.id)? {
                left -= context.size;
            }
        }
        Ok(left)
    }
}

/// Set once there is somebody.
#[derive(Default)]
pub(super) struct Kept(std::sync::OnceLock<Arc<dyn KeptContexts>>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Kept")
    }
}
