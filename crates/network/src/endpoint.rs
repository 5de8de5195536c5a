//! A container's end of a network: a veth pair between a bridge and the container's namespace, or an interface on top of
//! one of the host's.
//!
//! Where the time of an attachment goes is told in [`crate::manager`].

use palan_linux::netlink::link::{self, BridgePort, Stacked, Target, VethPair};
use palan_linux::netlink::route::{self, Address};
use palan_linux::netlink::{Batch, NetlinkError, Socket};
use rustix::io::Errno;

use crate::bridge::Bridge;
use crate::error::netlink;
use crate::namespace::Sandbox;
use crate::record::{EndpointAddress, EndpointRecord, MacAddress};
use crate::{AttachError, EndpointId, KernelError, sysctl};

/// The index of the first interface after `lo` in a new namespace.
pub(crate) const FIRST_INDEX: u32 = 2;
/// The host side's name has this many digits of the endpoint's id.
const NAME_DIGITS: usize = 7;
/// The same for an interface on top of another one, until it has its own name: as many as fit.
const STACKED_DIGITS: usize = 11;

/// What an endpoint is made of.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) id: &'a EndpointId,
    pub(crate) below: &'a Below,
    /// The name inside.
    pub(crate) interface: &'a str,
    /// The index inside; 0 lets the kernel choose.
    pub(crate) index: u32,
    pub(crate) ipv4: Option<EndpointAddress>,
    pub(crate) ipv6: Option<EndpointAddress>,
    pub(crate) mac: Option<MacAddress>,
    /// Further addresses that the user asked for (`--link-local-ip`).
    pub(crate) more_addresses: &'a [std::net::IpAddr],
    /// Whether this endpoint leads outside, for IPv4 and IPv6.
    pub(crate) default_route: [bool; 2],
    pub(crate) sysctls: &'a [(String, String)],
}

