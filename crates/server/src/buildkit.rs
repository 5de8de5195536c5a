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
//! 3. `caches` says where results with their keys come from and go to, and carries a client's directories of them. `exports` sends the result on, and the answer to `Control.Solve` ends the build. Its progress is kept for a moment, for a
//!    `Status` that comes late, and its record for `ListenBuildHistory`.
//!
//! **Invariant:** a build lives as long as its `Control.Solve`. When that call's connection or stream goes, the engine is told to
//! stop, and nobody is left waiting for the build.

mod attest;
mod caches;
mod client;
mod control;
mod exports;
mod gateway;
mod progress;
mod request;
mod sessions;
mod shell;
mod solve;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use http::HeaderMap;
use palan_buildkit::grpc::{Call, Handled, Service, Status};
use palan_buildkit::message::control::method;
use palan_buildkit::message::gateway::{SolveRequest, method as bridge_method};
use palan_buildkit::message::session::{HealthCheckRequest, HealthCheckResponse, method as session_method};
use palan_buildkit::mirrors::Mirrors;
use palan_engine::Engine;

use crate::error::{ApiError, ApiResult, ok_json};
use crate::extract::Params;
use crate::handover::Traffic;
use crate::hijack::Hijack;
use progress::Builds;
use sessions::Sessions;

/// What all connections share.
pub(crate) struct BuildKit {
    engine: Arc<Engine>,
    sessions: Arc<Sessions>,
    builds: Builds,
    mirrors: Mutex<Option<Arc<Mirrors>>>,
    /// Results that clients know by a name, until their builds end.
    results: Mutex<HashMap<String, SolveRequest>>,
}

/// `POST /session` and `POST /grpc`.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    let state = Arc::new(BuildKit {
        engine,
        sessions: Arc::default(),
        builds: Builds::default(),
        mirrors: Mutex::default(),
        results: Mutex::default(),
    });
    Router::new()
        .route("/session", post(session))
        .route("/grpc", post(grpc))
        .route("/build/prune", post(prune))
        .with_state(state)
}

/// `POST /build/prune`: what clients have sent is part of the cache.
async fn prune(State(state): State<Arc<BuildKit>>, params: Params) -> ApiResult {
    let pruned = crate::route::build::prune(&state.engine, params).await?;
    state.forget_sent().await.map_err(|status| {
        ApiError::from(palan_engine::Error::new(palan_engine::Class::System, status.to_string()))
    })?;
    ok_json(&pruned)
}

async fn session(State(state): State<Arc<BuildKit>>, headers: HeaderMap, hijack: Hijack) -> ApiResult {
    let opening = state.sessions.prepare(&headers)?;
    let sessions = Arc::clone(&state.sessions);
    hijack.answer_h2c(&headers, move |connection| sessions.run(opening, connection))
}

async fn grpc(
    State(kit): State<Arc<BuildKit>>,
    traffic: Option<Extension<Traffic>>,
    headers: HeaderMap,
    hijack: Hijack,
) -> ApiResult {
    let traffic = traffic.map(|Extension(traffic)| traffic).unwrap_or_default();
    let service = Arc::new(Connected { kit, traffic });
    hijack.answer_h2c(&headers, move |connection| async move {
        if let Err(error) = palan_buildkit::grpc::serve(connection, service).await {
            tracing::debug!("a connection of a build client ended: {error}");
        }
    })
}

/// What one connection's calls are answered by. A build is a request that is under way, although its connection has left HTTP/1.1: a
/// daemon that is to be replaced waits for it.
struct Connected {
    kit: Arc<BuildKit>,
    traffic: Traffic,
}

impl Service for Connected {
    fn call(self: Arc<Self>, call: Call) -> Handled {
        let under_way = (call.method == method::SOLVE).then(|| self.traffic.begin());
        let answered = Arc::clone(&self.kit).call(call);
        Box::pin(async move {
            let answered = answered.await;
            drop(under_way);
            answered
        })
    }
}

impl BuildKit {
    /// Removes what clients have sent before.
    async fn forget_sent(&self) -> Result<(), Status> {
        let mirrors = self.mirrors()?;
        let cleared = tokio::task::spawn_blocking(move || mirrors.clear()).await;
        if let Err(error) = cleared.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(%error, "directories that clients have sent could not be removed");
        }
        Ok(())
    }

    /// What clients have sent before.
    fn mirrors(&self) -> Result<Arc<Mirrors>, Status> {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mirrors) = &*mirrors {
            return Ok(Arc::clone(mirrors));
        }
        let directory = self.engine.config().data_root.join("build/sent");
        let opened = Mirrors::open(directory).map_err(|error| {
            let text = format!("cannot prepare the directory of what clients send: {error}");
            Status::new(palan_buildkit::grpc::Code::Internal, text)
        })?;
        Ok(Arc::clone(mirrors.insert(Arc::new(opened))))
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
