//! A blocking client of the Engine API over a unix socket, SSH, or TCP, plain or with TLS.
//!
//! There is no ping before the first request: the newest version is assumed, and a daemon that answers "too new" is
//! asked again with the version that its `Api-Version` header names. Only an upload that can't be repeated asks first.
//! Connections are kept for the next request when their answer was read to its end; an answer that is dropped unread
//! closes its connection, which tells the daemon to stop.
//!
//! [`Client::send`] is the ground floor; the methods for each resource are in the files beside this one.

mod archive;
mod connection;
mod container;
mod exec;
mod image;
mod network;
mod resolve;
mod response;
mod ssh;
mod system;
mod tls;
mod volume;

pub use archive::{CommitOptions, platform_json};
pub use connection::Socket;
pub use container::{AttachOptions, ListOptions, LogsOptions, PendingWait, RemoveOptions, WaitCondition};
pub use image::{ImportOptions, Progress, PullOptions, PushOptions, RegistryManifest};
pub use response::{AbortHandle, Body, Head, Response, Upgraded};
pub use ssh::SshHost;
pub use tls::{Tls, TlsError, TlsFiles};

use crate::host::Host;
use crate::json::{self, DecodeError};
use crate::types::ErrorResponse;
use crate::version::ApiVersion;
use connection::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much of an error answer is read.
const MAX_ERROR_BODY: u64 = 1 << 20;

/// How much of a JSON answer is read into memory.
const MAX_JSON_BODY: u64 = 256 << 20;

/// Idle connections that are kept.
const MAX_IDLE: usize = 4;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or we may not connect.
    #[error("cannot connect to the daemon at {host}")]
    Connect {
        /// Where.
        host: Host,
        /// Why.
        source: io::Error,
    },
    /// Somebody is there, but TLS does not come about.
    #[error("the TLS handshake with the daemon at {host} failed")]
    Handshake {
        /// Where.
        host: Host,
        /// Why.
        source: io::Error,
    },
    /// A host name that is no IP address and not in `/etc/hosts`.
    #[error("cannot resolve host name {0}: write an IP address, or add the name to /etc/hosts")]
    UnknownHost(String),
    /// The connection broke while the request was written.
    #[error("sending the request {request} to the daemon failed")]
    Send {
        /// Method and path.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("reading the daemon's answer to {request} failed")]
    Receive {
        /// Method and path.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// The other side does not speak the API.
    #[error("the answer to {request} is not one of a container engine: {problem}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What is wrong.
        problem: String,
    },
    /// Reading what was to be uploaded failed.
    #[error("reading the data to send failed")]
    Upload(#[source] io::Error),
    /// The daemon refused. The text is printed as Docker's client does.
    #[error("Error response from daemon: {message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// What the daemon says.
        message: String,
    },
    /// The answer is not the JSON of this endpoint.
    #[error("the daemon's answer to {request} could not be understood")]
    Decode {
        /// Method and path.
        request: String,
        /// Where it differs.
        source: DecodeError,
    },
}

impl ClientError {
    /// The HTTP status, when the daemon answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the daemon says that the object doesn't exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// The query part of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(String);

impl Query {
    /// No parameter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        escape(name, b"", &mut self.0);
        self.0.push('=');
        escape(value, b"", &mut self.0);
        self
    }

    /// Adds `name=1` when set.
    #[must_use]
    pub fn with_flag(self, name: &str, set: bool) -> Self {
        if set { self.with(name, "1") } else { self }
    }

    /// Adds a parameter when there is a value and it isn't empty.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) if !value.is_empty() => self.with(name, value),
            _ => self,
        }
    }
}

/// Escapes a name for use as one part of a path; `/`, `:` and `@` stay, since image names have them.
pub fn path_escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    escape(name, b"/:@", &mut out);
    out
}

fn escape(text: &str, keep: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// What a request carries.
pub enum RequestBody<'a> {
    /// Nothing.
    Empty,
    /// JSON, already encoded.
    Json(Vec<u8>),
    /// A stream, sent in chunks.
    Stream {
        /// The bytes.
        reader: &'a mut dyn Read,
        /// Their media type.
        content_type: &'a str,
    },
}

impl std::fmt::Debug for RequestBody<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Json(_) => "Json",
            Self::Stream { .. } => "Stream",
        })
    }
}

/// A request, without version and host.
#[derive(Debug)]
pub struct Request<'a> {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: RequestBody<'a>,
    upgrade: bool,
    versioned: bool,
}

impl<'a> Request<'a> {
    /// A request without a body. `path` starts with `/` and has no version.
    pub fn new(method: &'static str, path: impl Into<String>, query: &Query) -> Self {
        let mut path = path.into();
        path.push_str(&query.0);
        let (headers, body) = (Vec::new(), RequestBody::Empty);
        Self { method, path, headers, body, upgrade: false, versioned: true }
    }

    /// With a header. Line breaks in the value are removed, since they would start another header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value: String = value.into();
        self.headers.push((name, value.replace(['\r', '\n'], "")));
        self
    }

    /// With a JSON body.
    #[must_use]
    pub fn json<T: Serialize + ?Sized>(mut self, body: &T) -> Self {
        self.body = RequestBody::Json(json::to_vec(body));
        self
    }

    /// With a streamed body.
    #[must_use]
    pub fn stream(mut self, reader: &'a mut dyn Read, content_type: &'a str) -> Self {
        self.body = RequestBody::Stream { reader, content_type };
        self
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A client of one daemon. Clones share their connections and what they learnt about the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    tls: Option<Tls>,
    user_agent: String,
    version: Mutex<Version>,
    idle: Mutex<Vec<Connection>>,
}

