//! Other firewalls on the same host: Docker's rules as iptables-nft writes them, flushes, reloads, a second Palan.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod lab;

use lab::{
    HOST, LAN, NetworkConfig, attach, eventually, fetch, inside, is_closed, open, run, tcp, with_host,
};
use palan_network::FirewallIntegration;

fn iptables(rules: &[&str]) {
    for rule in rules {
        run("iptables-nft", &rule.split_whitespace().collect::<Vec<_>>());
    }
}

/// What Docker 20.10 sets up for its default bridge.
const DOCKER: [&str; 14] = [
    "-N DOCKER",
    "-N DOCKER-USER",
    "-N DOCKER-ISOLATION-STAGE-1",
    "-N DOCKER-ISOLATION-STAGE-2",
    "-P FORWARD DROP",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
    "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -o docker0 -j DOCKER",
    "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
    "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
    "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
    "-A DOCKER-USER -j RETURN",
];

/// The LAN answers on port 80; a container answers on the host's port 8080.
fn traffic_flows(lab: &lab::Lab, network: &lab::Network, id: u8) -> bool {
    let (one, two) = (attach(network, id, &[tcp(8080, 80)]), attach(network, id + 1, &[]));
    one.serve_tcp(80, "one");
    let address = one.address();
    let out = one.inside(|| fetch(LAN, 80)) == "lan";
    let flows = out
        && inside(&lab.lan, || fetch(HOST, 8080)).starts_with("one")
        && two.inside(|| fetch(HOST, 8080)).starts_with("one")
        && two.inside(move || fetch(address, 80)).starts_with("one");
    for container in [&one, &two] {
        network.detach(container.attachment.record()).unwrap();
    }
    flows
}

fn serve_on_lan(lab: &lab::Lab) {
    let listener = inside(&lab.lan, || std::net::TcpListener::bind((LAN, 80)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"lan");
        }
    });
}

#[test]
fn beside_docker() {
    with_host(|lab| {
        serve_on_lan(lab);
        iptables(&DOCKER);
        let network = open(NetworkConfig::default());
        assert!(traffic_flows(lab, &network, 1));
        let rules = run("iptables-nft", &["-S", "DOCKER-USER"]);
        let wanted = "-N DOCKER-USER\n\
                      -A DOCKER-USER -i palan0 -m comment --comment \"palan: palan0\" -j ACCEPT\n\
                      -A DOCKER-USER -o palan0 -m comment --comment \"palan: palan0\" -j ACCEPT\n\
                      -A DOCKER-USER -j RETURN\n";
        assert_eq!(rules, wanted, "readable for iptables, and before the final return");
        network.on_ruleset_change().unwrap();
        assert_eq!(run("iptables-nft", &["-S", "DOCKER-USER"]), wanted, "not twice");
        network.remove_all().unwrap();
        assert!(!run("iptables-nft", &["-S"]).contains("palan"));
        assert!(run("iptables-nft", &["-S"]).contains("DOCKER-ISOLATION"), "theirs stays");
    });
}

#[test]
fn docker_comes_later_and_leaves_again() {
    with_host(|lab| {
        serve_on_lan(lab);
        let network = open(NetworkConfig::default());
        assert!(traffic_flows(lab, &network, 1));
        iptables(&["-P FORWARD DROP"]);
        let has = |chain: &'static str| run("iptables-nft", &["-S", chain]).matches("palan: palan0").count();
        assert!(eventually(|| has("FORWARD") == 2), "a policy that drops calls for the rules");
        assert!(traffic_flows(lab, &network, 3));
        iptables(&DOCKER);
        assert!(
            eventually(|| has("DOCKER-USER") == 2 && has("FORWARD") == 0),
            "Docker's chain is the better place"
        );
        assert!(traffic_flows(lab, &network, 5));
        iptables(&["-F DOCKER-USER"]);
        assert!(eventually(|| has("DOCKER-USER") == 2), "put back after a flush");
        iptables(&["-F", "-X", "-P FORWARD ACCEPT"]);
        assert!(eventually(|| has("FORWARD") == 0), "not needed any more");
        assert!(traffic_flows(lab, &network, 7));
    });
}

