//! The updates as JSON, one a line, as BuildKit's clients write them.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;

use super::model::{Log, Place, Status, Update, Vertex, Warning};

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<VertexLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<StatusLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<LogLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningLine<'a>>,
}

#[derive(Serialize)]
struct VertexLine<'a> {
    digest: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    inputs: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct StatusLine<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    total: i64,
    current: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct LogLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    stream: i64,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct WarningLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    level: i64,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    source: Option<SourceJson<'a>>,
    #[serde(rename = "range", skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeJson>,
}

#[derive(Serialize)]
struct SourceJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    filename: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    language: &'a str,
}

#[derive(Serialize)]
struct RangeJson {
    start: PlaceJson,
    end: PlaceJson,
}

#[derive(Serialize)]
struct PlaceJson {
    #[serde(skip_serializing_if = "is_nought")]
    line: usize,
    #[serde(skip_serializing_if = "is_nought")]
    character: usize,
}

fn is_nought(number: &usize) -> bool {
    *number == 0
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// One update.
pub(super) fn line(update: &Update) -> String {
    let line = Line {
        vertexes: update.vertexes.iter().map(vertex).collect(),
        statuses: update.statuses.iter().map(status).collect(),
        logs: update.logs.iter().map(log).collect(),
        warnings: update.warnings.iter().map(warning).collect(),
    };
    // Nothing in these types can fail to be JSON.
    serde_json::to_string(&line).map(|text| format!("{text}\n")).unwrap_or_default()
}

fn vertex(vertex: &Vertex) -> VertexLine<'_> {
    VertexLine {
        digest: &vertex.digest,
        inputs: &vertex.inputs,
        name: &vertex.name,
        started: vertex.started.map(time),
        completed: vertex.completed.map(time),
        cached: vertex.cached,
        error: &vertex.error,
    }
}

fn status(status: &Status) -> StatusLine<'_> {
    StatusLine {
        id: &status.id,
        vertex: &status.vertex,
        name: &status.name,
        total: status.total,
        current: status.current,
        timestamp: status.timestamp.map(time),
        started: status.started.map(time),
        completed: status.completed.map(time),
    }
}

fn log(log: &Log) -> LogLine<'_> {
    LogLine {
        vertex: &log.vertex,
        stream: log.stream,
        data: STANDARD.encode(&log.data),
        timestamp: time(log.timestamp),
    }
}

fn warning(warning: &Warning) -> WarningLine<'_> {
    WarningLine {
        vertex: &warning.vertex,
        level: warning.level,
        short: STANDARD.encode(&warning.short),
        detail: warning.detail.iter().map(|text| STANDARD.encode(text)).collect(),
        url: &warning.url,
        source: warning.file.as_ref().map(|file| SourceJson {
            filename: &file.name,
            data: STANDARD.encode(&file.content),
            language: &file.language,
        }),
        ranges: warning
            .ranges
            .iter()
            .map(|(start, end)| RangeJson { start: place(start), end: place(end) })
            .collect(),
    }
}

fn place(place: &Place) -> PlaceJson {
    PlaceJson { line: place.line, character: place.character }
}

fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}
