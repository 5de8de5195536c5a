//! Telling a build to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A build's end before its time. Clones are the same one.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_cancelled: bool,
    next: u64,
    watchers: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

/// Ends a watch when it is dropped.
#[must_use = "a watch ends when it is dropped"]
pub struct Watch {
    state: Weak<Mutex<State>>,
    number: u64,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Watch").field(&self.number).finish()
    }
}

impl Cancel {
    /// Nothing is cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it is time to stop.
    pub fn is_cancelled(&self) -> bool {
        self.lock().is_cancelled
    }

    /// It is time to stop: everybody who watches is told, on this thread.
    pub fn cancel(&self) {
        let watchers = {
            let mut state = self.lock();
            state.is_cancelled = true;
            std::mem::take(&mut state.watchers)
        };
        watchers.into_values().for_each(|watcher| watcher());
    }

    /// Calls `then` when it is time to stop, at once if it is already. It should be short: wake somebody, kill a process.
    pub fn watch(&self, then: impl FnOnce() + Send + 'static) -> Watch {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        if state.is_cancelled {
            drop(state);
            then();
        } else {
            state.watchers.insert(number, Box::new(then));
        }
        Watch { state: Arc::downgrade(&self.0), number }
    }

    /// One that is cancelled with this one, and by itself.
    pub fn child(&self) -> (Self, Watch) {
        let child = Self::new();
        let told = child.clone();
        let watch = self.watch(move || told.cancel());
        (child, watch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            let watcher = state.lock().unwrap_or_else(PoisonError::into_inner).watchers.remove(&self.number);
            drop(watcher);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn watchers_are_told_once() {
        let count = Arc::new(AtomicU32::new(0));
        let add = || {
            let count = Arc::clone(&count);
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let cancel = Cancel::new();
        let _kept = cancel.watch(add());
        drop(cancel.watch(add()));
        cancel.cancel();
        cancel.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let _late = cancel.watch(add());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn children_end_with_their_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let (first, _watch) = parent.child();
        let (second, _watch) = parent.child();
        first.cancel();
        assert!(!parent.is_cancelled() && !second.is_cancelled());
        parent.cancel();
        assert!(second.is_cancelled());
    }
}
