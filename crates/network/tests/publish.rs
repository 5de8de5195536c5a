//! Published ports: who reaches them, who must not, and what happens on conflicts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod lab;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use lab::{
    HOST, LAN, Network, NetworkConfig, ask, ask_from, attach, binding, fetch, inside, is_closed,
    is_unanswered, open, request, run, sysctl, tcp, with_host,
};
use palan_network::{PortBinding, Protocol};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_tcp_port_is_reached_from_everywhere() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        let peer = attach(&network, 2, &[]);
        web.serve_tcp(80, "web");
        assert_eq!(fetch(HOST, 8080), format!("web {HOST}"), "from the host by its address");
        assert_eq!(fetch(LOOPBACK, 8080), "web 172.17.0.1", "from the host by its loopback");
        assert_eq!(inside(&lab.lan, || fetch(HOST, 8080)), format!("web {LAN}"), "from the LAN");
        assert_eq!(peer.inside(|| fetch(HOST, 8080)), "web 172.17.0.1", "from another container");
        assert_eq!(web.inside(|| fetch(HOST, 8080)), "web 172.17.0.1", "from itself");
        assert_eq!(sysctl("ipv4/conf/palan0/route_localnet"), "1");
        network.detach(web.attachment.record()).unwrap();
        assert_eq!(sysctl("ipv4/conf/palan0/route_localnet"), "0");
        assert!(is_closed(HOST, 8080));
        network.remove_all().unwrap();
        drop((web, peer));
        lab.assert_clean();
    });
}

#[test]
fn the_same_where_bridged_packets_skip_the_firewall() {
    with_host(|_| {
        std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").unwrap();
        let network = open(NetworkConfig { inter_container: false, ..NetworkConfig::default() });
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        let peer = attach(&network, 2, &[]);
        web.serve_tcp(80, "web");
        assert_eq!(peer.inside(|| fetch(HOST, 8080)), "web 172.17.0.1", "from another container");
        assert_eq!(web.inside(|| fetch(HOST, 8080)), "web 172.17.0.1", "from itself");
        let address = web.address();
        assert!(peer.inside(move || is_closed(address, 80)), "isolated ports");
    });
}

#[test]
fn a_udp_port_is_reached_from_everywhere() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let dns = attach(&network, 1, &[binding(Protocol::Udp, "", 5353, 53)]);
        let peer = attach(&network, 2, &[]);
        dns.serve_udp(53, "dns");
        assert_eq!(ask(HOST, 5353), "dns");
        assert_eq!(ask(LOOPBACK, 5353), "dns");
        assert_eq!(inside(&lab.lan, || ask(HOST, 5353)), "dns");
        assert_eq!(peer.inside(|| ask(HOST, 5353)), "dns");
    });
}

#[test]
fn udp_flows_follow_a_port_to_its_new_container() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let client = inside(&lab.lan, || UdpSocket::bind((LAN, 4000)).unwrap());
        let port = [binding(Protocol::Udp, "", 5353, 53)];
        assert!(is_unanswered(&client, HOST, 5353), "this flow is known as one to the host itself");
        let first = attach(&network, 1, &port);
        first.serve_udp(53, "first");
        assert_eq!(ask_from(&client, HOST, 5353), "first");
        network.detach(first.attachment.record()).unwrap();
        let second = attach(&network, 2, &port);
        second.serve_udp(53, "second");
        assert_eq!(ask_from(&client, HOST, 5353), "second");
    });
}

#[test]
fn a_port_on_the_loopback_is_for_the_host_alone() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let admin = attach(&network, 1, &[binding(Protocol::Tcp, "127.0.0.1", 8080, 80)]);
        let peer = attach(&network, 2, &[]);
        admin.serve_tcp(80, "admin");
        assert_eq!(fetch(LOOPBACK, 8080), "admin 172.17.0.1");
        assert!(is_closed(HOST, 8080));
        assert!(inside(&lab.lan, || is_closed(HOST, 8080)));
        // Packets to 127.0.0.1 that come over the wire, as an attacker on the same network can send them.
        let attack = |gateway: Ipv4Addr| {
            move || {
                std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
                run("ip", &["address", "del", "127.0.0.1/8", "dev", "lo"]);
                run("ip", &["route", "add", "127.0.0.1/32", "via", &gateway.to_string(), "dev", "eth0"]);
                is_closed(LOOPBACK, 8080)
            }
        };
        assert!(inside(&lab.lan, attack(HOST)));
        assert!(peer.inside(attack(Ipv4Addr::new(172, 17, 0, 1))));
    });
}

