//! A client's services, called as a daemon calls them.

use std::sync::Arc;

use bytes::Bytes;
use palan_linux::path::RootDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::fsutil::{Devices, Owners, Receive, Selection, Send};
use crate::grpc::{Channel, Code, Metadata, encode_list, metadata};
use crate::message::session::{
    BytesMessage, CheckAgentRequest, CheckAgentResponse, CredentialsRequest, CredentialsResponse,
    GetSecretRequest, GetSecretResponse, metadata as name,
};

async fn open(services: Services) -> Channel {
    let (client, daemon) = tokio::io::duplex(1 << 16);
    tokio::spawn(services.serve(client));
    let (channel, driver) = Channel::connect(daemon).await.expect("a session");
    tokio::spawn(driver);
    channel
}

struct Known;

impl Credentials for Known {
    fn credentials(&self, host: &str) -> Result<Option<(String, String)>, String> {
        match host {
            "a" => Ok(Some(("user".to_owned(), "password".to_owned()))),
            "broken" => Err("no helper".to_owned()),
            _ => Ok(None),
        }
    }
}

#[tokio::test]
async fn secrets_and_credentials() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, "from a file").expect("a file");
    let large = directory.path().join("large");
    std::fs::write(&large, vec![0; 600 << 10]).expect("a file");
    let services = Services::new()
        .secret("file", Secret::File(path))
        .secret("large", Secret::File(large))
        .secret("gone", Secret::File(directory.path().join("gone")))
        .secret("value", Secret::Value(Bytes::from_static(b"v")))
        .credentials(Arc::new(Known));
    assert!(services.methods().contains(&method::GET_SECRET));
    assert!(!services.methods().contains(&method::FILE_SYNC_DIFF_COPY));
    let channel = open(services).await;
    let secret = async |id: &str| {
        let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        let answer =
            channel.unary::<_, GetSecretResponse>(method::GET_SECRET, Metadata::new(), &request).await;
        answer.map(|answer| answer.data).map_err(|status| status.code)
    };
    assert_eq!(secret("file").await, Ok(Bytes::from_static(b"from a file")));
    assert_eq!(secret("value").await, Ok(Bytes::from_static(b"v")));
    assert_eq!(secret("other").await, Err(Code::NotFound));
    assert_eq!(secret("gone").await, Err(Code::NotFound));
    assert_eq!(secret("large").await, Err(Code::InvalidArgument));
    let credentials = async |host: &str| {
        let request = CredentialsRequest { host: host.to_owned() };
        channel
            .unary::<_, CredentialsResponse>(method::AUTH_CREDENTIALS, Metadata::new(), &request)
            .await
            .map(|answer| (answer.username, answer.secret))
    };
    assert_eq!(credentials("a").await, Ok(("user".to_owned(), "password".to_owned())));
    assert_eq!(credentials("b").await, Ok(Default::default()));
    assert_eq!(credentials("broken").await.expect_err("an error").message, "no helper");
    // What was not offered.
    let asked = channel.call(method::FILE_SEND_DIFF_COPY, Metadata::new()).await.expect("a call");
    let mut incoming = asked.incoming;
    assert_eq!(incoming.next::<BytesMessage>().await.expect_err("no output").code, Code::NotFound);
}

#[tokio::test]
async fn directories_by_name() {
    let from = tempfile::tempdir().expect("a directory");
    std::fs::write(from.path().join("ä"), "1").expect("a file");
    std::fs::write(from.path().join("b"), "2").expect("a file");
    let directory = Directory::new(RootDir::open(from.path()).expect("a root"));
    let channel = open(Services::new().directory("context", directory)).await;
    let to = tempfile::tempdir().expect("a directory");
    let receive = async |name: &str, exclude: &[&str]| {
        let mut metadata = metadata(&[(name::DIR_NAME, name)]);
        let exclude: Vec<_> = exclude.iter().map(|text| (*text).to_owned()).collect();
        encode_list(&mut metadata, name::EXCLUDE_PATTERNS, &exclude);
        let call = channel.call(method::FILE_SYNC_DIFF_COPY, metadata).await.expect("a call");
        let receive =
            Receive { mirror: true, owners: Owners::Mine, devices: Devices::Refused, progress: None };
        receive.run(RootDir::open(to.path()).expect("a root"), call.incoming, call.outgoing).await
    };
    let received = receive("context", &["ä"]).await.expect("a transfer");
    assert_eq!(received.entries, 1);
    assert!(to.path().join("b").exists());
    assert_eq!(receive("context", &[]).await.expect("a transfer").entries, 2);
    let error = receive("/etc", &[]).await.expect_err("not offered");
    assert_eq!((error.code, error.message.as_str()), (Code::NotFound, "no access allowed to dir \"/etc\""));
}

