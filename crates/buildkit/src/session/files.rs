//! Directories that are read, streams that are read, and outputs that are written.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use palan_linux::path::RootDir;

use crate::fsutil::{Devices, Owners, Receive, Selection, Send};
use crate::grpc::{Call, Code, Metadata, Outgoing, Status, decode_list, text};
use crate::message::session::{BytesMessage, metadata};

/// How much of a stream is in one message.
const CHUNK: usize = 64 << 10;

/// A directory that is offered.
#[derive(Debug)]
pub struct Directory {
    root: RootDir,
}

impl Directory {
    /// Offers all of a directory. What of it is sent is what the daemon asks for: it knows the ignore file, which it gets first.
    pub fn new(root: RootDir) -> Self {
        Self { root }
    }

    /// The same for a directory by its path.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { root: RootDir::open(path)? })
    }
}

/// What receives a file.
pub type Writer = Box<dyn Write + std::marker::Send>;

/// Makes a [`Writer`], with what the daemon says about the file.
type MakeWriter = dyn Fn(&BTreeMap<String, String>) -> io::Result<Writer> + std::marker::Send + Sync;

/// Where something that was built goes.
#[derive(Clone)]
pub enum Output {
    /// Into a file, pipe or the like, which is made when the daemon begins to send.
    File(Arc<MakeWriter>),
    /// Into a directory, which is made if it is not there.
    Directory {
        /// Its path.
        path: PathBuf,
        /// What was in it and was not built is removed.
        mirror: bool,
    },
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(_) => formatter.write_str("File(..)"),
            Self::Directory { path, .. } => formatter.debug_tuple("Directory").field(path).finish(),
        }
    }
}

/// A stream that is offered, once.
pub struct Upload(Mutex<Option<Box<dyn Read + std::marker::Send>>>);

impl fmt::Debug for Upload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Upload")
    }
}

impl Upload {
    /// Offers what comes of a reader.
    pub fn new(reader: impl Read + std::marker::Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(reader))))
    }
}

/// Sends a directory.
pub(super) async fn sync(directories: &BTreeMap<String, Directory>, call: Call) -> Result<(), Status> {
    let list = |name| decode_list(&call.metadata, name);
    let name = list(metadata::DIR_NAME).into_iter().next().unwrap_or_default();
    let Some(directory) = directories.get(&name) else {
        return Err(Status::new(Code::NotFound, format!("no access allowed to dir {name:?}")));
    };
    let selection = Selection {
        include: list(metadata::INCLUDE_PATTERNS),
        follow: list(metadata::FOLLOW_PATHS),
        exclude: list(metadata::EXCLUDE_PATTERNS),
    };
    let root = directory.root.try_clone().map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    Send { selection, without_owners: true, ..Send::default() }.run(root, call.incoming, call.outgoing).await
}

/// Takes what an exporter made.
pub(super) async fn receive(outputs: &BTreeMap<i64, Output>, call: Call) -> Result<(), Status> {
    let id = text(&call.metadata, metadata::EXPORTER_ID).and_then(|text| text.parse().ok()).unwrap_or(0);
    match outputs.get(&id) {
        Some(Output::Directory { path, mirror }) => {
            let root = open(path)?;
            let receive =
                Receive { mirror: *mirror, owners: Owners::Mine, devices: Devices::Made, progress: None };
            receive.run(root, call.incoming, call.outgoing).await.map(drop)
        }
        Some(Output::File(make)) => receive_file(Arc::clone(make), call).await,
        None => Err(Status::new(Code::NotFound, format!("exporter {id} not found"))),
    }
}

fn open(path: &Path) -> Result<RootDir, Status> {
    std::fs::create_dir_all(path)
        .and_then(|()| RootDir::open(path).map_err(io::Error::from))
        .map_err(|error| Status::new(Code::Unknown, format!("cannot write to {}: {error}", path.display())))
}

async fn receive_file(make: Arc<MakeWriter>, call: Call) -> Result<(), Status> {
    let Call { metadata, mut incoming, .. } = call;
    let said = said(&metadata);
    let (chunks, mut written) = tokio::sync::mpsc::channel::<Bytes>(4);
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = make(&said)?;
        while let Some(chunk) = written.blocking_recv() {
            // The end, which nothing else is: a transfer that breaks off closes the channel.
            if chunk.is_empty() {
                return writer.flush();
            }
            writer.write_all(&chunk)?;
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer has ended before it was complete"))
    });
    let reading = async move {
        while let Some(message) = incoming.next::<BytesMessage>().await? {
            if !message.data.is_empty() && chunks.send(message.data).await.is_err() {
                return Ok(());
            }
        }
        let _ = chunks.send(Bytes::new()).await;
        Ok::<_, Status>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    read?;
    let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
    written.map_err(|error| Status::new(Code::Unknown, format!("cannot write the output: {error}")))
}

/// What the daemon says about a file.
fn said(metadata: &Metadata) -> BTreeMap<String, String> {
    let named = metadata.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(metadata::EXPORTER_PREFIX)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    named.collect()
}

/// Sends a stream.
pub(super) async fn upload(uploads: &BTreeMap<String, Upload>, call: Call) -> Result<(), Status> {
    let path = text(&call.metadata, metadata::UPLOAD_PATH).unwrap_or_default();
    let found = uploads.get(path).and_then(|upload| {
        let mut reader = upload.0.lock().unwrap_or_else(PoisonError::into_inner);
        reader.take()
    });
    let Some(mut reader) = found else {
        return Err(Status::new(Code::NotFound, format!("no upload {path:?}, or it was read already")));
    };
    let outgoing = call.outgoing.clone();
    // `call` stays, so that the daemon's going is noticed by what sends.
    let sending = tokio::task::spawn_blocking(move || send_stream(&mut *reader, &outgoing));
    let sent = sending.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    drop(call);
    sent.map_err(|error| Status::new(Code::Unknown, format!("cannot read the uploaded stream: {error}")))
}

fn send_stream(reader: &mut dyn Read, outgoing: &Outgoing) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                let data = Bytes::copy_from_slice(&buffer[..read]);
                outgoing.send_blocking(&BytesMessage { data }).map_err(io::Error::other)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
