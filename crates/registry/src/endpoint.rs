//! Where to ask for the images of a registry, in order.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

use crate::error::RegistryError;
use crate::guard::authority;
use crate::transport::{Origin, Transport};

/// Where the images of `docker.io` are.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Where they are searched.
const DOCKER_INDEX: &str = "index.docker.io";
/// How long it is remembered that an insecure registry speaks plain HTTP.
const MEMORY: Duration = Duration::from_secs(600);

/// A place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    /// A mirror gets no credentials, and whatever it fails with, the next place is asked.
    pub(crate) mirror: bool,
    /// Asked only if the one before could not be connected to by TLS.
    pub(crate) plain_fallback: bool,
}

/// The mirrors, and what was learnt about registries.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    mirrors: Vec<Url>,
    plain: Mutex<HashMap<String, Instant>>,
}

impl Endpoints {
    pub(crate) fn new(mirrors: Vec<Url>) -> Self {
        Self { mirrors, plain: Mutex::default() }
    }

    /// The places for images of `domain`.
    pub(crate) async fn for_images(
        &self,
        transport: &Transport,
        domain: &str,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let mut endpoints = Vec::new();
        if domain == palan_oci::reference::DEFAULT_DOMAIN {
            for mirror in &self.mirrors {
                let insecure = transport.is_insecure(mirror).await;
                let origin = Origin { url: mirror.clone(), insecure };
                endpoints.push(Endpoint { origin, mirror: true, plain_fallback: false });
            }
        }
        endpoints.extend(self.of_registry(transport, domain).await?);
        Ok(endpoints)
    }

    /// The registry itself: HTTPS, then plain HTTP if it is insecure; only HTTP if it was seen to speak that alone.
    pub(crate) async fn of_registry(
        &self,
        transport: &Transport,
        domain: &str,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let is_hub = domain == palan_oci::reference::DEFAULT_DOMAIN;
        self.of_host(transport, if is_hub { DOCKER_HUB } else { domain }).await
    }

    /// Where the images of `domain` are searched; the same order.
    pub(crate) async fn of_index(
        &self,
        transport: &Transport,
        domain: &str,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let is_hub = domain == palan_oci::reference::DEFAULT_DOMAIN;
        self.of_host(transport, if is_hub { DOCKER_INDEX } else { domain }).await
    }

    async fn of_host(&self, transport: &Transport, host: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let url = base_url("https", host)?;
        let insecure = transport.is_insecure(&url).await;
        let secure = Endpoint { origin: Origin { url, insecure }, mirror: false, plain_fallback: false };
        if !insecure {
            return Ok(vec![secure]);
        }
        let origin = Origin { url: base_url("http", host)?, insecure };
        if self.is_known_plain(&origin.url) {
            return Ok(vec![Endpoint { origin, mirror: false, plain_fallback: false }, secure]);
        }
        Ok(vec![secure, Endpoint { origin, mirror: false, plain_fallback: true }])
    }

    fn is_known_plain(&self, url: &Url) -> bool {
        let plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        plain.get(&authority(url)).is_some_and(|learnt| learnt.elapsed() < MEMORY)
    }

    /// Remembers that `endpoint` answered, so that the next pull need not try TLS in vain.
    pub(crate) fn worked(&self, endpoint: &Endpoint) {
        if endpoint.origin.url.scheme() == "http" && !endpoint.mirror {
            let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
            plain.retain(|_, learnt| learnt.elapsed() < MEMORY);
            plain.insert(authority(&endpoint.origin.url), Instant::now());
        }
    }
}

fn base_url(scheme: &str, host: &str) -> Result<Url, RegistryError> {
    let invalid = |reason: String| RegistryError::Document {
        what: "registry address",
        reference: host.to_owned(),
        reason,
    };
    let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|error| invalid(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.path() != "/" || url.query().is_some() {
        return Err(invalid("it must be host or host:port".to_owned()));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientConfig;

    async fn places(config: ClientConfig, domain: &str) -> Vec<String> {
        let mirrors = crate::config::parse_mirrors(&config.mirrors).unwrap();
        let transport = Transport::new(config).unwrap();
        let endpoints = Endpoints::new(mirrors);
        let found = endpoints.for_images(&transport, domain).await.unwrap();
        found.into_iter().map(|endpoint| endpoint.origin.url.to_string()).collect()
    }

    #[tokio::test]
    async fn mirrors_come_first_and_only_for_the_hub() {
        let config =
            ClientConfig { mirrors: vec!["https://m.example.com".into()], ..ClientConfig::default() };
        assert_eq!(
            places(config.clone(), "docker.io").await,
            ["https://m.example.com/", "https://registry-1.docker.io/"]
        );
        assert_eq!(places(config, "quay.io").await, ["https://quay.io/"]);
    }

    #[tokio::test]
    async fn plain_http_is_for_insecure_registries() {
        let config = ClientConfig { insecure_registries: vec!["reg:5000".into()], ..ClientConfig::default() };
        assert_eq!(places(config.clone(), "reg:5000").await, ["https://reg:5000/", "http://reg:5000/"]);
        assert_eq!(places(config.clone(), "reg").await, ["https://reg/"]);
        for loopback in ["localhost:5000", "127.9.9.9:80", "[::1]:5000"] {
            assert_eq!(places(config.clone(), loopback).await.len(), 2, "{loopback}");
        }
    }

    #[test]
    fn a_registry_is_a_host_and_a_port() {
        for bad in ["u@h", "h/x", "h?x", "h:99999", ""] {
            assert!(base_url("https", bad).is_err(), "{bad}");
        }
    }
}
