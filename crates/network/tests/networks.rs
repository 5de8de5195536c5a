//! Several networks on one host: apart from each other, both families, macvlan, sandboxes with several endpoints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lab::{HOST, IMPATIENCE, LAN, PATIENCE, fetch, inside, is_closed, run, with_host};
use palan_network::config::{GatewayMode, MacvlanMode};
use palan_network::{
    AddressPlan, Container, Driver, EndpointId, EndpointRecord, EndpointRequest, HostConfig, Leave, Manager,
    NetworkConfig, NetworkError, PortBinding, Sandbox,
};

fn manager() -> Arc<Manager> {
    let manager = Manager::open(HostConfig::default()).unwrap();
    manager.restore(&[], manager.survey().unwrap()).unwrap();
    manager
}

fn network(name: &str) -> NetworkConfig {
    let mut config = NetworkConfig::bridge(name, name, &format!("br-{name}"));
    config.ipv4 = Some(AddressPlan::automatic(false));
    config
}

fn dual(name: &str) -> NetworkConfig {
    NetworkConfig { ipv6: Some(AddressPlan::automatic(true)), ..network(name) }
}

fn plan(subnet: &str) -> AddressPlan {
    AddressPlan::new(subnet.parse().unwrap())
}

/// A container with one endpoint on each of these networks.
struct Host {
    sandbox: Sandbox,
    records: Vec<EndpointRecord>,
}

fn requests(id: u8, networks: &[&str], ports: &[PortBinding]) -> Vec<EndpointRequest> {
    let request = |(index, network): (u8, &&str)| EndpointRequest {
        ports: if index == 0 { ports.to_vec() } else { Vec::new() },
        ..EndpointRequest::new(network, EndpointId::from([id * 16 + index; 32]))
    };
    (0..).zip(networks).map(request).collect()
}

fn attach(manager: &Manager, id: u8, networks: &[&str], ports: &[PortBinding]) -> Host {
    let owner = Container { id: "0123456789ab", name: "web" };
    let attachment = manager.attach(owner, &requests(id, networks, ports)).unwrap();
    Host { sandbox: attachment.sandbox, records: attachment.records }
}

impl Host {
    fn inside<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.descriptor(), action)
    }

    fn descriptor(&self) -> std::os::fd::OwnedFd {
        self.sandbox.descriptor().try_clone_to_owned().unwrap()
    }

    fn ipv4(&self) -> Ipv4Addr {
        match self.records[0].ipv4.unwrap().address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => unreachable!(),
        }
    }

    fn ipv6(&self) -> Ipv6Addr {
        match self.records[0].ipv6.unwrap().address {
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => unreachable!(),
        }
    }

    /// Says who asks, by TCP, on every address of both families.
    fn serve(&self, port: u16) {
        let listener = self.inside(move || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let peer = peer.ip().to_canonical();
                let _ = std::io::Write::write_all(&mut stream, peer.to_string().as_bytes());
            }
        });
    }
}

fn ask(address: impl Into<IpAddr>, port: u16) -> String {
    ask_within(address, port, PATIENCE)
}

fn ask_within(address: impl Into<IpAddr>, port: u16, patience: Duration) -> String {
    let address = SocketAddr::new(address.into(), port);
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) {
        stream.set_read_timeout(Some(patience)).unwrap();
        let _ = std::io::Read::read_to_string(&mut stream, &mut text);
    }
    text
}

fn tcp(host_port: u16, container_port: u16) -> PortBinding {
    lab::tcp(host_port, container_port)
}

#[test]
fn bridges_are_apart_and_published_ports_are_not() {
    with_host(|lab| {
        let manager = manager();
        for name in ["a", "b"] {
            manager.create(network(name)).unwrap();
        }
        let one = attach(&manager, 1, &["a"], &[tcp(8080, 80)]);
        let two = attach(&manager, 2, &["b"], &[]);
        let three = attach(&manager, 3, &["a"], &[]);
        one.serve(80);
        let address = one.ipv4();
        assert!(two.inside(move || is_closed(address, 80)), "another bridge");
        assert_eq!(three.inside(move || fetch(address, 80)), three.ipv4().to_string());
        assert_eq!(two.inside(|| fetch(HOST, 8080)), two.ipv4().to_string(), "by its own address");
        assert_eq!(inside(&lab.lan, || fetch(HOST, 8080)), LAN.to_string(), "by its own address");
        let gateway = one.records[0].ipv4.unwrap().gateway.unwrap().to_string();
        assert_eq!(three.inside(|| fetch(HOST, 8080)), gateway, "a hairpin");
        assert_eq!(fetch(Ipv4Addr::LOCALHOST, 8080), gateway, "the host's loopback");
        assert!(matches!(manager.remove("a"), Err(NetworkError::Busy { .. })));
        for host in [&one, &two, &three] {
            manager.detach(&host.records[0], Leave::Free).unwrap();
        }
        manager.remove("a").unwrap();
        manager.remove("b").unwrap();
        manager.remove_all().unwrap();
        drop((one, two, three));
        lab.assert_clean();
    });
}

