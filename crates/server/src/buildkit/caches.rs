//! Caches that are somewhere else: `--cache-to` in the engine's words, and directories of the client's, which its session offers as stores of
//! content.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use palan_buildkit::grpc::{ClientCall, Code, HeaderValue, Metadata, Status};
use palan_buildkit::message::content::{
    AbortRequest, Empty, InfoRequest, InfoResponse, ReadRequest, ReadResponse, STORE_ID, WriteRequest,
    WriteResponse, action, method,
};
use palan_buildkit::message::control::CacheOptionsEntry;
use palan_engine::build::{CacheExport, CacheForm, CacheTarget, Cancel, ContentStore, Digest, Reference};
use palan_engine::stream::body_pipe;
use palan_engine::{Class, Error};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::client::wait;
use super::gateway::unsupported;
use super::sessions::Session;

/// How much of a blob is in one message.
const CHUNK: usize = 512 << 10;

fn invalid(text: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, text)
}

/// Reads what a client says of its exports. What is not supported is refused before anything is built.
pub(super) fn exports(entries: &[CacheOptionsEntry]) -> Result<Vec<CacheExport>, Status> {
    let mut exports: Vec<CacheExport> = Vec::with_capacity(entries.len());
    for (number, entry) in entries.iter().enumerate() {
        if entries[..number].contains(entry) {
            return Err(invalid(format!("duplicate cache exports [{}]", entry.kind)));
        }
        exports.push(export(entry)?);
    }
    Ok(exports)
}

/// The image says what its cache is.
pub(super) fn inline() -> CacheExport {
    CacheExport {
        target: CacheTarget::Image,
        all_steps: false,
        form: CacheForm { image_manifest: true, oci: true },
        compressed: true,
        ignore_error: false,
    }
}

fn export(entry: &CacheOptionsEntry) -> Result<CacheExport, Status> {
    let kind = entry.kind.as_str();
    let attribute = |name: &str| entry.attrs.get(name).map_or("", String::as_str);
    let target = match kind {
        "inline" => CacheTarget::Image,
        "registry" => {
            let name = attribute("ref");
            let reference = Reference::parse(name).map_err(|error| {
                invalid(format!("failed to configure registry cache exporter: {name:?}: {error}"))
            })?;
            CacheTarget::Registry {
                reference: reference.or_latest(),
                insecure: flag(&entry.attrs, "registry.insecure", false)?,
            }
        }
        "local" if attribute("dest").is_empty() => return Err(invalid("local cache exporter requires dest")),
        "local" => CacheTarget::Client { store: format!("local:{}", attribute("dest")) },
        _ => return Err(unsupported(&format!("an export of the cache (type={kind})"))),
    };
    for (name, value) in &entry.attrs {
        let is_known = match name.as_str() {
            "ref" | "registry.insecure" => kind == "registry",
            // What the client does with its directory is its own affair.
            "dest" | "tag" | "reset" => kind == "local",
            "mode" => matches!(value.as_str(), "" | "min" | "max"),
            "image-manifest" | "oci-mediatypes" | "ignore-error" => true,
            "compression" => matches!(value.as_str(), "" | "gzip" | "uncompressed"),
            "force-compression" => !flag(&entry.attrs, name, false)?,
            _ => false,
        };
        if !is_known {
            return Err(unsupported(&format!(
                "the option {name}={value} of an export of the cache (type={kind})"
            )));
        }
    }
    let oci = flag(&entry.attrs, "oci-mediatypes", true)?;
    let image_manifest = flag(&entry.attrs, "image-manifest", oci)?;
    if image_manifest && !oci {
        return Err(invalid(
            "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
        ));
    }
    Ok(CacheExport {
        target,
        all_steps: attribute("mode") == "max",
        form: CacheForm { image_manifest, oci },
        compressed: attribute("compression") != "uncompressed",
        ignore_error: flag(&entry.attrs, "ignore-error", false)?,
    })
}

/// As Go reads it.
fn flag(attrs: &BTreeMap<String, String>, name: &str, default: bool) -> Result<bool, Status> {
    match attrs.get(name).map(String::as_str) {
        None => Ok(default),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(value) => Err(invalid(format!("failed to parse {name}: {value:?} is neither true nor false"))),
    }
}

