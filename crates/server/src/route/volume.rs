//! Volumes. What Docker has no endpoints for is below `/palan/`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use palan_docker_api::types::{VolumeCreateRequest, VolumeList};
use palan_engine::Engine;
use palan_engine::volume::{CopySpec, VolumeSpec};

use super::unsupported;
use crate::convert;
use crate::error::{ApiError, ApiResult, json_response, no_content, ok_json};
use crate::extract::{JsonBytes, Name, Params};
use crate::streaming::{pipe_body, respond_bytes};

type Engines = State<Arc<Engine>>;

pub(crate) async fn list(State(engine): Engines, params: Params) -> ApiResult {
    let volumes = engine.list_volumes(params.filters()?).await?;
    ok_json(&VolumeList { volumes: volumes.into_iter().map(convert::volume).collect(), warnings: Vec::new() })
}

pub(crate) async fn create(State(engine): Engines, body: JsonBytes) -> ApiResult {
    let request: VolumeCreateRequest = body.decode()?;
    if request.cluster_volume_spec.is_some() {
        return unsupported::not_a_manager().await;
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

/// `PUT /volumes/{name}`: what it changes only volumes of a swarm have.
pub(crate) async fn update() -> ApiResult {
    Err(ApiError::unavailable("volume update only valid for cluster volumes, but swarm is unavailable"))
}

/// `POST /palan/volumes/{name}/clone?name=NEW&label=KEY=VALUE`.
pub(crate) async fn clone(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let volume = engine.clone_volume(&name, copy_spec(&params)).await?;
    Ok(json_response(StatusCode::CREATED, &convert::volume(volume)))
}

/// `POST /palan/volumes/import?name=NEW&label=KEY=VALUE`; the body is a tar.
pub(crate) async fn import(State(engine): Engines, params: Params, body: Body) -> ApiResult {
    let volume = engine.import_volume(copy_spec(&params), pipe_body(body)).await?;
    Ok(json_response(StatusCode::CREATED, &convert::volume(volume)))
}

/// `GET /palan/volumes/{name}/export`: a tar.
pub(crate) async fn export(State(engine): Engines, Name(name): Name) -> ApiResult {
    Ok(respond_bytes("application/x-tar", engine.export_volume(&name).await?))
}

/// `POST /palan/volumes/{name}/rename?name=NEW`.
pub(crate) async fn rename(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    engine.rename_volume(&name, params.text("name")).await?;
    no_content()
}

fn copy_spec(params: &Params) -> CopySpec {
    let labels = params.all("label").into_iter().map(|label| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (label, String::new()),
    });
    CopySpec { name: params.text("name").to_owned(), labels: labels.collect() }
}
