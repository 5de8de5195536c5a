//! The daemon itself.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderName, HeaderValue, header};
use palan_docker_api::types::{AuthConfig, AuthResponse};
use palan_docker_api::versions;
use palan_engine::Engine;

use crate::convert;
use crate::error::{ApiResult, ok_json};
use crate::extract::{JsonBytes, Version};

type Engines = State<Arc<Engine>>;

fn ping_headers(engine: &Engine) -> [(HeaderName, HeaderValue); 6] {
    let experimental = if engine.config().experimental { "true" } else { "false" };
    [
        (HeaderName::from_static("docker-experimental"), HeaderValue::from_static(experimental)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate")),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        // BuildKit.
        (HeaderName::from_static("builder-version"), HeaderValue::from_static("2")),
        (HeaderName::from_static("swarm"), HeaderValue::from_static("inactive")),
    ]
}

pub(crate) async fn ping(State(engine): Engines) -> impl IntoResponse {
    (ping_headers(&engine), "OK")
}

pub(crate) async fn ping_head(State(engine): Engines) -> impl IntoResponse {
    ping_headers(&engine)
}

pub(crate) async fn version(State(engine): Engines) -> ApiResult {
    ok_json(&convert::system::version(&engine.info().await?, engine.config()))
}

pub(crate) async fn info(State(engine): Engines, version: Version) -> ApiResult {
    let mut answer = convert::system::info(engine.info().await?, engine.config());
    versions::info(&mut answer, version.0);
    ok_json(&answer)
}

pub(crate) async fn auth(State(engine): Engines, body: JsonBytes) -> ApiResult {
    let request: AuthConfig = body.decode()?;
    let (status, identity_token) = engine.login(convert::auth(request)).await?;
    ok_json(&AuthResponse { identity_token, status })
}
