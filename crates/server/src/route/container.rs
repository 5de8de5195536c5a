//! Containers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use palan_docker_api::stream::{Kind, header as frame_header, media_type};
use palan_docker_api::types::{
    ContainerConfig, CreateContainerRequest, CreateContainerResponse, TopResponse, UpdateContainerRequest,
    UpdateContainerResponse, WaitError, WaitResponse,
};
use palan_docker_api::{json, versions};
use palan_engine::container::{
    AttachOptions, ListQuery, LogOptions, RemoveOptions, StopOptions, WaitCondition, WaitHold, WaitOutcome,
};
use palan_engine::{Engine, WaitProspect, WaitTicket};

use crate::connection::ConnectionHandle;
use crate::convert;
use crate::error::{ApiError, ApiResult, json_response, no_content, ok_json};
use crate::exchange::{self, Continues, Rest};
use crate::extract::{JsonBytes, Name, Params, Version, invalid_json};
use crate::hijack::Hijack;
use crate::streaming::{json_line, respond};
use crate::websocket;

type Engines = State<Arc<Engine>>;

pub(crate) async fn list(State(engine): Engines, version: Version, params: Params) -> ApiResult {
    let query = ListQuery {
        all: params.flag("all"),
        limit: params.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        size: params.flag("size"),
        filters: params.filters()?,
    };
    let mut answer: Vec<_> = engine.list(query).await?.iter().map(convert::container::summary).collect();
    for summary in &mut answer {
        versions::container_summary(summary, version.0);
    }
    ok_json(&answer)
}

pub(crate) async fn create(
    State(engine): Engines,
    version: Version,
    params: Params,
    body: JsonBytes,
) -> ApiResult {
    if body.0.is_empty() {
        return Err(ApiError::invalid("invalid JSON: got EOF while reading request body"));
    }
    let mut request = CreateContainerRequest::from_slice(&body.0).map_err(invalid_json)?;
    if request.config == ContainerConfig::default() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    }
    versions::create_container(&mut request, version.0)?;
    let discarded = convert::create::warnings(&request);
    let mut spec = convert::create::spec(request)?;
    spec.name = params.some("name").map(|name| name.strip_prefix('/').map(str::to_owned).unwrap_or(name));
    spec.platform = versions::create_platform(params.some("platform"), version.0);
    let created = engine.create(spec).await?;
    let warnings = created.warnings.into_iter().chain(discarded).collect();
    let answer = CreateContainerResponse { id: created.id, warnings };
    Ok(json_response(StatusCode::CREATED, &answer))
}

pub(crate) async fn inspect(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
) -> ApiResult {
    let details = engine.inspect(&name).await?;
    let mut answer = convert::container::inspect(&details);
    if params.flag("size") {
        let (size_rw, size_root_fs) = engine.sizes(&name).await?;
        answer.size_rw = Some(convert::signed(size_rw));
        answer.size_root_fs = Some(convert::signed(size_root_fs));
    }
    versions::container_inspect(&mut answer, version.0);
    ok_json(&answer)
}

pub(crate) async fn start(
    State(engine): Engines,
    Name(name): Name,
    params: Params,
    headers: HeaderMap,
) -> ApiResult {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > 7) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    match params.text("checkpoint") {
        "" => engine.start_container(&name).await?,
        checkpoint => engine.start_from_checkpoint(&name, checkpoint, params.text("checkpoint-dir")).await?,
    }
    no_content()
}

/// The parameters of stop and restart. The signal came with 1.42.
fn stop_options(version: Version, params: &Params) -> ApiResult<StopOptions> {
    let signal = params.some("signal").filter(|_| versions::has_stop_signal(version.0));
    Ok(StopOptions { signal, timeout: params.number("t")? })
}

pub(crate) async fn stop(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
) -> ApiResult {
    engine.stop(&name, stop_options(version, &params)?).await?;
    no_content()
}

pub(crate) async fn restart(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
) -> ApiResult {
    engine.restart(&name, stop_options(version, &params)?).await?;
    no_content()
}

pub(crate) async fn kill(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    engine.kill(&name, params.some("signal").as_deref()).await?;
    no_content()
}

pub(crate) async fn pause(State(engine): Engines, Name(name): Name) -> ApiResult {
    engine.pause(&name).await?;
    no_content()
}

