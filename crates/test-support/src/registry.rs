//! A registry in the test's own process, regular by default and as hostile as a test asks for.
//!
//! Plain threads and hand-written HTTP/1.1, so that every broken answer can be produced on purpose. It counts what it
//! was asked ([`Registry::requests`]), and misbehaves where a [`Fault`] was planted ([`Registry::fault`]).

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::image::{self, Image, Index};

mod upload;

use upload::Uploads;

/// How the server misbehaves on the requests that a fault was planted for.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Announces the whole body, sends this many bytes of it, and closes the connection.
    CloseAfter(usize),
    /// Closes the connection instead of answering.
    Drop,
    /// Flips one bit at this offset.
    Corrupt(usize),
    /// Sends these bytes instead of the body, with a fitting length.
    Body(Vec<u8>),
    /// Sends this many bytes of the body and then nothing, keeping the connection open.
    StallAfter(usize),
    /// A chunked body that starts as asked and never ends.
    Endless,
    /// Sends the body in pieces of this many bytes with a pause between them.
    Slow(usize, Duration),
    /// This status with these headers and body.
    Status(u16, Vec<(String, String)>, String),
    /// A redirect (307) to this URL; `{path}` stands for the request's path.
    Redirect(String),
    /// Answers a range request with 200 and the whole body.
    IgnoreRange,
    /// Answers a range request with a 206 whose range starts at 0.
    WrongRange,
    /// Sends the answer with this `Content-Type`.
    ContentType(String),
    /// Leaves out `Docker-Content-Digest`.
    NoDigest,
    /// Runs before a regular answer, for tests that need a barrier.
    Delay(Duration),
    /// Takes this many bytes of the request's body and closes the connection; what came of an upload is kept.
    CutBody(usize),
    /// Takes this many bytes of the request's body and then no more, keeping the connection open.
    StallBody(usize),
    /// Sends the answer with this header, or without it.
    Header(String, Option<String>),
}

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// All headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// The request's body, where it is text.
    pub body: String,
    /// How many bytes the body had.
    pub length: usize,
}

