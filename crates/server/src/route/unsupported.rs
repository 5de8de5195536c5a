//! Endpoints that Docker has and Palan does not: those of a swarm and of managed plugins, answered as by an engine without them.

use http::StatusCode;
use palan_engine::network::NOT_A_MANAGER;

use crate::error::{ApiError, ApiResult, ok_json};
use crate::extract::Name;

/// The text by which clients know that there is no swarm.
pub(crate) async fn not_a_manager() -> ApiResult {
    Err(ApiError::unavailable(NOT_A_MANAGER))
}

/// What only a member of a swarm can do.
pub(crate) async fn not_a_member() -> ApiResult {
    Err(ApiError::unavailable("This node is not part of a swarm"))
}

/// What would make a swarm or join one.
pub(crate) async fn no_swarm() -> ApiResult {
    Err(ApiError::unavailable("Palan has no swarm mode: this node can neither begin a swarm nor join one"))
}

/// `GET /plugins`: there are none, which is an answer and no error.
pub(crate) async fn plugins() -> ApiResult {
    ok_json(&[(); 0])
}

/// What would bring a plugin.
pub(crate) async fn no_plugins() -> ApiResult {
    Err(ApiError::unavailable("Palan has no managed plugins: drivers are built in"))
}

/// Everything that is asked of a plugin by its name.
pub(crate) async fn plugin(Name(path): Name) -> ApiResult {
    const ACTIONS: [&str; 6] = ["json", "enable", "disable", "upgrade", "push", "set"];
    let name = match path.rsplit_once('/') {
        Some((name, action)) if ACTIONS.contains(&action) => name,
        _ => &path,
    };
    Err(ApiError::new(StatusCode::NOT_FOUND, format!("plugin {name:?} not found")))
}
