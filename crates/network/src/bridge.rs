//! The bridge device of a network: made once, adopted after a daemon restart, with its addresses, MTU and kernel settings.

use std::net::{IpAddr, Ipv4Addr};

use palan_linux::netlink::link::{self, Filter, Link, Target};
use palan_linux::netlink::route::{self, Address, Route};
use palan_linux::netlink::{Batch, Socket};
use rustix::io::Errno;

use crate::config::{AddressPlan, GatewayMode, NetworkConfig};
use crate::error::netlink;
use crate::record::MacAddress;
use crate::{KernelError, NetworkError, Subnet, sysctl};

/// What an Ethernet link has where nothing else is known.
const DEFAULT_MTU: u32 = 1500;
const MAIN_TABLE: u32 = 254;
/// By this text we know that an interface of the host was made by us.
pub(crate) const ALIAS: &str = "palan";

/// The text on a bridge that was made for one network of the daemon whose default bridge is `owner`, and goes with it.
pub(crate) fn alias_of(owner: &str) -> String {
    format!("{ALIAS}:{owner}")
}

/// The bridge as it is in the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u32,
}

/// Makes sure that the bridge is there, has its addresses and is up.
pub(crate) fn ensure(
    socket: &mut Socket,
    config: &NetworkConfig,
    owner: &str,
) -> Result<Bridge, NetworkError> {
    check_name("bridge", &config.bridge)?;
    let plans: Vec<&AddressPlan> = config.ipv4.iter().chain(&config.ipv6).collect();
    for plan in &plans {
        check_plan(plan)?;
    }
    let name = &config.bridge;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => mtu_of_default_route(socket)?,
    };
    let found = get(socket, name)?;
    let is_new = found.is_none();
    let operation = || format!("create the bridge {name}");
    let link = match found {
        Some(link) => link,
        None => {
            let mac = plans
                .iter()
                .find_map(|plan| mac_of(plan))
                .unwrap_or_else(|| MacAddress::from_text(&config.id));
            let mut batch = Batch::new();
            link::add_bridge(&mut batch, name, mac.0, mtu);
            let alias = if config.adopt { ALIAS.to_owned() } else { alias_of(owner) };
            link::set_alias(&mut batch, Target::Name(name), &alias);
            socket.execute(&mut batch).map_err(netlink(operation()))?;
            get(socket, name)?.ok_or_else(|| NetworkError::InterfaceInUse { name: name.clone() })?
        }
    };
    let bridge = set_up(socket, config, &link, &plans, mtu);
    if bridge.is_err() && is_new {
        let mut batch = Batch::new();
        link::delete(&mut batch, Target::Index(link.index));
        // The first error is the one to report.
        let _ = socket.execute(&mut batch);
    }
    bridge
}

fn set_up(
    socket: &mut Socket,
    config: &NetworkConfig,
    link: &Link,
    plans: &[&AddressPlan],
    mtu: u32,
) -> Result<Bridge, NetworkError> {
    let index = link.index;
    let mac = MacAddress(link.mac.unwrap_or_else(|| MacAddress::from_text(&config.id).0));
    configure(config)?;
    let present = route::addresses(socket).map_err(netlink("list the addresses"))?;
    let mut batch = Batch::new();
    // Setting the address that it has pins it: otherwise the kernel changes it with the ports, and the containers'
    // permanent neighbour entries for it would go stale.
    link::set_mac(&mut batch, Target::Index(index), mac.0);
    if link.mtu != mtu {
        link::set_mtu(&mut batch, Target::Index(index), mtu);
    }
    for plan in plans {
        let Some(gateway) = plan.gateway else { continue };
        if config.mode(gateway.is_ipv6()) == GatewayMode::Isolated {
            continue;
        }
        let address = Address { index, address: gateway, prefix: plan.subnet.prefix() };
        if !present.contains(&address) {
            route::add_address(&mut batch, address);
        }
    }
    link::set_up(&mut batch, Target::Index(index));
    socket.execute(&mut batch).map_err(netlink(format!("set up the bridge {}", link.name)))?;
    Ok(Bridge { name: link.name.clone(), index, mac, mtu })
}

/// The IPv4 address that a bridge of this name has, if there is one. With `wanted` another one is taken away, unless something
/// is connected to the bridge.
pub(crate) fn present_address(
    socket: &mut Socket,
    name: &str,
    wanted: Option<Subnet>,
) -> Result<Option<Subnet>, NetworkError> {
    check_name("bridge", name)?;
    let Some(link) = get(socket, name)? else { return Ok(None) };
    let addresses = route::addresses(socket).map_err(netlink("list the addresses"))?;
    let mut own = addresses.iter().filter(|address| address.index == link.index && address.address.is_ipv4());
    let Some(present) = own.next().copied() else { return Ok(None) };
    let subnet = Subnet::new(present.address, present.prefix);
    if wanted.is_none_or(|wanted| wanted == subnet) {
        return Ok(Some(subnet));
    }
    let ports = link::list(socket, Filter::Master(link.index)).map_err(netlink("list the bridge's ports"))?;
    if let (false, Some(wanted)) = (ports.is_empty(), wanted) {
        return Err(NetworkError::BridgeInUse { bridge: link.name, present: subnet, wanted });
    }
    remove_address(socket, link.index, subnet)?;
    Ok(None)
}

