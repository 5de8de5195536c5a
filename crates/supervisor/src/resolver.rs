//! The container's resolver: what 127.0.0.11 answers inside of it.
//!
//! ```text
//! query by UDP ───────▶ decide ──▶ answer
//! query by TCP ──▶ Client  │
//!                          └─forward─▶ Pending: ask a server ──reply──▶ answer, with the query's own id
//!                                         ▲          └─failure, or PATIENCE passed─┐
//!                                         └──────────── the next server ───────────┘   none left ──▶ SERVFAIL
//! ```
//!
//! The sockets were made by the daemon in the container's network namespace; the servers are asked from ours, the host's. Each
//! forwarded query has a socket of its own, hence a port that nobody can guess, and a random id.
//!
//! Configuration and names are read for each query from files that the daemon replaces as a whole: so names resolve while no
//! daemon runs, and an idle resolver keeps nothing in memory.
//!
//! **Invariant:** the number of queries and clients in flight is bounded, whatever the container does.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use palan_dns::answer::{self, Decision, Transport};
use palan_dns::cache::Cache;
use palan_dns::config::Config;
use palan_dns::message::{self, Code};
use palan_dns::names::Zone;
use palan_dns::upstream;
use palan_linux::event::{Epoll, Interest};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::protocol::RESOLVER_CONFIG_NAME;
use crate::watch::{Token, Watched};

/// The host's own servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// How long a server has for its reply.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Queries that are being forwarded at a time.
const MOST_PENDING: usize = 256;
/// TCP clients at a time.
const MOST_CLIENTS: usize = 32;
/// How many datagrams are taken before others get their turn.
const AT_ONCE: usize = 32;

/// Serves one container.
#[derive(Debug)]
pub(crate) struct Resolver {
    epoll: Rc<Epoll>,
    config_path: PathBuf,
    udp: Watched,
    tcp: Watched,
    clients: Vec<Client>,
    pending: Vec<Pending>,
    next_number: u32,
    cache: Cache,
}

/// A client by TCP.
#[derive(Debug)]
struct Client {
    number: u32,
    socket: Watched,
    received: Vec<u8>,
    unsent: Vec<u8>,
    /// Queries of it that are being forwarded.
    in_flight: usize,
    last_heard: Instant,
}

/// Whom a reply goes to.
#[derive(Debug, Clone, Copy)]
enum Asker {
    Udp(SocketAddr),
    Tcp(u32),
}

/// A query that was forwarded.
#[derive(Debug)]
struct Pending {
    number: u32,
    asker: Asker,
    query: Vec<u8>,
    servers: Vec<std::net::IpAddr>,
    /// Which of the servers is being asked.
    server: usize,
    /// The id that the server sees.
    id: u16,
    socket: Watched,
    /// By TCP: what is still to be sent, and what has come.
    unsent: Vec<u8>,
    received: Vec<u8>,
    until: Instant,
}

impl Resolver {
    /// Takes over the sockets of the container's resolver.
    pub(crate) fn new(
        epoll: &Rc<Epoll>,
        run_dir: &Path,
        udp: OwnedFd,
        tcp: OwnedFd,
    ) -> rustix::io::Result<Self> {
        let mut udp = Watched::new(epoll, udp, Token::ResolverUdp);
        let mut tcp = Watched::new(epoll, tcp, Token::ResolverTcp);
        udp.set(Some(Interest::READ))?;
        tcp.set(Some(Interest::READ))?;
        Ok(Self {
            epoll: Rc::clone(epoll),
            config_path: run_dir.join(RESOLVER_CONFIG_NAME),
            udp,
            tcp,
            clients: Vec::new(),
            pending: Vec::new(),
            next_number: 0,
            cache: Cache::default(),
        })
    }

