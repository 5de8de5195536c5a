//! What can go wrong, as facts: the operation that failed and the objects it was about.

use std::net::{IpAddr, SocketAddr};

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
    /// The sockets of a container's resolver can't be made.
    #[error("cannot make the sockets of the container's resolver")]
    Resolver {
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
         name a subnet, or set \"default-address-pools\""
    )]
    NoFreeSubnet,
    /// The subnet is another network's.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} and {other} of the network {network}"
    )]
    Overlap {
        /// The wanted subnet.
        subnet: Subnet,
        /// The other one.
        other: Subnet,
        /// Its network.
        network: String,
    },
    /// An interface that is there already is in the way.
    #[error("the interface {name} exists and belongs to something else: choose another name")]
    InterfaceInUse {
        /// The interface.
        name: String,
    },
    /// The interface below a macvlan or ipvlan network is missing.
    #[error(
        "the parent interface {name} doesn't exist on this host: name one that does, such as -o parent=eth0"
    )]
    NoParent {
        /// The interface.
        name: String,
    },
    /// No network of this id is set up.
    #[error("network {id} not found")]
    Unknown {
        /// The id.
        id: String,
    },
    /// Endpoints are on the network.
    #[error("network {name} has active endpoints")]
    Busy {
        /// The network.
        name: String,
    },
}

/// Why an address can't be given.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// All are in use.
    #[error("no available {family} addresses on this network's address pools: {network}")]
    Exhausted {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The network's name and id.
        network: String,
    },
    /// The wanted one is taken.
    #[error("Address already in use: {address}")]
    InUse {
        /// The wanted address.
        address: IpAddr,
    },
    /// The network has no address of the family.
    #[error("the network {network} has no {family} subnet, so the address {address} can't be given on it")]
    NoSubnet {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The network's name and id.
        network: String,
        /// The wanted address.
        address: IpAddr,
    },
    /// The wanted one lies elsewhere or is reserved.
    #[error(
        "the address {address} can't be given to a container: it is no host address of the subnet {subnet}"
    )]
    Unsuitable {
        /// The wanted address.
        address: IpAddr,
        /// The network's subnet.
        subnet: Subnet,
    },
}

/// Why a port can't be published. The texts are those that Docker's clients know.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another container has it.
    #[error("Bind for {} failed: port is already allocated, by the container {holder}", SocketAddr::new(*address, *port))]
    Allocated {
        /// The host address.
        address: IpAddr,
        /// The host port.
        port: u16,
        /// The other container's name or id.
        holder: String,
    },
    /// Each port of the wanted range is taken.
    #[error("Bind for {}-{last} failed: all ports are allocated", SocketAddr::new(*address, *first))]
    RangeAllocated {
        /// The host address.
        address: IpAddr,
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// The system refused the reservation, mostly because another process has the port.
    #[error("listen {protocol}{} {address}: bind: {reason}{}", if address.is_ipv4() { 4 } else { 6 }, held_by(holder))]
    Bind {
        /// The protocol.
        protocol: Protocol,
        /// The host address and port.
        address: SocketAddr,
        /// The system's reason, in the words of Go's runtime.
        reason: String,
        /// The process that has the port, where it is known.
        holder: Option<String>,
    },
    /// A host address of a family that the network lacks.
    #[error(
        "the port can't be published on {address}: the network has no {} addresses, use a host address of the other family",
        if address.is_ipv4() { "IPv4" } else { "IPv6" }
    )]
    OtherFamily {
        /// As written.
        address: IpAddr,
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
        /// Why; boxed, since it is much larger than all other reasons.
        source: Box<PublishError>,
    },
    /// The bridge has as many ports as Linux allows.
    #[error("the bridge {bridge} is full: Linux allows 1023 interfaces on one")]
    BridgeFull {
        /// The bridge.
        bridge: String,
    },
    /// The network is not set up.
    #[error("network {id} not found")]
    UnknownNetwork {
        /// The network's id.
        id: String,
    },
    /// The interface below is gone.
    #[error("the parent interface {name} doesn't exist on this host")]
    NoParent {
        /// The interface.
        name: String,
    },
    /// A name that the container's interface can't have.
    #[error("the interface can't be called \"{name}\": {reason}")]
    InterfaceName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
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

fn held_by(holder: &Option<String>) -> String {
    holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
}