#[derive(Clone, Default)]
struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("a lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().expect("a lock").extend_from_slice(b"<end>");
        Ok(())
    }
}

#[tokio::test]
async fn outputs() {
    let written = Shared::default();
    let target = tempfile::tempdir().expect("a directory");
    let path = target.path().join("new/dir");
    let made = written.clone();
    let services = Services::new()
        .output(
            0,
            Output::File(Arc::new(move |said| {
                assert_eq!(said.get("image.name").map(String::as_str), Some("x"));
                Ok(Box::new(made.clone()))
            })),
        )
        .output(1, Output::Directory { path: path.clone(), mirror: false });
    let channel = open(services).await;
    let said = metadata(&[(name::EXPORTER_ID, "0"), ("exporter-md-image.name", "x")]);
    let call = channel.call(method::FILE_SEND_DIFF_COPY, said.clone()).await.expect("a call");
    for part in ["a", "b"] {
        call.outgoing.send(&BytesMessage { data: Bytes::from_static(part.as_bytes()) }).await.expect("room");
    }
    let (outgoing, mut incoming) = (call.outgoing, call.incoming);
    drop(outgoing);
    assert_eq!(incoming.next::<BytesMessage>().await, Ok(None));
    assert_eq!(*written.0.lock().expect("a lock"), b"ab<end>");

    let from = tempfile::tempdir().expect("a directory");
    std::fs::write(from.path().join("f"), "1").expect("a file");
    std::fs::create_dir_all(&path).expect("the target");
    std::fs::write(path.join("mine"), "2").expect("a file");
    std::fs::write(path.join("f"), "old").expect("a file");
    let call = channel
        .call(method::FILE_SEND_DIFF_COPY, metadata(&[(name::EXPORTER_ID, "1")]))
        .await
        .expect("a call");
    let send = Send { selection: Selection::default(), without_owners: false, time: None, directory: None };
    send.run(RootDir::open(from.path()).expect("a root"), call.incoming, call.outgoing)
        .await
        .expect("a transfer");
    assert_eq!(std::fs::read(path.join("f")).expect("a file"), b"1");
    assert_eq!(std::fs::read(path.join("mine")).expect("a file"), b"2");
}

#[tokio::test]
async fn uploads_are_read_once() {
    let channel = open(Services::new().upload("abc", Upload::new(&b"an archive"[..]))).await;
    let pull = async || {
        let metadata = metadata(&[(name::UPLOAD_PATH, "/abc")]);
        let mut call = channel.call(method::UPLOAD_PULL, metadata).await.expect("a call");
        let mut all = Vec::new();
        while let Some(message) = call.incoming.next::<BytesMessage>().await? {
            all.extend_from_slice(&message.data);
        }
        Ok::<_, crate::grpc::Status>(all)
    };
    assert_eq!(pull().await.expect("an upload"), b"an archive");
    assert_eq!(pull().await.expect_err("once").code, Code::NotFound);
}

#[tokio::test]
async fn an_agent_is_spoken_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut question = [0; 5];
        stream.read_exact(&mut question).await.expect("a question");
        stream.write_all(&question.map(|byte| byte.to_ascii_uppercase())).await.expect("an answer");
    });
    let channel = open(Services::new().agent("default", path)).await;
    let check = async |id: &str| {
        let request = CheckAgentRequest { id: id.to_owned() };
        channel.unary::<_, CheckAgentResponse>(method::SSH_CHECK_AGENT, Metadata::new(), &request).await
    };
    assert!(check("").await.is_ok());
    assert_eq!(check("other").await.expect_err("no such agent").message, "unset ssh forward key other");
    let mut call = channel.call(method::SSH_FORWARD_AGENT, Metadata::new()).await.expect("a call");
    call.outgoing.send(&BytesMessage { data: Bytes::from_static(b"hello") }).await.expect("room");
    let answer = call.incoming.next::<BytesMessage>().await.expect("an answer");
    assert_eq!(answer.map(|message| message.data), Some(Bytes::from_static(b"HELLO")));
    assert_eq!(call.incoming.next::<BytesMessage>().await, Ok(None));
}