impl Request {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Who may read.
#[derive(Debug, Clone)]
enum Access {
    Anyone,
    Basic {
        user: String,
        password: String,
    },
    /// Bearer tokens from `realm`, by default this server's own `/token`.
    Token {
        realm: Option<String>,
        account: Option<(String, String)>,
        identity_token: Option<String>,
    },
}

struct Planted {
    needle: String,
    fault: Fault,
    left: usize,
}

#[derive(Clone)]
struct Document {
    media_type: String,
    body: Arc<Vec<u8>>,
}

struct State {
    blobs: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    uploads: Uploads,
    manifests: Mutex<HashMap<(String, String), Document>>,
    faults: Mutex<Vec<Planted>>,
    requests: Mutex<Vec<Request>>,
    access: Mutex<Access>,
    scheme: &'static str,
    address: SocketAddr,
    stopping: AtomicBool,
    connections: AtomicUsize,
    peak_connections: AtomicUsize,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A running registry on a loopback port; it ends when dropped.
pub struct Registry {
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
    /// The certificate authority that signed the server's certificate, PEM, when it speaks TLS.
    ca: Option<String>,
    /// A client's certificate and key, PEM, when the server demands one.
    client: (String, String),
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Registry").field("address", &self.state.address).finish_non_exhaustive()
    }
}

impl Registry {
    /// Starts a registry that speaks plain HTTP on 127.0.0.1.
    pub fn start() -> Self {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), None)
    }

    /// Starts a registry that speaks HTTPS on 127.0.0.1 with a certificate of a fresh authority ([`Self::ca_pem`]).
    pub fn start_tls() -> Self {
        Self::start_with_tls(ClientCertificates::Ignored)
    }

    /// The same, but only for clients that show a certificate of its authority ([`Self::client_pem`]).
    pub fn start_mutual_tls() -> Self {
        Self::start_with_tls(ClientCertificates::Demanded)
    }

    fn start_with_tls(clients: ClientCertificates) -> Self {
        let tls = tls_setup(clients);
        let mut registry = Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), Some(Arc::new(tls.config)));
        registry.ca = Some(tls.ca);
        registry.client = tls.client;
        registry
    }

    /// Starts a registry on another loopback address, which counts as another host.
    pub fn start_at(address: IpAddr) -> Self {
        Self::start_on(address, None)
    }

    fn start_on(address: IpAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            blobs: Mutex::default(),
            uploads: Uploads::default(),
            manifests: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            access: Mutex::new(Access::Anyone),
            scheme: if tls.is_some() { "https" } else { "http" },
            address,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            peak_connections: AtomicUsize::new(0),
            tls,
        });
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || accept(&listener, &shared));
        Self { state, acceptor: Some(acceptor), ca: None, client: Default::default() }
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.state.address.to_string()
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.state.scheme, self.state.address)
    }

    /// The authority's certificate of a TLS registry.
    pub fn ca_pem(&self) -> &str {
        self.ca.as_deref().unwrap_or("")
    }

    /// A client's certificate and key that a registry with mutual TLS accepts, PEM.
    pub fn client_pem(&self) -> (&str, &str) {
        (&self.client.0, &self.client.1)
    }

    /// Stores an image under `repository:tag` and returns the reference to pull it by.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        for (digest, bytes) in image.blobs() {
            self.state.uploads.own(repository, &digest);
            self.put_blob(&digest, bytes);
        }
        self.put_manifest(repository, tag, image.media_type(), &image.manifest);
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Stores an index with its images.
    pub fn push_index(&self, repository: &str, tag: &str, index: &Index) -> String {
        for image in &index.images {
            self.push(repository, &image.manifest_digest, image);
        }
        self.put_manifest(repository, tag, &index.media_type, &index.body);
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Stores bytes as the blob `digest`, whether or not that is their digest.
    pub fn put_blob(&self, digest: &str, bytes: Vec<u8>) {
        lock(&self.state.blobs).insert(digest.to_owned(), Arc::new(bytes));
    }

    /// Stores a manifest under a tag (or digest) and under its digest.
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, body: &[u8]) {
        let document = Document { media_type: media_type.to_owned(), body: Arc::new(body.to_vec()) };
        let mut manifests = lock(&self.state.manifests);
        manifests.insert((repository.to_owned(), image::digest(body)), document.clone());
        manifests.insert((repository.to_owned(), reference.to_owned()), document);
    }

    /// Plants a fault on every request whose `METHOD path` contains `needle`.
    pub fn fault(&self, needle: &str, fault: Fault) {
        self.fault_times(needle, fault, usize::MAX);
    }

    /// Plants a fault on the next `times` such requests. The oldest matching fault is used first.
    pub fn fault_times(&self, needle: &str, fault: Fault, times: usize) {
        lock(&self.state.faults).push(Planted { needle: needle.to_owned(), fault, left: times });
    }

    /// Removes all faults.
    pub fn heal(&self) {
        lock(&self.state.faults).clear();
    }

    /// Demands basic authentication.
    pub fn require_basic(&self, user: &str, password: &str) {
        *lock(&self.state.access) = Access::Basic { user: user.to_owned(), password: password.to_owned() };
    }

    /// Demands bearer tokens, which this server's `/token` gives to anyone, or to `account` alone.
    pub fn require_token(&self, account: Option<(&str, &str)>) {
        *lock(&self.state.access) = Access::Token {
            realm: None,
            account: account.map(|(user, password)| (user.to_owned(), password.to_owned())),
            identity_token: None,
        };
    }

    /// Demands bearer tokens, which `/token` gives for this identity token by POST alone.
    pub fn require_identity_token(&self, token: &str) {
        *lock(&self.state.access) =
            Access::Token { realm: None, account: None, identity_token: Some(token.to_owned()) };
    }

    /// Demands bearer tokens of a token service elsewhere.
    pub fn require_token_from(&self, realm: &str) {
        *lock(&self.state.access) =
            Access::Token { realm: Some(realm.to_owned()), account: None, identity_token: None };
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// How many requests with this method have a path that contains `needle`.
    pub fn count(&self, method: &str, needle: &str) -> usize {
        lock(&self.state.requests)
            .iter()
            .filter(|request| request.method == method && request.path.contains(needle))
            .count()
    }

    /// The `Range` headers of GET requests whose path contains `needle`, in order.
    pub fn ranges(&self, needle: &str) -> Vec<Option<String>> {
        lock(&self.state.requests)
            .iter()
            .filter(|request| request.method == "GET" && request.path.contains(needle))
            .map(|request| request.headers.get("range").cloned())
            .collect()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        lock(&self.state.requests).clear();
    }

    /// The greatest number of connections that were open at once.
    pub fn peak_connections(&self) -> usize {
        self.state.peak_connections.load(Ordering::Relaxed)
    }

    /// The number of connections that are open now.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        // Wakes the acceptor; a failure means that it is gone already.
        drop(TcpStream::connect_timeout(&self.state.address, Duration::from_secs(1)));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let open = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
            state.peak_connections.fetch_max(open, Ordering::Relaxed);
            // A connection that breaks is the client's to notice.
            drop(serve(stream, &state));
            state.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let stream: Box<dyn Duplex> = match &state.tls {
        None => Box::new(stream),
        Some(config) => {
            let connection = rustls::ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            Box::new(rustls::StreamOwned::new(connection, stream))
        }
    };
    let mut reader = BufReader::with_capacity(8 * 1024, stream);
    while !state.stopping.load(Ordering::Relaxed) {
        let mut request = match read_head(&mut reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                // A TLS handshake, say.
                reader.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")?;
                return Err(error);
            }
        };
        let Some(body) = read_body(&mut reader, state, &mut request)? else { return Ok(()) };
        lock(&state.requests).push(request.clone());
        let mut connection = Connection { stream: reader.get_mut(), state };
        if !connection.answer(&request, body)? {
            return Ok(());
        }
    }
    Ok(())
}

