//! The interface below a macvlan or ipvlan network: one of the host's, a VLAN on top of one, or, where none is named, one
//! that leads nowhere and joins the containers among themselves.

use std::path::Path;

use palan_linux::netlink::link::{self, Link, Target, VethPair};
use palan_linux::netlink::{Batch, Socket};
use rustix::io::Errno;

use crate::bridge::{self, ALIAS};
use crate::config::{Driver, NetworkConfig};
use crate::endpoint::Below;
use crate::error::netlink;
use crate::record::MacAddress;
use crate::{KernelError, NetworkError};

/// Makes sure that the interface is there.
pub(crate) fn ensure(socket: &mut Socket, config: &NetworkConfig) -> Result<Below, NetworkError> {
    let link = match parent_of(config) {
        None => own(socket, config)?,
        Some(name) => match get(socket, name)? {
            Some(link) => link,
            None => vlan(socket, name)?,
        },
    };
    Ok(below(config, &link))
}

/// What the endpoints are made on top of, as it is now: the administrator may have made the interface anew.
pub(crate) fn look_up(socket: &mut Socket, config: &NetworkConfig) -> Result<Option<Below>, KernelError> {
    let name = parent_of(config).map_or_else(|| own_name(config), str::to_owned);
    Ok(get(socket, &name)?.map(|link| below(config, &link)))
}

/// Removes the interface if we made it.
pub(crate) fn remove(socket: &mut Socket, config: &NetworkConfig) -> Result<(), KernelError> {
    let name = parent_of(config).map_or_else(|| own_name(config), str::to_owned);
    bridge::remove(socket, &name)
}

fn parent_of(config: &NetworkConfig) -> Option<&str> {
    match &config.driver {
        Driver::Macvlan { parent, .. } | Driver::Ipvlan { parent, .. } => parent.as_deref(),
        Driver::Bridge => None,
    }
}

/// Docker's name for the interface of a network without a parent.
fn own_name(config: &NetworkConfig) -> String {
    format!("dm-{}", config.id.get(..12).unwrap_or(&config.id))
}

fn below(config: &NetworkConfig, link: &Link) -> Below {
    let (kind, mode, flags) = match config.driver {
        Driver::Ipvlan { mode, flag, .. } => ("ipvlan", mode as u32, flag as u16),
        Driver::Macvlan { mode, .. } => ("macvlan", mode as u32, 0),
        // Never asked for.
        Driver::Bridge => ("macvlan", 0, 0),
    };
    Below::Parent { index: link.index, kind, mode, flags, mtu: config.mtu }
}

fn own(socket: &mut Socket, config: &NetworkConfig) -> Result<Link, NetworkError> {
    let name = own_name(config);
    if let Some(link) = get(socket, &name)? {
        return Ok(link);
    }
    // A pair of which both ends stay here: each is up as long as the other is. (A dummy interface would do, but not every
    // kernel has them; a bridge without ports counts as unplugged.)
    let here = Path::new("/proc/thread-self/ns/net");
    let here =
        palan_stdx::fs::open(here).map_err(|source| KernelError::Namespace { source: source.into() })?;
    let peer = format!("dp-{}", config.id.get(..12).unwrap_or(&config.id));
    let mut batch = Batch::new();
    let pair = VethPair {
        name: &name,
        mtu: config.mtu.unwrap_or(1500),
        master: 0,
        peer_namespace: &here,
        peer_name: &peer,
        peer_index: 0,
        peer_mac: MacAddress::from_text(&config.id).0,
    };
    link::add_veth(&mut batch, &pair);
    link::set_up(&mut batch, Target::Name(&peer));
    finish(socket, batch, &name)
}

/// `eth0.10` is VLAN 10 on `eth0`.
fn vlan(socket: &mut Socket, name: &str) -> Result<Link, NetworkError> {
    let missing = || NetworkError::NoParent { name: name.to_owned() };
    let (below, tag) = name.rsplit_once('.').ok_or_else(missing)?;
    let tag: u16 = tag.parse().ok().filter(|tag| (1..4095).contains(tag)).ok_or_else(missing)?;
    let below = get(socket, below)?.ok_or_else(missing)?;
    let mut batch = Batch::new();
    link::add_vlan(&mut batch, name, below.index, tag);
    finish(socket, batch, name)
}

fn finish(socket: &mut Socket, mut batch: Batch, name: &str) -> Result<Link, NetworkError> {
    link::set_alias(&mut batch, Target::Name(name), ALIAS);
    link::set_up(&mut batch, Target::Name(name));
    match socket.execute(&mut batch) {
        Err(error) if error.errno() != Some(Errno::EXIST) => {
            return Err(netlink(format!("create the interface {name}"))(error).into());
        }
        _ => {}
    }
    get(socket, name)?.ok_or_else(|| NetworkError::NoParent { name: name.to_owned() })
}

fn get(socket: &mut Socket, name: &str) -> Result<Option<Link>, KernelError> {
    link::get(socket, Target::Name(name)).map_err(netlink(format!("look the interface {name} up")))
}
