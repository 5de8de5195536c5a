//! Streams of JSON messages: the progress of pull, load and import, events, stats.

use crate::json::{self, DecodeError, is_zero};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;

/// One line of a pull, load or import.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressMessage {
    /// Plain text (load).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// What is being done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// How far it is.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// The bar as text, which old daemons send beside the numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// What it is done to: a layer's short digest, or the tag.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Why it ended.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ProgressError>,
    /// The same as plain text, which older clients read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Results for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// The numbers of a progress message; all zero is written as `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    /// Units done.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: i64,
    /// Units in all, 0 when unknown.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: i64,
    /// Unix time of the start.
    #[serde(skip_serializing_if = "is_zero")]
    pub start: i64,
    /// Whether the numbers are not for showing.
    #[serde(rename = "hidecounts", skip_serializing_if = "is_zero")]
    pub hide_counts: bool,
    /// What is counted; bytes when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub units: String,
}

/// The error that ends a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressError {
    /// A code, mostly 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: i64,
    /// The text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl ProgressMessage {
    /// The line that ends a stream with an error.
    pub fn error(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error_detail: Some(ProgressError { code: 0, message: message.clone() }),
            error: message,
            ..Self::default()
        }
    }
}

/// Why the next message can't be had.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection failed, or ended inside of a message.
    #[error("reading the daemon's stream failed")]
    Read(#[source] io::Error),
    /// Not JSON.
    #[error("the daemon's stream is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but not of a message.
    #[error("the daemon's stream holds an unexpected message")]
    Unexpected(#[source] DecodeError),
}

/// Iterates over the messages of a stream as they arrive.
pub struct JsonMessages<T, R: Read> {
    values: serde_json::StreamDeserializer<'static, serde_json::de::IoRead<BufReader<R>>, serde_json::Value>,
    kind: PhantomData<fn() -> T>,
}

impl<T, R: Read> std::fmt::Debug for JsonMessages<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonMessages").finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned, R: Read> JsonMessages<T, R> {
    /// The messages of `reader`.
    pub fn new(reader: R) -> Self {
        let values = serde_json::Deserializer::from_reader(BufReader::new(reader)).into_iter();
        Self { values, kind: PhantomData }
    }
}

impl<T: DeserializeOwned, R: Read> Iterator for JsonMessages<T, R> {
    type Item = Result<T, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.values.next()? {
            Ok(value) => Some(json::from_value(value).map_err(StreamError::Unexpected)),
            Err(e) if e.is_io() || e.is_eof() => Some(Err(StreamError::Read(e.into()))),
            Err(e) => Some(Err(StreamError::NotJson(e))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_docker_pull_lines() {
        let text = concat!(
            "{\"status\":\"Pulling from library/alpine\",\"id\":\"latest\"}\r\n",
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":5,\"total\":10},\"progress\":\"[=>]\",\"id\":\"ab\"}\r\n",
            "{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"ab\"}\r\n",
            "{\"errorDetail\":{\"message\":\"x\"},\"error\":\"x\"}\r\n",
        );
        let messages: Vec<ProgressMessage> =
            JsonMessages::new(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(messages[0].id, "latest");
        assert_eq!(messages[1].progress_detail.as_ref().map(|p| (p.current, p.total)), Some((5, 10)));
        assert_eq!(messages[2].progress_detail, Some(ProgressDetail::default()));
        assert_eq!(messages[3], ProgressMessage::error("x"));
        let lines: Vec<_> = messages.iter().map(|m| serde_json::to_string(m).unwrap() + "\r\n").collect();
        assert_eq!(lines.concat(), text);
    }

    #[test]
    fn tells_broken_from_wrong() {
        let first = |text: &str| {
            JsonMessages::<ProgressMessage, _>::new(text.as_bytes()).next().unwrap().unwrap_err()
        };
        assert!(matches!(first("{\"status\":"), StreamError::Read(_)));
        assert!(matches!(first("<html>"), StreamError::NotJson(_)));
        assert!(matches!(first("{\"status\":1}"), StreamError::Unexpected(_)));
    }
}
