//! Exec sessions.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use palan_docker_api::types::{ExecCreateRequest, ExecStartRequest, IdResponse};
use palan_docker_api::versions;
use palan_engine::Engine;
use palan_engine::container::ExecStartOptions;

use crate::convert;
use crate::error::{ApiError, ApiResult, json_response, ok_json};
use crate::extract::{JsonBytes, Name, Params, Version};
use crate::hijack::Hijack;

type Engines = State<Arc<Engine>>;

pub(crate) async fn create(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    body: JsonBytes,
) -> ApiResult {
    let mut request: ExecCreateRequest = body.decode()?;
    if request.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    request.console_size = request.console_size.filter(|_| versions::has_exec_console_size(version.0));
    let id = engine.exec_create(&name, convert::exec::spec(request)).await?;
    Ok(json_response(StatusCode::CREATED, &IdResponse { id }))
}

pub(crate) async fn start(
    State(engine): Engines,
    version: Version,
    Name(id): Name,
    hijack: Hijack,
    body: JsonBytes,
) -> ApiResult {
    let request: ExecStartRequest = body.decode()?;
    let console = request.console_size.filter(|_| request.tty && versions::has_exec_console_size(version.0));
    let options = ExecStartOptions {
        detach: request.detach,
        tty: request.tty,
        console_size: console.and_then(convert::exec::console_size),
    };
    if request.detach {
        engine.exec_start_detached(&id, options).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let ticket = engine.exec_attach(&id, options).await?;
    hijack.answer(version, ticket.framing, |stream| ticket.deliver(stream))
}

pub(crate) async fn resize(State(engine): Engines, Name(id): Name, params: Params) -> ApiResult {
    let (height, width) = (params.dimension("h", "height")?, params.dimension("w", "width")?);
    engine.exec_resize(&id, height, width).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn inspect(State(engine): Engines, Name(id): Name) -> ApiResult {
    ok_json(&convert::exec::inspect(engine.exec_inspect(&id).await?))
}
