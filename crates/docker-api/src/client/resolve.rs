//! Addresses of TCP hosts without the C library's resolver, which a static binary must not call.

use super::ClientError;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The addresses to try for a host.
pub(super) fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, ClientError> {
    let with_port = |ip| SocketAddr::new(ip, port);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![with_port(ip)]);
    }
    let file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found: Vec<_> = in_hosts_file(&file, host).map(with_port).collect();
    if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
        found.push(with_port(Ipv4Addr::LOCALHOST.into()));
    }
    if found.is_empty() { Err(ClientError::UnknownHost(host.to_owned())) } else { Ok(found) }
}

fn in_hosts_file<'a>(file: &'a str, host: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    file.lines().filter_map(move |line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(ip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_hosts_file() {
        let file = "127.0.0.1 localhost\n# 1.1.1.1 box\n10.0.0.1\tBox other # box2\n::1 localhost\nbad box\n";
        let find = |name| in_hosts_file(file, name).map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(find("box"), ["10.0.0.1"]);
        assert_eq!(find("localhost"), ["127.0.0.1", "::1"]);
        assert!(find("box2").is_empty());
        assert!(matches!(addresses("no-such-host.invalid", 1), Err(ClientError::UnknownHost(_))));
        assert_eq!(addresses("::1", 80).unwrap(), ["[::1]:80".parse().unwrap()]);
    }
}
