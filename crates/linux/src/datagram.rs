//! Datagrams over IPv6 with the local address that each was sent to (ipv6(7), `IPV6_PKTINFO`).
//!
//! A socket that is bound to every address of the host answers by whichever address the routing prefers. A client takes an
//! answer only from the address that it has asked, so whoever serves several addresses by one socket must know and say which.

use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// An address of the host and the index of the interface that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: Ipv6Addr,
    /// The interface's index. It counts for link-local addresses only.
    pub interface: u32,
}

/// A datagram that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// How many bytes of the buffer it fills; what had no room is lost.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddrV6,
    /// Where to.
    pub to: Local,
}

/// Room for one `in6_pktinfo` with its header, aligned as a header must be.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// How much of it one message takes.
fn control_length() -> usize {
    // SAFETY: CMSG_SPACE only computes with its argument.
    let length = unsafe { libc::CMSG_SPACE(length_of::<libc::in6_pktinfo>()) };
    usize::try_from(length).unwrap_or(usize::MAX).min(size_of::<Control>())
}

/// From now on [`receive`] can tell where datagrams were sent to.
pub fn tell_destinations(socket: impl AsFd) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is a valid int whose size is given; the descriptor lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVPKTINFO,
            (&raw const on).cast(),
            length_of::<libc::c_int>(),
        )
    };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

/// Takes the next datagram without waiting; `EAGAIN`: there is none.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Arrival> {
    let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = empty_header();
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = length_of::<libc::sockaddr_in6>();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = control_length();
    // SAFETY: every pointer of the header leads to a live object of the size that is given with it.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| last_error())?;
    // SAFETY: it was zeroed, which is a valid value, and the kernel has written an address over that.
    let name = unsafe { name.assume_init() };
    if i32::from(name.sin6_family) != libc::AF_INET6 {
        return Err(Errno::AFNOSUPPORT);
    }
    let from = SocketAddrV6::new(
        Ipv6Addr::from(name.sin6_addr.s6_addr),
        u16::from_be(name.sin6_port),
        0,
        name.sin6_scope_id,
    );
    let mut to = Local { address: Ipv6Addr::UNSPECIFIED, interface: 0 };
    // SAFETY: the header is as recvmsg has left it, its control buffer is alive.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give pointers to whole headers inside of the control buffer, or null.
        let kind = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
        if kind == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
            // SAFETY: a message of this kind holds an in6_pktinfo; it may lie unaligned.
            let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned() };
            to = Local { address: Ipv6Addr::from(info.ipi6_addr.s6_addr), interface: info.ipi6_ifindex };
        }
        // SAFETY: as above; `message` came from the same header.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Ok(Arrival { length, from, to })
}

/// Sends a datagram by the address `from`, without waiting.
pub fn send(socket: impl AsFd, bytes: &[u8], to: SocketAddrV6, from: Local) -> Result<()> {
    let mut name = libc::sockaddr_in6 {
        sin6_family: libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default(),
        sin6_port: to.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
        sin6_scope_id: to.scope_id(),
    };
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = empty_header();
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = length_of::<libc::sockaddr_in6>();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = control_length();
    let local_only = from.address.is_unicast_link_local();
    let info = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: from.address.octets() },
        ipi6_ifindex: if local_only { from.interface } else { 0 },
    };
    // SAFETY: the control buffer is aligned and large enough for one header with its data, which CMSG_FIRSTHDR leads to; the
    // data may lie unaligned.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        (*message).cmsg_level = libc::IPPROTO_IPV6;
        (*message).cmsg_type = libc::IPV6_PKTINFO;
        (*message).cmsg_len = libc::CMSG_LEN(length_of::<libc::in6_pktinfo>()) as _;
        libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().write_unaligned(info);
    }
    // SAFETY: every pointer of the header leads to a live object of the size that is given with it; nothing is written.
    let sent = unsafe {
        libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(last_error()) } else { Ok(()) }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: null pointers and zero lengths are a valid message header.
    unsafe { std::mem::zeroed() }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("[::]:0").unwrap();
        tell_destinations(&server).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(&server, &mut buffer), Err(Errno::AGAIN));
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.connect((Ipv6Addr::LOCALHOST, server.local_addr().unwrap().port())).unwrap();
        client.send(b"ping").unwrap();
        let arrival = receive(&server, &mut buffer).unwrap();
        assert_eq!((arrival.length, arrival.to.address), (4, Ipv6Addr::LOCALHOST));
        assert_eq!(std::net::SocketAddr::from(arrival.from), client.local_addr().unwrap());
        send(&server, b"pong!", arrival.from, arrival.to).unwrap();
        // A connected socket takes nothing from another address.
        assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        let stranger = Local { address: "2001:db8::1".parse().unwrap(), interface: 0 };
        assert!(
            send(&server, b"pong!", arrival.from, stranger).is_err(),
            "an address that is not the host's"
        );
    }
}
