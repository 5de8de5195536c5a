//! Unix sockets: passing file descriptors, asking for the peer's credentials, and addresses relative to a
//! directory handle.
//!
//! A descriptor travels with a byte of the stream (unix(7), `SCM_RIGHTS`): it arrives with the read that consumes the
//! first byte of the send it was given to. Descriptors therefore keep their order among themselves and against the
//! bytes, and a receiver that frames its messages may collect them in a queue.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The most descriptors that one send carries; the kernel's limit is 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 64;

const CONTROL_SIZE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Who is at the other end of a unix socket, as it was when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The process id in our pid namespace; 0 if it has none there.
    pub pid: i32,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

/// Makes a connected pair of unix stream sockets, both close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Makes a connected pair of unix sockets that keep messages apart (`SOCK_SEQPACKET`), both close-on-exec.
pub fn pair_of_packets() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends `bytes` with `descriptors` attached to the first of them; returns how many bytes were taken.
///
/// When it returns, the descriptors are on their way even if fewer bytes than asked were taken, unless it fails.
/// `descriptors` needs at least one byte to travel with.
pub fn send_with_descriptors(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS || (bytes.is_empty() && !descriptors.is_empty()) {
        return Err(Errno::INVAL);
    }
    let mut space = [MaybeUninit::uninit(); CONTROL_SIZE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// Receives into `buffer`; descriptors that came along are appended to `descriptors`, close-on-exec. 0 is the end.
///
/// Fails with `EMSGSIZE` if descriptors had to be dropped because there were more than [`MAX_DESCRIPTORS`], or because
/// the process has no room for them: the stream can't be trusted from there on.
pub fn receive_with_descriptors(
    socket: impl AsFd,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SIZE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok(received.bytes)
}

/// The peer's credentials (`SO_PEERCRED`).
pub fn peer_credentials(socket: impl AsFd) -> Result<Credentials> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Credentials {
        pid: rustix::process::Pid::as_raw(Some(credentials.pid)),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}

/// Binds and listens on `name` in `directory`, non-blocking and close-on-exec. Whatever stood there is unlinked first.
///
/// The address goes through `/proc/self/fd`, since `sun_path` has 108 bytes and a run root may be deeper than that.
/// The socket file gets `mode` before anybody can connect: a socket that is bound but not listening refuses.
pub fn listen_at(directory: impl AsFd, name: &str, mode: u32) -> Result<OwnedFd> {
    let directory = directory.as_fd();
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    rustix::net::bind(&socket, &address_at(directory, name)?)?;
    rustix::fs::chmodat(directory, name, mode.into(), rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Connects to the socket `name` in `directory`; the result is close-on-exec and blocking.
pub fn connect_at(directory: impl AsFd, name: &str) -> Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address_at(directory.as_fd(), name)?)?;
    Ok(socket)
}

/// Accepts one connection, non-blocking and close-on-exec.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

fn address_at(directory: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Memory that what was sent takes until the peer reads it, 0 once it has read all (`SIOCOUTQ`, as unix(7) has it; for TCP, tcp(7), what
/// the peer has not acknowledged).
pub fn unread_by_peer(socket: impl AsFd) -> Result<u32> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the request writes one int to where the pointer leads, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(u32::try_from(unread).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes() {
        let (left, right) = pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(send_with_descriptors(&left, b"hello", &[writer.as_fd()]).unwrap(), 5);
        drop(writer);
        let mut buffer = [0; 16];
        let mut descriptors = Vec::new();
        assert_eq!(receive_with_descriptors(&right, &mut buffer, &mut descriptors).unwrap(), 5);
        assert_eq!(descriptors.len(), 1);
        std::fs::File::from(descriptors.remove(0)).write_all(b"x").unwrap();
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn what_the_peer_has_not_read_is_known() {
        let (left, right) = pair().unwrap();
        assert_eq!(unread_by_peer(&left).unwrap(), 0);
        rustix::io::write(&left, b"head").unwrap();
        assert!(unread_by_peer(&left).unwrap() > 0);
        rustix::io::read(&right, &mut [0; 16]).unwrap();
        assert_eq!(unread_by_peer(&left).unwrap(), 0);
    }

    #[test]
    fn descriptors_without_a_byte_are_refused() {
        let (left, _right) = pair().unwrap();
        assert_eq!(send_with_descriptors(&left, b"", &[left.as_fd()]).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn a_socket_in_a_deep_directory_can_be_reached() {
        let mut path = std::env::temp_dir();
        path.push(format!("palan-socket-{}-{}", std::process::id(), "d".repeat(120)));
        std::fs::create_dir_all(&path).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        let listener = listen_at(&directory, "s", 0o600).unwrap();
        let client = connect_at(&directory, "s").unwrap();
        let server = accept(&listener).unwrap();
        assert_eq!(peer_credentials(&server).unwrap().uid, rustix::process::geteuid().as_raw());
        assert_eq!(rustix::io::write(&client, b"x").unwrap(), 1);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
