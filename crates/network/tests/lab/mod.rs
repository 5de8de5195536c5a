//! A host of one's own for each test: a network namespace with an uplink to a second one that plays the LAN.
//!
//! ```text
//!   LAN namespace                    host namespace (the test's thread)
//!   198.51.100.9 eth0 ─────────────── eth0 198.51.100.1, MTU 1400      palan0 ─── containers
//! ```
//! Threads belong to namespaces, so all of a test runs in one process, side by side with other tests.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use palan_linux::namespace::{self, Kind, Kinds};
use palan_linux::netlink::link::{self, Filter, Link, Target, VethPair};
use palan_linux::netlink::route::{self, Address};
use palan_linux::netlink::{Batch, Protocol, Socket};
use palan_network::{
    AddressPlan, AttachError, Container as Owner, EndpointId, EndpointRecord, EndpointRequest,
    FirewallIntegration, HostConfig, Leave, MacAddress, Manager, NetworkError, PortBinding,
    Protocol as Transport, Restored, Subnet,
};

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const LAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const IMPATIENCE: Duration = Duration::from_millis(300);

/// Runs a test on a fresh host; `None` skips nothing: the tests need root and say so by failing.
pub(crate) fn with_host(test: impl FnOnce(&Lab) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        namespace::unshare(Kinds::NETWORK).expect("these tests need root");
        let lab = Lab::build();
        test(&lab);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The surroundings of the host.
pub(crate) struct Lab {
    pub(crate) lan: OwnedFd,
    /// What the host has before Palan comes.
    links: Vec<String>,
}

impl Lab {
    fn build() -> Self {
        let lan = std::thread::spawn(|| {
            namespace::unshare(Kinds::NETWORK).unwrap();
            up("lo");
            this_namespace()
        })
        .join()
        .unwrap();
        up("lo");
        let mut socket = Socket::open(Protocol::Route).unwrap();
        // The uplink is enslaved to nothing: index 0 as master means none.
        let mut batch = Batch::new();
        let uplink = VethPair {
            name: "eth0",
            mtu: 1400,
            master: 0,
            peer_namespace: &lan,
            peer_name: "eth0",
            peer_index: 2,
            peer_mac: [2, 0, 0, 0, 0, 9],
        };
        link::add_veth(&mut batch, &uplink);
        link::set_up(&mut batch, Target::Name("eth0"));
        socket.execute(&mut batch).unwrap();
        let index = link::get(&mut socket, Target::Name("eth0")).unwrap().unwrap().index;
        let mut batch = Batch::new();
        route::add_address(&mut batch, Address { index, address: HOST.into(), prefix: 24 });
        socket.execute(&mut batch).unwrap();
        inside(&lan, || {
            let mut batch = Batch::new();
            link::set_up(&mut batch, Target::Index(2));
            route::add_address(&mut batch, Address { index: 2, address: LAN.into(), prefix: 24 });
            Socket::open(Protocol::Route).unwrap().execute(&mut batch).unwrap();
        });
        let mut batch = Batch::new();
        route::set_default_route(&mut batch, LAN.into(), index);
        socket.execute(&mut batch).unwrap();
        Self { lan, links: link_names() }
    }

    /// Nothing but what was there before Palan came.
    pub(crate) fn assert_clean(&self) {
        let clean = eventually(|| link_names() == self.links);
        assert!(clean, "links left behind: {:?}", link_names());
        let ruleset = run("nft", &["list", "ruleset"]);
        assert!(!ruleset.contains("palan"), "rules left behind: {ruleset}");
    }
}

/// The settings of a daemon that has the default bridge and no other network. The bridge is named as by default: each
/// test has its own host.
#[derive(Debug, Clone)]
pub(crate) struct NetworkConfig {
    pub(crate) bridge: String,
    pub(crate) table: String,
    pub(crate) address: Option<Subnet>,
    pub(crate) ipv6: Option<Subnet>,
    pub(crate) inter_container: bool,
    pub(crate) firewall_integration: FirewallIntegration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::for_bridge("palan0")
    }
}

impl NetworkConfig {
    pub(crate) fn for_bridge(bridge: &str) -> Self {
        Self {
            bridge: bridge.to_owned(),
            table: HostConfig::for_bridge(bridge).table,
            address: None,
            ipv6: None,
            inter_container: true,
            firewall_integration: FirewallIntegration::Automatic,
        }
    }
}

