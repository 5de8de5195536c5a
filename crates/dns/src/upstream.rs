//! Whom to ask: the servers of a resolver configuration, one after the other.

use std::net::IpAddr;

/// How many servers are asked, as in resolv.conf(5).
const MOST: usize = 3;

/// The servers that a `resolv.conf` names. One on a loopback address is the host's own and can be asked from there.
#[must_use]
pub fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        // A link-local address with its interface can't be asked without it.
        words.next().filter(|_| is_server)?.parse::<IpAddr>().ok()
    };
    resolv_conf.lines().filter_map(server).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_in_their_order() {
        let text = "# x\nnameserver 127.0.0.53\nsearch a\n nameserver\t192.0.2.1 \nnameserver fe80::1%eth0\n\
                    nameserver\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<String> = servers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.53", "192.0.2.1", "192.0.2.2"]);
        assert!(servers("").is_empty());
    }
}