/// A store of a client's.
pub(super) struct SessionStore {
    pub(super) session: Arc<Session>,
    pub(super) id: String,
    pub(super) runtime: Handle,
    pub(super) cancel: Cancel,
}

impl SessionStore {
    /// The store of that id, if the session has any.
    pub(super) fn of(session: &Arc<Session>, id: &str, runtime: &Handle, cancel: &Cancel) -> Option<Self> {
        session.supports(method::INFO).then(|| Self {
            session: Arc::clone(session),
            id: id.to_owned(),
            runtime: runtime.clone(),
            cancel: cancel.clone(),
        })
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        // Paths are bytes.
        if let Ok(id) = HeaderValue::from_bytes(self.id.as_bytes()) {
            metadata.insert(STORE_ID, id);
        }
        metadata
    }

    fn wait<T>(&self, asked: impl Future<Output = Result<T, Status>>) -> Result<T, Error> {
        wait(&self.runtime, &self.session, &[&self.cancel], asked)
    }

    fn failed(&self, what: &str, error: Error) -> Error {
        Error::new(error.class(), format!("cannot {what} the client's cache {}: {}", self.id, error.report()))
    }

    /// Sends a message and waits until it is taken.
    fn step(&self, call: &mut ClientCall, request: &WriteRequest) -> Result<Option<WriteResponse>, Error> {
        self.wait(async {
            // Why it was not taken is told by what comes back.
            let _ = call.outgoing.send(request).await;
            match call.incoming.next::<WriteResponse>().await {
                Ok(Some(answer)) => Ok(Some(answer)),
                Ok(None) => Err(Status::new(Code::Unknown, "the client ended the transfer")),
                // Somebody else was faster.
                Err(status) if status.code == Code::AlreadyExists => Ok(None),
                Err(status) => Err(status),
            }
        })
    }

    fn send(&self, reference: &str, digest: &Digest, size: u64, source: &mut dyn Read) -> Result<(), Error> {
        let mut call = self.wait(self.session.channel.call(method::WRITE, self.metadata()))?;
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let first = WriteRequest {
            action: action::STAT,
            reference: reference.to_owned(),
            total,
            expected: digest.to_string(),
            ..WriteRequest::default()
        };
        if self.step(&mut call, &first)?.is_none() {
            return Ok(());
        }
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let read = fill(source, &mut buffer)
                .map_err(|error| Error::system(format!("cannot read {digest}")).with_source(error))?;
            let is_last = read < buffer.len();
            let request = WriteRequest {
                action: if is_last { action::COMMIT } else { action::WRITE },
                reference: reference.to_owned(),
                total,
                expected: if is_last { digest.to_string() } else { String::new() },
                offset,
                data: Bytes::copy_from_slice(&buffer[..read]),
                ..WriteRequest::default()
            };
            let is_taken = self.step(&mut call, &request)?.is_some();
            offset += i64::try_from(read).unwrap_or(0);
            if is_last || !is_taken {
                return Ok(());
            }
        }
    }
}

impl ContentStore for SessionStore {
    fn size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let request = InfoRequest { digest: digest.to_string() };
        let asked = self.wait(async {
            let answer =
                self.session.channel.unary::<_, InfoResponse>(method::INFO, self.metadata(), &request).await;
            match answer {
                Ok(answer) => Ok(answer.info.and_then(|info| u64::try_from(info.size).ok())),
                Err(status)
                    if status.code == Code::NotFound && !status.message.starts_with("unknown store") =>
                {
                    Ok(None)
                }
                Err(status) => Err(status),
            }
        });
        asked.map_err(|error| self.failed("look into", error))
    }

    fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>, Error> {
        let request = ReadRequest {
            digest: digest.to_string(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            size: 0,
        };
        let asked = self.wait(self.session.channel.ask(method::READ, self.metadata(), &request));
        let mut incoming = asked.map_err(|error| self.failed("read", error))?;
        let (sender, reader) = body_pipe();
        let stop = Arc::new(Notify::new());
        let told = Arc::clone(&stop);
        let watch = self.cancel.watch(move || told.notify_one());
        let (session, digest) = (Arc::clone(&self.session), *digest);
        self.runtime.spawn(async move {
            let _watch = watch;
            loop {
                let next = tokio::select! {
                    next = incoming.next::<ReadResponse>() => next,
                    () = stop.notified() => Err(Status::new(Code::Cancelled, "the build was cancelled")),
                    () = session.ended() => Err(Status::new(Code::Unavailable, "the client's session has ended")),
                };
                let (piece, is_last) = match next {
                    Ok(Some(message)) => (Ok(message.data), false),
                    Ok(None) => return,
                    Err(status) => {
                        let text = format!("content {digest} of the client's cache: {status}");
                        (Err(std::io::Error::other(text)), true)
                    }
                };
                if !sender.send(piece).await || is_last {
                    return;
                }
            }
        });
        Ok(Box::new(reader))
    }

    fn write(&self, digest: &Digest, size: u64, source: &mut dyn Read) -> Result<(), Error> {
        let id = palan_buildkit::session::new_id()
            .map_err(|error| Error::system("cannot name a transfer").with_source(error))?;
        // A name of its own: what broke off earlier is not trusted.
        let reference = format!("{digest}-{id}");
        let sent = self.send(&reference, digest, size, source);
        if sent.is_err() {
            let request = AbortRequest { reference };
            let asked = self.session.channel.unary::<_, Empty>(method::ABORT, self.metadata(), &request);
            // What went wrong is told already.
            let _ = self.wait(asked);
        }
        sent.map_err(|error| self.failed("write to", error))
    }
}

