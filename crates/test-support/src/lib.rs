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

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for what is to happen. Only a failure takes that long: it is not for what must *not* happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

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

/// Reads a count until it stays the same for 300 ms, within [`PATIENCE`].
#[track_caller]
pub fn at_rest(mut count: impl FnMut() -> usize) -> usize {
    let mut last = count();
    let rests = wait_until(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut last, count());
        before == last
    });
    assert!(rests, "the count, now {last}, goes on changing");
    last
}

/// A port that nobody has, in either family, and that no other test of this process gets. It is below those that the kernel
/// chooses, so that it is not taken by chance before it is used.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 600 * 20;
    loop {
        let number = first + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + number % 12_000).expect("32000 at most");
        let is_taken = |address: IpAddr| {
            let errors = [TcpListener::bind((address, port)).err(), UdpSocket::bind((address, port)).err()];
            errors.into_iter().flatten().any(|error| error.kind() == ErrorKind::AddrInUse)
        };
        if !is_taken(Ipv4Addr::UNSPECIFIED.into()) && !is_taken(Ipv6Addr::UNSPECIFIED.into()) {
            return port;
        }
    }
}
