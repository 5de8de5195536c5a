//! Errors of the API: a status and `{"message": …}`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use palan_docker_api::filters::FilterError;
use palan_docker_api::json;
use palan_docker_api::timestamp::ParseTimestampError;
use palan_docker_api::types::ErrorResponse;
use palan_docker_api::versions::VersionError;
use palan_engine::{Class, Error};

/// What a handler fails with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

/// What a handler returns.
pub(crate) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Its text.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The request is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// What it needs is not there now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Docker has it, this version does not.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported by this version of Palan"))
    }

    /// No such route.
    pub(crate) fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }
}

fn status(class: Class) -> StatusCode {
    match class {
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::InvalidParameter => StatusCode::BAD_REQUEST,
        Class::Conflict => StatusCode::CONFLICT,
        Class::NotModified => StatusCode::NOT_MODIFIED,
        Class::Forbidden => StatusCode::FORBIDDEN,
        Class::Unauthorized => StatusCode::UNAUTHORIZED,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Class::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Class::System => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::new(status(error.class()), error.report())
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<VersionError> for ApiError {
    fn from(error: VersionError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ParseTimestampError> for ApiError {
    fn from(error: ParseTimestampError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() && self.status != StatusCode::NOT_IMPLEMENTED {
            tracing::error!(status = self.status.as_u16(), "{}", self.message);
        }
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        json_response(self.status, &ErrorResponse { message: self.message })
    }
}

/// A JSON answer with the line break that Go's encoder writes.
pub(crate) fn json_response<T: serde::Serialize + ?Sized>(status: StatusCode, body: &T) -> Response {
    let mut bytes = json::to_vec(body);
    bytes.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(bytes)).into_response()
}

/// The usual answer.
pub(crate) fn ok_json<T: serde::Serialize + ?Sized>(body: &T) -> ApiResult {
    Ok(json_response(StatusCode::OK, body))
}

/// The usual answer that says nothing.
pub(crate) fn no_content() -> ApiResult {
    Ok(StatusCode::NO_CONTENT.into_response())
}
