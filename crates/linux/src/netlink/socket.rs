//! A netlink socket: sends batches, collects acknowledgements, reads dumps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Batch, HEADER, Parsed, attribute};

/// The attributes of an error message, `NLMSGERR_ATTR_*`.
const ERROR_TEXT: u16 = 1;
const ERROR_OFFSET: u16 = 2;
/// Large enough for what the kernel puts in one dump message (it looks at the buffer offered, up to 32 KiB).
const BUFFER: usize = 32 * 1024;
/// How often a dump is repeated when the objects changed while it ran.
const DUMP_ATTEMPTS: usize = 8;

/// The kernel's subsystems that are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nftables and conntrack.
    Netfilter,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a message.
    #[error("{}{}", io::Error::from(*errno), explain(explanation))]
    Refused {
        /// Which message of the batch, counted from 0.
        message: usize,
        /// The reason.
        errno: Errno,
        /// The reason in the kernel's words, where it gave some.
        explanation: Option<String>,
    },
    /// The socket itself failed.
    #[error("netlink socket: {step}")]
    Socket {
        /// The call that failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("the kernel's netlink answer is malformed")]
    Malformed,
    /// The objects changed all the time while they were read.
    #[error("the kernel's objects changed during each of {DUMP_ATTEMPTS} attempts to list them")]
    Unstable,
}

