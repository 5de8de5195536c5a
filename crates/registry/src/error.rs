//! What can go wrong with a registry, in two layers: [`RequestError`] for one request, [`RegistryError`] for the whole verb.
//!
//! Docker's clients match on some of these texts, printed with their sources (`outer: inner`), so the wording of
//! `pull access denied`, `manifest for … not found`, `no matching manifest` and `Get "url": …` is fixed.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, Url};

use crate::guard::GuardError;
use crate::limits::RateLimit;

/// What kind of failure a [`RegistryError`] is, for the front doors' status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The image, repository or platform does not exist, or is not to be seen by this user.
    NotFound,
    /// The credentials were refused, in a login.
    Unauthorized,
    /// What was asked for makes no sense.
    Invalid,
    /// The registry cannot be reached or is ill; later may work.
    Unavailable,
    /// Everything else: a lying registry, a full disk.
    System,
}

/// A failed pull or login.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// One request failed for good.
    #[error("{} \"{url}\"", verb(method))]
    Request {
        /// The method.
        method: Method,
        /// Where to.
        url: Box<Url>,
        /// The reason.
        source: RequestError,
    },
    /// The registry denies access, or does not admit that there is something.
    #[error("pull access denied for {name}, repository does not exist or may require 'docker login'")]
    Denied {
        /// The repository as the user says it.
        name: String,
        /// What the registry said.
        source: ApiError,
    },
    /// There is no such manifest in the repository.
    #[error("manifest for {reference} not found")]
    ManifestUnknown {
        /// The reference as the user says it.
        reference: String,
        /// What the registry said.
        source: ApiError,
    },
    /// There is no such repository.
    #[error("repository {name} not found")]
    NameUnknown {
        /// The repository as the user says it.
        name: String,
        /// What the registry said.
        source: ApiError,
    },
    /// An index has no image for the platform.
    #[error(
        "no matching manifest for {platform} in the manifest list entries: no match for platform in manifest: not found"
    )]
    NoPlatform {
        /// The platform that was asked for.
        platform: String,
    },
    /// An image for another operating system.
    #[error(
        "image operating system {os:?} cannot be used on this platform: operating system is not supported"
    )]
    WrongOs {
        /// The system.
        os: String,
    },
    /// An image in the format of 2014.
    #[error(
        "{reference} is in Docker Image manifest version 2, schema 1, which is no longer supported; ask its author to publish it in the OCI format or as schema 2"
    )]
    Schema1 {
        /// The reference as the user says it.
        reference: String,
    },
    /// A manifest, index or configuration of a kind that is no image.
    #[error("{reference} is not an image that can run: {what} is of the media type {media_type:?}")]
    Unsupported {
        /// The reference as the user says it.
        reference: String,
        /// What is of that type.
        what: &'static str,
        /// The media type.
        media_type: String,
    },
    /// The registry served other content than was asked for by digest.
    #[error("{what} verification failed for digest {expected}: the registry served {found}")]
    Digest {
        /// What was fetched: `manifest`, `filesystem layer`, …
        what: &'static str,
        /// The digest in the reference or the manifest.
        expected: String,
        /// The digest of what came, or how long it was.
        found: String,
    },
    /// A document that cannot be used.
    #[error("invalid {what} of {reference}: {reason}")]
    Document {
        /// `manifest`, `image configuration`, …
        what: &'static str,
        /// The reference as the user says it.
        reference: String,
        /// Why.
        reason: String,
    },
    /// A layer's transfer broke too often.
    #[error("cannot download layer {digest} in {attempts} attempts, the last one failed")]
    Exhausted {
        /// The layer.
        digest: String,
        /// How many attempts were made.
        attempts: u32,
        /// How the last one ended.
        source: Box<Self>,
    },
    /// An upload broke too often.
    #[error("cannot upload layer {digest} in {attempts} attempts, the last one failed")]
    UploadExhausted {
        /// The blob.
        digest: String,
        /// How many attempts were made.
        attempts: u32,
        /// How the last one ended.
        source: Box<Self>,
    },
    /// The registry says that it stored something else than was sent.
    #[error("the registry stored {what} as {found}, but it is {expected}")]
    Stored {
        /// What was sent.
        what: String,
        /// Its digest.
        expected: String,
        /// The digest that the registry gave it.
        found: String,
    },
    /// Nothing in the store has this name.
    #[error("{text}")]
    NothingToPush {
        /// Docker's text.
        text: String,
    },
    /// Bytes that a manifest names, which came neither with this image nor with another.
    #[error(
        "layer {digest} of {reference} is not in the store in the form that its manifest names: pull the image again"
    )]
    MissingBlob {
        /// The image as the user says it.
        reference: String,
        /// The layer's digest.
        digest: String,
    },
    /// The image is for another platform than the one that was asked for.
    #[error(
        "image with reference {reference} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    OtherPlatform {
        /// The image as the user says it.
        reference: String,
        /// Its platform.
        found: String,
        /// The platform that was asked for.
        wanted: String,
    },
    /// The registry does not let us push.
    #[error(transparent)]
    PushRefused(ApiError),
    /// What an administrator wrote about the registry cannot be used.
    #[error("{reason}")]
    Settings {
        /// The file and what is wrong with it.
        reason: String,
    },
    /// The store refused.
    #[error("cannot store {what}")]
    Store {
        /// What was to be stored.
        what: String,
        /// The reason.
        source: Box<palan_store::Error>,
    },
    /// What a user named is no URL.
    #[error("{url:?} is not a URL: {reason}")]
    Url {
        /// As named.
        url: String,
        /// Why not.
        reason: String,
    },
    /// A task or thread of this process ended without an answer.
    #[error("the download of {what} was given up")]
    GivenUp {
        /// What was being fetched.
        what: String,
    },
    /// The credentials of a pull were refused. The same as the error inside, but not of the class `Unauthorized`: on a
    /// 401 in answer to a pull Docker's client asks its user for a password, which dockerd never lets it do.
    #[error(transparent)]
    PullRefused(Box<Self>),
    /// A failure that several pulls share because they waited for one download.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl RegistryError {
    /// What kind of failure this is.
    pub fn class(&self) -> Class {
        match self {
            Self::Denied { .. }
            | Self::ManifestUnknown { .. }
            | Self::NameUnknown { .. }
            | Self::NothingToPush { .. }
            | Self::OtherPlatform { .. }
            | Self::NoPlatform { .. } => Class::NotFound,
            Self::Schema1 { .. } | Self::Unsupported { .. } | Self::WrongOs { .. } | Self::Url { .. } => {
                Class::Invalid
            }
            Self::Document { what: "registry address", .. } => Class::Invalid,
            Self::Request { source, .. } => source.class(),
            Self::Exhausted { source, .. } | Self::UploadExhausted { source, .. } => source.class(),
            Self::Shared(error) => error.class(),
            Self::Digest { .. }
            | Self::Document { .. }
            | Self::Store { .. }
            | Self::GivenUp { .. }
            | Self::Stored { .. }
            | Self::Settings { .. }
            | Self::MissingBlob { .. }
            | Self::PushRefused(_)
            | Self::PullRefused(_) => Class::System,
        }
    }

    /// The failure itself, without what only wraps it.
    pub fn unshared(&self) -> &Self {
        match self {
            Self::Shared(error) => error.unshared(),
            Self::PullRefused(error) => error.unshared(),
            error => error,
        }
    }

    pub(crate) fn request(method: &Method, url: &Url, source: RequestError) -> Self {
        Self::Request { method: method.clone(), url: Box::new(presentable(url)), source }
    }

    /// Whether another attempt at the same thing may go better.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// When the registry asked us to come back.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Request { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    /// Whether the failure says nothing about other places that have the same content.
    pub(crate) fn is_of_the_endpoint(&self) -> bool {
        match self {
            Self::Store { .. }
            | Self::Settings { .. }
            | Self::NoPlatform { .. }
            | Self::WrongOs { .. }
            | Self::GivenUp { .. } => false,
            Self::Shared(error) => error.is_of_the_endpoint(),
            _ => true,
        }
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        Method::DELETE => "Delete",
        _ => "Get",
    }
}

