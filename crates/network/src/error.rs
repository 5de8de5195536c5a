//! What can go wrong, as facts: the operation that failed and the objects it was about.

use std::net::Ipv4Addr;

use palan_linux::netlink;

use crate::record::Protocol;
use crate::{EndpointId, Subnet};

/// A request to the kernel that failed, and what it was for.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A netlink request was refused.
    #[error("cannot {operation}")]
    Netlink {
        /// The operation, as the end of a sentence: "create the bridge palan0".
        operation: String,
        /// The kernel's answer.
        source: netlink::NetlinkError,
    },
    /// A setting under `/proc/sys` can't be read or written.
    #[error("cannot {operation}")]
    Sysctl {
        /// The operation, as the end of a sentence.
        operation: String,
        /// The failure, with the path.
        source: palan_stdx::fs::PathError,
    },
    /// A network namespace can't be made.
    #[error("cannot create a network namespace")]
    Namespace {
        /// The failure.
        source: std::io::Error,
    },
    /// A helper thread can't be started.
    #[error("cannot start the thread {name}")]
    Thread {
        /// The thread's name.
        name: &'static str,
        /// The failure.
        source: std::io::Error,
    },
}

/// Why the network as a whole can't be set up, restored or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The configuration names something impossible.
    #[error("{setting} \"{value}\" can't be used: {reason}")]
    Setting {
        /// The key of the configuration.
        setting: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// The interface with the bridge's name is something else.
    #[error(
        "the interface {name} exists and is no bridge (it is a {kind}): remove it or configure another bridge name"
    )]
    NotABridge {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// Another daemon has the table.
    #[error(
        "the nftables table \"ip {table}\" belongs to the bridge {bridge}: \
         configure another table name, or remove that bridge if no daemon uses it any more"
    )]
    TableInUse {
        /// The table.
        table: String,
        /// The bridge it is for.
        bridge: String,
    },
    /// The configured address differs from the one in use.
    #[error(
        "the bridge {bridge} has the address {present} and containers on it, so it can't change to {wanted}: \
         stop the containers or set \"bip\" to {present}"
    )]
    BridgeInUse {
        /// The bridge.
        bridge: String,
        /// Its present address.
        present: Subnet,
        /// The configured one.
        wanted: Subnet,
    },
    /// Every pool is taken.
    #[error(
        "all predefined address pools have been fully subnetted: the host routes or uses an address of each of them; \
         set \"bip\" or \"default-address-pools\""
    )]
    NoFreeSubnet,
}

/// Why an address can't be given.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// All are in use.
    #[error("no available IPv4 addresses on this network's address pools: bridge ({subnet})")]
    Exhausted {
        /// The subnet that is full.
        subnet: Subnet,
    },
    /// The wanted one is taken.
    #[error("Address already in use: {address}")]
    InUse {
        /// The wanted address.
        address: Ipv4Addr,
    },
    /// The wanted one lies elsewhere or is reserved.
    #[error(
        "the address {address} can't be given to a container: it is no host address of the subnet {subnet}"
    )]
    Unsuitable {
        /// The wanted address.
        address: Ipv4Addr,
        /// The network's subnet.
        subnet: Subnet,
    },
}

/// Why a port can't be published. The texts are those that Docker's clients know.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another container has it.
    #[error("Bind for {address}:{port} failed: port is already allocated")]
    Allocated {
        /// The host address.
        address: Ipv4Addr,
        /// The host port.
        port: u16,
    },
    /// Each port of the wanted range is taken.
    #[error("Bind for {address}:{first}-{last} failed: all ports are allocated")]
    RangeAllocated {
        /// The host address.
        address: Ipv4Addr,
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// The system refused the reservation, mostly because another process has the port.
    #[error("listen {protocol}4 {address}:{port}: bind: {reason}")]
    Bind {
        /// The protocol.
        protocol: Protocol,
        /// The host address.
        address: Ipv4Addr,
        /// The host port.
        port: u16,
        /// The system's reason, in the words of Go's runtime.
        reason: String,
    },
    /// An IPv6 host address.
    #[error(
        "the port can't be published on {address}: the default network has IPv4 addresses only, use an IPv4 host address"
    )]
    Ipv6Unsupported {
        /// As written.
        address: String,
    },
    /// No address at all.
    #[error("invalid hostIP: {address}")]
    InvalidAddress {
        /// As written.
        address: String,
    },
    /// A range whose end lies before its start.
    #[error("invalid range of host ports: {first}-{last}")]
    InvalidRange {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// The container's port can't be 0.
    #[error("invalid containerPort: 0")]
    InvalidContainerPort,
    /// The firewall refused the rule.
    #[error(transparent)]
    Firewall(#[from] KernelError),
}

/// Why a container can't be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No address.
    #[error("failed to set up container networking")]
    Address {
        /// Why.
        source: AddressError,
    },
    /// A port can't be published.
    #[error("driver failed programming external connectivity on endpoint {container_name} ({endpoint_id})")]
    Publish {
        /// The container's name.
        container_name: String,
        /// The endpoint.
        endpoint_id: EndpointId,
        /// Why.
        source: PublishError,
    },
    /// The bridge has as many ports as Linux allows.
    #[error("the bridge {bridge} is full: Linux allows 1023 interfaces on one")]
    BridgeFull {
        /// The bridge.
        bridge: String,
    },
    /// The kernel refused something.
    #[error("failed to set up container networking")]
    Kernel {
        /// What.
        #[from]
        source: KernelError,
    },
}

/// Adds the operation to a netlink error.
pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(netlink::NetlinkError) -> KernelError {
    move |source| KernelError::Netlink { operation: operation.into(), source }
}
