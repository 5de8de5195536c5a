//! Sends one request: picks the HTTP client with the right certificates, follows redirects by the guard's rules, and
//! turns whatever went wrong into a [`RequestError`].
//!
//! Redirects are followed here and not by the HTTP library, because each step needs a decision: `Authorization` stays
//! behind when the scheme, host or port changes, the target is checked ([`crate::guard`]), and places that the registry
//! named get a client of their own, which resolves names under the guard and never shows the registry's client
//! certificate.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Client, Method, Response, StatusCode, Url};

use crate::certificates::{self, Stamp};
use crate::config::{ClientConfig, ConfigError, InsecureRegistries};
use crate::error::{ApiError, RequestError};
use crate::guard::{self, authority, literal_address, same_origin};
use crate::hosts::Extras;
use crate::limits::{self, RateLimit};
use crate::payload::Payload;
use crate::proxy::ProxySettings;
use crate::resolver::{ClientResolver, ResolveError, SystemResolver};

/// The most redirects of one request.
const MOST_REDIRECTS: usize = 8;
/// The most HTTP clients kept; each has its own certificates and idle connections.
const MOST_CLIENTS: usize = 32;
/// The most that is read of an error's body.
const LONGEST_ERROR_BODY: u64 = 64 * 1024;

/// The HTTP clients of the process, and what they are made with.
#[derive(Debug)]
pub(crate) struct Transport {
    config: ClientConfig,
    user_agent: HeaderValue,
    insecure: InsecureRegistries,
    proxies: ProxySettings,
    proxy_hosts: Arc<[String]>,
    resolver: Arc<SystemResolver>,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

/// What makes an HTTP client differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    trust: Trust,
    guarded: bool,
    /// The certificates of the host itself.
    own: Stamp,
    /// The authorities of the registry that named the host.
    inherited: Stamp,
    connect: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trust {
    /// Plain HTTP: nothing to verify, so the system's authorities need not be loaded.
    Plain,
    /// Valid certificates.
    Verified,
    /// Any certificate.
    Any,
}

/// The registry that requests are made on behalf of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its base URL.
    pub(crate) url: Url,
    /// Whether its certificate need not be valid.
    pub(crate) insecure: bool,
    /// What `hosts.toml` adds to requests to it, and to it alone.
    pub(crate) extras: Arc<Extras>,
}

impl Origin {
    /// A registry about which no file says anything.
    pub(crate) fn new(url: Url, insecure: bool) -> Self {
        Self { url, insecure, extras: Arc::default() }
    }
}

/// A request before any redirect.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) accept: Option<&'static str>,
    pub(crate) authorization: Option<HeaderValue>,
    /// The offset to start at, where that is not the beginning.
    pub(crate) from: u64,
    /// What is sent along.
    pub(crate) payload: Payload,
}

impl Outgoing {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, accept: None, authorization: None, from: 0, payload: Payload::None }
    }
}