#[test]
fn services_on_the_host_s_loopback_stay_out_of_reach() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        let _web = attach(&network, 1, &[tcp(8080, 80)]);
        let peer = attach(&network, 2, &[]);
        assert_eq!(sysctl("ipv4/conf/palan0/route_localnet"), "1");
        let listener = TcpListener::bind((LOOPBACK, 9000)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = std::io::Write::write_all(&mut stream.unwrap(), b"secret");
            }
        });
        let attack = || {
            peer.inside(|| {
                std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
                run("ip", &["address", "flush", "dev", "lo"]);
                run("ip", &["route", "replace", "127.0.0.1/32", "via", "172.17.0.1", "dev", "eth0"]);
                is_closed(LOOPBACK, 9000)
            })
        };
        assert!(attack());
        // The guard goes with the ruleset; the setting must go with it until the guard is back.
        run("nft", &["flush", "ruleset"]);
        assert!(lab::eventually(|| run("nft", &["list", "ruleset"]).contains("chain guard")));
        assert!(attack());
        assert_eq!(fetch(LOOPBACK, 9000), "secret");
    });
}

#[test]
fn only_published_ports_of_a_container_are_reached_from_outside() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        web.serve_tcp(80, "web");
        web.serve_tcp(81, "internal");
        let address = web.address();
        inside(&lab.lan, move || {
            run("ip", &["route", "add", "172.17.0.0/16", "via", &HOST.to_string()]);
            assert!(is_closed(address, 81));
            assert!(is_closed(address, 80), "the container's own port isn't the published one");
            assert_ne!(fetch(HOST, 8080), "");
        });
    });
}

#[test]
fn the_administrator_s_chain_comes_first_and_is_kept() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        web.serve_tcp(80, "web");
        run("nft", &["add", "rule", "ip", "palan", "PALAN-USER", "ip", "saddr", &LAN.to_string(), "drop"]);
        assert!(inside(&lab.lan, || is_closed(HOST, 8080)));
        network.restore(&[]).unwrap();
        assert!(inside(&lab.lan, || is_closed(HOST, 8080)), "the rule survives a rewrite of the table");
        assert_ne!(fetch(HOST, 8080), "", "the host may");
    });
}

#[test]
fn ipv6_of_the_host_is_left_to_the_supervisor() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let ports = [tcp(8080, 80), binding(Protocol::Udp, "::1", 5353, 53), tcp(8081, 81)];
        let web = attach(&network, 1, &ports);
        let record = web.attachment.record().clone();
        let shown: Vec<String> = record
            .ports
            .iter()
            .map(|port| format!("{}:{}/{}", port.host_address, port.host_port, port.protocol))
            .collect();
        let expected = ["0.0.0.0:8080/tcp", ":::8080/tcp", "::1:5353/udp", "0.0.0.0:8081/tcp", ":::8081/tcp"];
        assert_eq!(shown, expected);
        let relays = network.manager.relays(&record);
        let targets: Vec<String> = relays.iter().map(|relay| relay.target.to_string()).collect();
        assert_eq!(targets, ["172.17.0.2:80", "172.17.0.2:53", "172.17.0.2:81"]);
        assert!(relays.iter().all(|relay| relay.socket.is_some()));
        assert!(network.manager.relays(&record).iter().all(|relay| relay.socket.is_none()), "given away");
        let listener = TcpListener::from(relays.into_iter().next().unwrap().socket.unwrap());
        let client = lab::connect(Ipv6Addr::LOCALHOST, 8080);
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        drop(network);

        // The next daemon makes anew only what no supervisor has.
        let network = Network::open(NetworkConfig::default()).unwrap();
        let restored = network.restore(std::slice::from_ref(&record)).unwrap();
        assert!(restored.lost.is_empty() && restored.warnings.is_empty(), "{restored:?}");
        let made: Vec<bool> =
            network.manager.relays(&record).iter().map(|relay| relay.socket.is_some()).collect();
        assert_eq!(made, [false, true, true]);

        // The same port of another endpoint: whose supervisor has it needs no socket.
        let mut moved = record.clone();
        network.manager.unpublish(&mut moved).unwrap();
        let container = palan_network::Container { id: "0123456789ab", name: "web" };
        network.manager.publish(container, &mut moved, &[tcp(8080, 80)], &record.ports).unwrap();
        assert!(network.manager.relays(&moved)[0].socket.is_none());
        network.manager.unpublish(&mut moved).unwrap();
        let taken = network.manager.publish(container, &mut moved, &[tcp(8080, 80)], &[]);
        let text = palan_stdx::error_chain::to_string(&taken.unwrap_err());
        assert!(text.contains("listen tcp6 [::]:8080: bind: address already in use"), "{text}");
        network.remove_all().unwrap();
        drop((web, listener));
        lab.assert_clean();
    });
}

