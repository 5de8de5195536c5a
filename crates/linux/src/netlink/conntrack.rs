//! The kernel's table of flows: finding and forgetting UDP flows that a changed NAT rule made stale.

use std::net::IpAddr;

use rustix::io::Errno;

use super::message::{Batch, Parsed, attribute};
use super::socket::{NetlinkError, Socket};

/// `NFNL_SUBSYS_CTNETLINK`, the upper half of each message's type.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// The length of `struct nfgenmsg`.
const GENERAL: usize = 4;

// From linux/netfilter/nfnetlink_conntrack.h.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_FLAG_PROTO_NUM: u32 = 1 << 3;
const UDP: u8 = 17;

/// A UDP flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Where the first packet was sent to, before any NAT.
    pub destination: IpAddr,
    /// Its port.
    pub port: u16,
    /// Who answers, after NAT.
    pub responder: IpAddr,
    /// Attributes that name the flow to the kernel.
    identity: Vec<(u16, Vec<u8>)>,
}

/// `struct nfgenmsg` with a family.
fn general(ipv6: bool) -> [u8; GENERAL] {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    [u8::try_from(family).unwrap_or(0), 0, 0, 0]
}

/// All UDP flows of one family in the namespace.
pub fn udp_flows(socket: &mut Socket, ipv6: bool) -> Result<Vec<Flow>, NetlinkError> {
    match list(socket, ipv6, true) {
        // Linux before 5.8 knows no filter.
        Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
            list(socket, ipv6, false)
        }
        other => other,
    }
}

/// Forgets a flow; one that is gone already is no error.
pub fn delete(socket: &mut Socket, flow: &Flow) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    batch.push(DELETE, 0, &general(flow.destination.is_ipv6()), |attributes| {
        for (kind, content) in &flow.identity {
            attributes.bytes(*kind, content);
        }
    });
    match socket.execute(&mut batch) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn list(socket: &mut Socket, ipv6: bool, filtered: bool) -> Result<Vec<Flow>, NetlinkError> {
    let request = |batch: &mut Batch| {
        batch.push(GET, libc::NLM_F_DUMP, &general(ipv6), |attributes| {
            if filtered {
                attributes.nested(CTA_TUPLE_ORIG, |tuple| {
                    tuple.nested(CTA_TUPLE_PROTO, |protocol| {
                        protocol.u8(CTA_PROTO_NUM, UDP);
                    });
                });
                attributes.nested(CTA_FILTER, |filter| {
                    filter
                        .u32(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_FLAG_PROTO_NUM)
                        .u32(CTA_FILTER_REPLY_FLAGS, 0);
                });
            }
        });
    };
    socket.dump(request, |flows: &mut Vec<Flow>, _, payload| flows.extend(parse(payload)))
}

pub(super) fn parse(payload: &[u8]) -> Option<Flow> {
    let attributes = Parsed(payload.get(GENERAL..)?);
    let original = attributes.nested(CTA_TUPLE_ORIG);
    let protocol = original.nested(CTA_TUPLE_PROTO);
    if protocol.find(CTA_PROTO_NUM) != Some(&[UDP]) {
        return None;
    }
    let reply = attributes.nested(CTA_TUPLE_REPLY);
    let kept = |kind: u16, flag: u16| attributes.find(kind).map(|content| (kind | flag, content.to_vec()));
    Some(Flow {
        destination: address(original, CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        port: attribute::be16(protocol.find(CTA_PROTO_DST_PORT)?)?,
        responder: address(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        identity: [kept(CTA_TUPLE_ORIG, 0x8000), kept(CTA_ZONE, 0)].into_iter().flatten().collect(),
    })
}

/// One end of a tuple, of either family.
fn address(tuple: Parsed<'_>, ipv4: u16, ipv6: u16) -> Option<IpAddr> {
    let addresses = tuple.nested(CTA_TUPLE_IP);
    if let Some(content) = addresses.find(ipv4) {
        return attribute::ipv4(content).map(IpAddr::V4);
    }
    <[u8; 16]>::try_from(addresses.find(ipv6)?).ok().map(IpAddr::from)
}
