//! What a container finds in `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`: pure functions from facts to text.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use palan_stdx::fs::{self, PathError};

/// The lines that Docker puts first.
const STANDARD_HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";
/// Docker's name servers where the host has none that a container can reach.
const FALLBACK_SERVERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];
/// Where systemd-resolved listens on the host.
const RESOLVED_STUB: &str = "127.0.0.53";

/// The host's resolver configuration.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The name servers behind systemd-resolved's stub.
pub const RESOLVED_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// What goes into `/etc/hosts`.
#[derive(Debug, Clone, Default)]
pub struct Hosts<'a> {
    /// The container's own addresses and its names, hostname first; empty without a network.
    pub own: &'a [(IpAddr, Vec<String>)],
    /// `--add-host`: a name and the address as text (`host-gateway` already resolved).
    pub extra: &'a [(String, String)],
}

/// The content of `/etc/hosts`.
#[must_use]
pub fn hosts(hosts: &Hosts<'_>) -> String {
    let mut text = STANDARD_HOSTS.to_owned();
    for (name, address) in hosts.extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for (address, names) in hosts.own {
        text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    text
}

/// The content of `/etc/hostname`.
#[must_use]
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// `--dns`, `--dns-search` and `--dns-option`, or the daemon's keys of the same names. A list that is given replaces the
/// host's.
#[derive(Debug, Clone, Default)]
pub struct DnsOptions<'a> {
    /// Name servers.
    pub servers: &'a [IpAddr],
    /// Search domains; a single `.` means none.
    pub search: &'a [String],
    /// Resolver options such as `ndots:2`.
    pub options: &'a [String],
}

/// The file that holds the host's name servers, given the content of [`RESOLV_CONF`]: systemd-resolved's own list where
/// that only names its stub.
#[must_use]
pub fn host_resolv_conf_path(etc_resolv_conf: &str) -> &'static Path {
    let servers = HostResolver::parse(etc_resolv_conf).servers;
    let only_stub = !servers.is_empty() && servers.iter().all(|server| *server == RESOLVED_STUB);
    Path::new(if only_stub { RESOLVED_RESOLV_CONF } else { RESOLV_CONF })
}

/// Reads the file that holds the host's name servers; empty on a host without one.
pub fn host_resolv_conf() -> Result<String, PathError> {
    let text = fs::read_to_string_if_exists(Path::new(RESOLV_CONF))?.unwrap_or_default();
    let path = host_resolv_conf_path(&text);
    if path == Path::new(RESOLV_CONF) {
        return Ok(text);
    }
    Ok(fs::read_to_string_if_exists(path)?.unwrap_or(text))
}

