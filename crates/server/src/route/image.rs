//! Images.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use palan_docker_api::auth;
use palan_docker_api::stream::ProgressMessage;
use palan_docker_api::types::{ManifestListPush, ManifestListPushed, PushedManifest};
use palan_docker_api::versions;
use palan_engine::Engine;
use palan_engine::distribution::{ListSpec, PushSpec, SearchSpec};
use palan_engine::image::{AttestationQuery, ImageListQuery, ImportSpec, Progress, PullSpec};
use palan_engine::stream::Items;

use crate::convert;
use crate::error::{ApiError, ApiResult, ok_json};
use crate::exchange::Continues;
use crate::extract::{JsonBytes, Name, Params, Version};
use crate::route::archive;
use crate::streaming::{json_line, pipe_body, respond};

type Engines = State<Arc<Engine>>;

/// What a stream of progress is said to be.
const JSON: &str = "application/json";

pub(crate) async fn list(State(engine): Engines, version: Version, params: Params) -> ApiResult {
    let query = ImageListQuery {
        all: params.flag("all"),
        filters: params.filters()?,
        containers: versions::counts_containers(version.0),
        shared_size: params.flag("shared-size"),
        manifests: params.flag("manifests"),
    };
    let mut answer: Vec<_> =
        engine.list_images(query).await?.into_iter().map(convert::image::summary).collect();
    for summary in &mut answer {
        versions::image_summary(summary, version.0);
    }
    ok_json(&answer)
}

/// Pull or import.
pub(crate) async fn create(
    State(engine): Engines,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    if params.text("fromImage").is_empty() {
        return import(&engine, &params, body).await;
    }
    let auth = registry_auth(&headers);
    let (reference, all_tags) = pull_reference(params.text("fromImage"), params.text("tag"));
    let spec = PullSpec { reference, platform: params.some("platform"), auth, all_tags };
    Ok(Continues::same().mark(progress(engine.pull(spec).await?)))
}

/// The reference that `fromImage` and `tag` name together. Without a tag every tag is meant, and `pull -a` of old clients
/// leaves a colon behind the name.
fn pull_reference(image: &str, tag: &str) -> (String, bool) {
    let image = image.strip_suffix(':').unwrap_or(image);
    match tag {
        "" => {
            let name = image.rsplit('/').next().unwrap_or(image);
            (image.to_owned(), !name.contains(':') && !name.contains('@'))
        }
        tag if tag.contains(':') => (format!("{image}@{tag}"), false),
        tag => (format!("{image}:{tag}"), false),
    }
}

async fn import(engine: &Engine, params: &Params, body: Body) -> ApiResult {
    let source = params.text("fromSrc");
    if source.is_empty() {
        return Err(ApiError::invalid("nothing is named to pull or import: fromImage and fromSrc are empty"));
    }
    let reference = match (params.text("repo"), params.text("tag")) {
        ("", _) => String::new(),
        (repository, "") => repository.to_owned(),
        (repository, tag) => format!("{repository}:{tag}"),
    };
    let message = params.some("message").unwrap_or_else(|| format!("Imported from {source}"));
    let spec = ImportSpec {
        reference,
        message,
        changes: params.all("changes"),
        platform: params.some("platform"),
        source: source.to_owned(),
    };
    if spec.source != "-" {
        return Ok(progress(engine.import_from_url(spec).await?));
    }
    Ok(progress(engine.import(spec, pipe_body(body)).await?))
}

pub(crate) async fn load(State(engine): Engines, params: Params, body: Body) -> ApiResult {
    let platform = params.platform("platform")?;
    match engine.load(pipe_body(body), params.flag_or("quiet", true), platform).await {
        Ok(items) => Ok(progress(items)),
        // As in Docker the answer is a stream from its first byte, where clients look for what went wrong.
        Err(error) => Ok(([(CONTENT_TYPE, JSON)], progress_line(Err(error))).into_response()),
    }
}

fn progress(items: Items<Progress>) -> Response {
    respond(JSON, items, |item| Some(progress_line(item)))
}

fn progress_line(item: palan_engine::Result<Progress>) -> Bytes {
    let message = match item {
        Ok(item) => convert::image::progress(item),
        Err(error) => ProgressMessage::error(error.report()),
    };
    json_line(&message, "\r\n")
}

pub(crate) async fn prune(State(engine): Engines, params: Params) -> ApiResult {
    ok_json(&convert::images_pruned(engine.prune_images(params.filters()?).await?))
}

/// `GET /images/{name}/json|history|get`.
pub(crate) async fn get(
    State(engine): Engines,
    version: Version,
    Name(path): Name,
    params: Params,
) -> ApiResult {
    match path.rsplit_once('/') {
        Some((name, "json")) => inspect(&engine, version, name, &params).await,
        Some((name, "history")) => {
            let history = engine.image_history(name, params.platform("platform")?).await?;
            ok_json(&history.into_iter().map(convert::image::history).collect::<Vec<_>>())
        }
        Some((name, "get")) => archive::save_named(&engine, vec![name.to_owned()], &params).await,
        Some((name, "attestations")) => attestations(&engine, name, &params).await,
        _ => Err(ApiError::page_not_found()),
    }
}

