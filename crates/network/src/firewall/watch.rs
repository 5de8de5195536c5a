//! Watches the ruleset: a thread that wakes when anybody but us changes it.
//!
//! Each nftables transaction ends with a notification that carries the port of the socket which made it, so that our
//! own changes are told from others'. All that has arrived is read before anything is done: a burst of changes
//! (a firewall that restarts, Docker that starts) leads to one look at the result.

use std::os::fd::{AsFd, OwnedFd};

use palan_linux::netlink::{Protocol, Socket, nftables};
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::error::netlink;
use crate::{KernelError, STACK};

const THREAD: &str = "palan-nft-watch";

/// Ends the watching thread when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: OwnedFd,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The counter can't be full, and a lost wake-up would only leave a sleeping thread behind.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

/// Calls `changed` after each change that wasn't made through the socket with port `own`, until the result is dropped
/// or `changed` returns false.
pub(crate) fn start(own: u32, changed: impl FnMut() -> bool + Send + 'static) -> Result<Watch, KernelError> {
    let socket = Socket::listen(Protocol::Netfilter, nftables::GROUP)
        .map_err(netlink("watch the nftables ruleset"))?;
    let thread = |source| KernelError::Thread { name: THREAD, source };
    let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| thread(errno.into()))?;
    let stopped = rustix::io::dup(&stop).map_err(|errno| thread(errno.into()))?;
    std::thread::Builder::new()
        .name(THREAD.into())
        .stack_size(STACK)
        .spawn(move || watch(socket, &stopped, own, changed))
        .map_err(thread)?;
    Ok(Watch { stop })
}

fn watch(mut socket: Socket, stop: &OwnedFd, own: u32, mut changed: impl FnMut() -> bool) {
    loop {
        let mut ready =
            [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, None));
        if polled.is_err() || !ready[1].revents().is_empty() {
            return;
        }
        if drain(&mut socket, own) && !changed() {
            return;
        }
    }
}

/// Reads what has arrived; true if somebody else changed something, or may have.
fn drain(socket: &mut Socket, own: u32) -> bool {
    let mut foreign = false;
    loop {
        let received = socket.receive(|kind, port, _| {
            foreign |= kind == nftables::NEW_GENERATION && port != own;
        });
        match received {
            Ok(true) => {}
            Ok(false) => return foreign,
            Err(error) if error.is_overrun() => foreign = true,
            Err(error) => {
                tracing::warn!(%error, "cannot read a notification about the nftables ruleset");
                return true;
            }
        }
    }
}
