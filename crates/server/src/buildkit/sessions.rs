//! Sessions of clients: connections on which the daemon calls.
//!
//! A build names its session before or after it is opened, so whoever wants one waits for it. A client that hangs is noticed by asking
//! for its health, in intervals as BuildKit does.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use http::HeaderMap;
use palan_buildkit::grpc::{Call, Channel, Code, Io, Metadata, Status};
use palan_buildkit::message::session::{BytesMessage, HealthCheckRequest, HealthCheckResponse, method};
use palan_buildkit::session::header;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};

use super::BuildKit;
use crate::error::{ApiError, ApiResult};

/// How long a build waits for its session.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a client is asked for its health, and how long it may take to answer.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const HEALTH_PATIENCE: Duration = Duration::from_secs(15);

/// How often in a row it may fail to.
const HEALTH_FAILURES: u32 = 2;

/// Sessions at a time.
const MAX_SESSIONS: usize = 1024;

/// What is on the way in a session that is carried in messages.
const PIPE: usize = 64 << 10;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// None: the connection is not ready yet.
    known: Mutex<HashMap<String, Option<Arc<Session>>>>,
    changed: Notify,
}

/// A client's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) channel: Channel,
    /// The same for the same directory.
    pub(super) shared_key: String,
    /// Whose connection it is: what different ones send is kept apart.
    pub(super) peer: Arc<str>,
    /// Calls that the client answers, in lower case.
    methods: HashSet<String>,
    ended: watch::Receiver<()>,
}

/// A session that is to be opened; its id is taken until this is dropped.
pub(super) struct Opening {
    id: String,
    shared_key: String,
    peer: Arc<str>,
    methods: HashSet<String>,
    sessions: Arc<Sessions>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

impl Session {
    /// Whether the client answers a call.
    pub(super) fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) {
        // The sender sends nothing; it is dropped.
        let _ = self.ended.clone().changed().await;
    }
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<Arc<Session>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the headers, and takes the id.
    pub(super) fn prepare(self: &Arc<Self>, headers: &HeaderMap, peer: &Arc<str>) -> ApiResult<Opening> {
        let text =
            |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let id = text(header::ID);
        if id.is_empty() || id.len() > 256 {
            return Err(ApiError::invalid(format!("the header {} must have the session's id", header::ID)));
        }
        let methods = headers.get_all(header::METHOD).into_iter().filter_map(|value| value.to_str().ok());
        let methods = methods.map(str::to_ascii_lowercase).collect();
        let mut known = self.lock();
        if known.contains_key(&id) {
            return Err(ApiError::invalid(format!("session {id} already exists")));
        }
        if known.len() >= MAX_SESSIONS {
            return Err(ApiError::unavailable(format!("there are {MAX_SESSIONS} sessions already")));
        }
        known.insert(id.clone(), None);
        let (shared_key, peer) = (text(header::SHARED_KEY), Arc::clone(peer));
        Ok(Opening { id, shared_key, peer, methods, sessions: Arc::clone(self) })
    }

    /// Is the session, until its connection ends.
    pub(super) async fn run(self: Arc<Self>, mut opening: Opening, connection: impl Io) {
        let (channel, driver) = match Channel::connect(connection).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!("a session failed to begin: {error}");
                return;
            }
        };
        // Dropped with this function.
        let (_running, ended) = watch::channel(());
        let session = Arc::new(Session {
            channel: channel.clone(),
            shared_key: std::mem::take(&mut opening.shared_key),
            peer: Arc::clone(&opening.peer),
            methods: std::mem::take(&mut opening.methods),
            ended,
        });
        self.lock().insert(opening.id.clone(), Some(session));
        self.changed.notify_waiters();
        tokio::select! {
            outcome = driver => if let Err(error) = outcome {
                tracing::debug!("a session ended: {error}");
            },
            () = unhealthy(&channel) => tracing::info!(id = opening.id, "a build client's session does not answer any more"),
        }
    }

    /// A session by its id, which may come yet.
    pub(super) async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        // A prefix keeps builds of one session apart, elsewhere.
        let id = id.split_once(':').map_or(id, |(_, rest)| if rest.is_empty() { id } else { rest });
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(Some(session)) = self.lock().get(id) {
                    return Arc::clone(session);
                }
                changed.await;
            }
        };
        let missing = || Status::new(Code::NotFound, format!("no active session for {id}"));
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| missing())
    }
}

impl BuildKit {
    /// `Control.Session`: a session whose bytes are carried in messages of another connection. buildx opens those so that several
    /// builds share.
    pub(super) async fn session(self: Arc<Self>, call: Call, peer: Arc<str>) -> Result<(), Status> {
        let opening = self.sessions.prepare(&call.metadata, &peer);
        let opening = opening.map_err(|error| Status::new(Code::InvalidArgument, error.message()))?;
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (mut reader, mut writer) = tokio::io::split(ours);
        let Call { mut incoming, outgoing, .. } = call;
        let inward = async {
            while let Some(message) = incoming.next::<BytesMessage>().await? {
                if writer.write_all(&message.data).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let outward = async {
            let mut buffer = BytesMut::with_capacity(PIPE);
            while let Ok(1..) = reader.read_buf(&mut buffer).await {
                outgoing.send(&BytesMessage { data: buffer.split().freeze() }).await?;
                buffer.reserve(PIPE);
            }
            Ok(())
        };
        tokio::select! {
            ended = inward => ended,
            ended = outward => ended,
            () = Arc::clone(&self.sessions).run(opening, theirs) => Ok(()),
        }
    }
}

/// Waits until a client does not answer any more. One that has no health service is taken to be well.
async fn unhealthy(channel: &Channel) {
    let mut failures = 0;
    while failures < HEALTH_FAILURES {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        let request = HealthCheckRequest::default();
        let asked = channel.unary_within::<_, HealthCheckResponse>(
            HEALTH_PATIENCE,
            method::HEALTH_CHECK,
            Metadata::new(),
            &request,
        );
        match asked.await {
            Err(error) if matches!(error.code, Code::DeadlineExceeded | Code::Unavailable) => failures += 1,
            _ => failures = 0,
        }
    }
}
