//! How long a container's network takes: the sandbox with one endpoint, ready to be joined; with published ports; with a resolver.
//!
//! `cargo bench --package palan-network`, as root. Each case prints a line `NAME: median N us, 95th M us`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench has nobody else to tell")]

use std::time::{Duration, Instant};

use lab::{Network, NetworkConfig, open, tcp, with_host};
use palan_network::{Container, EndpointId, EndpointRequest, Leave, PortBinding};

#[path = "../tests/lab/mod.rs"]
mod lab;

const TIMES: u16 = 200;

fn main() {
    // `cargo test --all-targets` executes benches, too, but without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    with_host(|_| {
        let network = open(NetworkConfig::default());
        measure(&network, "endpoint", &[], false);
        measure(&network, "endpoint with a port", &[tcp(8080, 80)], false);
        let ports: Vec<PortBinding> = (20_000..20_100).map(|port| tcp(port, port)).collect();
        measure(&network, "endpoint with 100 ports", &ports, false);
        measure(&network, "endpoint with a resolver", &[], true);
        network.remove_all().unwrap();
    });
}

fn measure(network: &Network, name: &str, ports: &[PortBinding], resolver: bool) {
    let mut times = Vec::new();
    for number in 0..TIMES {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let request = EndpointRequest {
            ports: ports.to_vec(),
            ..EndpointRequest::new("default", EndpointId::from(id))
        };
        let begun = Instant::now();
        let owner = Container { id: "0123456789ab", name: "web" };
        let attachment = network.manager.attach(owner, &[request]).unwrap();
        let sockets = resolver.then(|| attachment.sandbox.resolver().unwrap());
        times.push(begun.elapsed());
        network.manager.detach(&attachment.records[0], Leave::Free).unwrap();
        drop((attachment, sockets));
        // What goes on in the background (removals, a namespace for the next) is not what is measured.
        std::thread::sleep(Duration::from_millis(20));
    }
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_micros();
    println!("{name}: median {} us, 95th {} us", at(50), at(95));
}