/// The content of `/etc/resolv.conf` for a container on the bridge, made from the host's. Name servers on the host's
/// loopback can't be reached from there, nor can those with IPv6 addresses, and are left out; Docker's fallback
/// steps in when none is left.
#[must_use]
pub fn resolv_conf(host: &str, dns: &DnsOptions<'_>) -> String {
    let host = HostResolver::parse(host);
    let mut text = String::from(
        "# Made by Palan from the host's file and the container's options. You may edit this copy.\n\n",
    );
    let reachable = |server: &IpAddr| server.is_ipv4() && !server.is_loopback();
    let mut servers = dns.servers.to_vec();
    if servers.is_empty() {
        servers.extend(host.servers.iter().filter_map(|server| server.parse().ok()).filter(reachable));
    }
    if servers.is_empty() {
        servers.extend(FALLBACK_SERVERS);
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let given: Vec<&str> = dns.search.iter().map(String::as_str).collect();
    let search = if given.is_empty() { host.search } else { given };
    let search: Vec<&str> = search.into_iter().filter(|domain| *domain != ".").collect();
    push_list(&mut text, "search", &search);
    let given: Vec<&str> = dns.options.iter().map(String::as_str).collect();
    push_list(&mut text, "options", if given.is_empty() { &host.options } else { &given });
    for line in host.others {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The content of `/etc/resolv.conf` for a container that has a resolver of its own: that resolver is all it asks, and no name
/// needs a dot to be looked up as it is.
#[must_use]
pub fn resolv_conf_of_resolver(host: &str, dns: &DnsOptions<'_>) -> String {
    let host = HostResolver::parse(host);
    let mut text = String::from(
        "# Made by Palan: names of containers are answered, all others forwarded. You may edit this copy.\n\n",
    );
    text.push_str(&format!("nameserver {}\n", crate::resolver::ADDRESS));
    let given: Vec<&str> = dns.search.iter().map(String::as_str).collect();
    let search = if given.is_empty() { host.search } else { given };
    let search: Vec<&str> = search.into_iter().filter(|domain| *domain != ".").collect();
    push_list(&mut text, "search", &search);
    let given: Vec<&str> = dns.options.iter().map(String::as_str).collect();
    let mut options = if given.is_empty() { host.options } else { given };
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0");
    }
    push_list(&mut text, "options", &options);
    text
}

fn push_list(text: &mut String, keyword: &str, words: &[&str]) {
    if !words.is_empty() {
        text.push_str(&format!("{keyword} {}\n", words.join(" ")));
    }
}

/// What resolv.conf(5) knows. The last `search` or `domain` line counts, options add up.
#[derive(Default)]
struct HostResolver<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
    others: Vec<&'a str>,
}

impl<'a> HostResolver<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => parsed.servers.extend(words.next()),
                Some("search" | "domain") => parsed.search = words.collect(),
                Some("options") => parsed.options.extend(words),
                Some(word) if !word.starts_with(['#', ';']) => parsed.others.push(line.trim()),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, dns: &DnsOptions<'_>, expected: &str) {
        let text = resolv_conf(host, dns);
        let (_, body) = text.split_once("\n\n").unwrap();
        assert_eq!(body, expected, "from {host:?}");
    }

    #[test]
    fn loopback_and_ipv6_servers_are_left_out() {
        let none = DnsOptions::default();
        check("nameserver 127.0.0.53\nnameserver 10.0.0.2\n", &none, "nameserver 10.0.0.2\n");
        check("nameserver ::1\nnameserver fd00::1", &none, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        check("", &none, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        check("nameserver fe80::1%eth0", &none, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn the_rest_of_the_host_s_file_is_kept() {
        let host = "# comment\nnameserver 10.0.0.2\ndomain a.test\nsearch b.test c.test\noptions ndots:2 edns0\n\
                    options rotate\nsortlist 10.0.0.0\n";
        let expected =
            "nameserver 10.0.0.2\nsearch b.test c.test\noptions ndots:2 edns0 rotate\nsortlist 10.0.0.0\n";
        check(host, &DnsOptions::default(), expected);
    }

    #[test]
    fn options_replace_what_the_host_has() {
        let host = "nameserver 10.0.0.2\nsearch b.test\noptions ndots:2\n";
        let servers = ["127.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let search = [".".to_owned()];
        let options = ["timeout:1".to_owned()];
        let dns = DnsOptions { servers: &servers, search: &search, options: &options };
        check(host, &dns, "nameserver 127.0.0.1\nnameserver fd00::1\noptions timeout:1\n");
    }

    #[test]
    fn a_container_with_a_resolver_asks_it_alone() {
        let search = ["b.test".to_owned()];
        let dns = DnsOptions { search: &search, ..DnsOptions::default() };
        let text = resolv_conf_of_resolver("nameserver 10.0.0.2\nsearch a.test\noptions edns0\n", &dns);
        let (_, body) = text.split_once("\n\n").unwrap();
        assert_eq!(body, "nameserver 127.0.0.11\nsearch b.test\noptions edns0 ndots:0\n");
        let options = ["ndots:2".to_owned()];
        let dns = DnsOptions { options: &options, ..DnsOptions::default() };
        assert!(resolv_conf_of_resolver("", &dns).ends_with("nameserver 127.0.0.11\noptions ndots:2\n"));
    }

    #[test]
    fn the_stub_of_systemd_resolved_leads_to_its_list() {
        let path = |text| host_resolv_conf_path(text).to_str().unwrap();
        assert_eq!(path("nameserver 127.0.0.53\noptions edns0\n"), RESOLVED_RESOLV_CONF);
        assert_eq!(path("nameserver 127.0.0.53\nnameserver 10.0.0.2\n"), RESOLV_CONF);
        assert_eq!(path(""), RESOLV_CONF);
    }

    #[test]
    fn hosts_come_in_docker_s_order() {
        let extra = [("db".to_owned(), "10.0.0.9".to_owned())];
        let own = [("172.17.0.2".parse().unwrap(), vec!["0123456789ab".to_owned()])];
        let text = hosts(&Hosts { own: &own, extra: &extra });
        assert_eq!(text.strip_prefix(STANDARD_HOSTS), Some("10.0.0.9\tdb\n172.17.0.2\t0123456789ab\n"));
        assert_eq!(hosts(&Hosts::default()), STANDARD_HOSTS);
    }
}