fn explain(explanation: &Option<String>) -> String {
    explanation.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

impl NetlinkError {
    /// The kernel's reason, if it refused a message.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether notifications were lost because nobody read them in time.
    #[must_use]
    pub fn is_overrun(&self) -> bool {
        matches!(self, Self::Socket { source, .. } if source.raw_os_error() == Some(libc::ENOBUFS))
    }
}

fn socket_error(step: &'static str) -> impl Fn(Errno) -> NetlinkError {
    move |errno| NetlinkError::Socket { step, source: errno.into() }
}

/// A netlink socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        Self::open_with(protocol, None)
    }

    /// Opens a socket that receives the notifications of a multicast group, for [`Socket::receive`]. It never blocks.
    pub fn listen(protocol: Protocol, group: u32) -> Result<Self, NetlinkError> {
        Self::open_with(protocol, Some(group))
    }

    fn open_with(protocol: Protocol, group: Option<u32>) -> Result<Self, NetlinkError> {
        let mut flags = SocketFlags::CLOEXEC;
        flags.set(SocketFlags::NONBLOCK, group.is_some());
        let protocol = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .map_err(socket_error("socket"))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(socket_error("bind"))?;
        let address = rustix::net::getsockname(&fd).map_err(socket_error("getsockname"))?;
        let port = SocketAddrNetlink::try_from(address).map_err(socket_error("getsockname"))?.pid();
        // Both exist since Linux 4.12; without them errors only lack their explanation.
        let _ = set_option(&fd, libc::NETLINK_EXT_ACK, 1);
        let _ = set_option(&fd, libc::NETLINK_CAP_ACK, 1);
        if let Some(group) = group {
            set_option(&fd, libc::NETLINK_ADD_MEMBERSHIP, group).map_err(socket_error("join the group"))?;
        }
        Ok(Self { fd, port, sequence: 0, buffer: Vec::new() })
    }

    /// The port that the kernel gave the socket; notifications of changes made through it carry the number.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends the messages and waits until the kernel has handled the last of them. The first refusal is the error.
    pub fn execute(&mut self, batch: &mut Batch) -> Result<(), NetlinkError> {
        let last = batch.count().checked_sub(1);
        self.execute_acknowledging(batch, last)
    }

    /// The same, with the acknowledgement asked of another message than the last (a transaction's last is its end mark).
    pub(super) fn execute_acknowledging(
        &mut self,
        batch: &mut Batch,
        acknowledged: Option<usize>,
    ) -> Result<(), NetlinkError> {
        let Some(acknowledged) = acknowledged else { return Ok(()) };
        let first = self.send(batch, Some(acknowledged))?;
        let awaited = first.wrapping_add(u32::try_from(acknowledged).unwrap_or(0));
        let mut refusal = None;
        let mut settled = false;
        while !settled {
            // After a refusal everything else has arrived too; the acknowledgement may be missing altogether.
            let flags = if refusal.is_some() { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
            let Some(length) = self.fill(flags)? else { break };
            for message in Messages(&self.buffer[..length]) {
                if message.kind != libc::NLMSG_ERROR {
                    continue;
                }
                let index = message.sequence.wrapping_sub(first) as usize;
                if index >= batch.count() {
                    continue;
                }
                settled |= message.sequence == awaited;
                if let Some(error) = message.refusal(index) {
                    refusal.get_or_insert(error);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends one request and gives its answer's type, fixed part and attributes to `read`.
    pub fn query<T>(
        &mut self,
        batch: &mut Batch,
        read: impl FnOnce(u16, &[u8]) -> T,
    ) -> Result<T, NetlinkError> {
        let first = self.send(batch, None)?;
        loop {
            let Some(length) = self.fill(RecvFlags::empty())? else { return Err(NetlinkError::Malformed) };
            let answer = Messages(&self.buffer[..length]).find(|message| message.sequence == first);
            let Some(message) = answer else { continue };
            if message.kind == libc::NLMSG_ERROR {
                return Err(message.refusal(0).unwrap_or(NetlinkError::Malformed));
            }
            return Ok(read(message.type_number(), message.payload));
        }
    }

    /// Sends a request with `NLM_F_DUMP` built by `request`, and gives the type and payload of each answer to `read`. When the
    /// kernel reports that the objects changed meanwhile, `restart` is called and everything is read again.
    pub fn dump<T: Default>(
        &mut self,
        request: impl Fn(&mut Batch),
        mut read: impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<T, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut batch = Batch::new();
            request(&mut batch);
            let mut result = T::default();
            if self.dump_once(&mut batch, &mut result, &mut read)? {
                return Ok(result);
            }
        }
        Err(NetlinkError::Unstable)
    }

    /// One attempt; false when the objects changed while they were read.
    fn dump_once<T>(
        &mut self,
        batch: &mut Batch,
        result: &mut T,
        read: &mut impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        let first = self.send(batch, None)?;
        let mut consistent = true;
        loop {
            let Some(length) = self.fill(RecvFlags::empty())? else { return Err(NetlinkError::Malformed) };
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != first {
                    continue;
                }
                consistent &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match message.kind {
                    libc::NLMSG_ERROR => return Err(message.refusal(0).unwrap_or(NetlinkError::Malformed)),
                    libc::NLMSG_DONE => return message.done().map(|()| consistent),
                    _ => read(result, message.type_number(), message.payload),
                }
            }
        }
    }

    /// Reads what has arrived on a listening socket: type, sender's port and payload of each message. `Ok(false)` when there
    /// was nothing; an overrun (`ENOBUFS`) is an error of its own kind, as notifications are then lost.
    pub fn receive(&mut self, mut read: impl FnMut(u16, u32, &[u8])) -> Result<bool, NetlinkError> {
        let Some(length) = self.fill(RecvFlags::DONTWAIT)? else { return Ok(false) };
        for message in Messages(&self.buffer[..length]) {
            read(message.type_number(), message.port, message.payload);
        }
        Ok(true)
    }

    fn send(&mut self, batch: &mut Batch, acknowledged: Option<usize>) -> Result<u32, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let (bytes, sequences) = batch.seal(first, acknowledged);
        self.sequence = *sequences.end();
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))
            .map_err(socket_error("send"))?;
        Ok(first)
    }

    /// Receives one datagram into the buffer; `None` when there is none and `flags` say not to wait.
    fn fill(&mut self, flags: RecvFlags) -> Result<Option<usize>, NetlinkError> {
        self.buffer.resize(BUFFER, 0);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.fd, &mut self.buffer[..], flags | RecvFlags::TRUNC)
        });
        match received {
            Ok((_, length)) if length > BUFFER => Err(NetlinkError::Malformed),
            Ok((_, length)) => Ok(Some(length)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(socket_error("receive")(errno)),
        }
    }
}