fn read_head(reader: &mut BufReader<Box<dyn Duplex>>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    // Clients of proxies ask for whole URLs.
    let path = match path.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..])) {
        Some(path) => path,
        None => path,
    };
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: HashMap::new(),
        body: String::new(),
        length: 0,
    };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(request))
}

/// The body, `None` if the connection is to be closed. A body that breaks off counts as far as it came.
fn read_body(
    reader: &mut BufReader<Box<dyn Duplex>>,
    state: &State,
    request: &mut Request,
) -> io::Result<Option<Vec<u8>>> {
    if request.header("transfer-encoding") == Some("chunked") {
        // As Docker and podman send layers.
        let body = read_chunks(reader)?;
        request.length = body.len();
        return Ok(Some(body));
    }
    let length = request.header("content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let fault = state.take_body_fault(request);
    let wanted = match fault {
        Some(Fault::CutBody(limit) | Fault::StallBody(limit)) => limit.min(length),
        _ => length,
    };
    let mut body = Vec::new();
    let read = reader.by_ref().take(wanted as u64).read_to_end(&mut body);
    request.length = body.len();
    if body.len() < 64 * 1024 {
        request.body = String::from_utf8(body.clone()).unwrap_or_default();
    }
    if body.len() == length && fault.is_none() {
        return Ok(Some(body));
    }
    lock(&state.requests).push(request.clone());
    state.broken_upload(request, &body);
    if matches!(fault, Some(Fault::StallBody(_))) {
        state.wait_for_stop();
    }
    read.map(|_| None)
}

/// A body in chunks: RFC 9112, section 7.1.
fn read_chunks(reader: &mut BufReader<Box<dyn Duplex>>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let length = u64::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if reader.by_ref().take(length).read_to_end(&mut body)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The line end after the chunk, and after the last one that of no trailers.
        reader.read_line(&mut String::new())?;
        if length == 0 {
            return Ok(body);
        }
    }
}

/// A regular answer before faults are applied to it.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Arc::new(body.into()) }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": message, "detail": null}]}).to_string();
        Self::new(status, body).header("Content-Type", "application/json")
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

struct Connection<'a> {
    stream: &'a mut Box<dyn Duplex>,
    state: &'a State,
}