#[test]
fn subnets_that_overlap_run_out_or_are_taken() {
    with_host(|_| {
        let manager = manager();
        let fixed = |name: &str, subnet: &str| NetworkConfig { ipv4: Some(plan(subnet)), ..network(name) };
        manager.create(fixed("a", "10.1.0.0/16")).unwrap();
        let error = manager.create(fixed("b", "10.1.5.0/24")).unwrap_err();
        assert!(error.to_string().contains("Pool overlaps with other one on this address space"), "{error}");
        // The host routes the first pool.
        run("ip", &["route", "add", "172.17.0.0/16", "via", &LAN.to_string()]);
        let made = manager.create(network("c")).unwrap();
        assert_eq!(made.ipv4.unwrap().subnet.to_string(), "172.18.0.0/16");
        let sized = NetworkConfig { ipv4: Some(plan("0.0.0.0/28")), ..network("d") };
        assert_eq!(manager.create(sized).unwrap().ipv4.unwrap().subnet.to_string(), "172.19.0.0/28");
        run("ip", &["route", "add", "172.16.0.0/12", "via", &LAN.to_string()]);
        run("ip", &["route", "add", "192.168.0.0/16", "via", &LAN.to_string()]);
        let error = manager.create(network("e")).unwrap_err();
        assert!(error.to_string().starts_with("all predefined address pools have been fully subnetted"));
        assert!(
            !lab::links().iter().any(|link| link.name == "br-b" || link.name == "br-e"),
            "nothing is left"
        );
        manager.remove_all().unwrap();
    });
}

#[test]
fn both_families() {
    with_host(|lab| {
        inside(&lab.lan, || run("ip", &["-6", "address", "add", "2001:db8::9/64", "dev", "eth0", "nodad"]));
        run("ip", &["-6", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad"]);
        let lan: Ipv6Addr = "2001:db8::9".parse().unwrap();
        let host: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let manager = manager();
        let made = manager.create(dual("a")).unwrap();
        let subnet = made.ipv6.as_ref().unwrap().subnet;
        assert!(subnet.to_string().starts_with("fd") && subnet.prefix() == 64, "{subnet}");
        manager.create(dual("b")).unwrap();
        let one = attach(&manager, 1, &["a"], &[tcp(8080, 80)]);
        let two = attach(&manager, 2, &["b"], &[]);
        let three = attach(&manager, 3, &["a"], &[]);
        one.serve(80);
        let addresses: Vec<String> =
            one.records[0].ports.iter().map(|port| port.host_address.to_string()).collect();
        assert_eq!(addresses, ["0.0.0.0", "::"]);
        let address = one.ipv6();
        assert_eq!(three.inside(move || ask(address, 80)), three.ipv6().to_string());
        assert_eq!(two.inside(move || ask_within(address, 80, IMPATIENCE)), "", "another bridge");
        let gateway = one.records[0].ipv6.unwrap().gateway.unwrap().to_string();
        assert_eq!(ask(address, 80), gateway, "from the host");
        assert_eq!(inside(&lab.lan, move || ask(host, 8080)), lan.to_string(), "by its own address");
        assert_eq!(two.inside(move || ask(host, 8080)), two.ipv6().to_string(), "by its own address");
        assert_eq!(three.inside(move || ask(host, 8080)), gateway, "a hairpin");
        // The kernel routes no answer back to ::1 from another interface than lo: that is for the supervisor to relay.
        let [relay] = <[palan_network::Relay; 1]>::try_from(manager.relays(&one.records[0])).unwrap();
        assert_eq!(relay.target, (address, 80).into());
        let listener = TcpListener::from(relay.socket.unwrap());
        let client = lab::connect(Ipv6Addr::LOCALHOST, 8080);
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        // NAT66: the way out shows the host's address.
        let listener = inside(&lab.lan, move || TcpListener::bind((lan, 80)).unwrap());
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = std::io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes());
            }
        });
        assert_eq!(one.inside(move || ask(lan, 80)), host.to_string());
        // A flush is repaired for both families.
        run("nft", &["flush", "ruleset"]);
        assert!(lab::eventually(|| run("nft", &["list", "ruleset"]).contains("table ip6 palan")));
        assert_eq!(inside(&lab.lan, move || ask(host, 8080)), lan.to_string());
        manager.remove_all().unwrap();
        drop((one, two, three));
        lab.assert_clean();
    });
}