/// Takes an address from a bridge.
pub(crate) fn remove_address(socket: &mut Socket, index: u32, address: Subnet) -> Result<(), KernelError> {
    let mut batch = Batch::new();
    let address = Address { index, address: address.address(), prefix: address.prefix() };
    route::delete_address(&mut batch, address);
    socket.execute(&mut batch).map_err(netlink("remove an address of a bridge"))
}

/// Another interface whose addresses overlap with the subnet and which is older than this one: of two daemons that took the
/// same subnet at the same moment, the one whose bridge is younger moves on.
pub(crate) fn rival(socket: &mut Socket, index: u32, subnet: Subnet) -> Result<Option<Subnet>, KernelError> {
    let addresses = route::addresses(socket).map_err(netlink("list the addresses"))?;
    let mut others = addresses.iter().filter(|address| address.index < index);
    let found = others.find(|address| Subnet::new(address.address, address.prefix).overlaps(subnet));
    Ok(found.map(|address| Subnet::new(address.address, address.prefix)))
}

/// The subnets that the host uses or routes, apart from what belongs to the interface `own`.
pub(crate) fn taken(socket: &mut Socket, own: &str) -> Result<Vec<Subnet>, KernelError> {
    let own =
        link::get(socket, Target::Name(own)).map_err(netlink(format!("look the interface {own} up")))?;
    let own = own.map(|link| link.index);
    let routes = route::routes(socket).map_err(netlink("list the routes"))?;
    let routed =
        routes.iter().filter(|route| route.prefix > 0 && (route.index.is_none() || route.index != own));
    let mut taken: Vec<Subnet> = routed.map(|route| Subnet::new(route.destination, route.prefix)).collect();
    let addresses = route::addresses(socket).map_err(netlink("list the addresses"))?;
    let others = addresses.iter().filter(|address| Some(address.index) != own);
    taken.extend(others.map(|address| Subnet::new(address.address, address.prefix)));
    Ok(taken)
}

/// Lets loopback addresses of the host be translated to addresses behind the bridge. While it is on, only our
/// table keeps the other side of the bridge from reaching services that listen on the host's 127.0.0.0/8: see
/// [`crate::firewall`] for the order in which the two come and go.
pub(crate) fn set_route_localnet(bridge: &str, on: bool) -> Result<(), KernelError> {
    sysctl::ensure(&format!("net/ipv4/conf/{bridge}/route_localnet"), if on { "1" } else { "0" })
}

/// Removes an interface if we made it; one that was there before us stays.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> Result<(), KernelError> {
    let operation = || format!("remove the interface {name}");
    let link = link::get(socket, Target::Name(name)).map_err(netlink(operation()))?;
    let is_ours = |link: &Link| link.alias == ALIAS || link.alias.starts_with("palan:");
    let Some(link) = link.filter(is_ours) else { return Ok(()) };
    let mut batch = Batch::new();
    link::delete(&mut batch, Target::Index(link.index));
    match socket.execute(&mut batch) {
        Err(error) if error.errno() != Some(Errno::NODEV) => Err(netlink(operation())(error)),
        _ => Ok(()),
    }
}

/// The rules of the kernel's `dev_valid_name`, so that the error names the setting.
pub(crate) fn check_name(setting: &'static str, name: &str) -> Result<(), NetworkError> {
    match name_problem(name) {
        Some(reason) => Err(NetworkError::Setting { setting, value: name.to_owned(), reason }),
        None => Ok(()),
    }
}

/// Why an interface can't have this name.
pub(crate) fn name_problem(name: &str) -> Option<&'static str> {
    let wrong = |character: char| character.is_whitespace() || "/:%\0".contains(character);
    match name {
        "" => Some("the name is empty"),
        "." | ".." => Some("the name is reserved"),
        _ if name.len() > link::NAME_MAX => Some("an interface name has at most 15 bytes"),
        _ if name.contains(wrong) => Some("an interface name has no space, slash, colon or percent sign"),
        _ => None,
    }
}

