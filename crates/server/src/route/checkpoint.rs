//! Checkpoints of containers.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use palan_docker_api::types::{CheckpointCreateRequest, CheckpointSummary};
use palan_engine::Engine;
use palan_engine::container::CheckpointSpec;

use crate::error::{ApiResult, no_content, ok_json};
use crate::extract::{JsonBytes, Name, Names, Params};

type Engines = State<Arc<Engine>>;

pub(crate) async fn create(State(engine): Engines, Name(name): Name, body: JsonBytes) -> ApiResult {
    let request: CheckpointCreateRequest = body.decode()?;
    let spec =
        CheckpointSpec { name: request.checkpoint_id, directory: request.checkpoint_dir, exit: request.exit };
    engine.create_checkpoint(&name, spec).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub(crate) async fn list(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let names = engine.list_checkpoints(&name, params.text("dir")).await?;
    ok_json(&names.into_iter().map(|name| CheckpointSummary { name }).collect::<Vec<_>>())
}

pub(crate) async fn remove(
    State(engine): Engines,
    Names(name, checkpoint): Names,
    params: Params,
) -> ApiResult {
    engine.remove_checkpoint(&name, &checkpoint, params.text("dir")).await?;
    no_content()
}
