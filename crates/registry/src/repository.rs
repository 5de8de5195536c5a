//! One repository at one endpoint: authorised requests for manifests, blobs and tags.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use palan_oci::{Digest, media_type};
use reqwest::header::{CONTENT_TYPE, HeaderValue, LINK, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::auth::{AuthKey, Authenticator};
use crate::challenge::{self, Challenge};
use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::error::{ApiError, RegistryError, RequestError};
use crate::guard::same_origin;
use crate::limits::RateLimit;
use crate::login::is_connection_failure;
use crate::retry;
use crate::transport::{Origin, Outgoing, Transport, api_error, read_document};

/// What a manifest request accepts.
const ACCEPT_MANIFESTS: &str = concat!(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.docker.distribution.manifest.v2+json"
);
/// The most pages of a list of tags.
const MOST_PAGES: usize = 1_000;
/// The most tags of one repository.
const MOST_TAGS: usize = 100_000;
/// The most that one page of tags may have.
const LONGEST_PAGE: u64 = 16 * 1024 * 1024;
/// How often a document is asked for.
const DOCUMENT_ATTEMPTS: u32 = 3;
/// The longest time that a registry may ask us to wait before we ask for a document again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is to be done with a repository: the actions of its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

/// A repository at one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    transport: Arc<Transport>,
    authenticator: Arc<Authenticator>,
    origin: Origin,
    api: Url,
    namespace: Option<String>,
    path: String,
    credentials: Credentials,
    key: AuthKey,
}

/// A manifest or index as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<String>,
}

impl Repository {
    /// `path` at `endpoint`; an empty path is the registry as a whole.
    pub(crate) fn new(
        transport: Arc<Transport>,
        authenticator: Arc<Authenticator>,
        endpoint: &Endpoint,
        path: &str,
        access: Access,
        credentials: &Credentials,
    ) -> Self {
        let credentials = if endpoint.mirror { Credentials::Anonymous } else { credentials.clone() };
        let scope =
            if path.is_empty() { String::new() } else { format!("repository:{path}:{}", access.actions()) };
        Self {
            key: AuthKey {
                origin: endpoint.origin.url.to_string(),
                scope,
                credentials: credentials.fingerprint(),
            },
            origin: endpoint.origin.clone(),
            api: endpoint.api.clone(),
            namespace: endpoint.namespace.clone(),
            path: path.to_owned(),
            transport,
            authenticator,
            credentials,
        }
    }

    /// Another repository of the same registry, for the same user.
    pub(crate) fn sibling(&self, path: &str, access: Access) -> Self {
        let mut sibling = self.clone();
        sibling.key.scope = format!("repository:{path}:{}", access.actions());
        path.clone_into(&mut sibling.path);
        sibling
    }

    /// The same with the right to read another repository of the registry, which mounting a blob from there needs.
    pub(crate) fn reading_also(&self, other: &str) -> Self {
        let mut both = self.clone();
        both.key.scope = format!("{} repository:{other}:pull", self.key.scope);
        both
    }

    /// Who asks whom for what; equal sources give equal answers.
    pub(crate) fn source(&self) -> &AuthKey {
        &self.key
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The digest that a tag has now, if the registry says it in a `HEAD` answer. Only that nobody is there is an
    /// error: what else may be wrong, a `GET` will tell better.
    pub(crate) async fn digest_of(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let mut outgoing = Outgoing::new(Method::HEAD, self.url(&format!("manifests/{tag}"))?);
        outgoing.accept = Some(ACCEPT_MANIFESTS);
        let response = match self.request(outgoing).await {
            Ok(response) => response,
            Err(error) if is_connection_failure(&error) => return Err(error),
            Err(_) => return Ok(None),
        };
        let digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(digest.and_then(|text| text.parse().ok()))
    }

    /// A manifest or index by tag or digest, not verified.
    pub(crate) async fn manifest(&self, reference: &str) -> Result<Fetched, RegistryError> {
        let mut outgoing = Outgoing::new(Method::GET, self.url(&format!("manifests/{reference}"))?);
        outgoing.accept = Some(ACCEPT_MANIFESTS);
        self.document(outgoing, palan_oci::manifest::MAX_MANIFEST_SIZE).await
    }

    /// A small blob, not verified.
    pub(crate) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, RegistryError> {
        let outgoing = Outgoing::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
        Ok(self.document(outgoing, limit).await?.body)
    }

    /// The answer to a request for a blob from `offset` on: 200, 206 or an error.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Response, RegistryError> {
        let mut outgoing = Outgoing::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
        outgoing.from = offset;
        self.request(outgoing).await
    }

