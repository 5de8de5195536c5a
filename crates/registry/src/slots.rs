//! How many layers are transferred at once.
//!
//! Each registry has the configured number of slots, so that one that stalls does not stop the pulls from others, and
//! all together have a few times as many, so that memory stays bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many registries can use all of their slots at the same time.
const REGISTRIES: usize = 4;
/// What all layers together may have in memory between socket and disk.
const WHOLE_BUDGET: usize = 32 << 20;
/// The most that one layer makes use of.
const LARGEST_SHARE: usize = 4 << 20;
/// The least that lets socket and disk work at the same time.
const SMALLEST_SHARE: usize = 256 << 10;

/// The slots of the process.
#[derive(Debug)]
pub(crate) struct Slots {
    for_each: usize,
    all: Arc<Semaphore>,
    total: usize,
    registries: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A slot that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _registry: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    // The registry's semaphore lives as long as somebody uses it.
    _semaphore: Arc<Semaphore>,
}

impl Slots {
    pub(crate) fn new(for_each: usize) -> Self {
        let for_each = for_each.clamp(1, WHOLE_BUDGET / SMALLEST_SHARE / REGISTRIES);
        let total = for_each * REGISTRIES;
        Self { for_each, total, all: Arc::new(Semaphore::new(total)), registries: Mutex::default() }
    }

    /// Waits for a slot of `registry`.
    pub(crate) async fn take(&self, registry: &str) -> Option<Slot> {
        let semaphore = self.of(registry);
        let registry = Arc::clone(&semaphore).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Slot { _registry: registry, _all: all, _semaphore: semaphore })
    }

    fn of(&self, registry: &str) -> Arc<Semaphore> {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = registries.get(registry).and_then(Weak::upgrade) {
            return semaphore;
        }
        registries.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.for_each));
        registries.insert(registry.to_owned(), Arc::downgrade(&semaphore));
        semaphore
    }

    /// The bytes that one layer may have in memory.
    pub(crate) fn budget(&self) -> u32 {
        let share = (WHOLE_BUDGET / self.total).clamp(SMALLEST_SHARE, LARGEST_SHARE);
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_registry_has_its_own_slots() {
        let slots = Slots::new(2);
        let taken = [slots.take("a").await, slots.take("a").await];
        let third = tokio::time::timeout(Duration::from_millis(20), slots.take("a")).await;
        assert!(third.is_err());
        assert!(slots.take("b").await.is_some());
        drop(taken);
        assert!(slots.take("a").await.is_some());
    }

    #[test]
    fn memory_is_bounded_whatever_is_configured() {
        for for_each in [0, 1, 3, 100, usize::MAX] {
            let slots = Slots::new(for_each);
            assert!(slots.budget() as usize * slots.total <= WHOLE_BUDGET, "{for_each}");
        }
    }
}
