//! What survives the daemon, and what a new one makes of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod lab;

use lab::{
    HOST, Network, NetworkConfig, attach, fetch, inside, is_closed, open, request, run, sysctl, tcp,
    with_host,
};
use palan_network::EndpointRecord;

#[test]
fn endpoints_outlive_the_daemon() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        let lost = attach(&network, 2, &[tcp(8081, 80)]);
        let forgotten = attach(&network, 3, &[]);
        web.serve_tcp(80, "web");
        drop(network);
        assert!(fetch(HOST, 8080).starts_with("web"), "no daemon, but a firewall");

        // The second container ends while nobody looks.
        run("ip", &["link", "delete", &lost.attachment.record().host_interface]);
        let stored = serde_json::to_string(&[web.attachment.record(), lost.attachment.record()]).unwrap();
        let records: Vec<EndpointRecord> = serde_json::from_str(&stored).unwrap();
        let network = Network::open(NetworkConfig::default()).unwrap();
        assert!(fetch(HOST, 8080).starts_with("web"), "opening disturbs nothing");
        let restored = network.restore(&records).unwrap();
        let gone =
            (lost.attachment.record().endpoint_id.clone(), "the interface veth0202020 is gone".to_owned());
        assert_eq!(restored.lost, [gone]);
        assert_eq!(restored.orphans, ["veth0303030"]);
        assert!(restored.warnings.is_empty());
        assert!(fetch(HOST, 8080).starts_with("web"));
        assert_eq!(sysctl("ipv4/conf/palan0/route_localnet"), "1");
        let conflict = network.attach(&request(4, &[tcp(8080, 80)])).unwrap_err();
        assert!(palan_stdx::error_chain::to_string(&conflict).contains("port is already allocated"));
        let next = attach(&network, 4, &[tcp(8081, 80)]);
        assert_ne!(next.address(), web.address());
        network.detach(web.attachment.record()).unwrap();
        assert!(is_closed(HOST, 8080));

        network.remove_all().unwrap();
        drop((web, lost, forgotten, next));
        lab.assert_clean();
    });
}

#[test]
fn a_connection_lives_through_a_restart() {
    with_host(|lab| {
        let network = open(NetworkConfig::default());
        let echo = attach(&network, 1, &[tcp(8080, 7)]);
        let listener = echo.inside(|| std::net::TcpListener::bind("0.0.0.0:7").unwrap());
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let _ = std::io::copy(&mut &stream, &mut &stream);
        });
        let mut stream = inside(&lab.lan, || {
            let address = std::net::SocketAddr::from((HOST, 8080));
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(3)).unwrap()
        });
        let mut say = |text: &[u8; 4]| {
            let mut heard = [0; 4];
            std::io::Write::write_all(&mut stream, text).unwrap();
            std::io::Read::read_exact(&mut stream, &mut heard).unwrap();
            assert_eq!(&heard, text);
        };
        say(b"one.");
        drop(network);
        say(b"two.");
        let network = Network::open(NetworkConfig::default()).unwrap();
        network.restore(std::slice::from_ref(echo.attachment.record())).unwrap();
        say(b"thre");
    });
}

#[test]
fn a_port_taken_while_the_daemon_was_away() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        let web = attach(&network, 1, &[tcp(8080, 80)]);
        web.serve_tcp(80, "web");
        drop(network);
        let _listener = std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
        let network = Network::open(NetworkConfig::default()).unwrap();
        let restored = network.restore(std::slice::from_ref(web.attachment.record())).unwrap();
        assert_eq!(
            restored.warnings,
            ["port 0.0.0.0:8080/tcp of container 0123456789ab is also used by another process on the host"]
        );
        assert!(fetch(HOST, 8080).starts_with("web"), "the container was first");
    });
}

#[test]
fn another_address_needs_an_empty_bridge() {
    with_host(|_| {
        let network = open(NetworkConfig::default());
        let container = attach(&network, 1, &[]);
        let moved =
            NetworkConfig { address: Some("10.5.0.1/24".parse().unwrap()), ..NetworkConfig::default() };
        let error = Network::open(moved.clone()).unwrap_err();
        assert!(error.to_string().contains("has the address 172.17.0.1/16 and containers on it"), "{error}");
        network.detach(container.attachment.record()).unwrap();
        assert!(lab::eventually(|| Network::open(moved.clone()).is_ok()));
        assert!(run("ip", &["-o", "-4", "address", "show", "palan0"]).contains("10.5.0.1/24"));
    });
}
