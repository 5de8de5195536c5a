//! The PORTS column: published and exposed ports, neighbours merged into ranges.

use std::net::IpAddr;

/// One port of a container, as lists report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// The host address it is published on, if it is.
    pub(crate) address: Option<IpAddr>,
    pub(crate) private: u16,
    pub(crate) public: u16,
    pub(crate) protocol: String,
}

struct Group {
    address: Option<IpAddr>,
    protocol: String,
    first: u16,
    last: u16,
}

impl Group {
    fn display(&self) -> String {
        let range = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        match self.address {
            Some(address) => format!("{}->{range}/{}", host_port(address, &range), self.protocol),
            None => format!("{range}/{}", self.protocol),
        }
    }
}

/// `address:port`, with brackets around an IPv6 address.
pub(crate) fn host_port(address: IpAddr, port: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// `0.0.0.0:8080->80/tcp, 9000-9002/tcp`.
pub(crate) fn display(ports: &[Port]) -> String {
    let mut ports = ports.to_vec();
    ports.sort_by(|a, b| {
        let key = |port: &Port| (port.private, port.address, port.public);
        key(a).cmp(&key(b)).then_with(|| a.protocol.cmp(&b.protocol))
    });
    // The open range of each (address, protocol), in the order these were met; closed ranges come first in the result.
    let mut open: Vec<Group> = Vec::new();
    let mut shown = Vec::new();
    let mut mapped = Vec::new();
    for port in ports {
        if let Some(address) = port.address.filter(|_| port.public != port.private) {
            let host = host_port(address, &port.public.to_string());
            mapped.push(format!("{host}->{}/{}", port.private, port.protocol));
            continue;
        }
        let (address, current) = (port.address, port.private);
        match open.iter_mut().find(|group| group.address == address && group.protocol == port.protocol) {
            Some(group) if group.last.checked_add(1) == Some(current) => group.last = current,
            Some(group) => {
                shown.push(group.display());
                (group.first, group.last) = (current, current);
            }
            None => open.push(Group { address, protocol: port.protocol, first: current, last: current }),
        }
    }
    shown.extend(open.iter().map(Group::display));
    shown.extend(mapped);
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str, public: u16, private: u16, protocol: &str) -> Port {
        Port { address: address.parse().ok(), private, public, protocol: protocol.to_owned() }
    }

    #[test]
    fn neighbours_merge_and_mappings_come_last() {
        assert_eq!(display(&[]), "");
        assert_eq!(display(&[port("", 0, 80, "tcp")]), "80/tcp");
        assert_eq!(
            display(&[
                port("0.0.0.0", 8080, 80, "tcp"),
                port("::", 8080, 80, "tcp"),
                port("", 0, 9002, "tcp"),
                port("", 0, 9001, "tcp"),
                port("", 0, 9000, "udp"),
                port("0.0.0.0", 7000, 7000, "tcp"),
                port("0.0.0.0", 7001, 7001, "tcp"),
            ]),
            "0.0.0.0:7000-7001->7000-7001/tcp, 9000/udp, 9001-9002/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(display(&[port("", 0, 1, "tcp"), port("", 0, 3, "tcp")]), "1/tcp, 3/tcp");
    }
}