impl Connection<'_> {
    /// Answers one request; false when the connection must be closed.
    fn answer(&mut self, request: &Request, body: Vec<u8>) -> io::Result<bool> {
        let head_only = request.method == "HEAD";
        let fault = self.state.take_fault(request);
        if let Some(Fault::Delay(pause)) = &fault {
            std::thread::sleep(*pause);
        }
        let honour_range = !matches!(fault, Some(Fault::IgnoreRange | Fault::WrongRange));
        let refused = matches!(fault, Some(Fault::Status(..) | Fault::Redirect(_) | Fault::Drop));
        let answer =
            if refused { Answer::new(200, "") } else { self.state.respond(request, body, honour_range) };
        match fault {
            None | Some(Fault::Delay(_) | Fault::IgnoreRange | Fault::CutBody(_) | Fault::StallBody(_)) => {
                self.send(&answer, head_only)
            }
            Some(Fault::Header(name, value)) => {
                let mut answer = answer;
                answer.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
                let answer = match value {
                    Some(value) => answer.header(&name, value),
                    None => answer,
                };
                self.send(&answer, head_only)
            }
            Some(Fault::Drop) => Ok(false),
            Some(Fault::CloseAfter(length)) => {
                self.send_head(&answer, answer.body.len())?;
                self.write(&answer.body[..length.min(answer.body.len())])?;
                Ok(false)
            }
            Some(Fault::Corrupt(offset)) => {
                let mut body = answer.body.to_vec();
                if let Some(byte) = body.get_mut(offset) {
                    *byte ^= 1;
                }
                self.send(&Answer { body: Arc::new(body), ..answer }, head_only)
            }
            Some(Fault::Body(body)) => self.send(&Answer { body: Arc::new(body), ..answer }, head_only),
            Some(Fault::StallAfter(length)) => {
                self.send_head(&answer, answer.body.len())?;
                self.write(&answer.body[..length.min(answer.body.len())])?;
                self.state.wait_for_stop();
                Ok(false)
            }
            Some(Fault::Endless) => self.send_endless(&answer),
            Some(Fault::Slow(piece, pause)) => {
                self.send_head(&answer, answer.body.len())?;
                for piece in answer.body.chunks(piece.max(1)) {
                    self.write(piece)?;
                    std::thread::sleep(pause);
                }
                Ok(true)
            }
            Some(Fault::Status(status, headers, body)) => {
                let mut answer = Answer::new(status, body);
                answer.headers = headers;
                self.send(&answer, head_only)
            }
            Some(Fault::Redirect(target)) => {
                let target = target.replace("{path}", &request.path);
                self.send(&Answer::new(307, "").header("Location", target), head_only)
            }
            Some(Fault::WrongRange) => {
                let total = answer.body.len();
                let range = format!("bytes 0-{}/{total}", total.saturating_sub(1));
                let answer = Answer { status: 206, ..answer }.header("Content-Range", range);
                self.send(&answer, head_only)
            }
            Some(Fault::ContentType(kind)) => self.send(&answer.header("Content-Type", kind), head_only),
            Some(Fault::NoDigest) => {
                let mut answer = answer;
                answer.headers.retain(|(name, _)| name != "Docker-Content-Digest");
                self.send(&answer, head_only)
            }
        }
    }

    fn send(&mut self, answer: &Answer, head_only: bool) -> io::Result<bool> {
        self.send_head(answer, answer.body.len())?;
        if !head_only {
            self.write(&answer.body)?;
        }
        Ok(true)
    }

    fn send_head(&mut self, answer: &Answer, length: usize) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Answer\r\nContent-Length: {length}\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("Docker-Distribution-Api-Version: registry/2.0\r\n\r\n");
        self.write(head.as_bytes())
    }

    fn send_endless(&mut self, answer: &Answer) -> io::Result<bool> {
        let mut head = format!("HTTP/1.1 {} Answer\r\nTransfer-Encoding: chunked\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes())?;
        let filler = [b' '; 16 * 1024];
        let mut piece: &[u8] = &answer.body;
        while !self.state.stopping.load(Ordering::Relaxed) {
            self.write(format!("{:x}\r\n", piece.len()).as_bytes())?;
            self.write(piece)?;
            self.write(b"\r\n")?;
            piece = &filler;
        }
        Ok(false)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }
}

impl State {
    fn take_fault(&self, request: &Request) -> Option<Fault> {
        self.take_fault_if(request, |fault| !is_about_the_body(fault))
    }

    /// Faults that show while a request's body is still coming.
    fn take_body_fault(&self, request: &Request) -> Option<Fault> {
        self.take_fault_if(request, is_about_the_body)
    }

