//! Stores of content: directories with `blobs/sha256/<hex>`, as in an OCI layout, which the daemon reads from and writes to by digests.
//!
//! A write is a file under `ingest/` of its own, which gets its name when all is there and the digest is right. Nothing of a write that broke
//! off is kept.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use palan_oci::Digest;
use palan_oci::digest::Hasher;

use crate::grpc::{Call, Code, Metadata, Outgoing, Status};
use crate::message::content::{
    AbortRequest, Empty, Info, InfoRequest, InfoResponse, ReadRequest, ReadResponse, STORE_ID, StatusRequest,
    WriteRequest, WriteResponse, action, method,
};
use crate::message::status::Timestamp;

/// How much of a file is in one message.
const CHUNK: usize = 512 << 10;

/// A store.
#[derive(Debug, Clone)]
pub struct ContentStore {
    path: PathBuf,
}

impl ContentStore {
    /// The store in a directory. It is made when something is written.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn info(&self, digest: &Digest) -> Result<Info, Status> {
        let path = self.blob(digest);
        let metadata = std::fs::metadata(&path).map_err(|error| failed(&path, digest, &error))?;
        let modified = metadata.modified().ok().map(Timestamp::from);
        Ok(Info {
            digest: digest.to_string(),
            size: signed(metadata.len()),
            created_at: modified.clone(),
            updated_at: modified,
            labels: BTreeMap::new(),
        })
    }

    fn read(&self, request: &ReadRequest, outgoing: &Outgoing) -> Result<(), Status> {
        let digest = parse(&request.digest)?;
        let path = self.blob(&digest);
        let broke = |error: io::Error| failed(&path, &digest, &error);
        let mut file = File::open(&path).map_err(broke)?;
        let mut offset = u64::try_from(request.offset).unwrap_or(0);
        file.seek(SeekFrom::Start(offset)).map_err(broke)?;
        let mut left = u64::try_from(request.size).ok().filter(|size| *size > 0).unwrap_or(u64::MAX);
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = match file.read(&mut buffer[..wanted]) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broke(error)),
            };
            let data = Bytes::copy_from_slice(&buffer[..read]);
            outgoing.send_blocking(&ReadResponse { offset: signed(offset), data })?;
            offset += read as u64;
            left -= read as u64;
        }
        Ok(())
    }

    fn begin(&self) -> Result<Writing, Status> {
        let failed =
            |error: io::Error| Status::new(Code::Unknown, format!("{}: {error}", self.path.display()));
        let ingest = self.path.join("ingest");
        std::fs::create_dir_all(&ingest).map_err(failed)?;
        std::fs::create_dir_all(self.path.join("blobs/sha256")).map_err(failed)?;
        let path = ingest.join(format!("palan-{}", super::new_id().map_err(failed)?));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        let (hasher, started) = (Hasher::new(), SystemTime::now());
        Ok(Writing { store: self.clone(), path, file, hasher, started, expected: None, total: 0 })
    }
}

/// A write in progress; what is not complete goes with it.
#[derive(Debug)]
struct Writing {
    store: ContentStore,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    started: SystemTime,
    expected: Option<Digest>,
    total: u64,
}

