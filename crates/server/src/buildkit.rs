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
mod sent;
mod sessions;
mod shell;
mod solve;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use http::HeaderMap;
use palan_buildkit::grpc::{Call, Handled, Service, Status};
use palan_buildkit::message::control::method;
use palan_buildkit::message::gateway::{SolveRequest, method as bridge_method};
use palan_buildkit::message::session::{HealthCheckRequest, HealthCheckResponse, method as session_method};
use palan_engine::Engine;
use palan_engine::build::KeptContexts;

use crate::connection::ConnectionHandle;
use crate::error::ApiResult;
use crate::handover::Traffic;
use crate::hijack::Hijack;
use progress::Builds;
use sent::Sent;
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

/// `POST /session` and `POST /grpc`.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    let sent = Arc::new(Sent::new(engine.config().data_root.join("build/sent")));
    engine.keep_contexts(Arc::clone(&sent) as Arc<dyn KeptContexts>);
    let state = Arc::new(BuildKit {
        engine,
        sessions: Arc::default(),
        builds: Builds::default(),
        sent,
        results: Mutex::default(),
    });
    Router::new().route("/session", post(session)).route("/grpc", post(grpc)).with_state(state)
}

async fn session(
    State(state): State<Arc<BuildKit>>,
    handle: Option<Extension<ConnectionHandle>>,
    headers: HeaderMap,
    hijack: Hijack,
) -> ApiResult {
    let opening = state.sessions.prepare(&headers, &peer(handle))?;
    let sessions = Arc::clone(&state.sessions);
    hijack.answer_h2c(&headers, move |connection| sessions.run(opening, connection))
}

/// Whose connection it is.
fn peer(handle: Option<Extension<ConnectionHandle>>) -> Arc<str> {
    handle.map_or_else(Arc::default, |Extension(handle)| handle.peer())
}

async fn grpc(
    State(kit): State<Arc<BuildKit>>,
    handle: Option<Extension<ConnectionHandle>>,
    traffic: Option<Extension<Traffic>>,
    headers: HeaderMap,
    hijack: Hijack,
) -> ApiResult {
    let traffic = traffic.map(|Extension(traffic)| traffic).unwrap_or_default();
    let service = Arc::new(Connected { kit, traffic, peer: peer(handle) });
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
    peer: Arc<str>,
}

impl Service for Connected {
    fn call(self: Arc<Self>, call: Call) -> Handled {
        let under_way = (call.method == method::SOLVE).then(|| self.traffic.begin());
        let kit = Arc::clone(&self.kit);
        if call.method == method::SESSION {
            return Box::pin(kit.session(call, Arc::clone(&self.peer)));
        }
        let answered = kit.answer(call);
        Box::pin(async move {
            let answered = answered.await;
            drop(under_way);
            answered
        })
    }
}

impl BuildKit {
    fn answer(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            match call.method.as_str() {
                method::SOLVE => self.solve(call).await,
                method::STATUS => self.status(call).await,
                method::LIST_WORKERS => self.list_workers(call).await,
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