    fn take_fault_if(&self, request: &Request, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let line = format!("{} {}", request.method, request.path);
        let mut faults = lock(&self.faults);
        let planted = faults
            .iter_mut()
            .find(|planted| planted.left > 0 && line.contains(&planted.needle) && fits(&planted.fault))?;
        planted.left -= 1;
        Some(planted.fault.clone())
    }

    fn wait_for_stop(&self) {
        for _ in 0..2_000 {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn respond(&self, request: &Request, body: Vec<u8>, honour_range: bool) -> Answer {
        let path = request.path.split('?').next().unwrap_or("");
        if path == "/token" {
            return self.token(request);
        }
        if let Some(refusal) = self.refuse(request) {
            return refusal;
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Answer::error(404, "UNSUPPORTED", "page not found");
        };
        if rest.is_empty() {
            return Answer::new(200, "{}").header("Content-Type", "application/json");
        }
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            if request.method == "PUT" {
                return self.put_manifest(request, repository, reference, body);
            }
            return self.manifest(repository, reference);
        }
        if let Some((repository, upload)) = rest.rsplit_once("/blobs/uploads/") {
            return self.upload(request, repository, upload, body);
        }
        if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
            if !self.uploads.may_serve(repository, digest) {
                return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
            }
            return self.blob(request, digest, honour_range);
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return self.tags(repository);
        }
        Answer::error(404, "UNSUPPORTED", "page not found")
    }

    fn manifest(&self, repository: &str, reference: &str) -> Answer {
        let manifests = lock(&self.manifests);
        match manifests.get(&(repository.to_owned(), reference.to_owned())) {
            Some(document) => {
                let mut answer = Answer::new(200, "");
                answer.body = Arc::clone(&document.body);
                answer
                    .header("Content-Type", document.media_type.clone())
                    .header("Docker-Content-Digest", image::digest(&document.body))
            }
            None if manifests.keys().any(|(known, _)| known == repository) => {
                Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            }
            None => Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
        }
    }

    fn blob(&self, request: &Request, digest: &str, honour_range: bool) -> Answer {
        let Some(blob) = lock(&self.blobs).get(digest).cloned() else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let start = request
            .header("range")
            .filter(|_| honour_range)
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split('-').next())
            .and_then(|start| start.parse::<usize>().ok());
        let answer = match start {
            None => Answer { status: 200, headers: Vec::new(), body: blob },
            Some(start) if start >= blob.len() => {
                Answer::new(416, "").header("Content-Range", format!("bytes */{}", blob.len()))
            }
            Some(start) => Answer::new(206, &blob[start..])
                .header("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
        };
        answer
            .header("Content-Type", "application/octet-stream")
            .header("Docker-Content-Digest", digest)
            .header("Accept-Ranges", "bytes")
    }

    fn tags(&self, repository: &str) -> Answer {
        let manifests = lock(&self.manifests);
        let mut tags: Vec<&str> = manifests
            .keys()
            .filter(|(known, tag)| known == repository && !tag.contains(':'))
            .map(|(_, tag)| tag.as_str())
            .collect();
        tags.sort_unstable();
        let body = json!({"name": repository, "tags": tags}).to_string();
        Answer::new(200, body).header("Content-Type", "application/json")
    }

