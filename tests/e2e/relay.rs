//! Published ports that the kernel can't translate: `::1`, and all of the host's IPv6 for a container without. The supervisor
//! relays them, whatever the daemon does.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, finish};
use palan_test_support::{free_port, requires, wait_until};

use crate::images::{BUSYBOX, daemon};
use crate::names::Helper;
use crate::networks::{command, daemon_on_own_host, inspect, sleeper};

/// A server in a container that tells each client its address and how much it has sent.
fn peer_server(daemon: &Daemon, container: &str, listen: &str) -> Helper {
    let pid = inspect(daemon, container, "{{.State.Pid}}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/peer_server.py");
    Helper::when_ready(&mut command("nsenter", &["-t", &pid, "-n", "python3", script, "7007", listen]))
}

/// Sends that many bytes, ends its side, and reads to the end.
fn by_tcp(port: u16, length: usize) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&vec![b'x'; length])?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn by_udp(port: u16, length: usize) -> String {
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut buffer = [0; 100];
    // A busy machine may lose a datagram.
    for _ in 0..10 {
        socket.send(&vec![b'x'; length]).unwrap();
        match socket.recv(&mut buffer) {
            Ok(length) => return String::from_utf8_lossy(&buffer[..length]).into_owned(),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
    panic!("no answer");
}

#[test]
fn the_host_s_ipv6_reaches_a_container_without() {
    requires!(root);
    requires!(program "python3");
    let mut daemon = daemon();
    let (port, local) = (free_port(), free_port());
    let ports = [
        "-p".to_owned(),
        format!("{port}:7007"),
        "-p".to_owned(),
        format!("{port}:7007/udp"),
        "-p".to_owned(),
        format!("[::1]:{local}:7007"),
    ];
    let flags: Vec<&str> = ports.iter().map(String::as_str).collect();
    daemon.palan(["network", "create", "--subnet", "10.249.7.0/24", "front"]).ok();
    sleeper(&daemon, "web", &[&flags[..], &["--network", "front"]].concat());
    let shown = daemon.palan(["port", "web"]).ok().stdout;
    let expected = format!(
        "7007/tcp -> 0.0.0.0:{port}\n7007/tcp -> [::1]:{local}\n7007/tcp -> [::]:{port}\n\
         7007/udp -> 0.0.0.0:{port}\n7007/udp -> [::]:{port}\n"
    );
    assert_eq!(shown, expected);
    assert_eq!(by_tcp(port, 1).unwrap_or_default(), "", "nobody listens in the container yet");
    let _server = peer_server(&daemon, "web", "0.0.0.0");
    let works = |moment: &str, gateway: &str| {
        for port in [port, local] {
            assert_eq!(by_tcp(port, 3_000_000).unwrap(), format!("{gateway} 3000000"), "{moment}");
        }
        assert_eq!(by_udp(port, 1300), format!("{gateway} 1300"), "{moment}");
    };
    works("at first", "10.249.7.1");
    daemon.kill();
    works("without a daemon", "10.249.7.1");
    daemon.restart();
    works("with the next daemon", "10.249.7.1");

    // The ports move with the way outside.
    daemon.palan(["network", "create", "--subnet", "10.249.8.0/24", "back"]).ok();
    daemon.palan(["network", "connect", "--gw-priority", "1", "back", "web"]).ok();
    works("by the other network", "10.249.8.1");
    daemon.kill();
    daemon.restart();
    daemon.palan(["network", "disconnect", "back", "web"]).ok();
    works("by the first network again", "10.249.7.1");
    let second = daemon.palan(["run", "--rm", "-p", &format!("[::1]:{port}:80"), BUSYBOX, "true"]);
    second.fails(125, &format!("Bind for [::1]:{port} failed: port is already allocated"));
    daemon.palan(["network", "disconnect", "front", "web"]).ok();
    assert!(wait_until(Duration::from_secs(30), || by_tcp(port, 1).is_err()), "a port of no network");
    daemon.palan(["network", "connect", "front", "web"]).ok();
    works("connected again", "10.249.7.1");

    daemon.palan(["restart", "-t", "0", "web"]).ok();
    let _server = peer_server(&daemon, "web", "0.0.0.0");
    works("after a restart of the container", "10.249.7.1");
    daemon.palan(["rm", "-f", "web"]).ok();
    assert!(by_tcp(port, 1).is_err(), "a port of a container that is gone");
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("the port is free again");
}

#[test]
fn the_loopback_of_ipv6_reaches_a_container_with_it() {
    requires!(root);
    requires!(program "python3");
    let daemon = daemon();
    let port = free_port();
    let create = ["network", "create", "--subnet", "10.249.9.0/24", "--subnet", "fd12:9::/64", "dual"];
    daemon.palan(create).ok();
    let publish = [format!("{port}:7007"), format!("{port}:7007/udp")];
    sleeper(&daemon, "web", &["--network", "dual", "-p", &publish[0], "-p", &publish[1]]);
    let _server = peer_server(&daemon, "web", "::");
    assert_eq!(by_tcp(port, 100_000).unwrap(), "fd12:9::1 100000");
    assert_eq!(by_udp(port, 1), "fd12:9::1 1");
}

#[test]
fn many_ports_are_relayed() {
    requires!(root);
    requires!(program "nsenter");
    let daemon = daemon_on_own_host();
    sleeper(&daemon, "web", &["-p", "7000-7149:7000-7149"]);
    let pid = inspect(&daemon, "web", "{{.State.Pid}}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/peer_server.py");
    for port in ["7000", "7063", "7149"] {
        let mut server = command("nsenter", &["-t", &pid, "-n", "python3", script, port]);
        let _server = Helper::when_ready(&mut server);
        let host = daemon.pid().to_string();
        let ask = format!("echo hello | nc -w 5 ::1 {port}");
        let mut ask = command("nsenter", &["-t", &host, "-n", "busybox", "sh", "-c", &ask]);
        let said = finish(&mut ask, None).ok();
        assert_eq!(said.line(), format!("{} 6", daemon.gateway()), "{port}");
    }
}