/// Reads until the buffer is full or the source at its end.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Finds the store of a client's session.
pub(super) fn store(
    session: Option<&Arc<Session>>,
    id: &str,
    runtime: &Handle,
    cancel: &Cancel,
) -> Result<Option<Arc<dyn ContentStore>>, Error> {
    let Some(session) = session else {
        return Err(Error::new(
            Class::InvalidParameter,
            "the build has no session, from which its cache would come",
        ));
    };
    let found = SessionStore::of(session, id, runtime, cancel);
    Ok(found.map(|store| Arc::new(store) as Arc<dyn ContentStore>))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, attrs: &[(&str, &str)]) -> CacheOptionsEntry {
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        CacheOptionsEntry { kind: kind.to_owned(), attrs: attrs.collect() }
    }

    #[test]
    fn what_clients_ask_for() {
        let parsed = exports(&[
            entry("registry", &[("ref", "h:5000/x"), ("mode", "max"), ("oci-mediatypes", "false")]),
            entry("local", &[("dest", "/d"), ("tag", "t"), ("compression", "uncompressed")]),
            entry("inline", &[]),
        ])
        .expect("exports");
        let CacheTarget::Registry { reference, insecure } = &parsed[0].target else { panic!("{parsed:?}") };
        assert_eq!((reference.to_string().as_str(), *insecure), ("h:5000/x:latest", false));
        assert!(parsed[0].all_steps && parsed[0].compressed);
        assert_eq!(parsed[0].form, CacheForm { image_manifest: false, oci: false });
        assert_eq!(parsed[1].target, CacheTarget::Client { store: "local:/d".to_owned() });
        assert!(!parsed[1].all_steps && !parsed[1].compressed);
        assert_eq!(parsed[2], inline());
    }

    #[test]
    fn what_is_refused_is_named() {
        let twice = entry("inline", &[]);
        for (entries, expected) in [
            (vec![entry("gha", &[])], "an export of the cache (type=gha)"),
            (vec![entry("registry", &[])], "failed to configure registry cache exporter"),
            (vec![entry("local", &[])], "requires dest"),
            (vec![entry("local", &[("dest", "x"), ("mode", "most")])], "the option mode=most"),
            (
                vec![entry("registry", &[("ref", "x"), ("compression", "zstd")])],
                "the option compression=zstd",
            ),
            (
                vec![entry("registry", &[("ref", "x"), ("force-compression", "true")])],
                "the option force-compression=true",
            ),
            (vec![entry("inline", &[("ref", "x")])], "the option ref=x"),
            (
                vec![entry("registry", &[("ref", "x"), ("ignore-error", "maybe")])],
                "failed to parse ignore-error",
            ),
            (
                vec![entry("registry", &[("ref", "x"), ("image-manifest", "true"), ("oci-mediatypes", "0")])],
                "OCI mediatypes are required",
            ),
            (vec![twice.clone(), twice], "duplicate cache exports [inline]"),
        ] {
            let error = exports(&entries).expect_err(expected).message;
            assert!(error.contains(expected), "{error} instead of {expected}");
        }
    }
}
