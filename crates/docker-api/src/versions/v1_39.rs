//! Up to 1.39: bind mounts always take the mounts below them along, and the IPC namespace can be shared by default.

use crate::types::CreateContainerRequest;

pub(super) fn create_container(request: &mut CreateContainerRequest) {
    for options in request.host_config.mounts.iter_mut().filter_map(|mount| mount.bind_options.as_mut()) {
        options.non_recursive = false;
    }
    if request.host_config.ipc_mode.is_empty() {
        "shareable".clone_into(&mut request.host_config.ipc_mode);
    }
}