    /// Datagrams have come.
    pub(crate) fn udp_ready(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            let received = rustix::net::recvfrom(&self.udp, &mut buffer[..], RecvFlags::DONTWAIT);
            let Ok((length, _, Some(address))) = received else { return };
            let Ok(address) = SocketAddr::try_from(address) else { continue };
            let query = buffer.get(..length).unwrap_or_default();
            self.take(query, Asker::Udp(address));
        }
    }

    /// Clients by TCP have come.
    pub(crate) fn tcp_ready(&mut self) {
        for _ in 0..AT_ONCE {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&self.tcp, flags) else { return };
            if self.clients.len() >= MOST_CLIENTS {
                continue;
            }
            let number = self.number();
            let mut socket = Watched::new(&self.epoll, socket, Token::ResolverClient(number));
            if socket.set(Some(Interest::READ)).is_ok() {
                self.clients.push(Client {
                    number,
                    socket,
                    received: Vec::new(),
                    unsent: Vec::new(),
                    in_flight: 0,
                    last_heard: Instant::now(),
                });
            }
        }
    }

    /// A client by TCP has sent something, or takes more.
    pub(crate) fn client_ready(&mut self, number: u32) {
        let Some(index) = self.clients.iter().position(|client| client.number == number) else { return };
        let outcome = self.clients[index].exchange();
        match outcome {
            Ok(queries) => {
                for query in queries {
                    self.take(&query, Asker::Tcp(number));
                }
            }
            Err(_) => drop(self.clients.swap_remove(index)),
        }
    }

    /// A server has replied, or takes what it is sent.
    pub(crate) fn upstream_ready(&mut self, number: u32) {
        let Some(index) = self.pending.iter().position(|pending| pending.number == number) else { return };
        match self.pending[index].receive() {
            Ok(None) => {}
            Ok(Some(reply)) if message::is_failure(&reply) && self.pending[index].has_next() => {
                self.ask_next(index);
            }
            Ok(Some(mut reply)) => {
                let pending = self.pending.swap_remove(index);
                self.cache.keep(&pending.query, &reply, Instant::now());
                message::set_id(&mut reply, pending.client_id());
                self.reply(pending.asker, &reply);
            }
            Err(_) => self.ask_next(index),
        }
    }

    /// Gives up on what has taken too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(index) = self.pending.iter().position(|pending| pending.until <= now) {
            self.ask_next(index);
        }
        self.clients.retain(|client| client.in_flight > 0 || client.last_heard + IDLE > now);
    }

    /// Keeps nothing that is not needed.
    pub(crate) fn release_memory(&mut self) {
        self.cache.forget_old(Instant::now());
        self.pending.shrink_to_fit();
        self.clients.shrink_to_fit();
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        // One that waits for a reply is not idle; the reply has a deadline of its own.
        let idle = self.clients.iter().filter(|client| client.in_flight == 0);
        let clients = idle.map(|client| client.last_heard + IDLE);
        self.pending.iter().map(|pending| pending.until).chain(clients).min()
    }

    fn number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }

    fn take(&mut self, query: &[u8], asker: Asker) {
        let config = Config::parse(&read(&self.config_path));
        let texts: Vec<String> = config.names.iter().map(|path| read(Path::new(path))).collect();
        let zones: Vec<Zone<'_>> = texts.iter().map(|text| Zone::new(text)).collect();
        let transport = match asker {
            Asker::Udp(_) => Transport::Udp,
            Asker::Tcp(_) => Transport::Tcp,
        };
        match answer::decide(query, transport, &config, &zones) {
            Decision::Answer(reply) => self.send(asker, &reply),
            Decision::Forward => self.forward(query, asker, &config),
            Decision::Drop => {}
        }
    }

    fn forward(&mut self, query: &[u8], asker: Asker, config: &Config) {
        if let Some(reply) = self.cache.find(query, Instant::now()) {
            return self.send(asker, &reply);
        }
        let servers = if config.servers.is_empty() {
            upstream::servers(&read(Path::new(RESOLV_CONF)))
        } else {
            config.servers.clone()
        };
        if servers.is_empty() || self.pending.len() >= MOST_PENDING {
            return self.fail(query, asker);
        }
        let number = self.number();
        // The first server that can be sent anything at all.
        for (server, address) in servers.iter().enumerate() {
            if let Ok(pending) = Pending::ask(&self.epoll, number, asker, query, &servers, server, *address) {
                if let Asker::Tcp(number) = asker
                    && let Some(client) = self.clients.iter_mut().find(|client| client.number == number)
                {
                    client.in_flight += 1;
                }
                return self.pending.push(pending);
            }
        }
        self.fail(query, asker);
    }

    /// Asks the next server, or tells the client that none helps.
    fn ask_next(&mut self, index: usize) {
        let pending = self.pending.swap_remove(index);
        let Pending { number, asker, query, servers, server, .. } = pending;
        for (next, address) in servers.iter().enumerate().skip(server + 1) {
            if let Ok(pending) = Pending::ask(&self.epoll, number, asker, &query, &servers, next, *address) {
                return self.pending.push(pending);
            }
        }
        if let Some(failure) = message::failure(&query, Code::ServerFailure) {
            self.reply(asker, &failure);
        }
    }

    fn fail(&mut self, query: &[u8], asker: Asker) {
        if let Some(failure) = message::failure(query, Code::ServerFailure) {
            self.send(asker, &failure);
        }
    }

    /// Sends the reply to a query that was forwarded.
    fn reply(&mut self, asker: Asker, reply: &[u8]) {
        if let Asker::Tcp(number) = asker
            && let Some(client) = self.clients.iter_mut().find(|client| client.number == number)
        {
            client.in_flight = client.in_flight.saturating_sub(1);
        }
        self.send(asker, reply);
    }

    fn send(&mut self, asker: Asker, reply: &[u8]) {
        match asker {
            // A datagram that can't be sent is lost, as any may be.
            Asker::Udp(address) => drop(rustix::net::sendto(&self.udp, reply, SendFlags::DONTWAIT, &address)),
            Asker::Tcp(number) => {
                let Some(index) = self.clients.iter().position(|client| client.number == number) else {
                    return;
                };
                let client = &mut self.clients[index];
                client.unsent.extend(framed(reply));
                if client.flush().is_err() {
                    self.clients.swap_remove(index);
                }
            }
        }
    }
}

