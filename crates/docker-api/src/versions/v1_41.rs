//! Up to 1.41: options of a mount that don't belong to its type are ignored, and so is the size of the console.

use crate::types::CreateContainerRequest;

pub(super) fn create_container(request: &mut CreateContainerRequest) {
    for mount in &mut request.host_config.mounts {
        if let Some(options) = &mut mount.bind_options {
            options.create_mountpoint = false;
        }
        if mount.kind != "bind" {
            mount.bind_options = None;
        }
        if mount.kind != "volume" {
            mount.volume_options = None;
        }
        if mount.kind != "tmpfs" {
            mount.tmpfs_options = None;
        }
    }
    request.host_config.console_size = [0, 0];
}