#[test]
fn a_host_without_ipv6_has_ports_of_ipv4() {
    with_host(|_| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        assert_eq!(web.attachment.record().ports.len(), 1);
        assert!(refusal(&network, 2, binding(Protocol::Tcp, "::1", 8081, 80)).contains("cannot assign"));
    });
}

fn refusal(network: &Network, id: u8, port: PortBinding) -> String {
    palan_stdx::error_chain::to_string(&network.attach(&request(id, &[port])).unwrap_err())
}

#[test]
fn ports_in_use() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let first = attach(&network, 1, &[tcp(8080, 80), binding(Protocol::Udp, "", 8080, 80)]);
        let id = "02".repeat(32);
        let prefix = format!("driver failed programming external connectivity on endpoint web ({id}): ");
        let check =
            |port, expected: &str| assert_eq!(refusal(&network, 2, port), format!("{prefix}{expected}"));
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        let by_us = format!(" by {} (process {})", own.trim_end(), std::process::id());
        check(tcp(8080, 80), "Bind for 0.0.0.0:8080 failed: port is already allocated, by the container web");
        check(
            binding(Protocol::Tcp, "127.0.0.1", 8080, 80),
            "Bind for 127.0.0.1:8080 failed: port is already allocated, by the container web",
        );
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9090)).unwrap();
        check(tcp(9090, 80), &format!("listen tcp4 0.0.0.0:9090: bind: address already in use{by_us}"));
        drop(listener);
        let _socket = UdpSocket::bind((LOOPBACK, 9090)).unwrap();
        let udp = format!("listen udp4 0.0.0.0:9090: bind: address already in use{by_us}");
        check(binding(Protocol::Udp, "", 9090, 80), &udp);
        check(
            binding(Protocol::Tcp, "192.0.2.77", 9091, 80),
            "listen tcp4 192.0.2.77:9091: bind: cannot assign requested address",
        );
        check(
            binding(Protocol::Sctp, "::1", 9091, 80),
            "the port can't be published on ::1: the network has no IPv6 addresses, use a host address of the other family",
        );
        check(binding(Protocol::Tcp, "localhost", 9091, 80), "invalid hostIP: localhost");
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err(), "a published port is reserved");
        assert!(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err());

        // A failed attachment leaves nothing: neither the address nor the other ports.
        assert!(network.attach(&request(2, &[tcp(9092, 80), tcp(8080, 80)])).is_err());
        let second = attach(&network, 3, &[tcp(9092, 80)]);
        network.detach(first.attachment.record()).unwrap();
        let third = attach(&network, 4, &[tcp(8080, 80)]);
        network.remove_all().unwrap();
        drop((first, second, third));
        lab.assert_clean();
    });
}

#[test]
fn a_port_in_time_wait_is_free() {
    with_host(|_| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
        let server = std::thread::spawn(move || {
            // The side that closes first waits.
            drop(listener.accept().unwrap());
        });
        fetch(LOOPBACK, 8080);
        server.join().unwrap();
        let network = open(NetworkConfig::default());
        let _web = attach(&network, 1, &[tcp(8080, 80)]);
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err(), "and reserved nevertheless");
    });
}

#[test]
fn ephemeral_ports_and_ranges() {
    with_host(|_| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
        let network = open(NetworkConfig::default());
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 40001)).unwrap();
        let many = attach(&network, 1, &[tcp(0, 80), tcp(0, 81), tcp(0, 82)]);
        assert_eq!([0, 1, 2].map(|index| many.host_port(index)), [40000, 40002, 40003]);
        assert!(
            refusal(&network, 2, tcp(0, 80))
                .ends_with("Bind for 0.0.0.0:40000-40003 failed: all ports are allocated")
        );
        drop(taken);
        let range = |first, last| PortBinding { host_port_last: Some(last), ..tcp(first, 80) };
        assert_eq!(attach(&network, 3, &[range(40000, 40003)]).host_port(0), 40001);
        assert!(refusal(&network, 4, range(9, 8)).ends_with("invalid range of host ports: 9-8"));
    });
}
