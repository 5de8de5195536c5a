//! What Prometheus scrapes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::{PATIENCE, free_port, requires, wait_until};

use crate::images::{BUSYBOX, busybox, load};

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn dashboards_for_docker_find_their_numbers() {
    requires!(root);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings = Some(format!("\"metrics-addr\": \"{address}\""));
    let daemon = Daemon::start_with(Options { settings, ..Options::default() });
    load(&daemon, busybox(), BUSYBOX);
    daemon.palan(["run", "-d", "--name", "on", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon.palan(["run", "--name", "off", "--network", "none", BUSYBOX, "true"]).ok();
    // What failed is no action that was done.
    daemon.palan(["start", "nosuch"]).fails(1, "No such container");
    let shown = |line: &str| {
        let found = wait_until(PATIENCE, || get(address, "/metrics").lines().any(|found| found == line));
        assert!(found, "{line}\n{}", get(address, "/metrics"));
    };
    shown("engine_daemon_container_states_containers{state=\"running\"} 1");
    shown("engine_daemon_container_states_containers{state=\"stopped\"} 1");
    shown("engine_daemon_container_actions_seconds_count{action=\"start\"} 2");
    shown("engine_daemon_container_actions_seconds_bucket{action=\"create\",le=\"+Inf\"} 2");
    shown("# TYPE engine_daemon_container_actions_seconds histogram");
    shown("engine_daemon_events_subscribers_total 0");
    let page = get(address, "/metrics");
    let value = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is missing:\n{page}")).parse().unwrap()
    };
    assert!(value("engine_daemon_events_total") >= 5.0, "{page}");
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") > 5.0, "{page}");
    assert!(page.contains("version=0.0.4"), "{page}");
    // The API is not there.
    assert!(get(address, "/containers/json").starts_with("HTTP/1.1 404"));
}
