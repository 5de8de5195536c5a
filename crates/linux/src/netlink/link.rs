//! Network interfaces: bridges, veth pairs, their settings and counters.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::message::{Attributes, Batch, Parsed, attribute};
use super::socket::{NetlinkError, Socket};

/// The length of `struct ifinfomsg`.
const INFO: usize = 16;
/// From `linux/if_link.h`; libc lacks them.
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const VETH_INFO_PEER: u16 = 1;
/// Leaves the counters out of an answer.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// The longest interface name.
pub const NAME_MAX: usize = 15;

/// How an existing interface is named.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Target<'a> {
    Index(u32),
    Name(&'a str),
}

/// An interface as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, …; empty for hardware.
    pub kind: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// The bridge it belongs to.
    pub master: Option<u32>,
    /// The free text an administrator may set.
    pub alias: String,
}

/// An interface's 64-bit counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub struct Statistics {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// Adds the creation of a bridge without spanning tree.
pub fn add_bridge(batch: &mut Batch, name: &str, mac: [u8; 6], mtu: u32) {
    batch.push(libc::RTM_NEWLINK, CREATE, &info(0, 0, 0), |link| {
        link.text(libc::IFLA_IFNAME, name).bytes(libc::IFLA_ADDRESS, &mac).u32(libc::IFLA_MTU, mtu).nested(
            libc::IFLA_LINKINFO,
            |kind| {
                kind.text(libc::IFLA_INFO_KIND, "bridge").nested(libc::IFLA_INFO_DATA, |bridge| {
                    bridge.u32(IFLA_BR_STP_STATE, 0);
                });
            },
        );
    });
}

/// A veth pair to be made: one end here, the other straight in another namespace.
#[derive(Debug)]
pub struct VethPair<'a, Fd> {
    /// The name of the end in the socket's namespace.
    pub name: &'a str,
    /// The MTU of both.
    pub mtu: u32,
    /// The bridge that the end here joins.
    pub master: u32,
    /// The namespace of the other end.
    pub peer_namespace: Fd,
    /// Its name there.
    pub peer_name: &'a str,
    /// Its index there, so that it needn't be asked for; 0 lets the kernel choose.
    pub peer_index: u32,
    /// Its Ethernet address.
    pub peer_mac: [u8; 6],
}

/// Adds the creation of a veth pair. The end here joins its bridge; both stay down, as the kernel refuses to start an end
/// before the pair is complete.
///
/// Both have one queue: there is no queueing discipline on a veth, so more would only cost kernel objects.
pub fn add_veth<Fd: AsFd>(batch: &mut Batch, pair: &VethPair<'_, Fd>) {
    let namespace = pair.peer_namespace.as_fd().as_raw_fd().cast_unsigned();
    let common = |link: &mut Attributes<'_>, name: &str| {
        link.text(libc::IFLA_IFNAME, name)
            .u32(libc::IFLA_MTU, pair.mtu)
            .u32(libc::IFLA_NUM_TX_QUEUES, 1)
            .u32(libc::IFLA_NUM_RX_QUEUES, 1);
    };
    batch.push(libc::RTM_NEWLINK, CREATE, &info(0, 0, 0), |link| {
        common(link, pair.name);
        link.u32(libc::IFLA_MASTER, pair.master).nested(libc::IFLA_LINKINFO, |kind| {
            kind.text(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |veth| {
                veth.nested_after(VETH_INFO_PEER, &info(pair.peer_index, 0, 0), |peer| {
                    common(peer, pair.peer_name);
                    peer.bytes(libc::IFLA_ADDRESS, &pair.peer_mac).u32(libc::IFLA_NET_NS_FD, namespace);
                });
            });
        });
    });
}

/// A virtual interface on top of a hardware one, to be made straight in another namespace, where it gets the next index.
///
/// Older kernels (6.1 does, 6.18 does not) refuse a name or an index that an interface of the caller's own namespace has, as the
/// parent `eth0` has it: the name must be new in both, and [`set_name`] is for the final one.
#[derive(Debug)]
pub struct Stacked<'a, Fd> {
    /// `macvlan` or `ipvlan`.
    pub kind: &'static str,
    /// `MACVLAN_MODE_*` or `IPVLAN_MODE_*`.
    pub mode: u32,
    /// `IPVLAN_F_*`.
    pub flags: u16,
    /// The interface below.
    pub parent: u32,
    /// The namespace it is made in.
    pub namespace: Fd,
    /// Its name there.
    pub name: &'a str,
    /// Its Ethernet address; an ipvlan has its parent's.
    pub mac: Option<[u8; 6]>,
    /// Its MTU; `None` follows the parent.
    pub mtu: Option<u32>,
}

