//! What a client is configured with, checked once when it is made.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::address::Network;

/// The settings of a [`Client`](crate::Client), as the daemon's configuration has them.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `registry-mirrors`: URLs that are asked for images of `docker.io`, in this order, before it.
    pub mirrors: Vec<String>,
    /// `insecure-registries`: `host`, `host:port` or CIDR networks that may be spoken to without a valid certificate,
    /// or without TLS. Loopback is always among them.
    pub insecure_registries: Vec<String>,
    /// Directories with a `host:port/` of `*.crt`, `*.cert` and `*.key` each, the first ones winning.
    pub certificate_directories: Vec<PathBuf>,
    /// The `User-Agent` of every request.
    pub user_agent: String,
    /// Proxies, as the daemon's environment or configuration names them.
    pub proxies: Proxies,
    /// `max-concurrent-downloads`, over all pulls.
    pub max_concurrent_downloads: usize,
    /// `max-concurrent-uploads`, over all pushes to a registry.
    pub max_concurrent_uploads: usize,
    /// Waiting times; tests shorten them.
    pub timing: Timing,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure_registries: Vec::new(),
            certificate_directories: vec!["/etc/palan/certs.d".into(), "/etc/docker/certs.d".into()],
            user_agent: concat!("palan/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxies: Proxies::default(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            timing: Timing::default(),
        }
    }
}

/// Proxies in the words of the environment variables that usually name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTP_PROXY`.
    pub http: Option<String>,
    /// `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `NO_PROXY`.
    pub exceptions: Option<String>,
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// Without a byte of an answer; also the time in which at least a kilobyte must arrive.
    pub stall: Duration,
    /// How often one layer is tried before the pull fails.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause, also when the registry asks for a longer one by `Retry-After`.
    pub longest_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A mirror is not a URL of the allowed form.
    #[error("invalid mirror {mirror:?}: {reason}")]
    Mirror {
        /// The setting.
        mirror: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An insecure registry is neither a host nor a network.
    #[error(
        "invalid insecure registry {entry:?}: it must be a host, host:port or a network such as 10.0.0.0/8"
    )]
    InsecureRegistry {
        /// The setting.
        entry: String,
    },
    /// A proxy is not a URL.
    #[error("invalid proxy {proxy:?}: it must be a URL such as http://proxy.example.com:3128")]
    Proxy {
        /// The setting without user and password.
        proxy: String,
    },
    /// The user agent has characters that no header may have.
    #[error("invalid user agent {user_agent:?}")]
    UserAgent {
        /// The setting.
        user_agent: String,
    },
}

/// `registry-mirrors` as URLs that end in a slash.
pub(crate) fn parse_mirrors(mirrors: &[String]) -> Result<Vec<Url>, ConfigError> {
    mirrors.iter().map(|mirror| parse_mirror(mirror)).collect()
}

fn parse_mirror(mirror: &str) -> Result<Url, ConfigError> {
    let refuse = |reason| ConfigError::Mirror { mirror: without_userinfo(mirror), reason };
    let mut url = Url::parse(mirror).map_err(|_| refuse("not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("the scheme must be http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("username/password are not allowed in the URL"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("query or fragment are not allowed in the URL"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// `text` with what looks like credentials in a URL removed, so that it can be shown.
pub(crate) fn without_userinfo(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://***@{}", &text[..scheme], &text[at + 1..]),
        _ => text.to_owned(),
    }
}

/// `insecure-registries`, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct InsecureRegistries {
    hosts: Vec<String>,
    networks: Vec<Network>,
}

impl InsecureRegistries {
    pub(crate) fn parse(entries: &[String]) -> Result<Self, ConfigError> {
        let mut parsed = Self::default();
        for entry in entries {
            let name =
                entry.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
            if let Some(network) = Network::parse(name) {
                parsed.networks.push(network);
            } else if name.is_empty()
                || name.contains(['/', '@', '?', '#'])
                || name.contains(char::is_whitespace)
            {
                return Err(ConfigError::InsecureRegistry { entry: entry.clone() });
            } else {
                parsed.hosts.push(name.to_ascii_lowercase());
            }
        }
        Ok(parsed)
    }

    /// Whether `authority` (`host` or `host:port`) was named.
    pub(crate) fn names(&self, authority: &str) -> bool {
        self.hosts.iter().any(|host| host.eq_ignore_ascii_case(authority))
    }

    /// Whether `address` is in one of the networks; loopback always is.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.networks.iter().any(|network| network.contains(address))
    }

    /// Whether a name must be looked up to know its answer.
    pub(crate) fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_must_be_plain_urls() {
        let good =
            parse_mirrors(&["https://m.example.com".into(), "http://10.0.0.1:5000/hub".into()]).unwrap();
        assert_eq!(good[0].as_str(), "https://m.example.com/");
        assert_eq!(good[1].as_str(), "http://10.0.0.1:5000/hub/");
        for bad in ["m.example.com", "ftp://m", "https://u:p@m.example.com", "https://m/?a=b", "https://m/#x"]
        {
            let error = parse_mirrors(&[bad.into()]).unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn insecure_registries_are_hosts_or_networks() {
        let list = InsecureRegistries::parse(&[
            "reg.example.com:5000".into(),
            "http://plain.example.com/".into(),
            "10.1.0.0/16".into(),
            "fd00::/8".into(),
        ])
        .unwrap();
        assert!(list.names("REG.example.com:5000") && !list.names("reg.example.com"));
        assert!(list.names("plain.example.com"));
        assert!(list.covers("10.1.2.3".parse().unwrap()) && !list.covers("10.2.0.1".parse().unwrap()));
        assert!(list.covers("fd12::1".parse().unwrap()) && list.covers("127.8.9.1".parse().unwrap()));
        assert!(list.covers("::1".parse().unwrap()) && list.covers("::ffff:10.1.0.9".parse().unwrap()));
        for bad in ["", "10.0.0.0/40", "a b", "x/y"] {
            assert!(InsecureRegistries::parse(&[bad.into()]).is_err(), "{bad}");
        }
    }
}
