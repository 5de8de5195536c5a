//! `GET /system/df`.

use std::sync::Arc;

use axum::extract::State;
use palan_docker_api::types::UsageInBothForms;
use palan_docker_api::versions;
use palan_engine::Engine;
use palan_engine::usage::UsageQuery;

use crate::convert;
use crate::error::{ApiError, ApiResult, ok_json};
use crate::extract::{Params, Version};

pub(crate) async fn df(State(engine): State<Arc<Engine>>, version: Version, params: Params) -> ApiResult {
    let mut kinds = params.all("type");
    if !versions::has_disk_usage_types(version.0) || kinds.is_empty() {
        kinds = ["container", "image", "volume", "build-cache"].map(str::to_owned).to_vec();
    }
    let mut query = UsageQuery::default();
    for kind in kinds {
        match kind.as_str() {
            "container" => query.containers = true,
            "image" => query.images = true,
            "volume" => query.volumes = true,
            "build-cache" => query.build_cache = true,
            _ => return Err(ApiError::invalid(format!("unknown object type: {kind}"))),
        }
    }
    let usage = engine.disk_usage(query).await?;
    if versions::lists_disk_usage(version.0) {
        return ok_json(&convert::usage::before_52(usage, version.0));
    }
    if params.flag("verbose") {
        return ok_json(&convert::usage::usage(usage, true));
    }
    ok_json(&UsageInBothForms {
        before_52: convert::usage::before_52(usage.clone(), version.0),
        usage: convert::usage::usage(usage, false),
    })
}