/// Adds the creation of a macvlan or ipvlan interface.
pub fn add_stacked<Fd: AsFd>(batch: &mut Batch, wanted: &Stacked<'_, Fd>) {
    const MODE: u16 = 1;
    const IPVLAN_FLAGS: u16 = 2;
    let namespace = wanted.namespace.as_fd().as_raw_fd().cast_unsigned();
    batch.push(libc::RTM_NEWLINK, CREATE, &info(0, 0, 0), |link| {
        link.text(libc::IFLA_IFNAME, wanted.name)
            .u32(libc::IFLA_LINK, wanted.parent)
            .u32(libc::IFLA_NET_NS_FD, namespace);
        if let Some(mac) = wanted.mac {
            link.bytes(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = wanted.mtu {
            link.u32(libc::IFLA_MTU, mtu);
        }
        link.nested(libc::IFLA_LINKINFO, |kind| {
            kind.text(libc::IFLA_INFO_KIND, wanted.kind).nested(libc::IFLA_INFO_DATA, |data| {
                if wanted.kind == "ipvlan" {
                    let mode = u16::try_from(wanted.mode).unwrap_or(0);
                    data.bytes(MODE, &mode.to_ne_bytes()).bytes(IPVLAN_FLAGS, &wanted.flags.to_ne_bytes());
                } else {
                    data.u32(MODE, wanted.mode);
                }
            });
        });
    });
}

/// Adds the creation of a VLAN interface with this tag on the interface `parent`.
pub fn add_vlan(batch: &mut Batch, name: &str, parent: u32, tag: u16) {
    const IFLA_VLAN_ID: u16 = 1;
    batch.push(libc::RTM_NEWLINK, CREATE, &info(0, 0, 0), |link| {
        link.text(libc::IFLA_IFNAME, name).u32(libc::IFLA_LINK, parent).nested(libc::IFLA_LINKINFO, |kind| {
            kind.text(libc::IFLA_INFO_KIND, "vlan").nested(libc::IFLA_INFO_DATA, |vlan| {
                vlan.bytes(IFLA_VLAN_ID, &tag.to_ne_bytes());
            });
        });
    });
}

/// How a bridge treats one of its ports.
#[derive(Debug, Clone, Copy)]
pub struct BridgePort {
    /// Frames may leave through the port they came from.
    pub hairpin: bool,
    /// No frames to and from other isolated ports.
    pub isolated: bool,
}

/// Adds messages that make the interface `name` a silent bridge port (no IPv6 link-local address of its own), tag it with
/// `alias`, and switch it on.
pub fn start_bridge_port(batch: &mut Batch, name: &str, alias: &str, port: BridgePort) {
    // The kernel applies IFLA_AF_SPEC after the flags, and making a link-local address would be the first thing that
    // an interface does when it comes up: hence two messages.
    batch.push(libc::RTM_NEWLINK, 0, &info(0, 0, 0), |link| {
        link.text(libc::IFLA_IFNAME, name).nested(libc::IFLA_AF_SPEC, |families| {
            families.nested(u16::try_from(libc::AF_INET6).unwrap_or(0), |inet6| {
                inet6.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        });
    });
    batch.push(libc::RTM_NEWLINK, 0, &info(0, UP, UP), |link| {
        link.text(libc::IFLA_IFNAME, name).text(libc::IFLA_IFALIAS, alias).nested(
            libc::IFLA_LINKINFO,
            |kind| {
                kind.text(libc::IFLA_INFO_SLAVE_KIND, "bridge").nested(
                    libc::IFLA_INFO_SLAVE_DATA,
                    |settings| {
                        settings
                            .u8(IFLA_BRPORT_MODE, u8::from(port.hairpin))
                            .u8(IFLA_BRPORT_ISOLATED, u8::from(port.isolated));
                    },
                );
            },
        );
    });
}

/// Adds a message that switches an interface on.
pub fn set_up(batch: &mut Batch, target: Target<'_>) {
    on(batch, libc::RTM_NEWLINK, target, UP, |_| ());
}

/// Adds a message that moves the interface `index` into the network namespace behind `namespace`, under this name. Another
/// one of the name there is a refusal.
pub fn move_to(batch: &mut Batch, index: u32, namespace: impl AsFd, name: &str) {
    let namespace = namespace.as_fd().as_raw_fd().unsigned_abs();
    on(batch, libc::RTM_NEWLINK, Target::Index(index), 0, |link| {
        link.u32(libc::IFLA_NET_NS_FD, namespace).text(libc::IFLA_IFNAME, name);
    });
}

/// Adds a message that renames an interface, which must be switched off.
pub fn set_name(batch: &mut Batch, index: u32, name: &str) {
    on(batch, libc::RTM_NEWLINK, Target::Index(index), 0, |link| {
        link.text(libc::IFLA_IFNAME, name);
    });
}

/// Adds a message that sets an interface's MTU.
pub fn set_mtu(batch: &mut Batch, target: Target<'_>, mtu: u32) {
    on(batch, libc::RTM_NEWLINK, target, 0, |link| {
        link.u32(libc::IFLA_MTU, mtu);
    });
}

/// Adds a message that sets an interface's Ethernet address.
pub fn set_mac(batch: &mut Batch, target: Target<'_>, mac: [u8; 6]) {
    on(batch, libc::RTM_NEWLINK, target, 0, |link| {
        link.bytes(libc::IFLA_ADDRESS, &mac);
    });
}

/// Adds a message that sets an interface's free text.
pub fn set_alias(batch: &mut Batch, target: Target<'_>, alias: &str) {
    on(batch, libc::RTM_NEWLINK, target, 0, |link| {
        link.text(libc::IFLA_IFALIAS, alias);
    });
}

/// Adds the removal of an interface (and of its veth peer).
pub fn delete(batch: &mut Batch, target: Target<'_>) {
    on(batch, libc::RTM_DELLINK, target, 0, |_| ());
}

/// Adds the removal of several interfaces (and of their veth peers) at once: each removal by itself waits for grace
/// periods of the kernel, 20 ms in all. Those that are gone are passed over, but count as a refusal (`ENODEV`).
pub fn delete_all<'a>(batch: &mut Batch, names: impl Iterator<Item = &'a str>) {
    for name in names {
        on(batch, libc::RTM_NEWLINK, Target::Name(name), 0, |link| {
            link.u32(libc::IFLA_GROUP, DOOMED_GROUP);
        });
    }
    batch.push(libc::RTM_DELLINK, 0, &info(0, 0, 0), |link| {
        link.u32(libc::IFLA_GROUP, DOOMED_GROUP);
    });
}

/// The group that interfaces are put in to be removed together. Whoever else does the same under this number wants its
/// members removed, too.
const DOOMED_GROUP: u32 = 0x70_61_6c_61;

/// Looks an interface up.
pub fn get(socket: &mut Socket, target: Target<'_>) -> Result<Option<Link>, NetlinkError> {
    let mut batch = Batch::new();
    on(&mut batch, libc::RTM_GETLINK, target, 0, |link| {
        link.u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    });
    absent_is_none(socket.query(&mut batch, |_, payload| parse(payload)))
}

/// The counters of an interface.
pub fn statistics(socket: &mut Socket, target: Target<'_>) -> Result<Option<Statistics>, NetlinkError> {
    let mut batch = Batch::new();
    on(&mut batch, libc::RTM_GETLINK, target, 0, |_| ());
    absent_is_none(socket.query(&mut batch, |_, payload| parse_statistics(payload)))
}

/// Which interfaces to list. The kernel does the choosing: a host with a thousand containers has a thousand interfaces.
#[derive(Debug, Clone, Copy)]
pub enum Filter<'a> {
    /// Every one.
    All,
    /// Those of a kind: `bridge`, `veth`, …
    Kind(&'a str),
    /// The ports of a bridge.
    Master(u32),
}

/// The interfaces of the namespace.
pub fn list(socket: &mut Socket, filter: Filter<'_>) -> Result<Vec<Link>, NetlinkError> {
    let request = |batch: &mut Batch| {
        batch.push(libc::RTM_GETLINK, libc::NLM_F_DUMP, &info(0, 0, 0), |link| {
            link.u32(libc::IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            match filter {
                Filter::All => {}
                Filter::Kind(kind) => {
                    link.nested(libc::IFLA_LINKINFO, |info| {
                        info.text(libc::IFLA_INFO_KIND, kind);
                    });
                }
                Filter::Master(index) => {
                    link.u32(libc::IFLA_MASTER, index);
                }
            }
        });
    };
    let wanted = |link: &Link| match filter {
        Filter::All => true,
        Filter::Kind(kind) => link.kind == kind,
        Filter::Master(index) => link.master == Some(index),
    };
    socket.dump(request, |links: &mut Vec<Link>, _, payload| links.extend(parse(payload).filter(wanted)))
}

/// The names of a bridge's ports. It takes the kernel a tenth of the time of [`list`], which tells all about each of them.
pub fn port_names(socket: &mut Socket, bridge: u32) -> Result<Vec<String>, NetlinkError> {
    let request = |batch: &mut Batch| {
        let mut header = info(0, 0, 0);
        header[0] = FAMILY_BRIDGE;
        batch.push(libc::RTM_GETLINK, libc::NLM_F_DUMP, &header, |_| ());
    };
    socket.dump(request, |names: &mut Vec<String>, _, payload| {
        names.extend(parse(payload).filter(|link| link.master == Some(bridge)).map(|link| link.name));
    })
}

/// `AF_BRIDGE` in `ifi_family`.
const FAMILY_BRIDGE: u8 = 7;

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const UP: u32 = libc::IFF_UP.cast_unsigned();

/// `struct ifinfomsg` of any family and hardware type.
fn info(index: u32, flags: u32, change: u32) -> [u8; INFO] {
    let mut bytes = [0; INFO];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn on(
    batch: &mut Batch,
    kind: u16,
    target: Target<'_>,
    flags: u32,
    attributes: impl FnOnce(&mut Attributes<'_>),
) {
    let (index, name) = match target {
        Target::Index(index) => (index, None),
        Target::Name(name) => (0, Some(name)),
    };
    batch.push(kind, 0, &info(index, flags, flags), |link| {
        if let Some(name) = name {
            link.text(libc::IFLA_IFNAME, name);
        }
        attributes(link);
    });
}

fn absent_is_none<T>(result: Result<Option<T>, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match result {
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        other => other,
    }
}

pub(super) fn parse(payload: &[u8]) -> Option<Link> {
    let word = |range| payload.get(range).and_then(attribute::u32);
    let mut link = Link { index: word(4..8)?, up: word(8..12)? & UP != 0, ..Link::default() };
    for (kind, content) in Parsed(payload.get(INFO..)?) {
        match kind {
            libc::IFLA_IFNAME => attribute::text(content).clone_into(&mut link.name),
            libc::IFLA_IFALIAS => attribute::text(content).clone_into(&mut link.alias),
            libc::IFLA_MTU => link.mtu = attribute::u32(content).unwrap_or(0),
            libc::IFLA_MASTER => link.master = attribute::u32(content),
            libc::IFLA_ADDRESS => link.mac = content.try_into().ok(),
            libc::IFLA_LINKINFO => {
                let kind = Parsed(content).find(libc::IFLA_INFO_KIND).unwrap_or_default();
                attribute::text(kind).clone_into(&mut link.kind);
            }
            _ => {}
        }
    }
    Some(link)
}

pub(super) fn parse_statistics(payload: &[u8]) -> Option<Statistics> {
    let counters = Parsed(payload.get(INFO..)?).find(libc::IFLA_STATS64)?;
    let counter = |index: usize| {
        let bytes = counters.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    Some(Statistics {
        rx_packets: counter(0),
        tx_packets: counter(1),
        rx_bytes: counter(2),
        tx_bytes: counter(3),
        rx_errors: counter(4),
        tx_errors: counter(5),
        rx_dropped: counter(6),
        tx_dropped: counter(7),
    })
}
