//! A daemon that speaks BuildKit's protocol, and does with a build what the test says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use palan_buildkit::grpc::{Call, Channel, Handled, Service, Status, serve};
use palan_buildkit::message::control::{SolveRequest, SolveResponse, StatusRequest, StatusResponse, method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::super::Outcome;
use super::run_at;

/// What the daemon does with a build.
type Script = dyn Fn(SolveRequest, Channel) -> Solved + Send + Sync;
pub(super) type Solved = std::pin::Pin<Box<dyn Future<Output = Result<SolveResponse, Status>> + Send>>;

/// A daemon that speaks BuildKit's protocol; it ends with the test's process.
pub(super) struct Builder {
    socket: PathBuf,
    _directory: tempfile::TempDir,
    pub(super) shared: Arc<Shared>,
}

/// What the test looks at, and what its calls tell each other.
#[derive(Default)]
pub(super) struct Shared {
    session: Mutex<Option<Channel>>,
    pub(super) session_head: Mutex<String>,
    has_session: Notify,
    is_over: Notify,
    pub(super) was_cancelled: Mutex<bool>,
}

struct Daemon {
    shared: Arc<Shared>,
    updates: Vec<StatusResponse>,
    script: Arc<Script>,
}

/// Tells, when it is dropped before the end, that the build was cancelled.
struct Cancelled(Arc<Shared>, bool);

impl Drop for Cancelled {
    fn drop(&mut self) {
        *self.0.was_cancelled.lock().unwrap() = !self.1;
        self.0.is_over.notify_waiters();
        self.0.is_over.notify_one();
    }
}

impl Service for Daemon {
    fn call(self: Arc<Self>, mut call: Call) -> Handled {
        Box::pin(async move {
            match call.method.as_str() {
                method::STATUS => {
                    let _: StatusRequest = call.question().await?;
                    for update in &self.updates {
                        call.outgoing.send(update).await?;
                    }
                    self.shared.is_over.notified().await;
                    Ok(())
                }
                method::SOLVE => {
                    let mut guard = Cancelled(Arc::clone(&self.shared), false);
                    let request: SolveRequest = call.question().await?;
                    let session = loop {
                        if let Some(session) = self.shared.session.lock().unwrap().clone() {
                            break session;
                        }
                        self.shared.has_session.notified().await;
                    };
                    let answer = (self.script)(request, session).await;
                    guard.1 = true;
                    call.outgoing.send(&answer?).await
                }
                other => Err(Status::unimplemented(other)),
            }
        })
    }
}

impl Builder {
    pub(super) fn start(
        updates: Vec<StatusResponse>,
        script: impl Fn(SolveRequest, Channel) -> Solved + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("daemon.sock");
        let shared = Arc::new(Shared::default());
        let daemon = Arc::new(Daemon { shared: Arc::clone(&shared), updates, script: Arc::new(script) });
        let path = socket.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(connection(stream, Arc::clone(&daemon)));
                }
            });
        });
        is_ready.recv().unwrap();
        Self { socket, _directory: directory, shared }
    }

    pub(super) fn run(&self, line: &[&str], input: &[u8], variables: &[(&str, &str)]) -> Outcome {
        run_at(&format!("unix://{}", self.socket.display()), line, input.to_vec(), variables)
    }
}

async fn connection(mut stream: UnixStream, daemon: Arc<Daemon>) {
    const UPGRADED: &[u8] = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        match head.split(' ').nth(1).unwrap() {
            path if path.ends_with("/_ping") => {
                let answer = b"HTTP/1.1 200 OK\r\nApi-Version: 1.56\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
            "/v1.56/grpc" => {
                stream.write_all(UPGRADED).await.unwrap();
                let _ = serve(stream, daemon).await;
                return;
            }
            "/v1.56/session" => {
                stream.write_all(UPGRADED).await.unwrap();
                let (channel, driver) = Channel::connect(stream).await.unwrap();
                *daemon.shared.session.lock().unwrap() = Some(channel);
                *daemon.shared.session_head.lock().unwrap() = head;
                daemon.shared.has_session.notify_one();
                let _ = driver.await;
                return;
            }
            other => panic!("{other}"),
        }
    }
}
