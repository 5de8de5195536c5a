//! Networks of containers: bridges, endpoints, addresses, NAT and published ports, by netlink only.
//!
//! In suggested reading order: [`config`] is what the daemon asks for; [`record`] holds the types that are stored and
//! handed out; [`Manager`] is the front door (`manager`: networks; `attach`: containers; `state`: what is known); below
//! it `bridge` and `parent` make what a network consists of, `pools` and `ipam` give subnets and addresses, `namespace` and
//! `endpoint` make what a container sees, `publish` reserves host ports, `firewall` owns the nftables tables. [`resolver`]
//! leads a container's DNS queries to whoever answers them, [`files`] writes what it finds in `/etc`.
//!
//! The crate is synchronous: callers on an async runtime use a blocking thread. It keeps no file.

#![forbid(unsafe_code)]

mod attach;
mod bridge;
pub mod config;
mod endpoint;
mod error;
pub mod files;
mod firewall;
mod holder;
mod ipam;
mod manager;
mod namespace;
mod parent;
mod pools;
mod publish;
pub mod record;
mod removals;
pub mod resolver;
mod state;
mod subnet;
mod sysctl;

pub use attach::{Attachment, Container, EndpointRequest, Leave, Relay, Statistics};
pub use config::{AddressPlan, AddressPool, Driver, FirewallIntegration, HostConfig, NetworkConfig};
pub use error::{AddressError, AttachError, KernelError, NetworkError, PublishError};
pub use ipam::Usage;
pub use manager::{Manager, Restored, Survey};
pub use namespace::Sandbox;
pub use record::{EndpointId, EndpointRecord, MacAddress, PortBinding, Protocol, PublishedPort};
pub use subnet::{Subnet, SubnetParseError};

/// The stack of our threads: they call the kernel and log, no more. Only what is used of it takes memory.
pub(crate) const STACK: usize = 256 * 1024;
