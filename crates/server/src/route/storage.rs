//! The image store's upkeep. Docker has no such endpoints; ours are below `/palan/`.

use std::sync::Arc;

use axum::extract::State;
use palan_docker_api::types::{DockerImport, ImportedImage, StoreCheck, StoreProblem};
use palan_engine::Engine;

use crate::error::{ApiError, ApiResult, ok_json};
use crate::extract::Params;

type Engines = State<Arc<Engine>>;

/// `POST /palan/system/fsck?repair=1`.
pub(crate) async fn check(State(engine): Engines, params: Params) -> ApiResult {
    let report = engine.check_store(params.flag("repair")).await?;
    let problems = report.problems.into_iter().map(|problem| StoreProblem {
        object: problem.object,
        what: problem.what,
        repaired: problem.repaired.unwrap_or_default(),
    });
    ok_json(&StoreCheck {
        images: report.images,
        blobs: report.blobs,
        layers: report.layers,
        problems: problems.collect(),
        pull_again: report.pull_again,
    })
}

/// `POST /palan/images/import-docker?root=/var/lib/docker`.
pub(crate) async fn import_docker(State(engine): Engines, params: Params) -> ApiResult {
    let root = params.some("root").ok_or_else(|| ApiError::invalid("the parameter root is missing"))?;
    let images = engine.import_docker(root.into()).await?.into_iter().map(|image| ImportedImage {
        id: image.id.to_string(),
        names: image.names.iter().map(palan_oci::Reference::familiar).collect(),
        error: image.error.unwrap_or_default(),
    });
    ok_json(&DockerImport { images: images.collect() })
}
