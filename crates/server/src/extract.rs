//! What handlers take from a request: query parameters and JSON bodies by Docker's rules.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::header;
use http::request::Parts;
use jiff::Timestamp;
use palan_docker_api::filters::Filters;
use palan_docker_api::types::Platform;
use palan_docker_api::version::ApiVersion;
use palan_docker_api::{json, timestamp};
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};

/// The longest JSON body. The biggest in use carry a seccomp profile of some 100 KiB.
const MAX_JSON: usize = 4 << 20;

/// How long a client may take to send it.
const JSON_TIMEOUT: Duration = Duration::from_secs(60);

/// The version that the client speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version(pub(crate) ApiVersion);

impl<S: Sync> FromRequestParts<S> for Version {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(ApiVersion::MAX)))
    }
}

/// The part of the path that is a name or an id (the first of its route).
#[derive(Debug, Clone)]
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|e| ApiError::invalid(e.body_text()))
    }
}

/// Two of them.
#[derive(Debug, Clone)]
pub(crate) struct Names(pub(crate) String, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Names {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::<(String, String)>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0.0, path.0.1)).map_err(|e| ApiError::invalid(e.body_text()))
    }
}

/// The query parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|e| ApiError::invalid(e.body_text()))
    }
}

impl Params {
    /// The first value of a name; absent and empty are the same.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.given(name).unwrap_or_default()
    }

    /// The first value of a name.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a name, unless it is empty.
    pub(crate) fn some(&self, name: &str) -> Option<String> {
        self.given(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// All values of a name.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }

    /// A truth value: everything but the words for no is yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.text(name).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// As [`Params::flag`], with a value for absence.
    pub(crate) fn flag_or(&self, name: &str, absent: bool) -> bool {
        if self.given(name).is_some() { self.flag(name) } else { absent }
    }

    /// A number; absent and empty are none.
    pub(crate) fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        let Some(text) = self.some(name) else { return Ok(None) };
        let number = text.parse().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
        number.map(Some).map_err(ApiError::invalid)
    }

    /// One dimension of a terminal.
    pub(crate) fn dimension(&self, name: &str, what: &str) -> ApiResult<u16> {
        let text = self.text(name);
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let problem = if plain { "value out of range" } else { "invalid syntax" };
        let number = if plain { text.parse().ok() } else { None };
        number.ok_or_else(|| ApiError::invalid(format!("invalid resize {what} {text:?}: {problem}")))
    }

    /// Platforms as the newer endpoints take them, JSON objects, in the form `os/arch[/variant]`.
    pub(crate) fn platforms(&self, name: &str) -> ApiResult<Vec<String>> {
        let given = self.0.iter().filter(|(n, value)| n == name && !value.is_empty());
        given.map(|(_, value)| platform(value)).collect()
    }

    /// At most one platform.
    pub(crate) fn platform(&self, name: &str) -> ApiResult<Option<String>> {
        let mut platforms = self.platforms(name)?;
        match platforms.len() {
            0 | 1 => Ok(platforms.pop()),
            _ => Err(ApiError::invalid("only one platform can be given")),
        }
    }

    /// The parameter `filters`.
    pub(crate) fn filters(&self) -> ApiResult<palan_engine::spec::Filters> {
        let filters = Filters::from_json(self.text("filters"))?;
        let map = filters.iter().map(|(name, values)| (name.to_owned(), values.clone())).collect();
        Ok(palan_engine::spec::Filters(map))
    }

    /// A moment in Unix seconds.
    pub(crate) fn moment(&self, name: &str) -> ApiResult<Option<Timestamp>> {
        let invalid = |why: String| ApiError::invalid(format!("invalid value for '{name}': {why}"));
        let Some(moment) = timestamp::parse(self.text(name)).map_err(|e| invalid(e.to_string()))? else {
            return Ok(None);
        };
        Timestamp::try_from(moment).map(Some).map_err(|e| invalid(e.to_string()))
    }
}