impl Transport {
    pub(crate) fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        // Another part of the process may have installed the same provider before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let proxies = ProxySettings::parse(&config.proxies)?;
        let user_agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|_| ConfigError::UserAgent { user_agent: config.user_agent.clone() })?;
        Ok(Self {
            user_agent,
            insecure: InsecureRegistries::parse(&config.insecure_registries)?,
            proxy_hosts: proxies.hosts().into(),
            proxies,
            resolver: Arc::default(),
            clients: Mutex::default(),
            config,
        })
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Whether `host[:port]` may be spoken to without a valid certificate, or without TLS.
    pub(crate) async fn is_insecure(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        if self.insecure.names(&authority(url)) || host == "localhost" {
            return true;
        }
        if let Some(address) = literal_address(url) {
            return self.insecure.covers(address);
        }
        if !self.insecure.has_networks() {
            return false;
        }
        // As in Docker: one address of the name inside of a network is enough.
        let addresses = self.resolver.lookup(host).await.unwrap_or_default();
        addresses.into_iter().any(|address| self.insecure.covers(address))
    }

    /// Sends a request and returns the answer's head, whatever its status, after redirects.
    pub(crate) async fn send(&self, origin: &Origin, outgoing: &Outgoing) -> Result<Response, RequestError> {
        let mut url = outgoing.url.clone();
        let mut authorization = outgoing.authorization.clone();
        if !same_origin(&origin.url, &url) {
            guard::check(&origin.url, &origin.url, &url)?;
        }
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send_once(origin, outgoing, &url, authorization.as_ref()).await?;
            if !is_redirect(&outgoing.payload, &outgoing.method, response.status()) {
                return Ok(response);
            }
            let next = redirect_target(&url, &response)?;
            guard::check(&origin.url, &url, &next)?;
            if !same_origin(&url, &next) {
                authorization = None;
            }
            url = next;
        }
        Err(RequestError::TooManyRedirects { limit: MOST_REDIRECTS })
    }

    async fn send_once(
        &self,
        origin: &Origin,
        outgoing: &Outgoing,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RequestError> {
        let client = self.client_for(origin, url).await?;
        let mut request = client.request(outgoing.method.clone(), url.clone());
        if let Some(accept) = outgoing.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            let mut authorization = authorization.clone();
            authorization.set_sensitive(true);
            request = request.header(AUTHORIZATION, authorization);
        }
        if same_origin(&origin.url, url) {
            for (name, value) in &origin.extras.headers {
                request = request.header(name, value);
            }
        }
        if outgoing.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", outgoing.from));
        }
        let limit = self.config.timing.connect.max(self.config.timing.stall);
        request = match &outgoing.payload {
            Payload::None if matches!(outgoing.method, Method::POST | Method::PUT | Method::PATCH) => {
                request.header(CONTENT_LENGTH, 0)
            }
            Payload::None => request,
            Payload::Form(form) => {
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
            }
            Payload::Document { media_type, content } => {
                request.header(CONTENT_TYPE, media_type).body(content.clone())
            }
            Payload::Blob(part) => {
                request = request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, part.length());
                if let Some(range) = part.content_range() {
                    request = request.header(CONTENT_RANGE, range);
                }
                let sent = part.watched(limit, request.body(part.body()).send()).await;
                return match sent {
                    Ok(Ok(response)) => Ok(response),
                    Ok(Err(error)) => Err(part.failure().unwrap_or_else(|| classify(&error, url))),
                    Err(waited) => Err(RequestError::Stalled { authority: authority(url), waited }),
                };
            }
        };
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(classify(&error, url)),
            Err(_) => Err(RequestError::Stalled { authority: authority(url), waited: limit }),
        }
    }

    async fn client_for(&self, origin: &Origin, url: &Url) -> Result<Client, RequestError> {
        let own = same_origin(&origin.url, url);
        let same_host = origin.url.host_str() == url.host_str();
        let trust = if url.scheme() == "http" {
            Trust::Plain
        } else if (same_host && origin.insecure) || (!same_host && self.is_insecure(url).await) {
            Trust::Any
        } else {
            Trust::Verified
        };
        let stamp = |url: &Url| match trust {
            Trust::Plain => Stamp::new(),
            _ => certificates::stamp(&self.config.certificate_directories, &authority(url)),
        };
        let mut own_files = stamp(url);
        if own && trust != Trust::Plain {
            own_files.extend(certificates::stamp_named(&origin.extras));
        }
        let key = ClientKey {
            trust,
            guarded: !same_host,
            own: own_files,
            inherited: if own { Stamp::new() } else { stamp(&origin.url) },
            connect: origin.extras.connect.filter(|_| own).unwrap_or(self.config.timing.connect),
        };
        if let Some(client) = self.lock_clients().get(&key) {
            return Ok(client.clone());
        }
        let client = self.make_client(&key)?;
        let mut clients = self.lock_clients();
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        Ok(clients.entry(key).or_insert(client).clone())
    }

    fn lock_clients(&self) -> std::sync::MutexGuard<'_, HashMap<ClientKey, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_client(&self, key: &ClientKey) -> Result<Client, RequestError> {
        let unusable = |reason: String| RequestError::Certificates { reason };
        let own = certificates::load(&key.own)
            .map_err(|error| unusable(palan_stdx::error_chain::to_string(&error)))?;
        let inherited = certificates::load(&key.inherited)
            .map_err(|error| unusable(palan_stdx::error_chain::to_string(&error)))?;
        let mut builder = Client::builder()
            .user_agent(self.user_agent.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(key.connect)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(self.config.max_concurrent_downloads.max(1))
            .http2_adaptive_window(true)
            .dns_resolver(ClientResolver {
                system: Arc::clone(&self.resolver),
                guarded: key.guarded,
                trusted: Arc::clone(&self.proxy_hosts),
            });
        builder = match key.trust {
            Trust::Plain => builder.tls_certs_only([]),
            Trust::Any => builder.tls_danger_accept_invalid_certs(true),
            Trust::Verified => {
                builder.tls_certs_merge(own.authorities.into_iter().chain(inherited.authorities))
            }
        };
        if let Some(identity) = own.identity {
            builder = builder.identity(identity);
        }
        for proxy in self.proxies.for_client().map_err(|error| unusable(innermost(&error)))? {
            builder = builder.proxy(proxy);
        }
        builder.build().map_err(|error| unusable(innermost(&error)))
    }
}