pub(crate) async fn unpause(State(engine): Engines, Name(name): Name) -> ApiResult {
    engine.unpause(&name).await?;
    no_content()
}

pub(crate) async fn update(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    body: JsonBytes,
) -> ApiResult {
    let mut asked = json::from_slice::<UpdateContainerRequest>(&body.0).map_err(invalid_json)?;
    versions::update_container(&mut asked, version.0);
    let warnings = engine.update(&name, convert::create::update(asked)?).await?;
    ok_json(&UpdateContainerResponse { warnings })
}

pub(crate) async fn rename(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let new_name = params.text("name");
    engine.rename(&name, new_name.strip_prefix('/').unwrap_or(new_name)).await?;
    no_content()
}

pub(crate) async fn remove(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let options =
        RemoveOptions { force: params.flag("force"), volumes: params.flag("v"), link: params.flag("link") };
    engine.remove(&name, options).await?;
    no_content()
}

/// `DELETE /containers/{name}/{alias}?link=1`: what is removed is the link, as in Docker.
pub(crate) async fn remove_link(
    State(engine): Engines,
    Path((name, alias)): Path<(String, String)>,
    params: Params,
) -> ApiResult {
    remove(State(engine), Name(format!("{name}/{alias}")), params).await
}

pub(crate) async fn prune(State(engine): Engines, params: Params) -> ApiResult {
    let pruned = engine.prune_containers(params.filters()?).await?;
    ok_json(&convert::containers_pruned(pruned))
}

pub(crate) async fn resize(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let (height, width) = (params.dimension("h", "height")?, params.dimension("w", "width")?);
    engine.resize(&name, height, width).await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) async fn top(State(engine): Engines, Name(name): Name, params: Params) -> ApiResult {
    let top = engine.top(&name, params.text("ps_args")).await?;
    ok_json(&TopResponse { processes: top.processes, titles: top.titles })
}

