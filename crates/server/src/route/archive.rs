//! A container's files, images made of containers, and images as archives.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use palan_docker_api::types::{ContainerConfig, FilesystemChange, IdResponse, PATH_STAT_HEADER};
use palan_engine::Engine;
use palan_engine::container::{ChangeKind, CopyOptions, PathStat};
use palan_engine::image::CommitSpec;

use crate::convert;
use crate::error::{ApiResult, json_response, ok_json};
use crate::extract::{JsonBytes, Name, Params};
use crate::streaming::{pipe_body, respond_bytes};

type Engines = State<Arc<Engine>>;

/// `GET /containers/{id}/changes`.
pub(crate) async fn changes(State(engine): Engines, Name(name): Name) -> ApiResult {
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let changes = engine.container_changes(&name).await?.into_iter();
    let answer: Vec<_> =
        changes.map(|change| FilesystemChange { path: change.path, kind: kind(change.kind) }).collect();
    ok_json(&answer)
}

/// `GET /containers/{id}/export`.
pub(crate) async fn export(State(engine): Engines, Name(name): Name) -> ApiResult {
    Ok(respond_bytes("application/x-tar", engine.export_container(&name).await?))
}

/// `HEAD /containers/{id}/archive?path=PATH`.
pub(crate) async fn stat_path(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let stat = engine.stat_path(&name, params.text("path")).await?;
    Ok([path_stat_header(&stat)].into_response())
}

/// `GET /containers/{id}/archive?path=PATH`.
pub(crate) async fn read_path(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let (stat, archive) = engine.read_path(&name, params.text("path")).await?;
    Ok(([path_stat_header(&stat)], respond_bytes("application/x-tar", archive)).into_response())
}

/// `PUT /containers/{id}/archive?path=PATH`; the body is a tar.
pub(crate) async fn write_path(
    State(engine): Engines,
    Name(name): Name,
    params: Params,
    body: Body,
) -> ApiResult {
    let options =
        CopyOptions { keep_kinds: params.flag("noOverwriteDirNonDir"), to_user: params.flag("copyUIDGID") };
    engine.write_path(&name, params.text("path"), options, pipe_body(body)).await?;
    Ok(StatusCode::OK.into_response())
}

fn path_stat_header(stat: &PathStat) -> (&'static str, String) {
    (PATH_STAT_HEADER, convert::archive::path_stat(stat).to_header())
}

/// `POST /commit`.
pub(crate) async fn commit(State(engine): Engines, params: Params, body: JsonBytes) -> ApiResult {
    // No settings are a body that is absent, empty or null.
    let config: Option<ContainerConfig> = body.decode()?;
    let reference = match (params.text("repo"), params.text("tag")) {
        ("", _) => String::new(),
        (repository, "") => repository.to_owned(),
        (repository, tag) => format!("{repository}:{tag}"),
    };
    let spec = CommitSpec {
        container: params.text("container").to_owned(),
        reference,
        author: params.text("author").to_owned(),
        comment: params.text("comment").to_owned(),
        pause: params.text("pause").is_empty() || params.flag("pause"),
        changes: params.all("changes"),
        config: config.map(convert::create::container_config),
    };
    let id = engine.commit_container(spec).await?;
    Ok(json_response(StatusCode::CREATED, &IdResponse { id }))
}

/// `GET /images/get`.
pub(crate) async fn save(State(engine): Engines, params: Params) -> ApiResult {
    save_named(&engine, params.all("names"), &params).await
}

/// `GET /images/{name}/get`, and the same for several.
pub(crate) async fn save_named(engine: &Engine, names: Vec<String>, params: &Params) -> ApiResult {
    let archive = engine.save_images(names, params.platforms("platform")?).await?;
    Ok(respond_bytes("application/x-tar", archive))
}
