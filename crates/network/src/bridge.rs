//! The bridge device: made once, adopted after a daemon restart, with its address, MTU and kernel settings.

use std::net::Ipv4Addr;

use palan_linux::netlink::link::{self, Filter, Link, Target};
use palan_linux::netlink::route::{self, Address, Route};
use palan_linux::netlink::{Batch, Socket};
use rustix::io::Errno;

use crate::error::netlink;
use crate::record::MacAddress;
use crate::{NetworkConfig, NetworkError, Subnet, sysctl};

/// What an Ethernet link has where nothing else is known.
const DEFAULT_MTU: u32 = 1500;
const MAIN_TABLE: u32 = 254;
/// By this text we know that a bridge was made by us.
const ALIAS: &str = "palan";

/// The bridge as it is in the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Its own address and the subnet's prefix length.
    pub(crate) gateway: Subnet,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u32,
}

/// Makes sure that the bridge is there, has its address and is up.
///
/// A bridge that is there keeps its address unless another one is configured and nothing is connected to it.
pub(crate) fn ensure(socket: &mut Socket, config: &NetworkConfig) -> Result<Bridge, NetworkError> {
    check_name("bridge", &config.bridge)?;
    let routes = route::routes(socket).map_err(netlink("list the routes"))?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => mtu_of_default_route(socket, &routes)?,
    };
    let found = link::get(socket, Target::Name(&config.bridge))
        .map_err(netlink(format!("look the interface {} up", config.bridge)))?;
    let bridge = match found {
        Some(link) if link.kind != "bridge" => {
            let kind = if link.kind.is_empty() { "hardware interface".to_owned() } else { link.kind };
            return Err(NetworkError::NotABridge { name: link.name, kind });
        }
        Some(link) => adopt(socket, config, &link, &routes, mtu)?,
        None => create(socket, config, &routes, mtu)?,
    };
    configure(&bridge)?;
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Index(bridge.index));
    socket.execute(&mut batch).map_err(netlink(format!("switch the bridge {} on", bridge.name)))?;
    Ok(bridge)
}

/// Lets loopback addresses of the host be translated to addresses behind the bridge. While it is on, only our
/// table keeps the other side of the bridge from reaching services that listen on the host's 127.0.0.0/8: see
/// [`crate::firewall`] for the order in which the two come and go.
pub(crate) fn set_route_localnet(bridge: &str, on: bool) -> Result<(), crate::KernelError> {
    sysctl::ensure(&format!("net/ipv4/conf/{bridge}/route_localnet"), if on { "1" } else { "0" })
}

/// Removes the bridge if we made it; one that was there before us stays.
pub(crate) fn remove(socket: &mut Socket, bridge: &Bridge) -> Result<(), NetworkError> {
    let operation = || format!("remove the bridge {}", bridge.name);
    let link = link::get(socket, Target::Index(bridge.index)).map_err(netlink(operation()))?;
    if link.is_none_or(|link| link.alias != ALIAS) {
        return Ok(());
    }
    let mut batch = Batch::new();
    link::delete(&mut batch, Target::Index(bridge.index));
    match socket.execute(&mut batch) {
        Err(error) if error.errno() != Some(Errno::NODEV) => Err(netlink(operation())(error).into()),
        _ => Ok(()),
    }
}

/// The rules of the kernel's `dev_valid_name`, so that the error names the setting.
pub(crate) fn check_name(setting: &'static str, name: &str) -> Result<(), NetworkError> {
    let wrong = |character: char| character.is_whitespace() || "/:%\0".contains(character);
    let reason = match name {
        "" => "the name is empty",
        "." | ".." => "the name is reserved",
        _ if name.len() > link::NAME_MAX => "an interface name has at most 15 bytes",
        _ if name.contains(wrong) => "an interface name has no space, slash, colon or percent sign",
        _ => return Ok(()),
    };
    Err(NetworkError::Setting { setting, value: name.to_owned(), reason })
}

