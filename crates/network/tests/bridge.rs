//! Containers on the bridge: their interfaces, addresses, and whom they reach.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod lab;

use std::net::Ipv4Addr;

use lab::{
    HOST, LAN, Network, NetworkConfig, attach, fetch, is_closed, open, request, run, sysctl, with_host,
};
use palan_network::{AttachError, Container, EndpointId, EndpointRequest, Leave, NetworkError};

#[test]
fn containers_reach_each_other_the_host_and_the_lan() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let (one, two) = (attach(&network, 1, &[]), attach(&network, 2, &[]));
        assert_eq!(one.address(), Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(two.address(), Ipv4Addr::new(172, 17, 0, 3));
        two.serve_tcp(80, "two");
        let address = two.address();
        assert_eq!(one.inside(move || fetch(address, 80)), "two 172.17.0.2");
        assert_eq!(fetch(address, 80), "two 172.17.0.1", "from the host");

        lab::inside(&lab.lan, || {
            let listener = std::net::TcpListener::bind((LAN, 80)).unwrap();
            std::thread::spawn(move || {
                let (stream, peer) = listener.accept().unwrap();
                std::io::Write::write_all(&mut &stream, format!("lan {}", peer.ip()).as_bytes()).unwrap();
            });
        });
        assert_eq!(one.inside(|| fetch(LAN, 80)), format!("lan {HOST}"), "masqueraded");

        network.detach(one.attachment.record()).unwrap();
        network.detach(one.attachment.record()).unwrap();
        network.remove_all().unwrap();
        drop((one, two));
        lab.assert_clean();
    });
}

#[test]
fn what_a_container_sees() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        assert_eq!(network.mtu(), 1400, "that of the default route");
        let container = attach(&network, 0xab, &[]);
        let record = container.attachment.record().clone();
        assert_eq!(record.host_interface, "vethabababa");
        assert_eq!(record.mac.unwrap().to_string(), "02:42:ac:11:00:02");
        let (link, address, routes, neighbours) = container.inside(|| {
            let ip = |arguments: &[&str]| run("ip", arguments);
            (
                ip(&["-o", "link"]),
                ip(&["-o", "address"]),
                ip(&["route"]),
                ip(&["neighbour", "show", "nud", "permanent"]),
            )
        });
        assert!(
            link.contains("eth0") && link.contains("mtu 1400") && link.contains("02:42:ac:11:00:02"),
            "{link}"
        );
        assert!(address.contains("172.17.0.2/16 brd 172.17.255.255"), "{address}");
        assert!(!address.contains("fe80"), "no IPv6 on eth0: {address}");
        assert_eq!(
            routes.split_whitespace().collect::<Vec<_>>().join(" "),
            "default via 172.17.0.1 dev eth0 172.17.0.0/16 dev eth0 proto kernel scope link src 172.17.0.2"
        );
        assert!(
            neighbours.contains("172.17.0.1 dev eth0 lladdr 02:42:ac:11:00:01 PERMANENT"),
            "{neighbours}"
        );
        assert_eq!(sysctl("ipv4/conf/palan0/route_localnet"), "0");
        assert_eq!(sysctl("ipv6/conf/palan0/disable_ipv6"), "1");
        assert_eq!(sysctl("ipv4/ip_forward"), "1");
        let port = run("ip", &["-d", "link", "show", "vethabababa"]);
        assert!(port.contains("hairpin on") && port.contains("master palan0"), "{port}");
        assert!(port.contains("state UP"), "{port}");
    });
}

#[test]
fn a_sandbox_without_an_endpoint() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        let none = network.attach(&lab::AttachRequest { is_isolated: true, ..request(1, &[]) }).unwrap();
        let seen = lab::inside(&none.netns, || run("ip", &["-o", "link"]));
        assert_eq!(seen.lines().count(), 1);
        assert!(seen.contains("lo:") && seen.contains("UP"), "{seen}");
    });
}

/// Queries go to the sockets that were made last.
#[test]
fn a_resolver_that_is_made_again_replaces_the_first() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        let wish = EndpointRequest::new("default", EndpointId::from([7; 32]));
        let owner = Container { id: "0123456789ab", name: "web" };
        let attachment = network.manager.attach(owner, &[wish]).unwrap();
        let first = attachment.sandbox.resolver().unwrap();
        let second = attachment.sandbox.resolver().unwrap();
        lab::inside(&attachment.sandbox.descriptor().try_clone_to_owned().unwrap(), || {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"who", "127.0.0.11:53").unwrap();
        });
        let receive = |socket: &std::os::fd::OwnedFd| {
            let socket = std::net::UdpSocket::from(socket.try_clone().unwrap());
            let mut buffer = [0; 16];
            socket.recv(&mut buffer).map(|length| buffer[..length].to_vec())
        };
        assert_eq!(receive(&second.udp).unwrap(), b"who");
        assert!(receive(&first.udp).is_err(), "nothing comes here any more");
        network.manager.detach(&attachment.records[0], Leave::Free).unwrap();
        network.remove_all().unwrap();
    });
}