    fn refuse(&self, request: &Request) -> Option<Answer> {
        let access = lock(&self.access).clone();
        let given = request.header("authorization").unwrap_or("");
        let refusal = || Answer::error(401, "UNAUTHORIZED", "authentication required");
        match access {
            Access::Anyone => None,
            Access::Basic { user, password } => {
                let wanted = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
                (given != wanted)
                    .then(|| refusal().header("WWW-Authenticate", r#"Basic realm="test registry""#))
            }
            Access::Token { realm, .. } => {
                let scope = scope_of(request);
                let granted = given.strip_prefix("Bearer token-for-").unwrap_or("-");
                let wanted = scope.replace([':', '/'], "-");
                let is_enough =
                    |granted: &str| granted == wanted || granted.strip_suffix(",push") == Some(&wanted);
                if granted.split('+').any(is_enough) {
                    return None;
                }
                let realm = realm.unwrap_or_else(|| format!("{}://{}/token", self.scheme, self.address));
                let mut challenge = format!(r#"Bearer realm="{realm}",service="test""#);
                if !scope.is_empty() {
                    challenge.push_str(&format!(r#",scope="{scope}""#));
                }
                if !given.is_empty() {
                    challenge.push_str(r#",error="insufficient_scope""#);
                }
                Some(refusal().header("WWW-Authenticate", challenge))
            }
        }
    }

    fn token(&self, request: &Request) -> Answer {
        let (account, identity_token) = match lock(&self.access).clone() {
            Access::Token { account, identity_token, .. } => (account, identity_token),
            _ => (None, None),
        };
        if let Some(token) = identity_token {
            let given = parameter(&request.body, "refresh_token");
            if request.method != "POST" || given.as_deref() != Some(token.as_str()) {
                return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
            }
        }
        if let Some((user, password)) = account {
            let wanted = format!("Basic {}", base64(format!("{user}:{password}").as_bytes()));
            if request.header("authorization") != Some(wanted.as_str()) {
                return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
            }
        }
        let query = request.path.split_once('?').map_or("", |(_, query)| query);
        let scopes = [parameters(query, "scope"), parameters(&request.body, "scope")].concat();
        let scope = scopes.join(" ");
        let token = format!("token-for-{}", scope.replace([':', '/'], "-").replace(' ', "+"));
        let mut body = json!({"token": token, "access_token": token, "expires_in": 300});
        if query.contains("offline_token=true") {
            body["refresh_token"] = json!("identity-1");
        }
        Answer::new(200, body.to_string()).header("Content-Type", "application/json")
    }
}

/// The scope that a request needs, as the registry asks for it.
fn scope_of(request: &Request) -> String {
    let path = request.path.strip_prefix("/v2/").unwrap_or("");
    let repository = ["/manifests/", "/blobs/", "/tags/"]
        .iter()
        .find_map(|marker| path.find(marker).map(|at| &path[..at]))
        .unwrap_or("");
    let actions = if matches!(request.method.as_str(), "GET" | "HEAD") { "pull" } else { "pull,push" };
    if repository.is_empty() { String::new() } else { format!("repository:{repository}:{actions}") }
}

fn is_about_the_body(fault: &Fault) -> bool {
    matches!(fault, Fault::CutBody(_) | Fault::StallBody(_))
}

/// A parameter of a query or form, percent-decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query, name).into_iter().next()
}

/// All parameters of this name.
fn parameters(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decoded(value)).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, escaped.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut word = 0u32;
        for index in 0..3 {
            word = word << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// What a server does about its clients' certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientCertificates {
    Ignored,
    Demanded,
}

/// Everything for TLS on 127.0.0.1 and localhost, made for one server.
struct TlsSetup {
    config: rustls::ServerConfig,
    ca: String,
    client: (String, String),
}

fn tls_setup(clients: ClientCertificates) -> TlsSetup {
    let ca_key = rcgen::KeyPair::generate().expect("keys can be made");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no names are valid names");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let ca_certificate = ca.self_signed(&ca_key).expect("the authority signs itself");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let issue = |names: &[&str]| {
        let key = rcgen::KeyPair::generate().expect("keys can be made");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let parameters = rcgen::CertificateParams::new(names).expect("the names are valid");
        let certificate = parameters.signed_by(&key, &issuer).expect("the authority signs");
        (certificate, key)
    };
    let (certificate, key) = issue(&["localhost", "127.0.0.1"]);
    let private_key =
        rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key of PKCS #8");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3");
    let builder = match clients {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Demanded => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca_certificate.der().clone()).expect("the authority is one");
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("there is an authority"))
        }
    };
    let config = builder
        .with_single_cert(vec![certificate.der().clone()], private_key)
        .expect("certificate and key belong together");
    let (client, client_key) = issue(&["client"]);
    TlsSetup { config, ca: ca_certificate.pem(), client: (client.pem(), client_key.serialize_pem()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b"u:p"), "dTpw");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(
            parameter("service=x&scope=repository%3Aa%2Fb%3Apull", "scope").as_deref(),
            Some("repository:a/b:pull")
        );
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
    }
}
