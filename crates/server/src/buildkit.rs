//! BuildKit's protocol: the daemon's side of `palan_buildkit`.
//!
//! ```text
//! POST /session ─▶ sessions   a client's session by its id; the daemon calls on it
//! POST /grpc ───▶ Service ─┬▶ control   workers, the cache, history
//!                          ├▶ solve     a build: request ─▶ engine ─▶ exports; client: what the engine fetches meanwhile
//!                          ├▶ progress  its news, for Status
//!                          └▶ gateway   builds that a client drives (buildx does): Solve, Return, and little else
//! ```
//!
//! # A build
//!
//! 1. `Control.Solve` registers the build under the client's reference. `Status` and the gateway's calls, which name the same
//!    reference, may come before it and wait for it.
//! 2. With a frontend, `request` says what the engine is to do. Without one the client drives: its `LLBBridge.Solve` says the
//!    same, and names a result that does not exist yet; its `Return` says which result it wants, or why it gave up. Only then
//!    it is built, as BuildKit's results are lazy, too.
//! 3. `exports` sends the result on, and the answer to `Control.Solve` ends the build. Its progress is kept for a moment, for a
//!    `Status` that comes late, and its record for `ListenBuildHistory`.
//!
//! **Invariant:** a build lives as long as its `Control.Solve`. When that call's connection or stream goes, the engine is told to
//! stop, and nobody is left waiting for the build.

mod client;
mod control;
mod exports;
mod gateway;
mod progress;
mod request;
mod sessions;
mod solve;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::HeaderMap;
use palan_buildkit::grpc::{Call, Handled, Service, Status};
use palan_buildkit::message::control::method;
use palan_buildkit::message::gateway::{SolveRequest, method as bridge_method};
use palan_buildkit::message::session::{HealthCheckRequest, HealthCheckResponse, method as session_method};
use palan_buildkit::mirrors::{Mirror, Mirrors};
use palan_engine::Engine;
use palan_engine::build::{SentDirectories, SentDirectory};

use crate::error::ApiResult;
use crate::hijack::Hijack;
use progress::Builds;
use sessions::Sessions;

/// What all connections share.
pub(crate) struct BuildKit {
    engine: Arc<Engine>,
    sessions: Arc<Sessions>,
    builds: Builds,
    sent: Arc<Sent>,
    /// Results that clients know by a name, until their builds end.
    results: Mutex<HashMap<String, SolveRequest>>,
}

/// What clients have sent before. It is opened when it is wanted.
#[derive(Debug)]
struct Sent {
    directory: PathBuf,
    opened: Mutex<Option<Mirrors>>,
}

impl Sent {
    fn mirrors(&self) -> std::io::Result<Mirrors> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mirrors) = &*opened {
            return Ok(mirrors.clone());
        }
        Ok(opened.insert(Mirrors::open(self.directory.clone())?).clone())
    }
}

impl SentDirectories for Sent {
    fn list(&self) -> std::io::Result<Vec<SentDirectory>> {
        if !self.directory.try_exists()? {
            return Ok(Vec::new());
        }
        let list = self.mirrors()?.list()?.into_iter();
        let directory = |Mirror { name, path, used, in_use }| SentDirectory { id: name, path, used, in_use };
        Ok(list.map(directory).collect())
    }

    fn remove(&self, id: &str) -> std::io::Result<bool> {
        self.mirrors()?.remove(id)
    }
}

/// `POST /session` and `POST /grpc`.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    let directory = engine.config().data_root.join("build/sent");
    let sent = Arc::new(Sent { directory, opened: Mutex::default() });
    engine.keep_sent(Arc::clone(&sent) as Arc<dyn SentDirectories>);
    let state = Arc::new(BuildKit {
        engine,
        sessions: Arc::default(),
        builds: Builds::default(),
        sent,
        results: Mutex::default(),
    });
    Router::new().route("/session", post(session)).route("/grpc", post(grpc)).with_state(state)
}

async fn session(State(state): State<Arc<BuildKit>>, headers: HeaderMap, hijack: Hijack) -> ApiResult {
    let opening = state.sessions.prepare(&headers)?;
    let sessions = Arc::clone(&state.sessions);
    hijack.answer_h2c(&headers, move |connection| sessions.run(opening, connection))
}

async fn grpc(State(state): State<Arc<BuildKit>>, headers: HeaderMap, hijack: Hijack) -> ApiResult {
    hijack.answer_h2c(&headers, move |connection| async move {
        if let Err(error) = palan_buildkit::grpc::serve(connection, state).await {
            tracing::debug!("a connection of a build client ended: {error}");
        }
    })
}

impl BuildKit {
    /// What clients have sent before.
    fn mirrors(&self) -> Result<Mirrors, Status> {
        self.sent.mirrors().map_err(|error| {
            let text = format!("cannot prepare the directory of what clients send: {error}");
            Status::new(palan_buildkit::grpc::Code::Internal, text)
        })
    }
}

impl Service for BuildKit {
    fn call(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            match call.method.as_str() {
                method::SOLVE => self.solve(call).await,
                method::STATUS => self.status(call).await,
                method::LIST_WORKERS => self.list_workers(call).await,
                method::SESSION => self.session(call).await,
                method::INFO => self.info(call).await,
                method::DISK_USAGE => self.disk_usage(call).await,
                method::PRUNE => self.prune(call).await,
                method::LISTEN_BUILD_HISTORY => self.listen_build_history(call).await,
                method::UPDATE_BUILD_HISTORY => self.update_build_history(call).await,
                session_method::HEALTH_CHECK => {
                    call.unary(|_: HealthCheckRequest| async { Ok(HealthCheckResponse { status: 1 }) }).await
                }
                bridge if bridge.starts_with(bridge_method::SERVICE) => self.bridge(call).await,
                other => Err(Status::unimplemented(other)),
            }
        })
    }
}
