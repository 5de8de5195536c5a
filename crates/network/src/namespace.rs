//! Network namespaces for containers, each made (or entered) by a thread that lives for nothing else.
//!
//! Making one takes the kernel half a millisecond, and everything around it as long again: more than the rest of an
//! attachment. So one is kept in reserve, and another made soon after it was taken.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use palan_linux::namespace::{Kind, Kinds, join, unshare};
use palan_linux::netlink::link::{self, Target};
use palan_linux::netlink::{Batch, Protocol, Socket};
use palan_stdx::fs::PathError;
use rustix::fs::{Mode, OFlags};

use crate::error::netlink;
use crate::{KernelError, STACK, sysctl};

/// A container's network namespace. When it is new, `lo` is up, and interfaces to come have no IPv6.
#[derive(Debug)]
pub struct Sandbox {
    /// Keeps it alive.
    pub(crate) fd: OwnedFd,
    /// Speaks to the kernel inside it.
    pub(crate) socket: Socket,
}

impl Sandbox {
    /// The namespace behind this descriptor.
    pub fn open(fd: OwnedFd) -> Result<Self, KernelError> {
        let socket = within(&fd, || Socket::open(Protocol::Route).map_err(netlink("open a netlink socket")))?;
        Ok(Self { fd, socket })
    }

    /// The namespace.
    #[must_use]
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    /// The namespace as a descriptor, which keeps it alive.
    #[must_use]
    pub fn into_descriptor(self) -> OwnedFd {
        self.fd
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, KernelError> + Send,
    ) -> Result<T, KernelError> {
        within(&self.fd, work)
    }
}

/// Runs `work` on a thread inside of a namespace. The calling thread stays where it is.
fn within<T: Send>(
    fd: &OwnedFd,
    work: impl FnOnce() -> Result<T, KernelError> + Send,
) -> Result<T, KernelError> {
    std::thread::scope(|scope| {
        let inside = || {
            join(fd, Kind::Network).map_err(|source| KernelError::Namespace { source })?;
            work()
        };
        let thread = std::thread::Builder::new().name(THREAD.into()).stack_size(STACK);
        let failed = |source| KernelError::Thread { name: THREAD, source };
        let thread = thread.spawn_scoped(scope, inside).map_err(failed)?;
        thread.join().unwrap_or_else(|_| Err(failed(std::io::Error::other("it panicked"))))
    })
}

/// Where namespaces come from.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    reserve: Arc<Reserve>,
}

#[derive(Debug, Default)]
struct Reserve {
    spare: Mutex<Option<Sandbox>>,
    /// Whether a thread is on its way to fill it.
    filling: AtomicBool,
}

/// A namespace that is there or in the making.
#[derive(Debug)]
pub(crate) enum Pending {
    Ready(Box<Sandbox>),
    Making(Receiver<Result<Sandbox, KernelError>>),
}

const THREAD: &str = "palan-netns";
/// How long the reserve stays empty after use: the container that took it shall have the processor first.
const FILL_DELAY: Duration = Duration::from_millis(3);
/// The index of `lo` in every namespace.
const LOOPBACK: u32 = 1;

impl Namespaces {
    /// Takes the reserve or starts to make a namespace; in both cases one for the reserve will follow.
    ///
    /// The calling thread stays where it is: entering a namespace is for a thread that ends afterwards, as one of a pool
    /// that couldn't get back would poison everything that runs on it later.
    pub(crate) fn start(&self) -> Result<Pending, KernelError> {
        let spare = self.reserve.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let pending = match spare {
            Some(namespace) => Pending::Ready(Box::new(namespace)),
            None => Pending::Making(start()?),
        };
        self.fill();
        Ok(pending)
    }

    /// Makes a namespace for the reserve in the background.
    pub(crate) fn fill(&self) {
        if self.reserve.filling.swap(true, Ordering::Relaxed) {
            return;
        }
        let reserve = Arc::clone(&self.reserve);
        let filled = spawn(move || {
            std::thread::sleep(FILL_DELAY);
            let made = create();
            // Before the namespace can be taken, or the thread that takes it would find nobody to replace it.
            reserve.filling.store(false, Ordering::Relaxed);
            match made {
                Ok(namespace) => reserve.put(Some(namespace)),
                Err(error) => tracing::debug!(%error, "no namespace for the reserve"),
            }
        });
        if filled.is_err() {
            self.reserve.filling.store(false, Ordering::Relaxed);
        }
    }

    /// Lets the reserve go.
    pub(crate) fn clear(&self) {
        self.reserve.put(None);
    }
}

impl Reserve {
    fn put(&self, namespace: Option<Sandbox>) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = namespace;
    }
}

impl Pending {
    /// Waits for the namespace.
    pub(crate) fn finish(self) -> Result<Sandbox, KernelError> {
        match self {
            Self::Ready(namespace) => Ok(*namespace),
            Self::Making(result) => result.recv().unwrap_or_else(|_| {
                let source = std::io::Error::other("it panicked");
                Err(KernelError::Thread { name: THREAD, source })
            }),
        }
    }
}

/// Not the thread's end is waited for but its result: the end takes time, too.
fn start() -> Result<Receiver<Result<Sandbox, KernelError>>, KernelError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    // Nobody receives when the attachment has failed for another reason; the namespace goes with the message.
    spawn(move || sender.send(create()).unwrap_or(()))?;
    Ok(receiver)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), KernelError> {
    let thread = std::thread::Builder::new().name(THREAD.into()).stack_size(STACK);
    thread.spawn(work).map(|_| ()).map_err(|source| KernelError::Thread { name: THREAD, source })
}

/// Moves the calling thread into a new namespace.
fn create() -> Result<Sandbox, KernelError> {
    let failed = |source| KernelError::Namespace { source };
    unshare(Kinds::NETWORK).map_err(failed)?;
    let path = Path::new("/proc/thread-self/ns/net");
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(PathError::new("open", path, errno).into()))?;
    let mut socket = Socket::open(Protocol::Route).map_err(netlink("open a netlink socket"))?;
    sysctl::write_if_exists("net/ipv6/conf/default/disable_ipv6", "1")?;
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Index(LOOPBACK));
    socket.execute(&mut batch).map_err(netlink("switch the loopback interface on"))?;
    Ok(Sandbox { fd, socket })
}