/// The default bridge of a daemon.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) manager: Arc<Manager>,
    pub(crate) made: palan_network::NetworkConfig,
}

impl Network {
    pub(crate) fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let host = HostConfig {
            table: config.table,
            owner: config.bridge.clone(),
            firewall_integration: config.firewall_integration,
            ..HostConfig::default()
        };
        let manager = Manager::open(host)?;
        let mut bridge = palan_network::NetworkConfig::bridge("default", "bridge", &config.bridge);
        bridge.adopt = true;
        let plan = |subnet: Subnet| {
            let gateway = Some(subnet.address());
            AddressPlan { gateway, ..AddressPlan::new(subnet.network()) }
        };
        bridge.ipv4 = config.address.map(plan);
        bridge.ipv6 = config.ipv6.map(plan);
        bridge.inter_container = config.inter_container;
        let made = manager.create(bridge)?;
        Ok(Self { manager, made })
    }

    pub(crate) fn restore(&self, live: &[EndpointRecord]) -> Result<Restored, NetworkError> {
        self.manager.restore(live, self.manager.survey()?)
    }

    pub(crate) fn attach(&self, request: &AttachRequest) -> Result<Attachment, AttachError> {
        let endpoint = EndpointRequest {
            addresses: [request.address.map(Into::into), None],
            mac: request.mac,
            ports: request.ports.clone(),
            ..EndpointRequest::new("default", request.endpoint_id.clone())
        };
        let owner = Owner { id: "0123456789ab", name: "web" };
        let requests = if request.is_isolated { Vec::new() } else { vec![endpoint] };
        let mut attachment = self.manager.attach(owner, &requests)?;
        let record = attachment.records.pop();
        Ok(Attachment { netns: attachment.into_descriptor(), record })
    }

    pub(crate) fn detach(&self, record: &EndpointRecord) -> Result<(), NetworkError> {
        self.manager.detach(record, Leave::Free)
    }

    pub(crate) fn remove_all(&self) -> Result<(), NetworkError> {
        self.manager.remove_all()
    }

    pub(crate) fn on_ruleset_change(&self) -> Result<(), NetworkError> {
        self.manager.on_ruleset_change()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.manager.warnings()
    }

    pub(crate) fn gateway(&self) -> Subnet {
        let plan = self.made.ipv4.as_ref().unwrap();
        Subnet::new(plan.gateway.unwrap(), plan.subnet.prefix())
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.made.mtu.unwrap()
    }
}

/// What a container wants of the default bridge.
#[derive(Debug, Clone)]
pub(crate) struct AttachRequest {
    /// No network but its loopback.
    pub(crate) is_isolated: bool,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) ports: Vec<PortBinding>,
}

#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) netns: OwnedFd,
    record: Option<EndpointRecord>,
}

impl Attachment {
    pub(crate) fn record(&self) -> &EndpointRecord {
        self.record.as_ref().unwrap()
    }
}

pub(crate) fn open(config: NetworkConfig) -> Network {
    let network = Network::open(config).unwrap();
    let restored = network.restore(&[]).unwrap();
    assert!(restored.lost.is_empty() && restored.orphans.is_empty());
    network
}

/// A container that consists of nothing but its network.
pub(crate) struct Container {
    pub(crate) attachment: Attachment,
}

impl Container {
    pub(crate) fn address(&self) -> Ipv4Addr {
        match self.attachment.record().ipv4.unwrap().address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => panic!("not IPv4: {address}"),
        }
    }

    pub(crate) fn host_port(&self, index: usize) -> u16 {
        let mut ports = self.attachment.record().ports.iter().filter(|port| port.host_address.is_ipv4());
        ports.nth(index).unwrap().host_port
    }

    pub(crate) fn inside<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.attachment.netns, action)
    }

    /// Answers every TCP connection to `port` with `greeting` and the peer's address.
    pub(crate) fn serve_tcp(&self, port: u16, greeting: &'static str) {
        let listener = self.inside(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = stream.write_all(format!("{greeting} {}", peer.ip()).as_bytes());
            }
        });
    }

    /// Answers every datagram to `port` with `greeting`.
    pub(crate) fn serve_udp(&self, port: u16, greeting: &'static str) {
        let socket = self.inside(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(greeting.as_bytes(), peer);
            }
        });
    }
}