/// `url` without what may be secret: user, password, and the signature in a storage service's query.
fn presentable(url: &Url) -> Url {
    let mut url = url.clone();
    // Fails for URLs without a host only, which have no userinfo.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some_and(|query| !query.starts_with("service=") && !query.starts_with("account=")) {
        url.set_query(None);
    }
    url
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection.
    #[error("cannot connect to {authority}: {reason}")]
    Connect {
        /// `host:port`.
        authority: String,
        /// The innermost cause.
        reason: String,
    },
    /// The other side does not speak TLS.
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainHttp,
    /// The certificate or the handshake is not acceptable.
    #[error("tls: {reason}")]
    Tls {
        /// The innermost cause.
        reason: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to {authority} broke: {reason}")]
    Interrupted {
        /// `host:port`.
        authority: String,
        /// The innermost cause.
        reason: String,
    },
    /// No byte for too long.
    #[error("{authority} sent nothing of use for {} s", waited.as_secs_f32())]
    Stalled {
        /// `host:port`.
        authority: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A redirect or token service that we do not follow.
    #[error(transparent)]
    Refused(#[from] GuardError),
    /// Redirects without end.
    #[error("stopped after {limit} redirects")]
    TooManyRedirects {
        /// How many were followed.
        limit: usize,
    },
    /// The registry answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The registry wants user and password, and there are none.
    #[error("no basic auth credentials")]
    NoBasicCredentials,
    /// The registry wants what we cannot give.
    #[error("the registry asks for authentication by {schemes:?}, only Basic and Bearer are supported")]
    UnknownChallenge {
        /// The schemes that it named.
        schemes: Vec<String>,
    },
    /// The token service refused.
    #[error(transparent)]
    TokenRefused(ApiError),
    /// The token service cannot be asked.
    #[error("Get \"{url}\"")]
    Token {
        /// The token service.
        url: Box<Url>,
        /// The reason.
        source: Box<Self>,
    },
    /// More than is allowed.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// An answer that makes no sense.
    #[error("the registry's answer cannot be understood: {reason}")]
    Malformed {
        /// Why.
        reason: String,
    },
    /// The store could not deliver what was to be sent.
    #[error("cannot read blob {digest}, which is to be sent")]
    Unreadable {
        /// The blob.
        digest: palan_oci::Digest,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate or key of the host's configuration cannot be used.
    #[error("cannot use the certificates of this host: {reason}")]
    Certificates {
        /// Why, with the path.
        reason: String,
    },
}

impl RequestError {
    pub(crate) fn token(url: &Url, source: Self) -> Self {
        Self::Token { url: Box::new(presentable(url)), source: Box::new(source) }
    }

    fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class(),
            Self::NoBasicCredentials | Self::UnknownChallenge { .. } => Class::Unauthorized,
            Self::TokenRefused(error) => error.class(),
            Self::Token { source, .. } => source.class(),
            Self::Connect { .. } | Self::Interrupted { .. } | Self::Stalled { .. } => Class::Unavailable,
            _ => Class::System,
        }
    }

    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Interrupted { .. } | Self::Stalled { .. } => true,
            Self::Api(error) | Self::TokenRefused(error) => error.is_transient(),
            Self::Token { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Whether the other side may simply not speak TLS, or not on this port. A TLS error says that it does.
    pub(crate) fn is_connection_failure(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::PlainHttp | Self::Interrupted { .. } | Self::Stalled { .. }
        )
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api(error) | Self::TokenRefused(error) => error.retry_after,
            Self::Token { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

/// An error answer of a registry: a status, and the code and message of its body where it had one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// The code of the distribution specification, such as `MANIFEST_UNKNOWN`; empty where there was none.
    pub code: String,
    /// The message for people.
    pub message: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// How much the registry serves, where it says so.
    pub limit: Option<Box<RateLimit>>,
}

/// The longest text of a registry that is passed on.
const LONGEST_TEXT: usize = 512;

impl ApiError {
    /// Reads an error answer. `body` is what came of it, complete or not.
    pub(crate) fn new(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let (code, message) = first_error(body).unwrap_or_default();
        let mut error = Self { status, code, message, retry_after, limit: None };
        if error.code.is_empty() {
            let default = match status {
                401 => ("UNAUTHORIZED", "authentication required"),
                403 => ("DENIED", "requested access to the resource is denied"),
                429 => ("TOOMANYREQUESTS", "too many requests"),
                _ => ("", ""),
            };
            default.0.clone_into(&mut error.code);
            if error.message.is_empty() {
                default.1.clone_into(&mut error.message);
            }
        }
        error
    }

    /// `denied: …`, whatever the status was: a bearer challenge said `insufficient_scope` (RFC 6750, section 3.1).
    pub(crate) fn insufficient_scope() -> Self {
        Self::new(403, b"", None)
    }

    fn text(&self) -> String {
        if self.code.is_empty() {
            let reason =
                reqwest::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
            return format!("received unexpected HTTP status: {} {}", self.status, reason.unwrap_or(""))
                .trim_end()
                .to_owned();
        }
        let code = self.code.to_lowercase().replace('_', " ");
        let text = if self.message.is_empty() { code } else { format!("{code}: {}", self.message) };
        match &self.limit {
            Some(limit) if self.status == 429 => format!("{text} ({limit})"),
            _ => text,
        }
    }

    fn class(&self) -> Class {
        match self.status {
            401 | 403 => Class::Unauthorized,
            404 => Class::NotFound,
            408 | 429 | 500..=599 => Class::Unavailable,
            _ => Class::System,
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
    }
}

/// The first entry of `{"errors": […]}`, or the texts that token services answer with instead.
fn first_error(body: &[u8]) -> Option<(String, String)> {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Body {
        errors: Vec<Entry>,
        details: Option<String>,
        message: Option<String>,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    match body.errors.into_iter().next() {
        Some(entry) => {
            Some((clean(&entry.code.unwrap_or_default()), clean(&entry.message.unwrap_or_default())))
        }
        None => Some((String::new(), clean(&body.details.or(body.message)?))),
    }
}

/// Text of a stranger made fit for a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(LONGEST_TEXT)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_become_dockers_texts() {
        let text = |status, body: &str| ApiError::new(status, body.as_bytes(), None).to_string();
        let body =
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(text(404, body), "manifest unknown: manifest unknown");
        assert_eq!(text(401, ""), "unauthorized: authentication required");
        assert_eq!(
            text(401, r#"{"details":"incorrect username or password"}"#),
            "unauthorized: incorrect username or password"
        );
        assert_eq!(text(403, "<html>"), "denied: requested access to the resource is denied");
        assert_eq!(text(500, "oops"), "received unexpected HTTP status: 500 Internal Server Error");
        assert_eq!(text(599, r#"{"errors":[]}"#), "received unexpected HTTP status: 599");
    }

    #[test]
    fn strangers_texts_are_cleaned_and_cut() {
        let body = serde_json::json!({"errors": [{"code": "DENIED", "message": format!("\u{1b}[31m{}", "x".repeat(9999))}]});
        let error = ApiError::new(403, body.to_string().as_bytes(), None);
        assert!(error.message.len() <= LONGEST_TEXT && !error.message.contains('\u{1b}'));
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = Url::parse("https://u:p@storage.example.com/x?X-Amz-Signature=abc").unwrap();
        let error = RegistryError::request(&Method::GET, &url, RequestError::PlainHttp);
        assert_eq!(error.to_string(), r#"Get "https://storage.example.com/x""#);
    }
}
