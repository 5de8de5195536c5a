//! The three networks that always exist: `bridge`, `host` and `none`.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// One network as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDetails {
    /// Name.
    pub name: String,
    /// 64 hexadecimal digits, the same after every restart of the daemon.
    pub id: String,
    /// When the data root was first used.
    pub created: Timestamp,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Subnet of the bridge in CIDR form; empty otherwise.
    pub subnet: String,
    /// Gateway; empty otherwise.
    pub gateway: String,
    /// Options of the driver, with Docker's keys.
    pub options: BTreeMap<String, String>,
    /// Endpoints by container id.
    pub containers: BTreeMap<String, NetworkMember>,
}

/// One endpoint of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkMember {
    /// Name of the container.
    pub name: String,
    /// Id of the endpoint.
    pub endpoint_id: String,
    /// MAC address.
    pub mac_address: String,
    /// Address in CIDR form.
    pub ipv4_address: String,
}
