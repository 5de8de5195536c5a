//! The stream of events.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp};
use palan_docker_api::version::ApiVersion;
use palan_docker_api::versions;
use palan_engine::Engine;
use palan_engine::events::EventQuery;

use crate::convert;
use crate::error::{ApiError, ApiResult};
use crate::exchange::{self, Continues, Rest};
use crate::extract::{Params, Version};
use crate::streaming::{json_line, respond};

const JSON_SEQUENCE: &str = "application/json-seq";

pub(crate) async fn events(
    State(engine): State<Arc<Engine>>,
    version: Version,
    params: Params,
    headers: HeaderMap,
) -> ApiResult {
    let query = EventQuery {
        // Unlike for logs, 0 asks for all that is kept.
        since: if params.text("since") == "0" {
            Some(Timestamp::UNIX_EPOCH)
        } else {
            params.moment("since")?
        },
        until: params.moment("until")?,
        filters: params.filters()?,
    };
    if let (Some(since), Some(until)) = (query.since, query.until)
        && until < since
    {
        let (since, until) = (params.text("since"), params.text("until"));
        let message = format!("`since` time ({since}) cannot be after `until` time ({until})");
        return Err(ApiError::invalid(message));
    }
    let content_type = content_type(version.0, &headers);
    // The rest is what comes after the last one that was sent.
    let last = Arc::new(Mutex::new(query.since.unwrap_or_else(Timestamp::now)));
    let sent = Arc::clone(&last);
    let events = engine.events(query).await?;
    let answer = respond(content_type, events, move |event| {
        // A subscriber that is too slow, or the daemon's end: the stream ends.
        let event = event.ok()?;
        *last.lock().unwrap_or_else(PoisonError::into_inner) =
            event.time.saturating_add(SignedDuration::from_nanos(1)).unwrap_or(event.time);
        let mut message = convert::event(event);
        versions::event(&mut message, version.0).then(|| event_line(&message, content_type))
    });
    let rest = move |target: &str| {
        let last = *sent.lock().unwrap_or_else(PoisonError::into_inner);
        Rest::Elsewhere(exchange::since(target, last, &[]))
    };
    Ok(Continues::by(rest).mark(answer))
}

fn event_line<T: serde::Serialize>(message: &T, content_type: &str) -> Bytes {
    let line = json_line(message, "\n");
    if content_type == JSON_SEQUENCE { [b"\x1e", &line[..]].concat().into() } else { line }
}

/// One of the stream types if the client names it, else what its version knows.
fn content_type(version: ApiVersion, headers: &HeaderMap) -> &'static str {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let named = |media_type: &&&str| accept.split([',', ';']).any(|part| part.trim() == **media_type);
    let known = ["application/jsonl", "application/x-ndjson", JSON_SEQUENCE];
    let newest = if versions::has_json_lines(version) { "application/jsonl" } else { "application/json" };
    known.iter().find(named).copied().unwrap_or(newest)
}