#[test]
fn a_network_without_communication_between_containers() {
    with_host(|_| {
        let network = open(NetworkConfig { inter_container: false, ..NetworkConfig::default() });
        let one = attach(&network, 1, &[]);
        let two = attach(&network, 2, &[lab::tcp(8080, 80)]);
        two.serve_tcp(80, "two");
        let address = two.address();
        assert!(one.inside(move || is_closed(address, 80)));
        assert_eq!(fetch(address, 80), "two 172.17.0.1", "the host may");
        assert_ne!(one.inside(|| fetch(HOST, 8080)), "", "published ports are for all");
    });
}

#[test]
fn addresses_run_out_and_can_be_wished_for() {
    with_host(|_| {
        let address = Some("10.9.0.1/29".parse().unwrap());
        let network = open(NetworkConfig { address, ..NetworkConfig::default() });
        let wish = lab::AttachRequest { address: Some(Ipv4Addr::new(10, 9, 0, 4)), ..request(1, &[]) };
        let wished = network.attach(&wish).unwrap();
        assert_eq!(wished.record().ipv4.unwrap().address, Ipv4Addr::new(10, 9, 0, 4));
        let error = network.attach(&wish).unwrap_err();
        assert!(matches!(error, AttachError::Address { .. }), "{error:?}");
        let others: Vec<_> = (2..6).map(|id| attach(&network, id, &[])).collect();
        let error = network.attach(&request(9, &[])).unwrap_err();
        assert_eq!(
            palan_stdx::error_chain::to_string(&error),
            "failed to set up container networking: \
             no available IPv4 addresses on this network's address pools: bridge (default)"
        );
        network.detach(others[0].attachment.record()).unwrap();
        assert_eq!(attach(&network, 9, &[]).address(), others[0].address());
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_skipped() {
    with_host(|_| {
        run("ip", &["route", "add", "172.17.128.0/24", "dev", "eth0"]);
        run("ip", &["address", "add", "172.18.0.9/32", "dev", "lo"]);
        let network = open(NetworkConfig::default());
        assert_eq!(network.gateway().to_string(), "172.19.0.1/16");
        let second = open(NetworkConfig::for_bridge("second"));
        assert_eq!(second.gateway().to_string(), "172.20.0.1/16");
        let inner = attach(&network, 1, &[]);
        let outer = attach(&second, 2, &[]);
        inner.serve_tcp(80, "inner");
        let address = inner.address();
        assert!(outer.inside(move || is_closed(address, 80)), "networks are apart");
    });
}

#[test]
fn many_at_once() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let containers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..10_u8)
                .map(|thread| {
                    let network = &network;
                    scope.spawn(move || {
                        let attach = |number: u8| {
                            let id = thread * 10 + number;
                            attach(network, id, &[lab::tcp(8000 + u16::from(id), 80)])
                        };
                        (0..5).map(attach).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: std::collections::HashSet<_> =
            containers.iter().map(lab::Container::address).collect();
        assert_eq!(addresses.len(), 50);
        containers[7].serve_tcp(80, "seven");
        assert!(fetch(HOST, containers[7].host_port(0)).starts_with("seven"));
        std::thread::scope(|scope| {
            for container in &containers {
                let network = &network;
                scope.spawn(move || network.detach(container.attachment.record()).unwrap());
            }
        });
        assert_eq!(run("nft", &["list", "map", "ip", "palan", "published"]).matches("80").count(), 0);
        network.remove_all().unwrap();
        drop(containers);
        lab.assert_clean();
    });
}

#[test]
fn settings_that_cannot_work() {
    with_host(|_| {
        let error =
            Network::open(NetworkConfig { table: "nat".into(), ..NetworkConfig::default() }).unwrap_err();
        assert_eq!(error.to_string(), "table \"nat\" can't be used: iptables uses a table of this name");
        let error = Network::open(NetworkConfig::for_bridge("a/b")).unwrap_err();
        assert!(matches!(error, NetworkError::Setting { .. }), "{error}");
        let error = Network::open(NetworkConfig::for_bridge("eth0")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the interface eth0 exists and is no bridge (it is a veth): remove it or configure another bridge name"
        );
    });
}

#[test]
fn counters_are_those_the_container_sees() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        let container = attach(&network, 1, &[]);
        container.serve_tcp(80, "hello");
        fetch(container.address(), 80);
        let same = || {
            let statistics = network.manager.statistics(container.attachment.record()).unwrap().unwrap();
            assert!(statistics.rx_packets > 0 && statistics.tx_bytes > 0, "{statistics:?}");
            let seen = container.inside(|| run("ip", &["-s", "link", "show", "eth0"]));
            let numbers = |line: &str| -> Vec<u64> {
                line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
            };
            let lines: Vec<Vec<u64>> = seen.lines().map(numbers).collect();
            // The lines after "RX:" and "TX:" begin with bytes, packets, errors, dropped.
            lines[3][..4]
                == [statistics.rx_bytes, statistics.rx_packets, statistics.rx_errors, statistics.rx_dropped]
                && lines[5][..4]
                    == [
                        statistics.tx_bytes,
                        statistics.tx_packets,
                        statistics.tx_errors,
                        statistics.tx_dropped,
                    ]
        };
        assert!(lab::eventually(same), "there may be traffic between the two looks");
        network.detach(container.attachment.record()).unwrap();
        assert!(lab::eventually(|| network
            .manager
            .statistics(container.attachment.record())
            .unwrap()
            .is_none()));
    });
}