/// The kernel's messages in one datagram.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: i32,
    flags: u16,
    sequence: u32,
    port: u32,
    payload: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let field = |range| self.0.get(range).and_then(attribute::u32);
        let length = usize::try_from(field(0..4)?).ok()?;
        let payload = self.0.get(HEADER..length)?;
        let [kind, flags] = [[self.0[4], self.0[5]], [self.0[6], self.0[7]]].map(u16::from_ne_bytes);
        let message =
            Message { kind: kind.into(), flags, sequence: field(8..12)?, port: field(12..16)?, payload };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

impl Message<'_> {
    fn type_number(&self) -> u16 {
        u16::try_from(self.kind).unwrap_or(0)
    }

    /// What an `NLMSG_ERROR` message says; `None` for an acknowledgement.
    fn refusal(&self, index: usize) -> Option<NetlinkError> {
        let code = self.payload.get(..4).and_then(attribute::u32)?.cast_signed();
        if code == 0 {
            return None;
        }
        // The attributes come after the refused message's header, which NETLINK_CAP_ACK cuts the copy down to.
        let capped = i32::from(self.flags) & libc::NLM_F_CAPPED != 0;
        let copied = match self.payload.get(4..8).and_then(attribute::u32) {
            Some(length) if !capped => usize::try_from(length).unwrap_or(0).next_multiple_of(4),
            _ => HEADER,
        };
        let explained = i32::from(self.flags) & libc::NLM_F_ACK_TLVS != 0;
        let attributes = self.payload.get(4 + copied..).filter(|_| explained).unwrap_or_default();
        Some(refused(index, code, attributes))
    }

    /// What an `NLMSG_DONE` message says: a dump can fail in its middle.
    fn done(&self) -> Result<(), NetlinkError> {
        match self.payload.get(..4).and_then(attribute::u32).map(u32::cast_signed) {
            Some(code) if code < 0 => Err(refused(0, code, &self.payload[4..])),
            _ => Ok(()),
        }
    }
}

/// Reads every message of a datagram, as the fuzz targets do.
#[cfg(feature = "fuzz")]
pub(super) fn read_datagram(bytes: &[u8]) {
    for message in Messages(bytes) {
        message.type_number();
        let _ = (message.refusal(0), message.done());
    }
}

fn refused(message: usize, code: i32, attributes: &[u8]) -> NetlinkError {
    let attributes = Parsed(attributes);
    let text = attributes.find(ERROR_TEXT).map(attribute::text);
    let offset = attributes.find(ERROR_OFFSET).and_then(attribute::u32);
    let explanation = match (text, offset) {
        (Some(text), _) => Some(text.to_owned()),
        (None, Some(offset)) => Some(format!("the attribute at byte {offset} of message {message}")),
        (None, None) => None,
    };
    // A number that is none of the kernel's would be a mistake of its own; rustix takes no other.
    let number = code.checked_neg().filter(|number| (1..4096).contains(number)).unwrap_or(libc::EPROTO);
    NetlinkError::Refused { message, errno: Errno::from_raw_os_error(number), explanation }
}

/// `setsockopt(2)` at the level `SOL_NETLINK`, which rustix lacks.
fn set_option(fd: &OwnedFd, option: i32, value: u32) -> Result<(), Errno> {
    const LENGTH: libc::socklen_t = 4;
    // SAFETY: the pointer and the length describe `value`, which lives until the call returns; the kernel only reads.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), LENGTH)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_with_any_number_is_one() {
        for (code, expected) in [
            (-17, Errno::EXIST),
            (17, Errno::PROTO),
            (0, Errno::PROTO),
            (i32::MIN, Errno::PROTO),
            (i32::MAX, Errno::PROTO),
            (-4096, Errno::PROTO),
        ] {
            assert_eq!(refused(0, code, &[]).errno(), Some(expected), "{code}");
        }
    }
}