fn adopt(
    socket: &mut Socket,
    config: &NetworkConfig,
    link: &Link,
    routes: &[Route],
    mtu: u32,
) -> Result<Bridge, NetworkError> {
    let addresses = route::addresses(socket).map_err(netlink("list the addresses"))?;
    let present = addresses.iter().find(|address| address.index == link.index).copied();
    let gateway = match (present, config.address) {
        (Some(present), None) => Subnet::new(present.address, present.prefix),
        (Some(present), Some(wanted)) if Subnet::new(present.address, present.prefix) == wanted => wanted,
        (Some(present), Some(wanted)) => {
            let ports =
                link::list(socket, Filter::Master(link.index)).map_err(netlink("list the bridge's ports"))?;
            if !ports.is_empty() {
                let present = Subnet::new(present.address, present.prefix);
                return Err(NetworkError::BridgeInUse { bridge: link.name.clone(), present, wanted });
            }
            let mut batch = Batch::new();
            route::delete_address(&mut batch, present);
            socket
                .execute(&mut batch)
                .map_err(netlink(format!("remove the address of the bridge {}", link.name)))?;
            give_address(socket, config, &link.name, link.index, routes)?
        }
        (None, _) => give_address(socket, config, &link.name, link.index, routes)?,
    };
    let mac = MacAddress(link.mac.unwrap_or_else(|| MacAddress::from_ipv4(gateway.address()).0));
    let mut batch = Batch::new();
    // Setting the address that it has pins it: otherwise the kernel changes it with the ports, and the containers'
    // permanent neighbour entries for it would go stale.
    link::set_mac(&mut batch, Target::Index(link.index), mac.0);
    if link.mtu != mtu {
        link::set_mtu(&mut batch, Target::Index(link.index), mtu);
    }
    socket.execute(&mut batch).map_err(netlink(format!("set up the bridge {}", link.name)))?;
    Ok(Bridge { name: link.name.clone(), index: link.index, gateway, mac, mtu })
}

fn create(
    socket: &mut Socket,
    config: &NetworkConfig,
    routes: &[Route],
    mtu: u32,
) -> Result<Bridge, NetworkError> {
    let name = &config.bridge;
    let operation = || format!("create the bridge {name}");
    // Any pinned address will do; this one is replaced when the subnet is known.
    let mut batch = Batch::new();
    link::add_bridge(&mut batch, name, MacAddress::from_ipv4(Ipv4Addr::UNSPECIFIED).0, mtu);
    socket.execute(&mut batch).map_err(netlink(operation()))?;
    let link = link::get(socket, Target::Name(name)).map_err(netlink(operation()))?;
    let index = link.map_or(0, |link| link.index);
    let gateway = give_address(socket, config, name, index, routes).inspect_err(|_| {
        let mut batch = Batch::new();
        link::delete(&mut batch, Target::Index(index));
        // The first error is the one to report.
        let _ = socket.execute(&mut batch);
    })?;
    let mac = MacAddress::from_ipv4(gateway.address());
    let mut batch = Batch::new();
    link::set_mac(&mut batch, Target::Index(index), mac.0);
    link::set_alias(&mut batch, Target::Index(index), ALIAS);
    socket.execute(&mut batch).map_err(netlink(operation()))?;
    Ok(Bridge { name: name.clone(), index, gateway, mac, mtu })
}

/// Gives the bridge its address: the configured one or the first of the pools that is free.
///
/// Another daemon may take the same subnet at the same moment. Both look again afterwards, and the one whose bridge is
/// younger moves on.
fn give_address(
    socket: &mut Socket,
    config: &NetworkConfig,
    name: &str,
    index: u32,
    routes: &[Route],
) -> Result<Subnet, NetworkError> {
    let mut taken: Vec<Subnet> = routes
        .iter()
        .filter(|route| route.prefix > 0 && route.index != Some(index))
        .map(|route| Subnet::new(route.destination, route.prefix))
        .collect();
    loop {
        let others = addresses_of_others(socket, index)?;
        taken.extend(others.iter().map(|address| Subnet::new(address.address, address.prefix)));
        let wanted = match config.address {
            Some(address) => check_address(address)?,
            None => first_free(config, &taken)?,
        };
        let address = Address { index, address: wanted.address(), prefix: wanted.prefix() };
        let mut batch = Batch::new();
        route::add_address(&mut batch, address);
        let operation = format!("give the bridge {name} the address {wanted}");
        match socket.execute(&mut batch) {
            Err(error) if error.errno() != Some(Errno::EXIST) => return Err(netlink(operation)(error).into()),
            _ => {}
        }
        let older = |other: &&Address| {
            other.index < index && Subnet::new(other.address, other.prefix).overlaps(wanted)
        };
        let others = addresses_of_others(socket, index)?;
        let Some(rival) = others.iter().find(older).filter(|_| config.address.is_none()) else {
            return Ok(wanted);
        };
        taken.push(Subnet::new(rival.address, rival.prefix));
        let mut batch = Batch::new();
        route::delete_address(&mut batch, address);
        socket.execute(&mut batch).map_err(netlink(operation))?;
    }
}

