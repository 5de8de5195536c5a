//! The front door: a daemon's default bridge network, from opening it to removing it.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::record::{EndpointId, EndpointRecord, MacAddress, Mode, PortBinding};
use crate::{AttachError, NetworkConfig, NetworkError, Subnet};

/// The default bridge network of one daemon. Methods may be called from several threads at once.
#[derive(Debug)]
pub struct Network {}

/// What a container wants of the network.
#[derive(Debug, Clone)]
pub struct AttachRequest<'a> {
    /// How to connect it.
    pub mode: Mode,
    /// The container's id, kept in the record for messages.
    pub container_id: &'a str,
    /// Its name without a slash, for Docker's error text.
    pub container_name: &'a str,
    /// A fresh id; `EndpointId::from(<32 random bytes>)`.
    pub endpoint_id: EndpointId,
    /// A given address instead of the next free one.
    pub address: Option<Ipv4Addr>,
    /// A given Ethernet address instead of the one derived from the address.
    pub mac: Option<MacAddress>,
    /// The ports to publish; only in [`Mode::Bridge`] (elsewhere they are ignored, as Docker does).
    pub ports: &'a [PortBinding],
}

/// An attached container.
#[derive(Debug)]
pub struct Attachment {
    /// The namespace that the container's first process must join; `None` in [`Mode::Host`]. The namespace lives as long
    /// as this descriptor or a process inside it.
    pub netns: Option<OwnedFd>,
    /// To be stored; it holds the address, gateway, MAC, interface name and resolved ports.
    pub record: EndpointRecord,
}

/// What [`Network::restore`] found.
#[derive(Debug, Default)]
pub struct Restored {
    /// Endpoints whose interface is gone (their container ended meanwhile) or whose address or ports can't be kept, with
    /// the reason in words. Their leases are free again.
    pub lost: Vec<(EndpointId, String)>,
    /// Interfaces of ours that belonged to no record and were removed.
    pub orphans: Vec<String>,
}

/// The counters of a container's interface, as the container sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it: received and sent, as in Docker's stats")]
pub struct Statistics {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Network {
    /// Makes sure that the bridge is there and up, reads what the kernel has, and starts to watch the ruleset. The
    /// nftables table isn't touched before [`Network::restore`], so that published ports of running containers keep
    /// working meanwhile.
    pub fn open(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        let _ = config;
        todo!()
    }

    /// Takes back the endpoints of containers that still run: reserves their addresses and ports again, drops interfaces
    /// of ours that belong to no record, and writes the whole table in one transaction. Working endpoints are not
    /// disturbed. Call it once after [`Network::open`], with an empty slice if nothing runs.
    pub fn restore(&self, live: &[EndpointRecord]) -> Result<Restored, NetworkError> {
        let _ = live;
        todo!()
    }

    /// Connects a container: makes its network namespace, and on the bridge its interface, address, routes and ports.
    /// Nothing is left behind on an error.
    pub fn attach(&self, request: &AttachRequest<'_>) -> Result<Attachment, AttachError> {
        let _ = request;
        todo!()
    }

    /// Undoes [`Network::attach`]; doing it twice or for a container that is gone is no error. The address and the ports are
    /// free when it returns; the interface is removed in the background.
    pub fn detach(&self, record: &EndpointRecord) -> Result<(), NetworkError> {
        let _ = record;
        todo!()
    }

    /// Removes everything: interfaces, rules in our and in other tables, the bridge. For tests and for uninstalling.
    pub fn remove_all(&self) -> Result<(), NetworkError> {
        todo!()
    }

    /// Puts our table and our rules in other tables back where somebody removed them. The watching thread does this
    /// when the ruleset's generation changes; callers only need it to be certain of the moment.
    pub fn on_ruleset_change(&self) -> Result<(), NetworkError> {
        todo!()
    }

    /// The counters of a container's interface; `None` without an interface on the bridge.
    pub fn statistics(&self, record: &EndpointRecord) -> Result<Option<Statistics>, NetworkError> {
        let _ = record;
        todo!()
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        todo!()
    }

    /// The bridge's own address, with the prefix length of the subnet.
    pub fn gateway(&self) -> Subnet {
        todo!()
    }

    /// The MTU of the bridge and of new containers' interfaces.
    pub fn mtu(&self) -> u32 {
        todo!()
    }

    /// What an administrator should know, in sentences: a firewall that would drop our traffic and can't be told not to.
    pub fn warnings(&self) -> Vec<String> {
        todo!()
    }
}
