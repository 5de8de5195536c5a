//! What a container finds in `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`: pure functions from facts to text.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// What goes into `/etc/hosts`.
#[derive(Debug, Clone, Default)]
pub struct Hosts<'a> {
    /// The container's own address and its names, hostname first; `None` without a network.
    pub own: Option<(IpAddr, &'a [&'a str])>,
    /// `--add-host`: a name and the address as text (`host-gateway` already resolved).
    pub extra: &'a [(String, String)],
}

/// The content of `/etc/hosts`.
#[must_use]
pub fn hosts(hosts: &Hosts<'_>) -> String {
    let _ = hosts;
    todo!()
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

/// The file that holds the host's name servers: systemd-resolved's own list where `/etc/resolv.conf` only names its stub.
#[must_use]
pub fn host_resolv_conf_path(etc_resolv_conf: &str) -> PathBuf {
    let _ = etc_resolv_conf;
    Path::new("/etc/resolv.conf").to_owned()
}

/// The content of `/etc/resolv.conf` for a container on the bridge, made from the host's: name servers on the host's
/// loopback can't be reached from there and are left out, Docker's fallback steps in when none is left.
#[must_use]
pub fn resolv_conf(host: &str, dns: &DnsOptions<'_>) -> String {
    let _ = (host, dns, Ipv4Addr::LOCALHOST);
    todo!()
}