/// Whether an answer sends us on. What a request carries goes along only where the answer says that the method stays
/// (307, 308), and never if it is a form, which has a secret in it.
fn is_redirect(payload: &Payload, method: &Method, status: StatusCode) -> bool {
    match (payload, status.as_u16()) {
        (Payload::Form(_), _) => false,
        (_, 307 | 308) => true,
        (Payload::None, 301..=303) => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

pub(crate) fn redirect_target(from: &Url, response: &Response) -> Result<Url, RequestError> {
    let malformed = || RequestError::Malformed { reason: "an answer without a usable Location".to_owned() };
    let location =
        response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(malformed)?;
    let mut target = from.join(location).map_err(|_| malformed())?;
    // Credentials of a registry's making would be sent as our own.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    Ok(target)
}

/// Turns an answer whose status is no success into its error, reading a little of the body.
pub(crate) async fn api_error(response: Response, patience: Duration) -> ApiError {
    let status = response.status().as_u16();
    let (limit, retry_after) = (RateLimit::of(response.headers()), limits::retry_after(response.headers()));
    let body = read_some(response, LONGEST_ERROR_BODY, patience).await;
    ApiError { limit: limit.map(Box::new), ..ApiError::new(status, &body, retry_after) }
}

async fn read_some(mut response: Response, limit: u64, patience: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() as u64 >= limit {
                break;
            }
        }
    };
    // What came in time is enough for a text.
    drop(tokio::time::timeout(patience, reading).await);
    body
}

/// Reads a whole document of at most `limit` bytes.
pub(crate) async fn read_document(
    mut response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, RequestError> {
    let url = response.url().clone();
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(RequestError::TooLarge { limit });
    }
    let deadline = tokio::time::Instant::now() + patience.saturating_mul(4);
    let mut body = Vec::new();
    loop {
        let next = tokio::time::timeout(patience, response.chunk());
        match tokio::time::timeout_at(deadline, next).await {
            Ok(Ok(Ok(Some(chunk)))) => body.extend_from_slice(&chunk),
            Ok(Ok(Ok(None))) => return Ok(body.into()),
            Ok(Ok(Err(error))) => return Err(classify(&error, &url)),
            Ok(Err(_)) | Err(_) => {
                return Err(RequestError::Stalled { authority: authority(&url), waited: patience });
            }
        }
        if body.len() as u64 > limit {
            return Err(RequestError::TooLarge { limit });
        }
    }
}

/// What a failure of the HTTP library means.
pub(crate) fn classify(error: &reqwest::Error, url: &Url) -> RequestError {
    let reason = innermost(error);
    if let Some(tls) = find::<rustls::Error>(error) {
        return match tls {
            rustls::Error::InvalidMessage(_) => RequestError::PlainHttp,
            _ => RequestError::Tls { reason },
        };
    }
    if let Some(ResolveError::Refused(refused)) = find(error) {
        return RequestError::Refused(refused.clone());
    }
    if error.is_connect() {
        return RequestError::Connect { authority: authority(url), reason };
    }
    if error.is_builder() {
        return RequestError::Malformed { reason };
    }
    RequestError::Interrupted { authority: authority(url), reason }
}

/// The text of the deepest cause, which is the only one that says something to a user.
fn innermost(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = next_cause(deepest) {
        deepest = source;
    }
    if error.is_timeout() { "timed out".to_owned() } else { deepest.to_string() }
}