pub(crate) fn request(id: u8, ports: &[PortBinding]) -> AttachRequest {
    AttachRequest {
        is_isolated: false,
        endpoint_id: EndpointId::from([id; 32]),
        address: None,
        mac: None,
        ports: ports.to_vec(),
    }
}

pub(crate) fn attach(network: &Network, id: u8, ports: &[PortBinding]) -> Container {
    Container { attachment: network.attach(&request(id, ports)).unwrap() }
}

pub(crate) fn binding(
    transport: Transport,
    address: &str,
    host_port: u16,
    container_port: u16,
) -> PortBinding {
    PortBinding {
        container_port,
        protocol: transport,
        host_address: address.to_owned(),
        host_port,
        host_port_last: None,
    }
}

pub(crate) fn tcp(host_port: u16, container_port: u16) -> PortBinding {
    binding(Transport::Tcp, "", host_port, container_port)
}

/// A connection that must be possible.
pub(crate) fn connect(address: impl Into<IpAddr>, port: u16) -> TcpStream {
    TcpStream::connect_timeout(&SocketAddr::new(address.into(), port), PATIENCE).unwrap()
}

/// What a TCP server says; empty if there is none within a moment.
pub(crate) fn fetch(address: Ipv4Addr, port: u16) -> String {
    fetch_within(address, port, PATIENCE)
}

/// The same where nothing is expected.
pub(crate) fn is_closed(address: Ipv4Addr, port: u16) -> bool {
    fetch_within(address, port, IMPATIENCE).is_empty()
}

fn fetch_within(address: Ipv4Addr, port: u16, patience: Duration) -> String {
    let address = SocketAddr::V4(SocketAddrV4::new(address, port));
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) {
        stream.set_read_timeout(Some(patience)).unwrap();
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// What a UDP server answers.
pub(crate) fn ask(address: Ipv4Addr, port: u16) -> String {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    ask_from(&socket, address, port)
}

pub(crate) fn ask_from(socket: &UdpSocket, address: Ipv4Addr, port: u16) -> String {
    ask_times(socket, address, port, 60)
}

/// The same where nothing is expected.
pub(crate) fn is_unanswered(socket: &UdpSocket, address: Ipv4Addr, port: u16) -> bool {
    ask_times(socket, address, port, 3).is_empty()
}

fn ask_times(socket: &UdpSocket, address: Ipv4Addr, port: u16, times: u32) -> String {
    let mut buffer = [0; 64];
    // A question that was asked twice is answered twice.
    socket.set_nonblocking(true).unwrap();
    while socket.recv_from(&mut buffer).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(IMPATIENCE)).unwrap();
    for _ in 0..times {
        if socket.send_to(b"?", (address, port)).is_err() {
            std::thread::sleep(IMPATIENCE);
            continue;
        }
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
    String::new()
}

/// Runs `action` on a thread inside a network namespace.
pub(crate) fn inside<T: Send + 'static>(netns: &OwnedFd, action: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        namespace::join(&netns, Kind::Network).unwrap();
        action()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn this_namespace() -> OwnedFd {
    std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Runs a program in the calling thread's namespace and returns its output; it must succeed.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests look at the result with the tools an administrator has"
)]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Moves an interface of the calling thread's namespace into another one.
pub(crate) fn move_link(name: &str, netns: &OwnedFd) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(netns);
    let path = format!("/proc/{}/fd/{fd}", std::process::id());
    // `ip` takes the path of a namespace file for its name if it is absolute.
    run("ip", &["link", "set", name, "netns", &path]);
}

pub(crate) fn sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned()
}

pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    (0..300).any(|_| {
        condition() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }
    })
}

pub(crate) fn links() -> Vec<Link> {
    link::list(&mut Socket::open(Protocol::Route).unwrap(), Filter::All).unwrap()
}

fn link_names() -> Vec<String> {
    links().into_iter().map(|link| link.name).collect()
}

fn up(name: &str) {
    let mut batch = Batch::new();
    link::set_up(&mut batch, Target::Name(name));
    Socket::open(Protocol::Route).unwrap().execute(&mut batch).unwrap();
}
