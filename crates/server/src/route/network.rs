//! Networks: those that always exist.

use std::sync::Arc;

use axum::extract::State;
use palan_docker_api::versions;
use palan_engine::Engine;

use crate::convert;
use crate::error::{ApiResult, ok_json};
use crate::extract::{Name, Params, Version};

type Engines = State<Arc<Engine>>;

pub(crate) async fn list(State(engine): Engines, version: Version, params: Params) -> ApiResult {
    let networks = engine.list_networks(params.filters()?).await?;
    let mut answer: Vec<_> = networks.iter().map(convert::network::listed).collect();
    versions::networks(&mut answer, version.0);
    ok_json(&answer)
}

pub(crate) async fn inspect(State(engine): Engines, Name(id): Name) -> ApiResult {
    ok_json(&convert::network::inspected(&engine.inspect_network(&id).await?))
}