impl Client {
    /// Sends and receives what is possible, and gives the queries that are complete.
    fn exchange(&mut self) -> rustix::io::Result<Vec<Vec<u8>>> {
        self.flush()?;
        let mut buffer = [0; 4096];
        match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Errno::PIPE),
            Ok((length, _)) => self.received.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
        self.last_heard = Instant::now();
        let mut queries = Vec::new();
        while let Some(query) = take_framed(&mut self.received) {
            queries.push(query);
        }
        Ok(queries)
    }

    fn flush(&mut self) -> rustix::io::Result<()> {
        send_some(&self.socket, &mut self.unsent)?;
        // A client that asks and doesn't read has to wait.
        let interest = if self.unsent.is_empty() { Interest::READ } else { Interest::WRITE };
        self.socket.set(Some(interest))
    }
}

impl Pending {
    fn ask(
        epoll: &Rc<Epoll>,
        number: u32,
        asker: Asker,
        query: &[u8],
        servers: &[std::net::IpAddr],
        server: usize,
        address: std::net::IpAddr,
    ) -> rustix::io::Result<Self> {
        let is_tcp = matches!(asker, Asker::Tcp(_));
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if is_tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        match rustix::net::connect(&socket, &SocketAddr::new(address, PORT)) {
            Err(errno) if errno != Errno::INPROGRESS => return Err(errno),
            _ => {}
        }
        let mut random = [0; 2];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let id = u16::from_ne_bytes(random);
        let mut sent = query.to_vec();
        message::set_id(&mut sent, id);
        let mut socket = Watched::new(epoll, socket, Token::ResolverUpstream(number));
        let unsent = if is_tcp { framed(&sent) } else { Vec::new() };
        if is_tcp {
            socket.set(Some(Interest::WRITE))?;
        } else {
            rustix::net::send(&socket, &sent, SendFlags::DONTWAIT)?;
            socket.set(Some(Interest::READ))?;
        }
        Ok(Self {
            number,
            asker,
            query: query.to_vec(),
            servers: servers.to_vec(),
            server,
            id,
            socket,
            unsent,
            received: Vec::new(),
            until: Instant::now() + PATIENCE,
        })
    }

    fn has_next(&self) -> bool {
        self.server + 1 < self.servers.len()
    }

    fn client_id(&self) -> u16 {
        self.query.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]))
    }

    /// The reply, if it is here. One that belongs to another question is passed over.
    fn receive(&mut self) -> rustix::io::Result<Option<Vec<u8>>> {
        if !self.unsent.is_empty() {
            send_some(&self.socket, &mut self.unsent)?;
            if self.unsent.is_empty() {
                self.socket.set(Some(Interest::READ))?;
            }
            return Ok(None);
        }
        let mut buffer = [0; 8192];
        let length = match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let reply = if matches!(self.asker, Asker::Tcp(_)) {
            if length == 0 {
                return Err(Errno::PIPE);
            }
            self.received.extend_from_slice(bytes);
            take_framed(&mut self.received)
        } else {
            Some(bytes.to_vec())
        };
        Ok(reply.filter(|reply| message::is_reply_to(reply, &self.query, self.id)))
    }
}

/// A message as it goes over TCP: after its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], message].concat()
}

/// Takes the first whole message out of what has come.
fn take_framed(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [high, low] = *received.first_chunk()?;
    let end = 2 + usize::from(u16::from_be_bytes([high, low]));
    let message = received.get(2..end)?.to_vec();
    received.drain(..end);
    Some(message)
}

fn send_some(socket: impl AsFd, unsent: &mut Vec<u8>) -> rustix::io::Result<()> {
    while !unsent.is_empty() {
        match rustix::net::send(&socket, unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(length) => drop(unsent.drain(..length)),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A file's text; empty if there is none, as there is nothing better to do then.
fn read(path: &Path) -> String {
    palan_stdx::fs::read_to_string(path).unwrap_or_default()
}
