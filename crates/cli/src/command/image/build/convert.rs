//! The daemon's messages about the progress, as the views take them.

use std::time::SystemTime;

use palan_buildkit::message::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use palan_buildkit::message::pb::Position;
use palan_buildkit::message::status::Timestamp;

use crate::output::build::Update;
use crate::output::build::model::{self, Log, Place, SourceFile, Status, Warning};

/// One message.
pub(super) fn update(response: &StatusResponse) -> Update {
    Update {
        vertexes: response.vertexes.iter().map(vertex).collect(),
        statuses: response.statuses.iter().map(status).collect(),
        logs: response.logs.iter().map(log).collect(),
        warnings: response.warnings.iter().map(warning).collect(),
    }
}

fn time(stamp: &Option<Timestamp>) -> Option<SystemTime> {
    stamp.as_ref().map(SystemTime::from)
}

fn vertex(vertex: &Vertex) -> model::Vertex {
    model::Vertex {
        digest: vertex.digest.clone(),
        name: vertex.name.clone(),
        inputs: vertex.inputs.clone(),
        started: time(&vertex.started),
        completed: time(&vertex.completed),
        cached: vertex.cached,
        error: vertex.error.clone(),
    }
}

fn status(status: &VertexStatus) -> Status {
    Status {
        id: status.id.clone(),
        vertex: status.vertex.clone(),
        name: status.name.clone(),
        current: status.current,
        total: status.total,
        timestamp: time(&status.timestamp),
        started: time(&status.started),
        completed: time(&status.completed),
    }
}

fn log(log: &VertexLog) -> Log {
    Log {
        vertex: log.vertex.clone(),
        stream: log.stream,
        data: log.msg.to_vec(),
        timestamp: time(&log.timestamp).unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

fn warning(warning: &VertexWarning) -> Warning {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let number = |number: i32| usize::try_from(number).unwrap_or_default();
    let place =
        |position: &Position| Place { line: number(position.line), character: number(position.character) };
    let ranges = warning.ranges.iter().map(|range| {
        let first = range.start.as_ref().map(place).unwrap_or_default();
        (first, range.end.as_ref().map_or(first, place))
    });
    Warning {
        vertex: warning.vertex.clone(),
        level: warning.level,
        short: text(&warning.short),
        detail: warning.detail.iter().map(|detail| text(detail)).collect(),
        url: warning.url.clone(),
        file: warning.info.as_ref().map(|info| SourceFile {
            name: info.filename.clone(),
            content: info.data.to_vec(),
            language: info.language.clone(),
        }),
        ranges: ranges.collect(),
    }
}