fn get(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetworkError> {
    let found =
        link::get(socket, Target::Name(name)).map_err(netlink(format!("look the interface {name} up")))?;
    match found {
        Some(link) if link.kind != "bridge" => {
            let kind = if link.kind.is_empty() { "hardware interface".to_owned() } else { link.kind };
            Err(NetworkError::NotABridge { name: link.name, kind })
        }
        other => Ok(other),
    }
}

/// The address must be one that a host can have, in a subnet with room for containers.
fn check_plan(plan: &AddressPlan) -> Result<(), NetworkError> {
    let Some(gateway) = plan.gateway else { return Ok(()) };
    let (first, last) = crate::ipam::hosts(plan.subnet);
    let number = crate::subnet::bits(gateway);
    let reason = if !plan.subnet.contains(gateway) {
        "it lies outside of the subnet"
    } else if !(first..=last).contains(&number) {
        "it is the subnet's own address or its broadcast address"
    } else if last == first {
        "the subnet has no room for containers"
    } else {
        return Ok(());
    };
    let value = Subnet::new(gateway, plan.subnet.prefix()).to_string();
    Err(NetworkError::Setting { setting: "gateway", value, reason })
}

fn mac_of(plan: &AddressPlan) -> Option<MacAddress> {
    match plan.gateway? {
        IpAddr::V4(address) => Some(MacAddress::from_ipv4(address)),
        IpAddr::V6(_) => None,
    }
}

fn mtu_of_default_route(socket: &mut Socket) -> Result<u32, NetworkError> {
    let routes = route::routes(socket).map_err(netlink("list the routes"))?;
    let Some(index) = default_interface(&routes) else { return Ok(DEFAULT_MTU) };
    let link =
        link::get(socket, Target::Index(index)).map_err(netlink("look the default route's link up"))?;
    Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
}

fn default_interface(routes: &[Route]) -> Option<u32> {
    let is_default =
        |route: &&Route| route.prefix == 0 && route.table == MAIN_TABLE && route.destination.is_ipv4();
    routes.iter().filter(is_default).min_by_key(|route| route.metric)?.index
}

/// The kernel settings of the bridge, and forwarding: without it nothing leaves the host. Forwarding is a setting of
/// the whole host and therefore never switched back, since others may have come to rely on it.
fn configure(config: &NetworkConfig) -> Result<(), NetworkError> {
    let name = &config.bridge;
    // Without IPv6 on the network, a link-local address on the bridge would be a way for containers to reach services of
    // the host that no IPv4 rule sees.
    let has_ipv6 = config.ipv6.is_some();
    sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), if has_ipv6 { "0" } else { "1" })?;
    sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    if config.internal {
        return Ok(());
    }
    sysctl::ensure(sysctl::FORWARDING, "1")?;
    if has_ipv6 {
        sysctl::ensure(sysctl::FORWARDING_IPV6, "1")?;
    }
    Ok(())
}

impl MacAddress {
    /// A locally administered address from a text of hexadecimal digits, such as an id.
    pub(crate) fn from_text(digits: &str) -> Self {
        let mut bytes = [0x02, 0, 0, 0, 0, 0];
        let pairs = digits.as_bytes().chunks_exact(2);
        for (byte, pair) in bytes.iter_mut().skip(1).zip(pairs) {
            let text = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(text, 16).unwrap_or(0);
        }
        // Never that of an unspecified IPv4 address, as all zeros would be.
        if bytes[1..] == [0; 5] {
            bytes[1] = Ipv4Addr::LOCALHOST.octets()[0];
        }
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_checked() {
        assert!(check_name("bridge", "palan0").is_ok());
        for name in ["", ".", "a b", "a/b", "a:b", "sixteen-bytes-xx"] {
            assert!(check_name("bridge", name).is_err(), "{name}");
        }
        let check = |subnet: &str, gateway: &str| {
            let mut plan = AddressPlan::new(subnet.parse().unwrap());
            plan.gateway = Some(gateway.parse().unwrap());
            check_plan(&plan).is_ok()
        };
        assert!(check("10.0.0.0/24", "10.0.0.1"));
        assert!(check("fd00::/64", "fd00::1"));
        for (subnet, gateway) in [
            ("10.0.0.0/24", "10.0.0.0"),
            ("10.0.0.0/24", "10.0.0.255"),
            ("10.0.0.0/24", "10.0.1.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("fd00::/64", "fd00::"),
            ("fd00::/64", "10.0.0.1"),
        ] {
            assert!(!check(subnet, gateway), "{subnet} {gateway}");
        }
    }

    #[test]
    fn the_best_default_route_is_the_one_of_least_metric() {
        let route = |index, metric, prefix| Route {
            destination: Ipv4Addr::UNSPECIFIED.into(),
            prefix,
            gateway: None,
            index: Some(index),
            metric,
            table: MAIN_TABLE,
        };
        assert_eq!(default_interface(&[]), None);
        assert_eq!(default_interface(&[route(3, 10, 0), route(2, 5, 0), route(4, 0, 24)]), Some(2));
    }
}
