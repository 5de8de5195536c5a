//! Endpoints that Docker has and this version does not.

use axum::extract::Request;
use http::StatusCode;

use crate::error::{ApiError, ApiResult};

/// Names the endpoint.
pub(crate) async fn endpoint(request: Request) -> ApiResult {
    Err(ApiError::unsupported(&format!("{} {}", request.method(), request.uri().path())))
}

/// The text by which clients know that there is no swarm.
pub(crate) async fn swarm() -> ApiResult {
    let message = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
                   node to swarm and try again.";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message))
}