fn platform(text: &str) -> ApiResult<String> {
    let failed = |why: &str| ApiError::invalid(format!("failed to parse platform: {why}"));
    let platform: Platform = json::from_slice(text.as_bytes()).map_err(|error| failed(&error.to_string()))?;
    let Platform { os, architecture, variant, .. } = platform;
    match (os.is_empty(), architecture.is_empty(), variant.is_empty()) {
        // Docker takes all or nothing.
        (true, _, _) | (_, true, _) => Err(failed("both OS and Architecture must be provided")),
        (_, _, true) => Ok(format!("{os}/{architecture}")),
        (_, _, false) => Ok(format!("{os}/{architecture}/{variant}")),
    }
}

/// The bytes of a JSON body; empty when there is none.
#[derive(Debug, Clone)]
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default().to_owned());
        let body = tokio::time::timeout(JSON_TIMEOUT, read_all(request.into_body())).await;
        let body = body.map_err(|_| ApiError::invalid("the request's body did not arrive in time"))??;
        match content_type {
            None if body.is_empty() => {}
            None => return Err(ApiError::invalid("malformed Content-Type header (): mime: no media type")),
            Some(text) => check_json_type(&text)?,
        }
        Ok(Self(body))
    }
}

async fn read_all(body: Body) -> ApiResult<Bytes> {
    to_bytes(body, MAX_JSON).await.map_err(|e| {
        let why = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        ApiError::invalid(format!("the request's body could not be read (limit {MAX_JSON} bytes): {why}"))
    })
}

fn check_json_type(text: &str) -> ApiResult<()> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() {
        return Err(ApiError::invalid(format!(
            "malformed Content-Type header ({text}): mime: no media type"
        )));
    }
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = format!("unsupported Content-Type header ({text}): must be 'application/json'");
        return Err(ApiError::invalid(message));
    }
    Ok(())
}

impl JsonBytes {
    /// Decodes the body; an empty one is the default, as in Docker.
    pub(crate) fn decode<T: DeserializeOwned + Default>(&self) -> ApiResult<T> {
        if self.0.is_empty() {
            return Ok(T::default());
        }
        json::from_slice(&self.0).map_err(invalid_json)
    }
}

/// The text of a body that can't be decoded.
pub(crate) fn invalid_json(error: json::DecodeError) -> ApiError {
    ApiError::invalid(format!("invalid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn truth_values() {
        for (text, expected) in [
            ("1", true),
            ("true", true),
            ("yes", true),
            ("x", true),
            (" False ", false),
            ("0", false),
            ("none", false),
            ("", false),
        ] {
            assert_eq!(params(&[("a", text)]).flag("a"), expected, "{text}");
        }
        assert!(params(&[]).flag_or("a", true));
        assert!(!params(&[("a", "")]).flag_or("a", true));
    }

    #[test]
    fn numbers_and_dimensions() {
        let error = params(&[("t", "x")]).number("t").unwrap_err();
        assert_eq!(error, ApiError::invalid("strconv.Atoi: parsing \"x\": invalid syntax"));
        assert_eq!(params(&[("t", "-1")]).number("t"), Ok(Some(-1)));
        assert_eq!(params(&[("h", "24")]).dimension("h", "height"), Ok(24));
        for (text, problem) in [
            ("", "invalid syntax"),
            ("x", "invalid syntax"),
            ("-1", "value out of range"),
            ("99999", "value out of range"),
        ] {
            let error = params(&[("h", text)]).dimension("h", "height").unwrap_err();
            assert_eq!(error, ApiError::invalid(format!("invalid resize height {text:?}: {problem}")));
        }
    }

    #[test]
    fn content_types() {
        assert!(check_json_type("application/json; charset=utf-8").is_ok());
        let error = check_json_type("text/plain").unwrap_err();
        assert_eq!(
            error,
            ApiError::invalid("unsupported Content-Type header (text/plain): must be 'application/json'")
        );
    }
}