#[test]
fn several_endpoints_and_their_gateways() {
    with_host(|_| {
        let manager = manager();
        for name in ["a", "b", "c"] {
            manager.create(network(name)).unwrap();
        }
        manager.create(NetworkConfig { internal: true, ..network("i") }).unwrap();
        let mut host = attach(&manager, 1, &["i", "a", "b"], &[]);
        let routes = |host: &Host| host.inside(|| run("ip", &["route"]));
        let gateway = |record: &EndpointRecord| record.ipv4.unwrap().gateway.unwrap().to_string();
        assert_eq!(host.records[0].ipv4.unwrap().gateway, None, "internal");
        let via =
            |record: &EndpointRecord| format!("default via {} dev {}", gateway(record), record.interface);
        assert!(routes(&host).starts_with(&via(&host.records[1])), "{}", routes(&host));

        let owner = Container { id: "0123456789ab", name: "web" };
        let mut wish = EndpointRequest::new("c", EndpointId::from([0x77; 32]));
        wish.gateway_priority = 10;
        wish.interface = Some("wan0".into());
        wish.sysctls = vec![("net/ipv4/conf/wan0/log_martians".into(), "1".into())];
        let added = manager.connect(&mut host.sandbox, owner, &wish).unwrap();
        let mut all: Vec<EndpointRecord> = host.records.clone();
        all.push(added.clone());
        Manager::set_gateways(&mut host.sandbox, &all.iter().collect::<Vec<_>>()).unwrap();
        assert!(routes(&host).starts_with(&via(&added)), "{}", routes(&host));
        assert!(added.interface == "wan0");
        assert_eq!(host.inside(|| lab::sysctl("ipv4/conf/wan0/log_martians")), "1");

        manager.disconnect(&mut host.sandbox, &added).unwrap();
        Manager::set_gateways(&mut host.sandbox, &host.records.iter().collect::<Vec<_>>()).unwrap();
        assert!(routes(&host).starts_with(&via(&host.records[1])));
        assert!(!host.inside(|| run("ip", &["link"])).contains("wan0"));
        let only = [&host.records[0]];
        Manager::set_gateways(&mut host.sandbox, &only).unwrap();
        assert!(!routes(&host).contains("default"), "an internal network leads nowhere");
        manager.remove_all().unwrap();
    });
}

#[test]
fn modes_of_the_gateway() {
    with_host(|lab| {
        let manager = manager();
        let mode = |name: &str, mode| NetworkConfig { gateway_mode: mode, ..network(name) };
        manager.create(mode("r", GatewayMode::Routed)).unwrap();
        manager.create(mode("u", GatewayMode::NatUnprotected)).unwrap();
        let routed = attach(&manager, 1, &["r"], &[tcp(0, 80)]);
        let open = attach(&manager, 2, &["u"], &[]);
        for host in [&routed, &open] {
            host.serve(80);
            host.serve(81);
        }
        let (routed_address, open_address) = (routed.ipv4(), open.ipv4());
        inside(&lab.lan, move || {
            run("ip", &["route", "add", "172.16.0.0/12", "via", &HOST.to_string()]);
            assert_eq!(fetch(routed_address, 80), LAN.to_string(), "published, by its own address");
            assert!(is_closed(routed_address, 81));
            assert_eq!(fetch(open_address, 81), LAN.to_string());
        });
        lab_serves(lab);
        assert_eq!(routed.inside(|| fetch(LAN, 90)), routed_address.to_string(), "no NAT");
        let isolated = NetworkConfig { internal: true, ..mode("s", GatewayMode::Isolated) };
        manager.create(isolated).unwrap();
        assert!(!run("ip", &["-4", "address", "show", "br-s"]).contains("inet "));
        manager.remove_all().unwrap();
    });
}