#[test]
fn ids() {
    let ids: std::collections::BTreeSet<_> = (0..100).map(|_| new_id().expect("chance")).collect();
    assert_eq!(ids.len(), 100);
    assert!(ids.iter().all(|id| id.len() == 25 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
}

#[tokio::test]
async fn content_is_written_and_read_by_its_digest() {
    use crate::message::content::{
        InfoRequest, InfoResponse, ReadRequest, ReadResponse, STORE_ID, WriteRequest, WriteResponse, action,
        method as store,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cache");
    let channel = open(Services::new().store("local:x", ContentStore::new(&path))).await;
    let at = |id: &str| metadata(&[(STORE_ID, id)]);
    let content = Bytes::from(vec![7; 1_000_000]);
    let digest = palan_oci::Digest::of(&content).to_string();
    let write = async |pieces: &[(i64, Bytes)], expected: &str| {
        let mut call = channel.call(store::WRITE, at("local:x")).await.expect("a call");
        let mut requests = vec![WriteRequest {
            action: action::STAT,
            reference: "r".to_owned(),
            total: 1_000_000,
            expected: expected.to_owned(),
            ..WriteRequest::default()
        }];
        requests.extend(pieces.iter().map(|(offset, data)| WriteRequest {
            action: action::WRITE,
            offset: *offset,
            data: data.clone(),
            ..WriteRequest::default()
        }));
        requests.push(WriteRequest { action: action::COMMIT, ..WriteRequest::default() });
        let mut last = None;
        for request in requests {
            // An error is told by what comes back.
            let _ = call.outgoing.send(&request).await;
            last = call.incoming.next::<WriteResponse>().await.map_err(|status| status.code)?;
        }
        Ok(last.expect("an answer").digest)
    };
    let halves = [(0, content.slice(..500_000)), (500_000, content.slice(500_000..))];
    let other = palan_oci::Digest::of("other").to_string();
    assert_eq!(write(&halves, &other).await, Err(Code::FailedPrecondition));
    assert_eq!(write(&halves[..1], &digest).await, Err(Code::FailedPrecondition), "too short");
    assert_eq!(write(&halves[1..], &digest).await, Err(Code::OutOfRange));
    assert_eq!(write(&[], "sha256:../../x").await, Err(Code::InvalidArgument));
    assert_eq!(std::fs::read_dir(path.join("blobs/sha256")).expect("entries").count(), 0);
    assert_eq!(write(&halves, &digest).await, Ok(digest.clone()));
    assert_eq!(write(&halves, &digest).await, Err(Code::AlreadyExists));
    let is_empty = || std::fs::read_dir(path.join("ingest")).expect("entries").next().is_none();
    for _ in 0..1500 {
        if is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(is_empty(), "nothing is left");
    let info = async |id: &str, digest: &str| {
        let request = InfoRequest { digest: digest.to_owned() };
        let answer = channel.unary::<_, InfoResponse>(store::INFO, at(id), &request).await;
        answer.map(|answer| answer.info.expect("known").size).map_err(|status| status.code)
    };
    assert_eq!(info("local:x", &digest).await, Ok(1_000_000));
    assert_eq!(info("local:x", &other).await, Err(Code::NotFound));
    assert_eq!(info("local:y", &digest).await, Err(Code::NotFound));
    assert_eq!(info("local:x", "../x").await, Err(Code::InvalidArgument));
    let request = ReadRequest { digest, offset: 400_000, size: 550_000 };
    let mut pieces = channel.ask(store::READ, at("local:x"), &request).await.expect("a call");
    let mut read = Vec::new();
    while let Some(piece) = pieces.next::<ReadResponse>().await.expect("a piece") {
        assert_eq!(piece.offset, 400_000 + i64::try_from(read.len()).expect("small"));
        read.extend_from_slice(&piece.data);
    }
    assert_eq!(read, content.slice(400_000..950_000));
}
