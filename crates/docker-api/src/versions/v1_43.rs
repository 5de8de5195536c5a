//! Up to 1.43: the virtual size of images, runtimes without status, and one endpoint whose MAC address is the container's.

use super::VersionError;
use crate::types::{CreateContainerRequest, ImageInspect, ImageSummary, SystemInfo, ZERO_TIME};

pub(super) fn create_container(request: &mut CreateContainerRequest) -> Result<(), VersionError> {
    if let Some(healthcheck) = &mut request.config.healthcheck {
        healthcheck.start_interval = 0;
    }
    for mount in &mut request.host_config.mounts {
        let Some(options) = &mut mount.bind_options else { continue };
        if options.read_only_force_recursive {
            return Err(VersionError(
                "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer".to_owned(),
            ));
        }
        // A field of a later version, which Docker takes out.
        options.read_only_non_recursive = false;
    }
    // Mounts below a read-only one stayed writable.
    request.host_config.read_only_binds_non_recursive = true;
    let endpoints = &mut request.networking_config.endpoints_config;
    if endpoints.len() > 1 {
        let names: Vec<_> = endpoints.keys().map(String::as_str).collect();
        let message =
            format!("Container cannot be created with multiple network endpoints: {}", names.join(", "));
        return Err(VersionError(message));
    }
    for endpoint in endpoints.values_mut().flatten() {
        endpoint.mac_address.clear();
    }
    Ok(())
}

pub(super) fn image_summary(answer: &mut ImageSummary) {
    answer.virtual_size = Some(answer.size);
}

pub(super) fn image_inspect(answer: &mut ImageInspect) {
    answer.virtual_size = Some(answer.size);
    if answer.created.is_empty() {
        ZERO_TIME.clone_into(&mut answer.created);
    }
}

pub(super) fn info(answer: &mut SystemInfo) {
    for runtime in answer.runtimes.values_mut() {
        runtime.status.clear();
    }
}
