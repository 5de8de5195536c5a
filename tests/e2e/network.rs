//! The default bridge: addresses, the way out, published ports from everywhere, and what a container finds in /etc.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::{free_port, requires, wait_until};

use crate::images::{BUSYBOX, daemon};

/// Connects and reads all that comes, until it is what was hoped for.
fn reads(address: &str, port: u16, expected: &str) -> bool {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    wait_until(Duration::from_secs(30), || {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(b"hello\n").ok();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok();
        text == expected
    })
}

fn address(daemon: &Daemon, name: &str) -> String {
    daemon.palan(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", name]).ok().line().to_owned()
}

/// A server that answers each connection with its name.
fn serve(daemon: &Daemon, name: &str, flags: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(flags);
    let script = format!("while :; do echo {name} | nc -l -p 8080; done");
    arguments.extend([BUSYBOX, "sh", "-c", &script]);
    daemon.palan(arguments).ok();
}

/// What asks such a server, which listens anew a moment after each answer.
fn ask(host: &str, port: u16) -> String {
    format!(
        "n=0; until echo | nc -w 2 {host} {port} || [ $n = 50 ]; do n=$((n + 1)); sleep 0.1; done 2>/dev/null"
    )
}

#[test]
fn published_ports_answer_from_everywhere() {
    requires!(root);
    let daemon = daemon();
    let port = free_port();
    serve(&daemon, "web", &["-p", &format!("{port}:8080")]);
    assert!(reads("127.0.0.1", port, "web\n"), "loopback: {}", daemon.log());
    assert!(reads(daemon.gateway(), port, "web\n"), "the bridge's address");
    let direct = address(&daemon, "web");
    assert!(reads(&direct, 8080, "web\n"), "the container's address");
    let shown = daemon.palan(["port", "web"]).ok();
    assert_eq!(shown.line(), format!("8080/tcp -> 0.0.0.0:{port}\n8080/tcp -> [::]:{port}"));
    let listed = daemon.palan(["ps", "--format", "{{.Ports}}"]).ok();
    assert_eq!(listed.line(), format!("0.0.0.0:{port}->8080/tcp, [::]:{port}->8080/tcp"));
    // From another container: by its address, and by the published port (hairpin).
    for (host, port) in [(direct.as_str(), 8080), (daemon.gateway(), port)] {
        let script = ask(host, port);
        let run = daemon.palan(["run", "--rm", BUSYBOX, "sh", "-c", &script]).ok();
        assert_eq!(run.line(), "web", "{host}:{port}");
    }
    // From itself through the published port.
    let script = ask(daemon.gateway(), port);
    assert_eq!(daemon.palan(["exec", "web", "sh", "-c", &script]).ok().line(), "web");
    daemon.palan(["rm", "-f", "web"]).ok();
    let gone = wait_until(Duration::from_secs(30), || {
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_millis(300))
            .is_err()
    });
    assert!(gone, "the port still answers");
}

#[test]
fn udp_and_random_ports() {
    requires!(root);
    let daemon = daemon();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:8080/udp");
    let program = std::env::var("PALAN_DEMO_PROGRAMS").expect("run the tests by `cargo xtask test`");
    let server = format!("{program}/web:/server:ro");
    daemon.palan(["run", "-d", "--name", "uu", "-p", &publish, "-v", &server, BUSYBOX, "/server"]).ok();
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let answered = wait_until(Duration::from_secs(30), || {
        socket.send_to(b"ping", ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 16];
        matches!(socket.recv(&mut buffer), Ok(4) if &buffer[..4] == b"ping")
    });
    assert!(answered);
    daemon.palan(["run", "-d", "--name", "pp", "--expose", "8080", "-P", BUSYBOX, "sleep", "100"]).ok();
    let shown = daemon.palan(["port", "pp", "8080"]).ok();
    let chosen: SocketAddr = shown.stdout.lines().next().unwrap().parse().unwrap();
    assert!(chosen.port() >= 1024);
}

#[test]
fn hosts_hostname_resolv_conf_and_the_way_out() {
    requires!(root);
    let daemon = daemon();
    let run =
        |script: &str| daemon.palan(["run", "--rm", "-h", "box", BUSYBOX, "sh", "-c", script]).ok().stdout;
    let hosts = run("cat /etc/hosts");
    assert!(hosts.starts_with("127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(hosts.lines().any(|line| line.starts_with("10.") && line.ends_with("\tbox")), "{hosts}");
    assert_eq!(run("cat /etc/hostname"), "box\n");
    assert!(run("cat /etc/resolv.conf").contains("nameserver "));
    let route = run("ip route");
    assert!(route.starts_with(&format!("default via {} dev eth0", daemon.gateway())), "{route}");
    let none =
        daemon.palan(["run", "--rm", "--network", "none", BUSYBOX, "sh", "-c", "ls /sys/class/net"]).ok();
    assert_eq!(none.line(), "lo");
    let host =
        daemon.palan(["run", "--rm", "--network", "host", BUSYBOX, "readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(host.line(), std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string());
}

#[test]
fn addresses_are_given_back() {
    requires!(root);
    let daemon = daemon();
    for _ in 0..3 {
        daemon.palan(["run", "--rm", BUSYBOX, "true"]).ok();
    }
    let links =
        || std::fs::read_dir(format!("/sys/class/net/{}/brif", daemon.bridge())).map_or(0, Iterator::count);
    assert!(wait_until(Duration::from_secs(30), || links() == 0), "{} ports left on the bridge", links());
    std::thread::scope(|scope| {
        for number in 0..10 {
            let daemon = &daemon;
            scope.spawn(move || {
                daemon.palan(["run", "-d", "--name", &format!("n{number}"), BUSYBOX, "sleep", "100"]).ok()
            });
        }
    });
    let mut seen: Vec<String> = (0..10).map(|number| address(&daemon, &format!("n{number}"))).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10);
}

#[test]
fn a_port_is_given_once() {
    requires!(root);
    let daemon = daemon();
    let port = free_port();
    let publish = format!("{port}:80");
    daemon.palan(["run", "-d", "--name", "aa", "-p", &publish, BUSYBOX, "sleep", "100"]).ok();
    let second = daemon.palan(["run", "-d", "--name", "bb", "-p", &publish, BUSYBOX, "sleep", "100"]);
    second.fails(125, &format!("Bind for 0.0.0.0:{port} failed: port is already allocated"));
    let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let publish = format!("{}:80", taken.local_addr().unwrap().port());
    let third = daemon.palan(["run", "-d", "--name", "cc", "-p", &publish, BUSYBOX, "sleep", "100"]);
    third.fails(125, "address already in use");
    // The same port again once the holder is gone.
    daemon.palan(["rm", "-f", "aa", "bb", "cc"]).ok();
    daemon.palan(["run", "-d", "--name", "dd", "-p", &format!("{port}:80"), BUSYBOX, "sleep", "100"]).ok();
}