fn find<T: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&T> {
    let mut current = error.source();
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        current = next_cause(error);
    }
    None
}

/// The next error in the chain; an I/O error hides its own cause behind `get_ref`.
fn next_cause<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a (dyn std::error::Error + 'static)> {
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return Some(inner);
    }
    error.source()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palan_test_support::registry::{Fault, Registry};

    fn transport(directory: Option<&std::path::Path>) -> Transport {
        let timing = crate::config::Timing {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(20),
            ..crate::config::Timing::default()
        };
        let certificate_directories = directory.map(std::path::Path::to_owned).into_iter().collect();
        Transport::new(ClientConfig { certificate_directories, timing, ..ClientConfig::default() }).unwrap()
    }

    /// Asks for the root of the API at `url` as a registry that is not insecure, as loopback otherwise is.
    async fn ping(transport: &Transport, url: &str) -> Result<u16, RequestError> {
        let url = Url::parse(url).unwrap();
        let origin = Origin::new(url.clone(), false);
        let outgoing = Outgoing::new(Method::GET, url.join("v2/").unwrap());
        transport.send(&origin, &outgoing).await.map(|response| response.status().as_u16())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn certificates_are_verified_with_the_authorities_put_aside_for_the_host() {
        let registry = Registry::start_tls();
        let parent = tempfile::tempdir().unwrap();
        let client = transport(Some(parent.path()));
        let error = ping(&client, &registry.url()).await.unwrap_err();
        assert!(matches!(&error, RequestError::Tls { .. }), "{error:?}");

        let host = parent.path().join(registry.host());
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("ca.crt"), registry.ca_pem()).unwrap();
        // The same client sees the new file.
        assert_eq!(ping(&client, &registry.url()).await.unwrap(), 200);
        let other_name = registry.url().replace("127.0.0.1", "localhost");
        assert!(ping(&client, &other_name).await.is_err(), "another host's authorities do not count");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_plain_server_is_named_as_such() {
        let registry = Registry::start();
        let url = registry.url().replace("http:", "https:");
        let error = ping(&transport(None), &url).await.unwrap_err();
        assert_eq!(error.to_string(), "http: server gave HTTP response to HTTPS client");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_there_is_said_plainly() {
        let error = ping(&transport(None), "http://127.0.0.1:1/").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to 127.0.0.1:1: Connection refused (os error 111)");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn https_is_not_left_by_a_redirect() {
        let plain = Registry::start();
        let secure = Registry::start_tls();
        let parent = tempfile::tempdir().unwrap();
        let host = parent.path().join(secure.host());
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("ca.crt"), secure.ca_pem()).unwrap();
        secure.fault("/v2/", Fault::Redirect(format!("{}{{path}}", plain.url())));
        let error = ping(&transport(Some(parent.path())), &secure.url()).await.unwrap_err();
        assert!(matches!(error, RequestError::Refused(guard::GuardError::Downgrade { .. })), "{error:?}");
        assert!(plain.requests().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn redirects_end() {
        let registry = Registry::start();
        registry.fault("/v2/", Fault::Redirect(format!("{}{{path}}", registry.url())));
        let error = ping(&transport(None), &registry.url()).await.unwrap_err();
        assert!(matches!(error, RequestError::TooManyRedirects { .. }), "{error:?}");
        assert_eq!(registry.requests().len(), MOST_REDIRECTS + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_that_resolves_to_a_metadata_service_is_refused() {
        // No name server is needed: the guard is asked about whatever the resolver finds.
        let resolver = ClientResolver { system: Arc::default(), guarded: true, trusted: Arc::new([]) };
        let name = "169.254.169.254".parse().unwrap();
        let refused = reqwest::dns::Resolve::resolve(&resolver, name).await.err().unwrap();
        assert!(refused.to_string().contains("link-local and metadata"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_silent_server_is_given_up() {
        let registry = Registry::start();
        registry.fault("/v2/", Fault::StallAfter(0));
        let url = Url::parse(&registry.url()).unwrap();
        let origin = Origin::new(url.clone(), false);
        let outgoing = Outgoing::new(Method::GET, url.join("v2/").unwrap());
        let response = transport(None).send(&origin, &outgoing).await.unwrap();
        let error = read_document(response, 1024, Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, RequestError::Stalled { .. }), "{error:?}");
    }
}
