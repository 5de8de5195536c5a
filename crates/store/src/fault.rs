//! The points at which a test kills the store: before everything that changes the disk.
//!
//! Outside of this crate's own tests this is nothing. In them, the process aborts at the point whose number the environment
//! variable `PALAN_STORE_FAULT` has, as a kill at that moment would end it.

#[cfg(test)]
pub(crate) use counting::{count, point};

#[cfg(not(test))]
pub(crate) fn point(_what: &'static str) {}

#[cfg(test)]
mod counting {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static FATAL: OnceLock<Option<u64>> = OnceLock::new();

    pub(crate) fn point(_what: &'static str) {
        let fatal = FATAL
            .get_or_init(|| std::env::var("PALAN_STORE_FAULT").ok().and_then(|number| number.parse().ok()));
        let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
        if *fatal == Some(number) {
            std::process::abort();
        }
    }

    /// How many points were passed so far.
    pub(crate) fn count() -> u64 {
        PASSED.load(Ordering::SeqCst)
    }
}