    /// Something that a descriptor says lies elsewhere. No credentials go there.
    pub(crate) async fn foreign(&self, url: &Url, offset: u64) -> Result<Response, RegistryError> {
        let mut outgoing = Outgoing::new(Method::GET, url.clone());
        outgoing.from = offset;
        let failed = |error| RegistryError::request(&Method::GET, url, error);
        let response = self.transport.send(&self.origin, &outgoing).await.map_err(failed)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let patience = self.transport.config().timing.stall;
        Err(failed(RequestError::Api(api_error(response, patience).await)))
    }

    /// Asks for the root of the API, which needs no more than to be let in.
    pub(crate) async fn ping(&self) -> Result<(), RegistryError> {
        let url = self.base()?;
        self.request(Outgoing::new(Method::GET, url)).await.map(drop)
    }

    /// All tags.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut url = self.url("tags/list")?;
        for _ in 0..MOST_PAGES {
            let failed = |reason: &str| {
                RegistryError::request(
                    &Method::GET,
                    &url,
                    RequestError::Malformed { reason: reason.to_owned() },
                )
            };
            let response = self.request(Outgoing::new(Method::GET, url.clone())).await?;
            let next = next_page(&response);
            let body = read_document(response, LONGEST_PAGE, self.transport.config().timing.stall)
                .await
                .map_err(|error| RegistryError::request(&Method::GET, &url, error))?;
            let page: Page =
                serde_json::from_slice(&body).map_err(|_| failed("a list of tags that is no JSON"))?;
            tags.extend(page.tags.unwrap_or_default());
            if tags.len() > MOST_TAGS {
                return Err(failed("too many tags"));
            }
            match next {
                // Pages are the same registry's; our token goes nowhere else.
                Some(next) if same_origin(&next, &self.origin.url) => url = next,
                _ => return Ok(tags),
            }
        }
        Ok(tags)
    }

    /// Where the referrers of a digest are listed.
    pub(crate) fn referrers_url(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Url, RegistryError> {
        let mut url = self.url(&format!("referrers/{digest}"))?;
        if let Some(artifact_type) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", artifact_type);
        }
        Ok(url)
    }

    /// One page of a list, and where the next one is. Pages are the same registry's; our token goes nowhere else.
    pub(crate) async fn page(&self, url: Url, limit: u64) -> Result<(Fetched, Option<Url>), RegistryError> {
        let mut outgoing = Outgoing::new(Method::GET, url);
        outgoing.accept = Some(media_type::OCI_INDEX);
        let response = self.request(outgoing.clone()).await?;
        let next = next_page(&response).filter(|next| same_origin(next, &self.origin.url));
        let content_type = content_type(&response);
        let body = read_document(response, limit, self.transport.config().timing.stall)
            .await
            .map_err(|error| RegistryError::request(&outgoing.method, &outgoing.url, error))?;
        Ok((Fetched { body, content_type }, next))
    }

    /// Tells the log how much a registry will still serve.
    fn note_limit(&self, response: &Response) {
        let Some(limit) = RateLimit::of(response.headers()) else { return };
        let registry = self.origin.url.host_str().unwrap_or_default();
        if limit.is_low() {
            tracing::warn!(registry, %limit, "the registry will soon refuse to serve");
        } else {
            tracing::debug!(registry, %limit, "the registry limits requests");
        }
    }

    async fn document(&self, outgoing: Outgoing, limit: u64) -> Result<Fetched, RegistryError> {
        let timing = &self.transport.config().timing;
        let mut failed = 0;
        loop {
            let error = match self.document_once(&outgoing, limit).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            failed += 1;
            // Nobody there, or a rate limit, is told at once; an answer that broke or an overload is worth another try.
            let hopeless = match &error {
                RegistryError::Request { source, .. } => {
                    !source.is_transient()
                        || matches!(source, RequestError::Connect { .. })
                        || source.retry_after().is_some_and(|asked| asked > LONGEST_WAIT)
                }
                _ => true,
            };
            if hopeless || failed >= DOCUMENT_ATTEMPTS.min(timing.attempts) {
                return Err(error);
            }
            tokio::time::sleep(retry::pause(timing, failed, error.retry_after())).await;
        }
    }

    async fn document_once(&self, outgoing: &Outgoing, limit: u64) -> Result<Fetched, RegistryError> {
        let response = self.request(outgoing.clone()).await?;
        let content_type = content_type(&response);
        let body = read_document(response, limit, self.transport.config().timing.stall)
            .await
            .map_err(|error| RegistryError::request(&outgoing.method, &outgoing.url, error))?;
        Ok(Fetched { body, content_type })
    }

    /// Sends a request, answers a challenge once, and returns the head of a success.
    pub(crate) async fn request(&self, mut outgoing: Outgoing) -> Result<Response, RegistryError> {
        let (method, url) = (outgoing.method.clone(), outgoing.url.clone());
        let failed = |error| RegistryError::request(&method, &url, error);
        let patience = self.transport.config().timing.stall;
        // An upload may go on elsewhere, as far as the registry is concerned; as what, is no concern of that place.
        if same_origin(&outgoing.url, &self.origin.url) {
            outgoing.authorization = self.authenticator.known(&self.key, &self.credentials).await;
        }
        let mut answered = matches!(self.credentials, Credentials::RegistryToken(_));
        loop {
            let response = self.transport.send(&self.origin, &outgoing).await.map_err(failed)?;
            if response.status().is_success() {
                self.note_limit(&response);
                return Ok(response);
            }
            let is_challenge = response.status() == StatusCode::UNAUTHORIZED
                && same_origin(response.url(), &self.origin.url);
            let challenges = if is_challenge { challenges(&response) } else { Vec::new() };
            if answered || challenges.is_empty() {
                let error = refusal(response, &challenges, patience).await;
                return Err(failed(RequestError::Api(error)));
            }
            // The connection can be used again once the body is read.
            drop(api_error(response, patience).await);
            let header = self
                .authenticator
                .answer(
                    &self.transport,
                    &self.origin,
                    &self.key,
                    &self.credentials,
                    &challenges,
                    outgoing.authorization.as_ref(),
                )
                .await
                .map_err(failed)?;
            answered = true;
            outgoing.authorization = Some(header);
        }
    }

    /// The challenge of the registry's root, if it has one; for logins.
    pub(crate) async fn challenge(&self) -> Result<Vec<Challenge>, RegistryError> {
        let url = self.base()?;
        let outgoing = Outgoing::new(Method::GET, url.clone());
        let failed = |error| RegistryError::request(&Method::GET, &url, error);
        let response = self.transport.send(&self.origin, &outgoing).await.map_err(failed)?;
        Ok(if response.status() == StatusCode::UNAUTHORIZED { challenges(&response) } else { Vec::new() })
    }

    /// Sends the request for the root with this authorization.
    pub(crate) async fn ping_with(&self, authorization: HeaderValue) -> Result<(), RegistryError> {
        let url = self.base()?;
        let failed = |error| RegistryError::request(&Method::GET, &url, error);
        let mut outgoing = Outgoing::new(Method::GET, url.clone());
        outgoing.authorization = Some(authorization);
        let response = self.transport.send(&self.origin, &outgoing).await.map_err(failed)?;
        if response.status().is_success() {
            return Ok(());
        }
        let patience = self.transport.config().timing.stall;
        Err(failed(RequestError::Api(api_error(response, patience).await)))
    }

    fn base(&self) -> Result<Url, RegistryError> {
        self.join("")
    }

    pub(crate) fn url(&self, rest: &str) -> Result<Url, RegistryError> {
        self.join(&format!("{}/{rest}", self.path))
    }

    fn join(&self, path: &str) -> Result<Url, RegistryError> {
        let mut url = self.api.join(path).map_err(|error| {
            let reason = RequestError::Malformed { reason: error.to_string() };
            RegistryError::request(&Method::GET, &self.api, reason)
        })?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

fn challenges(response: &Response) -> Vec<Challenge> {
    response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .take(4)
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

fn content_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(media_type::without_parameters(value).to_owned())
}

/// The registry's last word.
async fn refusal(response: Response, challenges: &[Challenge], patience: Duration) -> ApiError {
    let out_of_scope = challenges.iter().any(|challenge| {
        challenge.scheme == "bearer" && challenge.parameter("error") == Some("insufficient_scope")
    });
    if out_of_scope { ApiError::insufficient_scope() } else { api_error(response, patience).await }
}

/// The target of `Link: </v2/…>; rel="next"`.
fn next_page(response: &Response) -> Option<Url> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !parameters.replace(['"', ' '], "").contains("rel=next") {
        return None;
    }
    response.url().join(target).ok()
}
