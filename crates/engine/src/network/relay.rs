//! Ports that the kernel can't translate, which a container's supervisor relays: their sockets are made here, given away, and
//! outlive the daemon with the supervisor.

use std::os::fd::OwnedFd;

use palan_network::{Protocol, Relay};
use palan_supervisor::protocol::{RelayProtocol, RelayedPort, Request};

use crate::container::Details;
use crate::container::driver::{Driver, Pending};
use crate::engine::Engine;
use crate::network::endpoints;

/// How many ports one request opens: few enough for its descriptors, and for the supervisor to read it in one go.
const AT_ONCE: usize = 25;

/// What the supervisor of a container relays, or shall.
pub(crate) fn of(engine: &Engine, details: &Details) -> Vec<Relay> {
    endpoints::records(details).iter().flat_map(|record| engine.network.relays(record)).collect()
}

/// What a supervisor must be told so that it relays `after` in place of `before`, in as many requests as their descriptors need.
pub(crate) fn requests(before: &[Relay], after: Vec<Relay>) -> Vec<(Request, Vec<OwnedFd>)> {
    let gone = before.iter().filter(|old| !after.iter().any(|new| is_same(new, old)));
    let close: Vec<RelayedPort> = gone.filter_map(relayed).collect();
    let is_news = |new: &Relay| {
        new.socket.is_some() || before.iter().any(|old| is_same(new, old) && new.target != old.target)
    };
    let mut requests = Vec::new();
    let (mut open, mut descriptors) = (Vec::new(), Vec::new());
    for new in after.into_iter().filter(is_news) {
        let Some(port) = relayed(&new) else { continue };
        open.push(port);
        descriptors.extend(new.socket);
        if open.len() == AT_ONCE {
            let request = Request::Relay { close: Vec::new(), open: std::mem::take(&mut open) };
            requests.push((request, std::mem::take(&mut descriptors)));
        }
    }
    if !open.is_empty() {
        requests.push((Request::Relay { close: Vec::new(), open }, descriptors));
    }
    for chunk in close.chunks(MAX_CLOSED) {
        requests.insert(0, (Request::Relay { close: chunk.to_vec(), open: Vec::new() }, Vec::new()));
    }
    requests
}

/// How many ports one request closes: far fewer than a frame has room for.
const MAX_CLOSED: usize = 1000;

impl Driver {
    /// Lets the supervisor relay `after` in place of `before`.
    pub(crate) fn relay(&mut self, before: &[Relay], after: Vec<Relay>) {
        for (request, descriptors) in requests(before, after) {
            self.request(request, descriptors, Pending::Noted("relay a published port"));
        }
    }
}

/// One socket serves both.
fn is_same(one: &Relay, other: &Relay) -> bool {
    let of = |relay: &Relay| (relay.port.protocol, relay.port.host_address, relay.port.host_port);
    of(one) == of(other)
}

fn relayed(relay: &Relay) -> Option<RelayedPort> {
    let protocol = match relay.port.protocol {
        Protocol::Tcp => RelayProtocol::Tcp,
        Protocol::Udp => RelayProtocol::Udp,
        Protocol::Sctp => return None,
    };
    let host = (relay.port.host_address, relay.port.host_port).into();
    Some(RelayedPort { protocol, host, target: relay.target, socket: relay.socket.is_some() })
}

#[cfg(test)]
mod tests {
    use palan_network::PublishedPort;

    use super::*;

    fn relay(host_port: u16, target: &str, with_socket: bool) -> Relay {
        let socket = with_socket.then(|| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket").into());
        let host_address = std::net::Ipv6Addr::UNSPECIFIED.into();
        let port = PublishedPort { container_port: 80, protocol: Protocol::Tcp, host_address, host_port };
        Relay { port, target: target.parse().expect("an address"), socket }
    }

    fn check(before: &[Relay], after: Vec<Relay>, expected: &[(&[u16], &[u16], usize)]) {
        let ports = |ports: &[RelayedPort]| ports.iter().map(|port| port.host.port()).collect::<Vec<_>>();
        let told: Vec<(Vec<u16>, Vec<u16>, usize)> = requests(before, after)
            .into_iter()
            .map(|(request, descriptors)| match request {
                Request::Relay { close, open } => (ports(&close), ports(&open), descriptors.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: Vec<(Vec<u16>, Vec<u16>, usize)> =
            expected.iter().map(|(close, open, count)| (close.to_vec(), open.to_vec(), *count)).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn only_what_changes_is_told() {
        let (here, there) = ("10.0.0.2:80", "10.0.1.2:80");
        check(&[], Vec::new(), &[]);
        check(&[], vec![relay(1, here, true), relay(2, here, true)], &[(&[], &[1, 2], 2)]);
        check(&[relay(1, here, false)], vec![relay(1, here, false)], &[]);
        check(&[relay(1, here, false)], vec![relay(1, there, false)], &[(&[], &[1], 0)]);
        check(&[relay(1, here, false)], Vec::new(), &[(&[1], &[], 0)]);
        let after = vec![relay(2, there, true)];
        check(&[relay(1, here, false)], after, &[(&[1], &[], 0), (&[], &[2], 1)]);
    }

    #[test]
    fn a_thousand_ports_take_several_requests() {
        let after = (1..=1000).map(|port| relay(port, "10.0.0.2:80", true)).collect();
        let told = requests(&[], after);
        assert_eq!(told.len(), 1000_usize.div_ceil(AT_ONCE));
        for (request, descriptors) in told {
            assert!(descriptors.len() <= palan_linux::socket::MAX_DESCRIPTORS);
            assert!(serde_json::to_vec(&request).expect("JSON").len() < 4000);
        }
    }
}
