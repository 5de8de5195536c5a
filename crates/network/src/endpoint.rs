//! A container's end of the network: a veth pair between the bridge and the container's namespace.
//!
//! Where the time of an attachment goes is told in [`crate::network`].

use std::net::Ipv4Addr;

use palan_linux::netlink::link::{self, BridgePort, Target, VethPair};
use palan_linux::netlink::route::{self, Address};
use palan_linux::netlink::{Batch, Socket};
use rustix::io::Errno;

use crate::bridge::Bridge;
use crate::error::netlink;
use crate::namespace::Namespace;
use crate::record::MacAddress;
use crate::{AttachError, EndpointId, KernelError, sysctl};

/// The interface's name inside, as in Docker.
pub(crate) const CONTAINER_INTERFACE: &str = "eth0";
/// Its index inside: the first after `lo`.
const CONTAINER_INDEX: u32 = 2;
/// The host side's name has this many digits of the endpoint's id.
const NAME_DIGITS: usize = 7;

/// What an endpoint is made of.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) id: &'a EndpointId,
    pub(crate) bridge: &'a Bridge,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: MacAddress,
    pub(crate) inter_container: bool,
}

/// Connects the namespace to the bridge and returns the host side's name. Leaves nothing behind on an error.
pub(crate) fn connect(
    host: &mut Socket,
    namespace: &mut Namespace,
    plan: &Plan<'_>,
) -> Result<String, AttachError> {
    let name = create_pair(host, namespace, plan)?;
    let configured = configure_inside(&mut namespace.socket, plan).and_then(|()| start(host, &name, plan));
    if let Err(error) = configured {
        let mut batch = Batch::new();
        link::delete(&mut batch, Target::Name(&name));
        // The first error is the one to report; the namespace's end takes the pair along in any case.
        let _ = host.execute(&mut batch);
        return Err(error.into());
    }
    Ok(name)
}

/// The text by which we know our interfaces again.
pub(crate) fn alias(bridge: &str, id: &str) -> String {
    format!("palan:{bridge}:{id}")
}

/// Names are short cuts of random ids: where one is taken, the next digits serve.
fn create_pair(host: &mut Socket, namespace: &Namespace, plan: &Plan<'_>) -> Result<String, AttachError> {
    let digits = plan.id.as_str();
    let mut taken = None;
    for start in (0..).step_by(NAME_DIGITS) {
        let Some(part) = digits.get(start..start + NAME_DIGITS) else { break };
        let name = format!("veth{part}");
        let mut batch = Batch::new();
        let pair = VethPair {
            name: &name,
            mtu: plan.bridge.mtu,
            master: plan.bridge.index,
            peer_namespace: &namespace.fd,
            peer_name: CONTAINER_INTERFACE,
            peer_index: CONTAINER_INDEX,
            peer_mac: plan.mac.0,
        };
        link::add_veth(&mut batch, &pair);
        match host.execute(&mut batch) {
            Ok(()) => return Ok(name),
            Err(error) if error.errno() == Some(Errno::XFULL) => {
                return Err(AttachError::BridgeFull { bridge: plan.bridge.name.clone() });
            }
            Err(error) if error.errno() == Some(Errno::EXIST) => taken = Some(error),
            Err(error) => return Err(pair_error(&name, error).into()),
        }
    }
    let error = taken.unwrap_or(palan_linux::netlink::NetlinkError::Malformed);
    Err(pair_error("veth<id>", error).into())
}

fn pair_error(name: &str, error: palan_linux::netlink::NetlinkError) -> KernelError {
    netlink(format!("create the interface pair {name} and {CONTAINER_INTERFACE}"))(error)
}

/// The address, the default route, and the gateway's Ethernet address, which is known and never changes.
fn configure_inside(socket: &mut Socket, plan: &Plan<'_>) -> Result<(), KernelError> {
    let gateway = plan.bridge.gateway;
    let mut batch = Batch::new();
    let address = Address { index: CONTAINER_INDEX, address: plan.address, prefix: gateway.prefix() };
    link::set_up(&mut batch, Target::Index(CONTAINER_INDEX));
    route::add_address(&mut batch, address);
    route::add_default_route(&mut batch, gateway.address(), CONTAINER_INDEX);
    route::add_neighbour(&mut batch, CONTAINER_INDEX, gateway.address(), plan.bridge.mac.0);
    socket.execute(&mut batch).map_err(netlink("set the container's address and routes"))
}

/// Switches the host side on, as the last step: from here on there is traffic.
fn start(host: &mut Socket, name: &str, plan: &Plan<'_>) -> Result<(), KernelError> {
    let mut batch = Batch::new();
    // Where bridged packets pass the firewall (br_netfilter), one of a container to its own published port turns round
    // inside the bridge, hence the hairpin. There the firewall keeps containers apart, and isolation would keep
    // them off each other's published ports, too; elsewhere isolation must do it.
    let filtered = || Ok::<_, KernelError>(sysctl::read(sysctl::BRIDGED_FILTER)?.as_deref() == Some("1"));
    let port = BridgePort { hairpin: true, isolated: !plan.inter_container && !filtered()? };
    link::start_bridge_port(&mut batch, name, &alias(&plan.bridge.name, plan.id.as_str()), port);
    route::add_neighbour(&mut batch, plan.bridge.index, plan.address, plan.mac.0);
    host.execute(&mut batch).map_err(netlink(format!("switch the interface {name} on")))
}