#[test]
fn isolation_from_docker_s_bridge() {
    with_host(|_| {
        run("ip", &["link", "add", "docker0", "type", "bridge"]);
        run("ip", &["address", "add", "172.17.0.1/16", "dev", "docker0"]);
        run("ip", &["link", "set", "docker0", "up"]);
        iptables(&DOCKER);
        let network = open(NetworkConfig::default());
        assert_eq!(network.gateway().to_string(), "172.18.0.1/16");
        let ours = attach(&network, 1, &[tcp(8080, 80)]);
        // A container of Docker's is one without a network, which is then put on Docker's bridge by hand.
        let nowhere = lab::AttachRequest { is_isolated: true, ..lab::request(9, &[]) };
        let theirs = lab::Container { attachment: network.attach(&nowhere).unwrap() };
        run("ip", &["link", "add", "vdocker", "type", "veth", "peer", "name", "eth9"]);
        run("ip", &["link", "set", "vdocker", "master", "docker0", "up"]);
        lab::move_link("eth9", &theirs.attachment.netns);
        theirs.inside(|| {
            run("ip", &["address", "add", "172.17.0.2/16", "dev", "eth9"]);
            run("ip", &["link", "set", "eth9", "up"]);
            run("ip", &["route", "add", "default", "via", "172.17.0.1"]);
        });
        ours.serve_tcp(80, "ours");
        theirs.serve_tcp(80, "theirs");
        let their_address = std::net::Ipv4Addr::new(172, 17, 0, 2);
        assert!(fetch(their_address, 80).starts_with("theirs"), "from the host");
        assert!(ours.inside(move || is_closed(their_address, 80)));
        let address = ours.address();
        assert!(theirs.inside(move || is_closed(address, 80)));
        assert!(theirs.inside(|| fetch(HOST, 8080)).starts_with("ours"), "published ports are for all");
    });
}

#[test]
fn the_host_s_own_denies_keep_their_say() {
    with_host(|lab| {
        serve_on_lan(lab);
        iptables(&["-A FORWARD -s 198.51.100.9 -p tcp --dport 80 -j DROP", "-A FORWARD -j REJECT"]);
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80), tcp(8081, 81)]);
        web.serve_tcp(80, "denied");
        web.serve_tcp(81, "open");
        assert!(inside(&lab.lan, || is_closed(HOST, 8080)));
        assert!(inside(&lab.lan, || fetch(HOST, 8081)).starts_with("open"));
        assert!(network.warnings().is_empty(), "{:?}", network.warnings());
    });
}

#[test]
fn a_flush_of_everything_is_repaired() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        web.serve_tcp(80, "web");
        for _ in 0..5 {
            run("nft", &["flush", "ruleset"]);
            assert!(eventually(|| run("nft", &["list", "ruleset"]).contains("masquerade")));
            assert!(inside(&lab.lan, || fetch(HOST, 8080)).starts_with("web"));
        }
        run("nft", &["delete", "table", "ip", "palan"]);
        let second = attach(&network, 2, &[tcp(8081, 80)]);
        network.detach(second.attachment.record()).unwrap();
        network.remove_all().unwrap();
        drop((web, second));
        lab.assert_clean();
    });
}

#[test]
fn others_can_be_left_alone() {
    with_host(|_| {
        iptables(&DOCKER);
        run("nft", &["add", "table", "inet", "admin"]);
        run("nft", &["add chain inet admin through { type filter hook forward priority 0; policy drop; }"]);
        let before = run("iptables-nft", &["-S"]);
        let none = FirewallIntegration::None;
        let network = open(NetworkConfig { firewall_integration: none, ..NetworkConfig::default() });
        assert_eq!(run("iptables-nft", &["-S"]), before);
        assert!(network.warnings().is_empty());
        network.remove_all().unwrap();
        let network = open(NetworkConfig::default());
        let [warning] = &network.warnings()[..] else { panic!("{:?}", network.warnings()) };
        assert!(warning.contains("\"inet admin\""), "{warning}");
        run("nft", &["add", "table", "inet", "firewalld"]);
        run("nft", &["add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }"]);
        assert!(network.warnings()[0].contains("--add-interface=palan0"));
    });
}

#[test]
fn two_daemons_on_one_host() {
    with_host(|lab| {
        let first = open(NetworkConfig::default());
        let third = NetworkConfig { bridge: "plthird".into(), ..NetworkConfig::default() };
        let error = lab::Network::open(third).unwrap_err().to_string();
        assert!(error.starts_with("the nftables table \"ip palan\" belongs to the bridge palan0"), "{error}");
        let second = open(NetworkConfig::for_bridge("pltest"));
        let (one, two) = (attach(&first, 1, &[tcp(8080, 80)]), attach(&second, 2, &[tcp(8081, 80)]));
        one.serve_tcp(80, "one");
        two.serve_tcp(80, "two");
        assert!(two.inside(|| fetch(HOST, 8080)).starts_with("one"), "by the published port");
        assert!(inside(&lab.lan, || fetch(HOST, 8081)).starts_with("two"));
        let address = one.address();
        assert!(two.inside(move || is_closed(address, 80)));
        second.remove_all().unwrap();
        assert!(inside(&lab.lan, || fetch(HOST, 8080)).starts_with("one"));
        assert!(is_closed(HOST, 8081));
        first.remove_all().unwrap();
        drop((one, two));
        lab.assert_clean();
    });
}
