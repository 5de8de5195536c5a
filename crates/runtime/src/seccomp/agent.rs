//! The agent that answers `SCMP_ACT_NOTIFY`: the listener of a filter, sent to the socket that the profile names.
//!
//! One message of the runtime specification ("The container process state"): JSON, with the listener beside it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use palan_linux::socket;
use palan_oci::runtime_state::{ContainerProcessState, SECCOMP_FD_NAME, State};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::SeccompError;
use crate::error::{Context, Error};

/// How long an agent may take to accept a connection and a message.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Longest path of a socket (`sun_path`), without its end.
const MAX_PATH: usize = 107;

/// Longest metadata: they travel with every program.
const MAX_METADATA: usize = 64 * 1024;

/// Where the listener of a filter goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    /// The path of a socket; with a leading `@` a name in the abstract namespace.
    pub(super) path: String,
    /// What the agent is told besides; nothing to us.
    pub(super) metadata: String,
}

impl Agent {
    pub(super) fn new(path: &str, metadata: &str) -> Result<Self, SeccompError> {
        if path.len() > MAX_PATH || path.contains('\0') {
            return Err(SeccompError::Invalid(format!("listenerPath {path:?} is no path of a socket")));
        }
        if metadata.len() > MAX_METADATA {
            let length = metadata.len();
            return Err(SeccompError::Invalid(format!(
                "listenerMetadata has {length} bytes, {MAX_METADATA} are possible"
            )));
        }
        Ok(Self { path: path.to_owned(), metadata: metadata.to_owned() })
    }

    /// Hands over the listener of process `pid` of the container.
    pub(crate) fn send(&self, pid: i32, state: &State, listener: OwnedFd) -> Result<(), Error> {
        let message = ContainerProcessState {
            oci_version: state.oci_version.clone(),
            fds: vec![SECCOMP_FD_NAME.to_owned()],
            pid,
            metadata: self.metadata.clone(),
            state: state.clone(),
        };
        let message = serde_json::to_vec(&message).map_err(io::Error::from);
        let message = message.context(|| "write the state for the seccomp agent".to_owned())?;
        let stream = self.connect().map_err(|source| Error::SeccompAgent { source })?;
        let mut sent = 0;
        while sent < message.len() {
            let descriptors = [listener.as_fd()];
            let with = if sent == 0 { &descriptors[..] } else { &[] };
            match socket::send_with_descriptors(&stream, &message[sent..], with) {
                Ok(length) => sent += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::system(format!("send the seccomp listener to {}", self.path), errno));
                }
            }
        }
        Ok(())
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        let address = match self.path.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
            None => SocketAddrUnix::new(self.path.as_str())?,
        };
        let stream =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // A queue of connections that nobody takes from must not hold up the container for ever.
        sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(PATIENCE))?;
        rustix::net::connect(&stream, &address)?;
        Ok(stream)
    }
}
