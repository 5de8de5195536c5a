//! Host names to addresses, without the C library: a static glibc cannot load the name-service modules it would need.
//!
//! `/etc/resolv.conf` and `/etc/hosts` are read again when they change, because the daemon lives longer than a
//! laptop's network. There is no fallback to anybody's public resolver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::is_metadata_or_link_local;
use crate::guard::GuardError;

/// The files whose change makes a new resolver.
const SOURCES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The system's resolver, shared by all clients.
#[derive(Debug, Default)]
pub(crate) struct SystemResolver {
    current: Mutex<Option<(Stamp, Arc<TokioResolver>)>>,
}

type Stamp = [Option<(SystemTime, u64)>; 2];

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("cannot read the host's DNS configuration: {reason}")]
    Configuration { reason: String },
    #[error("lookup {name}: {reason}")]
    Lookup { name: String, reason: String },
    #[error(transparent)]
    Refused(#[from] GuardError),
}

impl SystemResolver {
    /// All addresses of a name.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let bare = name.trim_end_matches('.').to_ascii_lowercase();
        if bare == "localhost" || bare.ends_with(".localhost") {
            // RFC 6761: never asked of a server.
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        }
        let resolver = self.current()?;
        match resolver.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => {
                Err(ResolveError::Lookup { name: name.to_owned(), reason: "no such host".to_owned() })
            }
            Err(error) => Err(ResolveError::Lookup { name: name.to_owned(), reason: error.to_string() }),
        }
    }

    fn current(&self) -> Result<Arc<TokioResolver>, ResolveError> {
        let stamp = SOURCES.map(|path| stamp(Path::new(path)));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_from, resolver)) = &*current
            && *made_from == stamp
        {
            return Ok(Arc::clone(resolver));
        }
        let failed =
            |error: &dyn std::fmt::Display| ResolveError::Configuration { reason: error.to_string() };
        let mut builder = TokioResolver::builder_tokio().map_err(|error| failed(&error))?;
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        let resolver = Arc::new(builder.build().map_err(|error| failed(&error))?);
        *current = Some((stamp, Arc::clone(&resolver)));
        Ok(resolver)
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = palan_stdx::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// What an HTTP client resolves with: the system's resolver, and for places that a registry named the guard's rule.
#[derive(Debug, Clone)]
pub(crate) struct ClientResolver {
    pub(crate) system: Arc<SystemResolver>,
    /// Refuses link-local and metadata addresses.
    pub(crate) guarded: bool,
    /// Names that the user configured (proxies) and that no guard concerns.
    pub(crate) trusted: Arc<[String]>,
}

impl Resolve for ClientResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let mut addresses = resolver.system.lookup(name).await?;
            if resolver.guarded && !resolver.trusted.iter().any(|trusted| trusted.eq_ignore_ascii_case(name))
            {
                addresses.retain(|address| !is_metadata_or_link_local(*address));
                if addresses.is_empty() {
                    return Err(ResolveError::from(GuardError::Metadata { host: name.to_owned() }).into());
                }
            }
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_and_literals_need_no_server() {
        let resolver = SystemResolver::default();
        assert_eq!(resolver.lookup("localhost").await.unwrap().len(), 2);
        assert_eq!(resolver.lookup("a.LOCALHOST.").await.unwrap().len(), 2);
        assert_eq!(resolver.lookup("10.1.2.3").await.unwrap(), [IpAddr::from([10, 1, 2, 3])]);
    }
}
