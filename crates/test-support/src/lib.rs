//! What the end-to-end tests share: a daemon with a root of its own, images made from nothing, a hostile registry, leak checks;
//! bundles for a runtime without a daemon, races.

#![forbid(unsafe_code)]

/// Bundles, and an OCI runtime by its command line.
pub mod bundle;
pub mod certificates;
/// A daemon with everything of its own, and the commands to drive it.
pub mod daemon;
pub mod git;
/// Images made from nothing.
pub mod image;
mod leaks;
/// Paths that change places.
pub mod race;
/// A registry in this process, regular or hostile.
pub mod registry;
/// Skips that are loud.
pub mod skip;

use std::time::{Duration, Instant};

/// Polls until `condition` holds; whether it did within `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
