//! Registering descriptors with the reactor, in the one place that argues why it is sound.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a value with the reactor. The value must own its descriptor and keep it while it lives, as an `OwnedFd` and
/// what is made of one do; nobody exchanges it while it is registered.
#[allow(
    deprecated,
    reason = "the successor is unsafe, which this crate forbids; each caller's value owns one descriptor for its whole life"
)]
pub(crate) fn register<T: AsRawFd>(value: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(value, interest)
}
