//! Bridges, endpoints, addresses, NAT and published ports, by netlink only.
//!
//! In suggested reading order: [`config`] is what the daemon asks for; [`record`] holds the types that are stored and
//! handed out; [`Network`] is the front door; below it `bridge` makes the bridge, `ipam` gives addresses,
//! `namespace` and `endpoint` make what a container sees, `publish` reserves host ports, `firewall` owns the
//! nftables table. [`files`] writes what a container finds in `/etc`.
//!
//! The crate is synchronous: callers on an async runtime use a blocking thread. It keeps no file. What must
//! survive the daemon are the [`EndpointRecord`]s, which the caller stores and gives back to
//! [`Network::restore`]; everything else is read back from the kernel.

#![forbid(unsafe_code)]

mod bridge;
pub mod config;
mod endpoint;
mod error;
pub mod files;
mod firewall;
mod ipam;
mod namespace;
mod network;
mod publish;
pub mod record;
mod subnet;
mod sysctl;

pub use config::{AddressPool, FirewallIntegration, NetworkConfig};
pub use error::{AddressError, AttachError, KernelError, NetworkError, PublishError};
pub use network::{AttachRequest, Attachment, Network, Restored, Statistics};
pub use record::{EndpointId, EndpointRecord, MacAddress, Mode, PortBinding, Protocol, PublishedPort};
pub use subnet::{Subnet, SubnetParseError};

/// The stack of our threads: they call the kernel and log, no more. Only what is used of it takes memory.
pub(crate) const STACK: usize = 256 * 1024;
