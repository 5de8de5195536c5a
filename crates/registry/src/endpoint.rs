//! Where to ask for the images of a registry, in order: the hosts of its `hosts.toml`, mirrors, the registry itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

use crate::error::RegistryError;
use crate::guard::{authority, same_origin};
use crate::hosts::{self, Capabilities, Host};
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
    /// The API's root, ending in a slash.
    pub(crate) api: Url,
    pub(crate) capabilities: Capabilities,
    /// The registry that the place stands in for, if it is to be told.
    pub(crate) namespace: Option<String>,
    /// A mirror gets no credentials, and whatever it fails with, the next place is asked.
    pub(crate) mirror: bool,
    /// Asked only if the one before could not be connected to by TLS.
    pub(crate) plain_fallback: bool,
}

impl Endpoint {
    /// A place without a file about it.
    fn plain(url: Url, insecure: bool) -> Self {
        let api = url.join("v2/").unwrap_or_else(|_| url.clone());
        Self {
            origin: Origin::new(url, insecure),
            api,
            capabilities: Capabilities::ALL,
            namespace: None,
            mirror: false,
            plain_fallback: false,
        }
    }
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
        let file = hosts::find(&transport.config().certificate_directories, domain)
            .map_err(|error| RegistryError::Settings { reason: error.to_string() })?
            .unwrap_or_default();
        let mut endpoints = Vec::new();
        for host in file.hosts {
            endpoints.push(self.named(transport, domain, host).await?);
        }
        if domain == palan_oci::reference::DEFAULT_DOMAIN {
            for mirror in &self.mirrors {
                let insecure = transport.is_insecure(mirror).await;
                let mirror = Endpoint::plain(mirror.clone(), insecure);
                endpoints.push(Endpoint { mirror: true, ..mirror });
            }
        }
        match file.server {
            Some(server) => endpoints.push(self.named(transport, domain, server).await?),
            None => endpoints.extend(self.of_registry(transport, domain).await?),
        }
        Ok(endpoints)
    }

    /// The places for pushes to `domain`.
    pub(crate) async fn for_pushes(
        &self,
        transport: &Transport,
        domain: &str,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let mut endpoints = self.for_images(transport, domain).await?;
        // `registry-mirrors` have no namespace.
        endpoints.retain(|endpoint| {
            endpoint.capabilities.push && (!endpoint.mirror || endpoint.namespace.is_some())
        });
        if endpoints.is_empty() {
            let reason = format!("no host in the hosts.toml of {domain} has the capability \"push\"");
            return Err(RegistryError::Settings { reason });
        }
        Ok(endpoints)
    }

    /// A place that a file names. The registry itself is none that stands in for it: it gets credentials, and what it
    /// says is the last word.
    async fn named(
        &self,
        transport: &Transport,
        domain: &str,
        host: Host,
    ) -> Result<Endpoint, RegistryError> {
        let own = base_url(host.api.scheme(), host_of(domain))?;
        let mirror = !same_origin(&own, &host.api);
        let mut url = host.api.clone();
        url.set_path("/");
        let insecure = host.skip_verify || transport.is_insecure(&url).await;
        Ok(Endpoint {
            origin: Origin { url, insecure, extras: host.extras },
            api: host.api,
            capabilities: host.capabilities,
            namespace: mirror.then(|| domain.to_owned()),
            mirror,
            plain_fallback: false,
        })
    }

    /// The registry itself: HTTPS, then plain HTTP if it is insecure; only HTTP if it was seen to speak that alone.
    pub(crate) async fn of_registry(
        &self,
        transport: &Transport,
        domain: &str,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        self.of_host(transport, host_of(domain)).await
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
        let secure = Endpoint::plain(url, insecure);
        if !insecure {
            return Ok(vec![secure]);
        }
        let plain = Endpoint::plain(base_url("http", host)?, insecure);
        if self.is_known_plain(&plain.origin.url) {
            return Ok(vec![plain, secure]);
        }
        Ok(vec![secure, Endpoint { plain_fallback: true, ..plain }])
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

/// The places with a registry that may be spoken to without a valid certificate, or without TLS, though no setting says so: a
/// user asked for that in one request.
pub(crate) fn made_insecure(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let own = endpoints.iter_mut().rfind(|endpoint| !endpoint.mirror && !endpoint.origin.insecure);
    let Some(own) = own else { return endpoints };
    own.origin.insecure = true;
    let mut url = own.origin.url.clone();
    if url.set_scheme("http").is_ok() {
        endpoints.push(Endpoint { plain_fallback: true, ..Endpoint::plain(url, true) });
    }
    endpoints
}

/// Where the images of a domain are, if nobody says otherwise.
fn host_of(domain: &str) -> &str {
    if domain == palan_oci::reference::DEFAULT_DOMAIN { DOCKER_HUB } else { domain }
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