/// What carries the endpoints of a network.
#[derive(Debug, Clone)]
pub(crate) enum Below {
    /// A bridge, whose containers may talk to each other or not.
    Bridge { bridge: Bridge, inter_container: bool },
    /// An interface of the host.
    Parent { index: u32, kind: &'static str, mode: u32, flags: u16, mtu: Option<u32> },
}

/// Connects the sandbox to the network and returns the host side's name, if there is one. Leaves nothing behind on an error.
pub(crate) fn connect(
    host: &mut Socket,
    sandbox: &mut Sandbox,
    plan: &Plan<'_>,
) -> Result<String, AttachError> {
    if let Some(reason) = crate::bridge::name_problem(plan.interface) {
        return Err(AttachError::InterfaceName { name: plan.interface.to_owned(), reason });
    }
    let name = match plan.below {
        Below::Bridge { bridge, .. } => create_pair(host, sandbox, plan, bridge)?,
        Below::Parent { .. } => {
            create_stacked(host, sandbox, plan)?;
            String::new()
        }
    };
    let configured = configure_inside(sandbox, plan).and_then(|()| match plan.below {
        Below::Bridge { bridge, inter_container } => start(host, &name, plan, bridge, *inter_container),
        Below::Parent { .. } => Ok(()),
    });
    if let Err(error) = configured {
        // The first error is the one to report; the namespace's end takes the interface along in any case.
        let _ = delete_inside(sandbox, plan.interface);
        return Err(error.into());
    }
    Ok(name)
}

/// Removes the interface from the sandbox, and with it its other end.
pub(crate) fn delete_inside(sandbox: &mut Sandbox, interface: &str) -> Result<(), KernelError> {
    let mut batch = Batch::new();
    link::delete(&mut batch, Target::Name(interface));
    match sandbox.socket.execute(&mut batch) {
        Err(error) if error.errno() != Some(Errno::NODEV) => {
            Err(netlink(format!("remove the container's interface {interface}"))(error))
        }
        _ => Ok(()),
    }
}

/// Lets the endpoint of the highest priority lead outside, for each family the first of its rank.
pub(crate) fn set_gateways(sandbox: &mut Sandbox, records: &[&EndpointRecord]) -> Result<(), KernelError> {
    for ipv6 in [false, true] {
        let mut batch = Batch::new();
        let best = best_gateway(records, ipv6);
        if let Some(record) = best
            && let Some(side) = record.side(ipv6)
        {
            let name = &record.interface;
            let operation = format!("look the container's interface {name} up");
            let found = link::get(&mut sandbox.socket, Target::Name(name)).map_err(netlink(operation))?;
            // The container may have removed it.
            let Some(link) = found else { continue };
            lead_outside(&mut batch, link.index, side);
        } else {
            route::delete_default_route(&mut batch, ipv6);
        }
        match sandbox.socket.execute(&mut batch) {
            // There was none to delete, or the container has shut the interface down.
            Err(error)
                if !matches!(error.errno(), Some(Errno::SRCH | Errno::NETDOWN | Errno::NETUNREACH)) =>
            {
                return Err(netlink("set the container's default route")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The endpoint that leads outside.
pub(crate) fn best_gateway<'a>(records: &[&'a EndpointRecord], ipv6: bool) -> Option<&'a EndpointRecord> {
    let leads = |record: &&&EndpointRecord| {
        record.side(ipv6).is_some_and(|side| side.gateway.is_some() || side.on_link)
    };
    // Of equals the first: the order is the caller's.
    records.iter().filter(leads).rev().max_by_key(|record| record.gateway_priority).copied()
}

/// The text by which we know our interfaces again.
pub(crate) fn alias(bridge: &str, id: &str) -> String {
    format!("palan:{bridge}:{id}")
}

/// Names are short cuts of random ids: where one is taken, the next digits serve.
fn create_pair(
    host: &mut Socket,
    sandbox: &Sandbox,
    plan: &Plan<'_>,
    bridge: &Bridge,
) -> Result<String, AttachError> {
    let digits = plan.id.as_str();
    let mut taken = None;
    for start in (0..).step_by(NAME_DIGITS) {
        let Some(part) = digits.get(start..start + NAME_DIGITS) else { break };
        let name = format!("veth{part}");
        let mut batch = Batch::new();
        let pair = VethPair {
            name: &name,
            mtu: bridge.mtu,
            master: bridge.index,
            peer_namespace: &sandbox.fd,
            peer_name: plan.interface,
            peer_index: plan.index,
            peer_mac: plan.mac.map_or([0; 6], |mac| mac.0),
        };
        link::add_veth(&mut batch, &pair);
        match host.execute(&mut batch) {
            Ok(()) => return Ok(name),
            Err(error) if error.errno() == Some(Errno::XFULL) => {
                return Err(AttachError::BridgeFull { bridge: bridge.name.clone() });
            }
            Err(error) if error.errno() == Some(Errno::EXIST) => taken = Some(error),
            Err(error) => return Err(pair_error(&name, plan.interface, error).into()),
        }
    }
    let error = taken.unwrap_or(NetlinkError::Malformed);
    Err(pair_error("veth<id>", plan.interface, error).into())
}

fn pair_error(name: &str, inside: &str, error: NetlinkError) -> KernelError {
    netlink(format!("create the interface pair {name} and {inside}"))(error)
}

/// Makes the interface under a name that nobody has, and gives it its own inside: see [`Stacked`].
fn create_stacked(host: &mut Socket, sandbox: &mut Sandbox, plan: &Plan<'_>) -> Result<(), AttachError> {
    let Below::Parent { index, kind, mode, flags, mtu } = plan.below else { return Ok(()) };
    let digits = plan.id.as_str().get(..STACKED_DIGITS).unwrap_or_default();
    let name = format!("vlan{digits}");
    let mut batch = Batch::new();
    let wanted = Stacked {
        kind,
        mode: *mode,
        flags: *flags,
        parent: *index,
        namespace: &sandbox.fd,
        name: &name,
        mac: plan.mac.map(|mac| mac.0),
        mtu: *mtu,
    };
    link::add_stacked(&mut batch, &wanted);
    let operation = || format!("create the {kind} interface {}", plan.interface);
    host.execute(&mut batch).map_err(netlink(operation()))?;
    let made = index_inside(sandbox, &name)?;
    let mut batch = Batch::new();
    link::set_name(&mut batch, made, plan.interface);
    let renamed = sandbox.socket.execute(&mut batch).map_err(netlink(operation()));
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = delete_inside(sandbox, &name);
    }
    Ok(renamed?)
}

/// The index of an interface of the sandbox.
fn index_inside(sandbox: &mut Sandbox, name: &str) -> Result<u32, KernelError> {
    let operation = || format!("look the container's interface {name} up");
    let found = link::get(&mut sandbox.socket, Target::Name(name)).map_err(netlink(operation()))?;
    found.map(|link| link.index).ok_or_else(|| netlink(operation())(NetlinkError::Malformed))
}

/// The addresses, the default routes, and the gateways' Ethernet addresses, which are known and never change.
fn configure_inside(sandbox: &mut Sandbox, plan: &Plan<'_>) -> Result<(), KernelError> {
    let settings = settings(plan);
    if !settings.is_empty() {
        sandbox.run(|| settings.iter().try_for_each(|(name, value)| sysctl::write(name, value)))?;
    }
    let index = match (plan.below, plan.index) {
        (Below::Bridge { .. }, index @ 1..) => index,
        _ => index_inside(sandbox, plan.interface)?,
    };
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Index(index));
    for (side, leads) in [(&plan.ipv4, plan.default_route[0]), (&plan.ipv6, plan.default_route[1])] {
        let Some(side) = side else { continue };
        route::add_address(&mut batch, Address { index, address: side.address, prefix: side.prefix });
        if leads {
            lead_outside(&mut batch, index, side);
        }
        if let (Some(gateway), Below::Bridge { bridge, .. }) = (side.gateway, plan.below) {
            route::add_neighbour(&mut batch, index, gateway, bridge.mac.0);
        }
    }
    for address in plan.more_addresses {
        let prefix = if address.is_ipv4() { 16 } else { 64 };
        route::add_address(&mut batch, Address { index, address: *address, prefix });
    }
    sandbox.socket.execute(&mut batch).map_err(netlink("set the container's addresses and routes"))
}

fn lead_outside(batch: &mut Batch, index: u32, side: &EndpointAddress) {
    match side.gateway {
        Some(gateway) => route::set_default_route(batch, gateway, index),
        None if side.on_link => route::set_default_device(batch, side.address.is_ipv6(), index),
        None => {}
    }
}

/// The kernel settings of the interface inside, in the form of paths below `/proc/sys`.
fn settings(plan: &Plan<'_>) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let needs_ipv6 = plan.ipv6.is_some() || plan.more_addresses.iter().any(std::net::IpAddr::is_ipv6);
    if needs_ipv6 {
        let of = |name: &str| format!("net/ipv6/conf/{}/{name}", plan.interface);
        settings.push((of("accept_ra"), "0".to_owned()));
        settings.push((of("disable_ipv6"), "0".to_owned()));
    }
    // The interface's name is known here only, unless the caller has chosen it.
    let named = |(path, value): &(String, String)| {
        (path.replace("/IFNAME/", &format!("/{}/", plan.interface)), value.clone())
    };
    settings.extend(plan.sysctls.iter().map(named));
    settings
}

/// Switches the host side on, as the last step: from here on there is traffic.
fn start(
    host: &mut Socket,
    name: &str,
    plan: &Plan<'_>,
    bridge: &Bridge,
    inter_container: bool,
) -> Result<(), KernelError> {
    let mut batch = Batch::new();
    // Where bridged packets pass the firewall (br_netfilter), one of a container to its own published port turns round
    // inside the bridge, hence the hairpin. There the firewall keeps containers apart, and isolation would keep
    // them off each other's published ports, too; elsewhere isolation must do it.
    let is_on = |name| Ok::<_, KernelError>(sysctl::read(name)?.as_deref() == Some("1"));
    let filtered = || -> Result<bool, KernelError> {
        let ipv6 = plan.ipv6.is_none() || is_on(sysctl::BRIDGED_FILTER_IPV6)?;
        Ok(is_on(sysctl::BRIDGED_FILTER)? && ipv6)
    };
    let port = BridgePort { hairpin: true, isolated: !inter_container && !filtered()? };
    link::start_bridge_port(&mut batch, name, &alias(&bridge.name, plan.id.as_str()), port);
    for side in plan.ipv4.iter().chain(&plan.ipv6) {
        if let Some(mac) = plan.mac {
            route::add_neighbour(&mut batch, bridge.index, side.address, mac.0);
        }
    }
    host.execute(&mut batch).map_err(netlink(format!("switch the interface {name} on")))
}
