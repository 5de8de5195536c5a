//! Networks.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use palan_docker_api::types::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
    NetworksPruned,
};
use palan_docker_api::versions;
use palan_engine::Engine;

use crate::convert;
use crate::error::{ApiResult, json_response, ok_json};
use crate::extract::{JsonBytes, Name, Params, Version};

type Engines = State<Arc<Engine>>;

pub(crate) async fn list(State(engine): Engines, version: Version, params: Params) -> ApiResult {
    let networks = engine.list_networks(params.filters()?).await?;
    let mut answer: Vec<_> = networks.iter().map(convert::network::listed).collect();
    versions::networks(&mut answer, version.0);
    ok_json(&answer)
}

pub(crate) async fn inspect(State(engine): Engines, version: Version, Name(id): Name) -> ApiResult {
    let mut answer = convert::network::inspected(&engine.inspect_network(&id).await?);
    versions::network(&mut answer, version.0);
    ok_json(&answer)
}

pub(crate) async fn create(State(engine): Engines, body: JsonBytes) -> ApiResult {
    let request: NetworkCreateRequest = body.decode()?;
    let network = engine.create_network(convert::network::spec(request)?).await?;
    let answer = NetworkCreateResponse { id: network.id.clone(), warning: String::new() };
    Ok(json_response(StatusCode::CREATED, &answer))
}

pub(crate) async fn remove(State(engine): Engines, Name(id): Name) -> ApiResult {
    engine.remove_network(&id).await?;
    crate::error::no_content()
}

pub(crate) async fn connect(State(engine): Engines, Name(id): Name, body: JsonBytes) -> ApiResult {
    let request: NetworkConnectRequest = body.decode()?;
    let (_, settings) = convert::create::endpoint(id.clone(), request.endpoint_config.unwrap_or_default());
    engine.connect_network(&id, &request.container, settings).await?;
    done()
}

pub(crate) async fn disconnect(State(engine): Engines, Name(id): Name, body: JsonBytes) -> ApiResult {
    let request: NetworkDisconnectRequest = body.decode()?;
    engine.disconnect_network(&id, &request.container).await?;
    done()
}

pub(crate) async fn prune(State(engine): Engines, params: Params) -> ApiResult {
    ok_json(&NetworksPruned { networks_deleted: engine.prune_networks(params.filters()?).await? })
}

/// Docker answers these two with 200 and nothing else.
fn done() -> ApiResult {
    Ok(http::Response::new(axum::body::Body::empty()))
}
