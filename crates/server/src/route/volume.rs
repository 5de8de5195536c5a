//! Volumes.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use palan_docker_api::types::{VolumeCreateRequest, VolumeList};
use palan_engine::Engine;
use palan_engine::volume::VolumeSpec;

use crate::convert;
use crate::error::{ApiError, ApiResult, json_response, no_content, ok_json};
use crate::extract::{JsonBytes, Name, Params};

type Engines = State<Arc<Engine>>;

pub(crate) async fn list(State(engine): Engines, params: Params) -> ApiResult {
    let volumes = engine.list_volumes(params.filters()?).await?;
    ok_json(&VolumeList { volumes: volumes.into_iter().map(convert::volume).collect(), warnings: Vec::new() })
}

pub(crate) async fn create(State(engine): Engines, body: JsonBytes) -> ApiResult {
    let request: VolumeCreateRequest = body.decode()?;
    if request.cluster_volume_spec.is_some() {
        return Err(ApiError::invalid("cluster volumes are not supported: there is no swarm"));
    }
    let spec = VolumeSpec {
        name: request.name,
        driver: request.driver,
        options: request.driver_opts,
        labels: request.labels,
    };
    Ok(json_response(StatusCode::CREATED, &convert::volume(engine.create_volume(spec).await?)))
}

pub(crate) async fn inspect(State(engine): Engines, Name(name): Name) -> ApiResult {
    ok_json(&convert::volume(engine.inspect_volume(&name).await?))
}

pub(crate) async fn remove(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    engine.remove_volume(&name, params.flag("force")).await?;
    no_content()
}

pub(crate) async fn prune(State(engine): Engines, params: Params) -> ApiResult {
    ok_json(&convert::volumes_pruned(engine.prune_volumes(params.filters()?).await?))
}