fn lab_serves(lab: &lab::Lab) {
    let listener = inside(&lab.lan, || TcpListener::bind((LAN, 90)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = std::io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes());
        }
    });
}

#[test]
fn macvlan_on_the_lan() {
    with_host(|lab| {
        let manager = manager();
        let parent = Some("eth0".to_owned());
        let driver = Driver::Macvlan { parent, mode: MacvlanMode::Bridge };
        let mut config = NetworkConfig { driver, ipv4: Some(plan("198.51.100.0/24")), ..network("m") };
        config.ipv4.as_mut().unwrap().gateway = Some(LAN.into());
        config.ipv4.as_mut().unwrap().range = Some("198.51.100.64/26".parse().unwrap());
        manager.create(config).unwrap();
        let host = attach(&manager, 1, &["m"], &[tcp(8080, 80)]);
        assert!(host.records[0].ports.is_empty(), "as in Docker");
        host.serve(80);
        let address = host.ipv4();
        assert_eq!(inside(&lab.lan, move || fetch(address, 80)), LAN.to_string());
        manager.detach(&host.records[0], Leave::Free).unwrap();
        drop(host);
        manager.remove("m").unwrap();

        // Without a parent, containers among themselves; a VLAN is made and removed.
        let own = Driver::Macvlan { parent: None, mode: MacvlanMode::Bridge };
        manager.create(NetworkConfig { driver: own, internal: true, ..network("o") }).unwrap();
        let (one, two) = (attach(&manager, 2, &["o"], &[]), attach(&manager, 3, &["o"], &[]));
        one.serve(80);
        let address = one.ipv4();
        assert_eq!(two.inside(move || fetch(address, 80)), two.ipv4().to_string());
        let vlan = Driver::Macvlan { parent: Some("eth0.10".into()), mode: MacvlanMode::Bridge };
        match manager.create(NetworkConfig { driver: vlan, ..network("v") }) {
            Ok(_) => {
                assert!(lab::links().iter().any(|link| link.name == "eth0.10" && link.kind == "vlan"));
                manager.remove("v").unwrap();
            }
            // A kernel without VLANs.
            Err(error) => {
                let text = palan_stdx::error_chain::to_string(&error);
                assert!(text.starts_with("cannot create the interface eth0.10: "), "{text}");
            }
        }
        assert!(!lab::links().iter().any(|link| link.name == "eth0.10"));
        let nowhere = Driver::Macvlan { parent: Some("nowhere0".into()), mode: MacvlanMode::Bridge };
        let error = manager.create(NetworkConfig { driver: nowhere, ..network("x") }).unwrap_err();
        assert!(matches!(error, NetworkError::NoParent { .. }), "{error}");
        manager.remove_all().unwrap();
        drop((one, two));
        lab.assert_clean();
    });
}

#[test]
fn networks_come_back_after_a_loss_of_all_links() {
    with_host(|_| {
        let manager = manager();
        let made = manager.create(dual("a")).unwrap();
        manager.create(network("z")).unwrap();
        let host = attach(&manager, 1, &["a"], &[]);
        let lease: Vec<IpAddr> = host.records[0].addresses().collect();
        drop((host, manager));
        run("ip", &["link", "delete", "br-a"]);
        run("nft", &["flush", "ruleset"]);
        let manager = Manager::open(HostConfig::default()).unwrap();
        assert_eq!(manager.create(made.clone()).unwrap(), made);
        manager.rest("a", &lease);
        // The daemon was killed before the other network was recorded.
        assert_eq!(manager.restore(&[], manager.survey().unwrap()).unwrap().orphans, ["br-z"]);
        assert!(!lab::links().iter().any(|link| link.name == "br-z"));
        let other = attach(&manager, 2, &["a"], &[]);
        assert!(
            !other.records[0].addresses().any(|address| lease.contains(&address)),
            "kept for its container"
        );
        let owner = Container { id: "0123456789ab", name: "web" };
        let mut again = EndpointRequest::new("a", EndpointId::from([9; 32]));
        again.preferred = [Some(lease[0]), Some(lease[1])];
        let back = manager.attach(owner, &[again]).unwrap();
        assert_eq!(back.records[0].addresses().collect::<Vec<_>>(), lease);
        manager.remove_all().unwrap();
    });
}
