//! Where a registry may send us: the rules for redirects and token services.
//!
//! A daemon that follows whatever URL a registry names can be used to read what only that machine may read
//! (CVE-2026-33990). So an address given by a registry is refused if it belongs to the link or to a metadata service,
//! unless the registry itself is there, and if it leads from HTTPS to plain HTTP. Names are checked again where they
//! are resolved ([`crate::resolver`]), so a name that points there does not help.

use std::net::IpAddr;

use reqwest::Url;

use crate::address::is_metadata_or_link_local;

/// Names of metadata services, for the case that a proxy resolves them and not we.
const METADATA_NAMES: [&str; 3] = ["metadata.google.internal", "metadata.goog", "metadata"];

/// A place that a registry named and that we do not go to.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum GuardError {
    /// A link-local or metadata address.
    #[error(
        "refused to follow the registry to {host}: link-local and metadata addresses are not for registries to name"
    )]
    Metadata {
        /// The host in the URL.
        host: String,
    },
    /// From HTTPS to HTTP.
    #[error("refused to follow the registry from HTTPS to plain HTTP at {host}")]
    Downgrade {
        /// The host in the URL.
        host: String,
    },
    /// Neither HTTP nor HTTPS, or no URL.
    #[error("refused to follow the registry to {location:?}: not an HTTP URL")]
    NotHttp {
        /// What was named.
        location: String,
    },
}

/// Checks a URL that the registry at `origin` named while it was spoken to at `from`.
pub(crate) fn check(origin: &Url, from: &Url, target: &Url) -> Result<(), GuardError> {
    let Some(host) = target.host_str().filter(|_| matches!(target.scheme(), "http" | "https")) else {
        return Err(GuardError::NotHttp { location: target.as_str().chars().take(200).collect() });
    };
    if from.scheme() == "https" && target.scheme() == "http" {
        return Err(GuardError::Downgrade { host: host.to_owned() });
    }
    if origin.host_str() == Some(host) {
        return Ok(());
    }
    let forbidden = match literal_address(target) {
        Some(address) => is_metadata_or_link_local(address),
        None => METADATA_NAMES.iter().any(|name| host.trim_end_matches('.').eq_ignore_ascii_case(name)),
    };
    if forbidden { Err(GuardError::Metadata { host: host.to_owned() }) } else { Ok(()) }
}

/// The address in a URL whose host is one.
pub(crate) fn literal_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether two URLs have the same scheme, host and port.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// `host:port` of a URL, the port being left out where it is the scheme's own.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(origin: &str, target: &str) -> Result<(), GuardError> {
        let origin = Url::parse(origin).unwrap();
        check(&origin, &origin, &Url::parse(target).unwrap())
    }

    #[test]
    fn metadata_services_are_out_of_reach() {
        for target in [
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://169.254.43518/",
            "http://metadata.google.internal./computeMetadata/v1/",
        ] {
            assert!(
                matches!(verdict("http://r.example.com/", target), Err(GuardError::Metadata { .. })),
                "{target}"
            );
        }
        assert_eq!(verdict("http://169.254.1.1:5000/", "http://169.254.1.1/token"), Ok(()));
        assert!(verdict("http://169.254.1.1:5000/", "http://169.254.169.254/").is_err());
    }

    #[test]
    fn https_is_never_left() {
        assert!(matches!(
            verdict("https://r.example.com/", "http://r.example.com/"),
            Err(GuardError::Downgrade { .. })
        ));
        assert_eq!(verdict("https://r.example.com/", "https://cdn.example.net/x"), Ok(()));
        assert!(matches!(verdict("http://r/", "file:///etc/shadow"), Err(GuardError::NotHttp { .. })));
    }
}