impl Drop for Writing {
    fn drop(&mut self) {
        // There is none any more if it was complete.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Writing {
    fn step(&mut self, request: &WriteRequest) -> Result<WriteResponse, Status> {
        if !request.expected.is_empty() {
            let expected = parse(&request.expected)?;
            if self.store.blob(&expected).exists() {
                return Err(Status::new(Code::AlreadyExists, format!("content {expected}: already exists")));
            }
            self.expected = Some(expected);
        }
        if let Ok(total @ 1..) = u64::try_from(request.total) {
            self.total = total;
        }
        if request.action != action::STAT && !request.data.is_empty() {
            self.write(request)?;
        }
        let mut digest = String::new();
        if request.action == action::COMMIT {
            digest = self.commit()?.to_string();
        }
        Ok(WriteResponse {
            action: request.action,
            started_at: Some(self.started.into()),
            updated_at: Some(SystemTime::now().into()),
            offset: signed(self.hasher.length()),
            total: signed(self.total),
            digest,
        })
    }

    fn write(&mut self, request: &WriteRequest) -> Result<(), Status> {
        let failed =
            |error: io::Error| Status::new(Code::Unknown, format!("{}: {error}", self.path.display()));
        let position = self.hasher.length();
        if request.offset == 0 && position > 0 {
            self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(failed)?;
            self.hasher = Hasher::new();
        } else if u64::try_from(request.offset) != Ok(position) {
            let text = format!("write @{} must occur at current offset {position}", request.offset);
            return Err(Status::new(Code::OutOfRange, text));
        }
        self.file.write_all(&request.data).map_err(failed)?;
        self.hasher.update(&request.data);
        Ok(())
    }

    fn commit(&mut self) -> Result<Digest, Status> {
        let (length, found) = (self.hasher.length(), self.hasher.clone().finish());
        let wrong = |text: String| Status::new(Code::FailedPrecondition, text);
        if self.total > 0 && self.total != length {
            return Err(wrong(format!("unexpected commit size {length}, expected {}", self.total)));
        }
        match self.expected {
            Some(expected) if expected != found => {
                Err(wrong(format!("unexpected commit digest {found}, expected {expected}")))
            }
            _ => {
                let target = self.store.blob(&found);
                std::fs::rename(&self.path, &target)
                    .map_err(|error| Status::new(Code::Unknown, format!("{}: {error}", target.display())))?;
                Ok(found)
            }
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn parse(digest: &str) -> Result<Digest, Status> {
    let wrong = |error| Status::new(Code::InvalidArgument, format!("invalid digest {digest:?}: {error}"));
    digest.parse().map_err(wrong)
}

fn failed(path: &Path, digest: &Digest, error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::NotFound => Status::new(Code::NotFound, format!("content {digest}: not found")),
        _ => Status::new(Code::Unknown, format!("{}: {error}", path.display())),
    }
}

fn choose(stores: &BTreeMap<String, ContentStore>, metadata: &Metadata) -> Result<ContentStore, Status> {
    let id = metadata.get(STORE_ID).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let id =
        id.ok_or_else(|| Status::new(Code::InvalidArgument, format!("request lacks metadata {STORE_ID:?}")))?;
    let store = stores.get(&*id).cloned();
    store.ok_or_else(|| Status::new(Code::NotFound, format!("unknown store {id}")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Status::new(Code::Internal, error.to_string())))
}

/// Answers a call of the service.
pub(super) async fn answer(stores: &BTreeMap<String, ContentStore>, mut call: Call) -> Result<(), Status> {
    let store = choose(stores, &call.metadata)?;
    match call.method.as_str() {
        method::INFO => {
            call.unary(|request: InfoRequest| async move {
                let digest = parse(&request.digest)?;
                let info = blocking(move || store.info(&digest)).await?;
                Ok(InfoResponse { info: Some(info) })
            })
            .await
        }
        method::READ => {
            let request: ReadRequest = call.question().await?;
            let outgoing = call.outgoing.clone();
            // `call` stays, so that the daemon's going is noticed by what sends.
            let sent = blocking(move || store.read(&request, &outgoing)).await;
            drop(call);
            sent
        }
        method::WRITE => write(store, call).await,
        method::STATUS => {
            let request: StatusRequest = call.question().await?;
            Err(Status::new(Code::NotFound, format!("no ingest {}", request.reference)))
        }
        // Nothing is kept of what broke off.
        method::ABORT => call.unary(|_: AbortRequest| async { Ok(Empty::default()) }).await,
        other => Err(Status::unimplemented(other)),
    }
}

async fn write(store: ContentStore, call: Call) -> Result<(), Status> {
    let Call { mut incoming, outgoing, .. } = call;
    let mut writing = blocking(move || store.begin()).await?;
    while let Some(request) = incoming.next::<WriteRequest>().await? {
        let is_last = request.action == action::COMMIT;
        let (back, answer) = blocking(move || {
            let answer = writing.step(&request);
            Ok((writing, answer))
        })
        .await?;
        writing = back;
        outgoing.send(&answer?).await?;
        if is_last {
            return Ok(());
        }
    }
    Ok(())
}