fn addresses_of_others(socket: &mut Socket, index: u32) -> Result<Vec<Address>, NetworkError> {
    let mut addresses = route::addresses(socket).map_err(netlink("list the addresses"))?;
    addresses.retain(|address| address.index != index);
    Ok(addresses)
}

fn check_address(address: Subnet) -> Result<Subnet, NetworkError> {
    let bits = address.address().to_bits();
    let reason = match address.prefix() {
        prefix if prefix > 30 => "the subnet has no room for containers",
        prefix if prefix < 8 => "the prefix must have at least 8 bits",
        _ if bits == address.first() || bits == address.last() => {
            "it must be an address of a host, not the subnet's first or last"
        }
        _ => return Ok(address),
    };
    Err(NetworkError::Setting { setting: "bip", value: address.to_string(), reason })
}

/// The first address of the first subnet that overlaps nothing taken.
fn first_free(config: &NetworkConfig, taken: &[Subnet]) -> Result<Subnet, NetworkError> {
    for pool in &config.pools {
        let base = pool.base.network();
        if pool.size < base.prefix() || pool.size > 30 || base.prefix() < 8 {
            return Err(NetworkError::Setting {
                setting: "default-address-pools",
                value: format!("{base} with size {}", pool.size),
                reason: "the base needs a prefix of at least 8, the size must lie between it and 30",
            });
        }
        let step = 1_u32 << (32 - pool.size);
        let count = 1_u32 << (pool.size - base.prefix());
        for number in 0..count {
            let subnet = Subnet::new(Ipv4Addr::from_bits(base.first() + number * step), pool.size);
            if !taken.iter().any(|other| other.overlaps(subnet)) {
                return Ok(Subnet::new(Ipv4Addr::from_bits(subnet.first() + 1), pool.size));
            }
        }
    }
    Err(NetworkError::NoFreeSubnet)
}

/// Larger packets than the way out can carry would depend on ICMP messages that many networks drop.
fn mtu_of_default_route(socket: &mut Socket, routes: &[Route]) -> Result<u32, NetworkError> {
    let Some(index) = default_interface(routes) else { return Ok(DEFAULT_MTU) };
    let link = link::get(socket, Target::Index(index))
        .map_err(netlink("look the interface of the default route up"))?;
    Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
}

/// The interface of the best default route.
fn default_interface(routes: &[Route]) -> Option<u32> {
    let defaults = routes.iter().filter(|route| route.prefix == 0 && route.table == MAIN_TABLE);
    defaults.min_by_key(|route| route.metric)?.index
}

/// The kernel settings of the bridge, and forwarding: without it nothing leaves the host. Forwarding is a setting of
/// the whole host and therefore never switched back, since others may have come to rely on it.
fn configure(bridge: &Bridge) -> Result<(), NetworkError> {
    let name = &bridge.name;
    // The network has IPv4 addresses only. A link-local IPv6 address on the bridge would be a way for containers to
    // reach services of the host that no IPv4 rule sees.
    sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
    sysctl::ensure(sysctl::FORWARDING, "1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn the_pools_are_searched_in_order() {
        let config = NetworkConfig::default();
        let check = |taken: &[&str], expected: &str| {
            let taken: Vec<Subnet> = taken.iter().map(|text| subnet(text)).collect();
            assert_eq!(first_free(&config, &taken).unwrap(), subnet(expected));
        };
        check(&[], "172.17.0.1/16");
        check(&["172.17.3.0/24"], "172.18.0.1/16");
        check(&["172.16.0.0/12"], "192.168.0.1/20");
        check(&["172.16.0.0/12", "192.168.0.0/24"], "192.168.16.1/20");
        let all = [subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
        assert!(matches!(first_free(&config, &all), Err(NetworkError::NoFreeSubnet)));
    }

    #[test]
    fn names_and_addresses_are_checked() {
        assert!(check_name("bridge", "palan0").is_ok());
        for name in ["", ".", "a b", "a/b", "a:b", "sixteen-bytes-xx"] {
            assert!(check_name("bridge", name).is_err(), "{name}");
        }
        assert!(check_address(subnet("10.0.0.1/24")).is_ok());
        for address in ["10.0.0.0/24", "10.0.0.255/24", "10.0.0.1/31", "1.0.0.1/7"] {
            assert!(check_address(subnet(address)).is_err(), "{address}");
        }
    }

    #[test]
    fn the_best_default_route_is_the_one_of_least_metric() {
        let route = |index, metric, prefix| Route {
            destination: Ipv4Addr::UNSPECIFIED,
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
