//! Which path is which handler. Image names have slashes, so what follows `/images/` is split by the handlers.

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, delete, get, post};
use palan_engine::Engine;

use crate::buildkit;
use crate::error::{ApiError, ApiResult};
use crate::route::{
    archive, build, checkpoint, container, events, exec, image, network, storage, system, unsupported, usage,
    volume,
};

/// Every route, without version prefix.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    Router::new()
        .merge(containers())
        .merge(images())
        .merge(others())
        .merge(unsupported_routes())
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
        .with_state(Arc::clone(&engine))
        .merge(buildkit::router(engine))
}

async fn page_not_found() -> ApiResult {
    Err(ApiError::page_not_found())
}

fn containers() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/json", get(container::list))
        .route("/containers/create", post(container::create))
        .route("/containers/prune", post(container::prune))
        .route("/containers/{name}", delete(container::remove))
        .route("/containers/{name}/{link}", delete(container::remove_link))
        .route("/containers/{name}/json", get(container::inspect))
        .route("/containers/{name}/start", post(container::start))
        .route("/containers/{name}/stop", post(container::stop))
        .route("/containers/{name}/restart", post(container::restart))
        .route("/containers/{name}/kill", post(container::kill))
        .route("/containers/{name}/pause", post(container::pause))
        .route("/containers/{name}/unpause", post(container::unpause))
        .route("/containers/{name}/update", post(container::update))
        .route("/containers/{name}/rename", post(container::rename))
        .route("/containers/{name}/resize", post(container::resize))
        .route("/containers/{name}/wait", post(container::wait))
        .route("/containers/{name}/attach", post(container::attach))
        .route("/containers/{name}/attach/ws", get(container::attach_websocket))
        .route("/containers/{name}/logs", get(container::logs))
        .route("/containers/{name}/stats", get(container::stats))
        .route("/containers/{name}/top", get(container::top))
        .route("/containers/{name}/checkpoints", get(checkpoint::list).post(checkpoint::create))
        .route("/containers/{name}/checkpoints/{checkpoint}", delete(checkpoint::remove))
        .route("/containers/{name}/changes", get(archive::changes))
        .route("/containers/{name}/export", get(archive::export))
        .route(
            "/containers/{name}/archive",
            get(archive::read_path).head(archive::stat_path).put(archive::write_path),
        )
        .route("/commit", post(archive::commit))
        .route("/containers/{name}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
}

fn images() -> Router<Arc<Engine>> {
    Router::new()
        .route("/images/json", get(image::list))
        .route("/images/create", post(image::create))
        .route("/images/load", post(image::load))
        .route("/images/get", get(archive::save))
        .route("/images/prune", post(image::prune))
        .route("/images/search", get(image::search))
        .route("/distribution/{*path}", get(image::distribution).post(image::push_list))
        .route("/build", post(build::build))
        .route("/build/cancel", post(build::cancel))
        .route("/build/prune", post(build::prune))
        .route("/images/{*path}", get(image::get).post(image::post).delete(image::remove))
}

fn others() -> Router<Arc<Engine>> {
    Router::new()
        .route("/_ping", get(system::ping).head(system::ping_head))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/system/df", get(usage::df))
        .route("/auth", post(system::auth))
        .route("/events", get(events::events))
        .route("/palan/system/fsck", post(storage::check))
        .route("/palan/images/import-docker", post(storage::import_docker))
        .route("/volumes", get(volume::list))
        .route("/volumes/create", post(volume::create))
        .route("/volumes/prune", post(volume::prune))
        .route("/volumes/{name}", get(volume::inspect).put(volume::update).delete(volume::remove))
        .route("/palan/volumes/import", post(volume::import))
        .route("/palan/volumes/{name}/clone", post(volume::clone))
        .route("/palan/volumes/{name}/export", get(volume::export))
        .route("/palan/volumes/{name}/rename", post(volume::rename))
        .route("/networks", get(network::list))
        .route("/networks/", get(network::list))
        .route("/networks/create", post(network::create))
        .route("/networks/prune", post(network::prune))
        .route("/networks/{id}", get(network::inspect).delete(network::remove))
        .route("/networks/{id}/connect", post(network::connect))
        .route("/networks/{id}/disconnect", post(network::disconnect))
}

/// What Docker has and this version does not: a clear answer instead of "page not found".
fn unsupported_routes() -> Router<Arc<Engine>> {
    let swarm = ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"];
    let mut router = Router::new();
    for path in swarm {
        router = router.route(path, any(unsupported::not_a_manager));
        router = router.route(&format!("{path}/{{*rest}}"), any(unsupported::not_a_manager));
    }
    router
        .route("/swarm/init", any(unsupported::no_swarm))
        .route("/swarm/join", any(unsupported::no_swarm))
        .route("/swarm/leave", any(unsupported::not_a_member))
        .route("/plugins", get(unsupported::plugins))
        .route("/plugins/create", any(unsupported::no_plugins))
        .route("/plugins/pull", any(unsupported::no_plugins))
        .route("/plugins/privileges", any(unsupported::no_plugins))
        .route("/plugins/{*name}", any(unsupported::plugin))
}
