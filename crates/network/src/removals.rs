//! A thread that removes interfaces: the kernel takes its time for it.
//!
//! Mostly it finds nothing to do: an interface goes with the namespace of its peer, when a container has ended. So it
//! waits a little, and then removes together what is left.

use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use palan_linux::netlink::link;
use palan_linux::netlink::{Batch, Protocol, Socket};
use palan_stdx::error_chain::Chain;
use rustix::io::Errno;

use crate::error::netlink;
use crate::{KernelError, STACK};

const THREAD: &str = "palan-links";
const GRACE: Duration = Duration::from_millis(200);

/// The names of interfaces that shall go; the thread ends with it.
#[derive(Debug)]
pub(crate) struct Removals(Sender<String>);

impl Removals {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Self, KernelError> {
        let mut socket = Socket::open(Protocol::Route).map_err(netlink("open a netlink socket"))?;
        let (sender, receiver) = mpsc::channel::<String>();
        std::thread::Builder::new()
            .name(THREAD.into())
            .stack_size(STACK)
            .spawn(move || {
                while let Ok(first) = receiver.recv() {
                    std::thread::sleep(GRACE);
                    let names: Vec<String> = std::iter::once(first).chain(receiver.try_iter()).collect();
                    if let Err(error) = remove_links(&mut socket, &names) {
                        tracing::warn!(error = %Chain(&error), "interfaces stay behind until the next start");
                    }
                }
            })
            .map_err(|source| KernelError::Thread { name: THREAD, source })?;
        Ok(Self(sender))
    }

    /// Has an interface removed soon.
    pub(crate) fn add(&self, name: &str) {
        if !name.is_empty() {
            // The receiver lives as long as this sender.
            let _ = self.0.send(name.to_owned());
        }
    }
}

/// Removes interfaces; those that are gone already are no error.
pub(crate) fn remove_links(socket: &mut Socket, names: &[String]) -> Result<(), KernelError> {
    // What is sent at once must fit in the socket's buffer.
    const AT_ONCE: usize = 512;
    for names in names.chunks(AT_ONCE) {
        let mut batch = Batch::new();
        link::delete_all(&mut batch, names.iter().map(String::as_str));
        match socket.execute(&mut batch) {
            Err(error) if error.errno() != Some(Errno::NODEV) => {
                return Err(netlink(format!("remove the interfaces {}", names.join(", ")))(error));
            }
            _ => {}
        }
    }
    Ok(())
}