async fn attestations(engine: &Engine, name: &str, params: &Params) -> ApiResult {
    let query = AttestationQuery {
        platform: params.platform("platform")?,
        types: params.all("type").into_iter().filter(|kind| !kind.is_empty()).collect(),
        statements: params.flag("statement"),
    };
    let found = engine.image_attestations(name, query).await?;
    ok_json(&found.into_iter().map(convert::image::attestation).collect::<Vec<_>>())
}

async fn inspect(engine: &Engine, version: Version, name: &str, params: &Params) -> ApiResult {
    if params.flag("manifests") && params.some("platform").is_some() {
        return Err(ApiError::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let details = engine.inspect_image(name, params.platform("platform")?).await?;
    let mut answer = convert::image::inspect(&details);
    if params.flag("manifests") {
        answer.manifests = Some(convert::image::manifests(&details.manifests));
    }
    versions::image_inspect(&mut answer, version.0);
    ok_json(&answer)
}

/// `POST /images/{name}/tag|push`.
pub(crate) async fn post(
    State(engine): Engines,
    version: Version,
    Name(path): Name,
    params: Params,
    headers: HeaderMap,
) -> ApiResult {
    match path.rsplit_once('/') {
        Some((name, "tag")) => {
            engine.tag_image(name, params.text("repo"), params.text("tag")).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        Some((name, "push")) => push(&engine, version, name, &params, &headers).await,
        _ => Err(ApiError::page_not_found()),
    }
}

async fn push(
    engine: &Engine,
    version: Version,
    name: &str,
    params: &Params,
    headers: &HeaderMap,
) -> ApiResult {
    let platform = versions::push_platform(params.some("platform"), version.0);
    let spec = PushSpec {
        name: name.to_owned(),
        tag: params.text("tag").to_owned(),
        platform: platform.as_deref().map(convert::image::platform).transpose()?,
        auth: registry_auth(headers),
    };
    Ok(Continues::same().mark(progress(engine.push(spec).await?)))
}

pub(crate) async fn search(State(engine): Engines, params: Params, headers: HeaderMap) -> ApiResult {
    let limit = params.number("limit").map_err(|_| {
        ApiError::invalid(format!("invalid limit specified: {:?} is not a number", params.text("limit")))
    })?;
    let spec = SearchSpec {
        term: params.text("term").to_owned(),
        limit: limit.unwrap_or(0),
        filters: params.filters()?,
        auth: registry_auth(&headers),
    };
    let found = engine.search(spec).await?;
    ok_json(&found.into_iter().map(convert::image::search_result).collect::<Vec<_>>())
}

/// `GET /distribution/{name}/json`, and `…/manifest`, which is ours.
pub(crate) async fn distribution(
    State(engine): Engines,
    Name(path): Name,
    params: Params,
    headers: HeaderMap,
) -> ApiResult {
    let auth = registry_auth(&headers);
    match path.rsplit_once('/') {
        Some((name, "json")) => {
            let image = engine.inspect_in_registry(name, auth, false).await?;
            ok_json(&convert::image::distribution(image))
        }
        Some((name, "manifest")) => {
            let image = engine.inspect_in_registry(name, auth, params.flag("insecure")).await?;
            ok_json(&convert::image::registry_manifest(image))
        }
        _ => Err(ApiError::page_not_found()),
    }
}

/// `POST /distribution/{name}/manifest`, which is ours.
pub(crate) async fn push_list(
    State(engine): Engines,
    Name(path): Name,
    params: Params,
    headers: HeaderMap,
    body: JsonBytes,
) -> ApiResult {
    let Some((name, "manifest")) = path.rsplit_once('/') else { return Err(ApiError::page_not_found()) };
    let request: ManifestListPush = body.decode()?;
    let spec = ListSpec {
        name: name.to_owned(),
        document: request.document.into_bytes(),
        media_type: request.media_type,
        sources: request.sources.into_iter().map(|source| (source.repository, source.digest)).collect(),
        auth: registry_auth(&headers),
        insecure: params.flag("insecure"),
    };
    let (digest, pushed) = engine.push_list(spec).await?;
    let pushed = pushed.into_iter().map(|reference| PushedManifest {
        digest: reference.rsplit_once('@').map_or_else(String::new, |(_, digest)| digest.to_owned()),
        reference,
    });
    ok_json(&ManifestListPushed { digest, pushed: pushed.collect() })
}

fn registry_auth(headers: &HeaderMap) -> Option<palan_engine::image::Auth> {
    let auth = headers.get(auth::HEADER).and_then(|value| value.to_str().ok()).and_then(auth::decode);
    auth.map(convert::auth)
}

pub(crate) async fn remove(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    if name.trim().is_empty() {
        return Err(ApiError::invalid("image name cannot be blank"));
    }
    let (force, no_prune) = (params.flag("force"), params.flag("noprune"));
    let removed = engine.remove_image(&name, force, no_prune, params.platforms("platforms")?).await?;
    ok_json(&removed.into_iter().map(convert::image::removal).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_a_pull() {
        let check = |image, tag, reference: &str, all| {
            assert_eq!(pull_reference(image, tag), (reference.to_owned(), all))
        };
        check("alpine", "3", "alpine:3", false);
        check("alpine", "", "alpine", true);
        check("alpine:", "", "alpine", true);
        check("alpine:3", "", "alpine:3", false);
        check("host:5000/alpine", "", "host:5000/alpine", true);
        check("host:5000/a/b", "sha256:00", "host:5000/a/b@sha256:00", false);
        check("a@sha256:00", "", "a@sha256:00", false);
    }
}
