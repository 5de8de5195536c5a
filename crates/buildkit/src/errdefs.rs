//! What an error tells besides its text, in the form of BuildKit's `errdefs`: details of a gRPC status, each a JSON text with the name
//! of its type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::grpc::Status;
use crate::message::pb::{Position, Range, SourceInfo};
use crate::message::status::Any;

const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";
const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";

#[derive(Serialize, Deserialize)]
struct SourceJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    info: Option<InfoJson>,
    #[serde(default)]
    ranges: Vec<RangeJson>,
}

#[derive(Serialize, Deserialize)]
struct InfoJson {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    language: String,
}

#[derive(Serialize, Deserialize)]
struct RangeJson {
    #[serde(default)]
    start: PositionJson,
    #[serde(default)]
    end: PositionJson,
}

#[derive(Serialize, Deserialize, Default)]
struct PositionJson {
    #[serde(default)]
    line: i32,
    #[serde(default)]
    character: i32,
}

#[derive(Serialize, Deserialize)]
struct VertexJson {
    #[serde(default)]
    digest: String,
}

/// Where in a file an error is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Source {
    /// The file, with its content.
    pub info: SourceInfo,
    /// The lines.
    pub ranges: Vec<Range>,
}

/// Adds the place of an error.
pub fn add_source(status: &mut Status, source: &Source) {
    let position = |position: &Option<Position>| {
        let position = position.clone().unwrap_or_default();
        PositionJson { line: position.line, character: position.character }
    };
    let ranges = source.ranges.iter();
    let json = SourceJson {
        info: Some(InfoJson {
            filename: source.info.filename.clone(),
            data: STANDARD.encode(&source.info.data),
            language: source.info.language.clone(),
        }),
        ranges: ranges
            .map(|range| RangeJson { start: position(&range.start), end: position(&range.end) })
            .collect(),
    };
    add(status, SOURCE, &json);
}

/// Adds the step that failed.
pub fn add_vertex(status: &mut Status, digest: &str) {
    add(status, VERTEX, &VertexJson { digest: digest.to_owned() });
}

fn add(status: &mut Status, type_url: &str, json: &impl Serialize) {
    if let Ok(value) = serde_json::to_vec(json) {
        status.details.push(Any { type_url: type_url.to_owned(), value: value.into() });
    }
}

/// The places that an error names.
pub fn sources(status: &Status) -> Vec<Source> {
    let details = status.details.iter().filter(|detail| detail.type_url == SOURCE);
    let parsed = details.filter_map(|detail| serde_json::from_slice::<SourceJson>(&detail.value).ok());
    let position = |json: &PositionJson| Some(Position { line: json.line, character: json.character });
    parsed
        .map(|json| {
            let info = json.info.map_or_else(SourceInfo::default, |info| SourceInfo {
                filename: info.filename,
                data: STANDARD.decode(info.data).map(Bytes::from).unwrap_or_default(),
                definition: None,
                language: info.language,
            });
            let ranges = json.ranges.iter();
            let ranges =
                ranges.map(|range| Range { start: position(&range.start), end: position(&range.end) });
            Source { info, ranges: ranges.collect() }
        })
        .collect()
}

/// The step that failed.
pub fn vertex(status: &Status) -> Option<String> {
    let detail = status.details.iter().find(|detail| detail.type_url == VERTEX)?;
    serde_json::from_slice::<VertexJson>(&detail.value).ok().map(|json| json.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;

    #[test]
    fn there_and_back() {
        let mut status = Status::new(Code::Unknown, "x");
        let range = Range {
            start: Some(Position { line: 3, character: 0 }),
            end: Some(Position { line: 4, character: 2 }),
        };
        let source = Source {
            info: SourceInfo {
                filename: "Dockerfile".to_owned(),
                data: Bytes::from_static(b"FROM scratch\n"),
                definition: None,
                language: "Dockerfile".to_owned(),
            },
            ranges: vec![range],
        };
        add_vertex(&mut status, "sha256:aa");
        add_source(&mut status, &source);
        assert_eq!(sources(&status), [source]);
        assert_eq!(vertex(&status).as_deref(), Some("sha256:aa"));
    }

    #[test]
    fn as_go_writes_it() {
        // encoding/json of moby/buildkit's errdefs.Source, with what is zero left out.
        let json = r#"{"info":{"filename":"Dockerfile","data":"RlJPTQo="},"ranges":[{"start":{"line":1},"end":{"line":1,"character":4}}]}"#;
        let mut status = Status::new(Code::Unknown, "x");
        status.details.push(Any { type_url: SOURCE.to_owned(), value: Bytes::from_static(json.as_bytes()) });
        status.details.push(Any { type_url: SOURCE.to_owned(), value: Bytes::from_static(b"[") });
        let sources = sources(&status);
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].info.data, "FROM\n");
        assert_eq!(sources[0].ranges[0].end, Some(Position { line: 1, character: 4 }));
    }
}