/// What is known about the daemon's version.
#[derive(Debug, Clone, Copy)]
struct Version {
    current: ApiVersion,
    /// Given by the user, so it is never changed.
    fixed: bool,
    /// The daemon has answered a request of this version.
    confirmed: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// A client that negotiates the version. Nothing is sent yet.
    pub fn new(host: Host) -> Self {
        Self::build(host, Version { current: ApiVersion::MAX, fixed: false, confirmed: false })
    }

    /// A client that speaks exactly this version (`DOCKER_API_VERSION`).
    pub fn with_version(host: Host, version: ApiVersion) -> Self {
        Self::build(host, Version { current: version, fixed: true, confirmed: true })
    }

    /// The same client, with TLS if the daemon is reached over TCP. Connections made before stay as they are.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        let version = *locked(&self.inner.version);
        Self::build_with(self.inner.host.clone(), version, Some(tls))
    }

    fn build(host: Host, version: Version) -> Self {
        Self::build_with(host, version, None)
    }

    fn build_with(host: Host, version: Version, tls: Option<Tls>) -> Self {
        let user_agent = concat!("Palan/", env!("CARGO_PKG_VERSION"), " (linux)").to_owned();
        let (version, idle) = (Mutex::new(version), Mutex::default());
        Self { inner: Arc::new(Inner { host, tls, user_agent, version, idle }) }
    }

    /// Where the daemon is.
    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    /// The version that requests are sent with.
    pub fn version(&self) -> ApiVersion {
        locked(&self.inner.version).current
    }

    /// Sends a request and reads the head of the answer. An answer of 400 and above is an [`ClientError::Api`].
    pub fn send(&self, mut request: Request<'_>) -> Result<Response, ClientError> {
        if matches!(request.body, RequestBody::Stream { .. }) && !locked(&self.inner.version).confirmed {
            self.ping()?;
        }
        loop {
            let version = *locked(&self.inner.version);
            let mut connection = self.connection()?;
            let prefix = if request.versioned { format!("/v{}", version.current) } else { String::new() };
            let sent =
                connection.write_request(&prefix, &mut request, &self.inner.host, &self.inner.user_agent);
            if let Err(error @ ClientError::Upload(_)) = sent {
                // The daemon still waits for the rest; the dropped connection tells it that none comes.
                return Err(error);
            }
            let head = match (sent, connection.read_head(&request)) {
                // A daemon may refuse an upload before it has all of it: its answer explains the broken pipe.
                (_, Ok(head)) => head,
                (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
            };
            let pool = Arc::clone(&self.inner);
            let response = Response::new(request.method, request.name(), head, connection, pool);
            if response.status() == 400 && !version.fixed && self.step_down(version.current, &response) {
                if matches!(request.body, RequestBody::Stream { .. }) {
                    return Err(response.into_error());
                }
                continue;
            }
            if response.status() >= 400 {
                return Err(response.into_error());
            }
            if request.versioned {
                locked(&self.inner.version).confirmed = true;
            }
            return Ok(response);
        }
    }

    /// Takes the daemon's version when it is older than the one it was asked with.
    fn step_down(&self, asked: ApiVersion, response: &Response) -> bool {
        let theirs = response.header("Api-Version").and_then(|v| v.parse::<ApiVersion>().ok());
        match theirs {
            Some(theirs) if theirs < asked => {
                let mut version = locked(&self.inner.version);
                (version.current, version.confirmed) = (theirs, true);
                true
            }
            _ => false,
        }
    }

    /// Sends a request and decodes the JSON of the answer.
    pub fn fetch<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, ClientError> {
        let name = request.name();
        let bytes = self.fetch_bytes(request)?;
        json::from_slice(&bytes).map_err(|source| ClientError::Decode { request: name, source })
    }

    /// Sends a request and returns the body of the answer as it came.
    pub fn fetch_bytes(&self, request: Request<'_>) -> Result<Vec<u8>, ClientError> {
        let name = request.name();
        let mut bytes = Vec::new();
        let body = self.send(request)?.into_body();
        let read = body.take(MAX_JSON_BODY).read_to_end(&mut bytes);
        read.map_err(|source| ClientError::Receive { request: name, source })?;
        Ok(bytes)
    }

    /// Sends a request whose answer says nothing, and reads it to the end so that the connection can be used again.
    pub fn execute(&self, request: Request<'_>) -> Result<(), ClientError> {
        self.fetch_bytes(request).map(drop)
    }

    /// Sends a request that turns the connection into a raw duplex stream (attach, exec start).
    pub fn upgrade(&self, request: Request<'_>) -> Result<Upgraded, ClientError> {
        let mut request = request.header("Connection", "Upgrade").header("Upgrade", "tcp");
        request.upgrade = true;
        Ok(self.send(request)?.into_upgraded())
    }

    /// A connection to the daemon on which nothing was said.
    pub fn dial(&self) -> Result<Socket, ClientError> {
        Ok(Connection::open(&self.inner.host, self.inner.tls.as_ref())?.into_parts().0)
    }

    fn connection(&self) -> Result<Connection, ClientError> {
        loop {
            let idle = locked(&self.inner.idle).pop();
            match idle {
                Some(connection) if connection.is_quiet() => return Ok(connection),
                Some(_) => {}
                None => return Connection::open(&self.inner.host, self.inner.tls.as_ref()),
            }
        }
    }
}

impl Inner {
    /// Takes back a connection whose answer was read to its end.
    fn keep(&self, connection: Connection) {
        let mut idle = locked(&self.idle);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }
}

/// The text of an error answer: Docker's JSON, else the text itself, else the name of the status.
fn error_message(status: u16, reason: &str, body: &[u8]) -> String {
    if let Ok(ErrorResponse { message }) = json::from_slice(body)
        && !message.is_empty()
    {
        return message;
    }
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => format!("the daemon answered with status {status} {reason} and no message"),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