pub(crate) async fn wait(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
    request_version: http::Version,
    connection: Option<Extension<ConnectionHandle>>,
) -> ApiResult {
    if !versions::has_wait_conditions(version.0) {
        let outcome = engine.wait(&name, WaitCondition::NotRunning).await?.outcome().await;
        return ok_json(&wait_answer(outcome));
    }
    let condition = match params.text("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let ticket = engine.wait(&name, condition).await?;
    // The supervisor can only end a chunked answer.
    let socket = connection.filter(|_| request_version == http::Version::HTTP_11);
    let hold = socket.and_then(|Extension(connection)| connection.duplicate()).map(|socket| WaitHold {
        socket,
        body_prefix: "{\"StatusCode\":".to_owned(),
        body_suffix: "}\n".to_owned(),
        for_good: condition == WaitCondition::Removed,
    });
    let (is_held, prospect) = (hold.is_some(), ticket.prospect());
    let rest = Continues::by(move |target| match prospect() {
        WaitProspect::Live if is_held => Rest::Held,
        WaitProspect::Live | WaitProspect::Resting => Rest::Elsewhere(target.to_owned()),
        WaitProspect::Ending => Rest::Here,
    });
    // The head goes out at once: the client then knows that the wait is registered.
    let body = stream::once(finish_wait(ticket, hold));
    let answer = ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response();
    Ok(rest.mark(answer))
}

async fn finish_wait(mut ticket: WaitTicket, hold: Option<WaitHold>) -> Result<Bytes, Infallible> {
    if let Some(hold) = hold {
        ticket.hold(hold);
    }
    Ok(json_line(&wait_answer(ticket.outcome().await), "\n"))
}

fn wait_answer(outcome: WaitOutcome) -> WaitResponse {
    WaitResponse {
        error: outcome.error.map(|message| WaitError { message }),
        status_code: outcome.exit_code.into(),
    }
}

pub(crate) async fn attach(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
    hijack: Hijack,
) -> ApiResult {
    let options = AttachOptions {
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        stream: params.flag("stream"),
        logs: params.flag("logs"),
        detach_keys: params.some("detachKeys"),
        raw: false,
    };
    let ticket = engine.attach(&name, options).await?;
    hijack.answer(version, ticket.framing, |stream| ticket.deliver(stream))
}

pub(crate) async fn attach_websocket(
    State(engine): Engines,
    Name(name): Name,
    params: Params,
    headers: HeaderMap,
    connection: Option<Extension<ConnectionHandle>>,
    hijack: Hijack,
) -> ApiResult {
    let is_local = connection.is_some_and(|Extension(connection)| connection.is_local());
    let accept = websocket::accept(&headers, is_local)?;
    let options = AttachOptions {
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        stream: params.flag("stream"),
        logs: params.flag("logs"),
        detach_keys: params.some("detachKeys"),
        // As in Docker: the streams are told apart by nothing.
        raw: true,
    };
    let ticket = engine.attach(&name, options).await?;
    hijack.answer_websocket(&accept, |stream| ticket.deliver(stream))
}

pub(crate) async fn logs(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
) -> ApiResult {
    let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    let options = LogOptions {
        stdout,
        stderr,
        follow: params.flag("follow"),
        since: params.moment("since")?,
        until: params.moment("until")?,
        timestamps: params.flag("timestamps"),
        details: params.flag("details"),
        // What is no number is all lines, as in Docker.
        tail: params.text("tail").parse().ok(),
        raw: false,
    };
    let (follows, begun) = (options.follow, Timestamp::now());
    let log = engine.logs(&name, options).await?;
    let (raw, tty) = (log.tty || !versions::has_multiplexed_media_type(version.0), log.tty);
    let content_type = if raw { media_type::RAW } else { media_type::MULTIPLEXED };
    let sent = Arc::new(Mutex::new(None));
    let last = Arc::clone(&sent);
    let answer = respond(content_type, log.chunks, move |chunk| {
        Some(match chunk {
            Ok(chunk) => {
                *sent.lock().unwrap_or_else(PoisonError::into_inner) = chunk.last;
                chunk.bytes
            }
            Err(error) => log_error(&error, tty),
        })
    });
    if !follows {
        return Ok(answer);
    }
    let rest = move |target: &str| {
        let last = *last.lock().unwrap_or_else(PoisonError::into_inner);
        Rest::Elsewhere(rest_of_log(target, last, begun))
    };
    Ok(Continues::by(rest).mark(answer))
}

/// The target of a request for the lines after the last one that was sent. If none was, the same lines are wanted, but for who wanted none
/// of the past.
fn rest_of_log(target: &str, last: Option<Timestamp>, begun: Timestamp) -> String {
    let wants_no_past = target.split(['?', '&']).any(|pair| pair == "tail=0");
    let next = last.map(|last| last.saturating_add(SignedDuration::from_nanos(1)).unwrap_or(last));
    match next.or(wants_no_past.then_some(begun)) {
        Some(since) => exchange::since(target, since, &["tail"]),
        None => target.to_owned(),
    }
}

/// An error in the middle of a log goes where the lines go.
fn log_error(error: &palan_engine::Error, tty: bool) -> Bytes {
    let text = format!("Error grabbing logs: {}\n", error.report());
    if tty {
        return text.into();
    }
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&frame_header(Kind::SystemError, length)[..], text.as_bytes()].concat().into()
}

pub(crate) async fn stats(
    State(engine): Engines,
    version: Version,
    Name(name): Name,
    params: Params,
) -> Result<Response, ApiError> {
    let stream = params.flag_or("stream", true);
    let one_shot = params.flag("one-shot");
    if stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    let samples = engine.stats(&name, stream, one_shot).await?;
    let answer = respond("application/json", samples, move |sample| {
        // The container is gone: the stream ends without a word, as in Docker.
        let mut answer = convert::stats::sample(&sample.ok()?);
        versions::stats(&mut answer, version.0);
        Some(json_line(&answer, "\n"))
    });
    Ok(if stream { Continues::same().mark(answer) } else { answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_log() {
        let [begun, last] = [5, 7].map(|second| Timestamp::new(second, 0).unwrap());
        let rest = |target, last| rest_of_log(target, last, begun);
        assert_eq!(rest("/x/logs?follow=1&tail=9", Some(last)), "/x/logs?follow=1&since=7.000000001");
        assert_eq!(rest("/x/logs?follow=1&tail=9", None), "/x/logs?follow=1&tail=9");
        assert_eq!(rest("/x/logs?tail=0&follow=1&since=1", None), "/x/logs?follow=1&since=5.000000000");
    }
}
