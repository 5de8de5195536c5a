//! Network namespaces for containers: made by a thread that lives for nothing else.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;

use palan_linux::namespace::{Kinds, unshare};
use palan_linux::netlink::link::{self, Target};
use palan_linux::netlink::{Batch, Protocol, Socket};
use palan_stdx::fs::PathError;

use crate::error::netlink;
use crate::{KernelError, sysctl};

/// A new network namespace: `lo` is up, interfaces to come have no IPv6.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Keeps it alive.
    pub(crate) fd: OwnedFd,
    /// Speaks to the kernel inside it.
    pub(crate) socket: Socket,
}

/// The name of the thread that makes a namespace.
const THREAD: &str = "palan-netns";

/// A namespace in the making.
#[derive(Debug)]
pub(crate) struct Maker(JoinHandle<Result<Namespace, KernelError>>);

/// Makes a namespace and waits for it.
pub(crate) fn create() -> Result<Namespace, KernelError> {
    start()?.finish()
}

/// Starts to make a namespace. The calling thread stays in its own: entering a namespace is for a thread that ends
/// afterwards, as one of a pool that couldn't get back would poison everything that runs on it later.
pub(crate) fn start() -> Result<Maker, KernelError> {
    let thread = std::thread::Builder::new().name(THREAD.into()).stack_size(64 * 1024);
    thread.spawn(create_here).map(Maker).map_err(|source| KernelError::Thread { name: THREAD, source })
}

impl Maker {
    /// Waits for the namespace.
    pub(crate) fn finish(self) -> Result<Namespace, KernelError> {
        self.0.join().unwrap_or_else(|_| {
            let source = std::io::Error::other("it panicked");
            Err(KernelError::Thread { name: THREAD, source })
        })
    }
}

fn create_here() -> Result<Namespace, KernelError> {
    let failed = |source| KernelError::Namespace { source };
    unshare(Kinds::NETWORK).map_err(failed)?;
    let path = Path::new("/proc/thread-self/ns/net");
    let fd = rustix::fs::open(
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| failed(PathError::new("open", path, errno).into()))?;
    let mut socket = Socket::open(Protocol::Route).map_err(netlink("open a netlink socket"))?;
    sysctl::ensure("net/ipv6/conf/default/disable_ipv6", "1")?;
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Index(LOOPBACK));
    socket.execute(&mut batch).map_err(netlink("switch the loopback interface on"))?;
    Ok(Namespace { fd, socket })
}

/// The index of `lo` in every namespace.
const LOOPBACK: u32 = 1;
