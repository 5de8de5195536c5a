//! Up to 1.47: no descriptors of manifests, no mounts of images, no priorities of gateways.

use super::VersionError;
use crate::types::{ContainerInspect, ContainerSummary, CreateContainerRequest, ImageInspect, ImageSummary};

pub(super) fn create_container(request: &mut CreateContainerRequest) -> Result<(), VersionError> {
    for endpoint in request.networking_config.endpoints_config.values_mut().flatten() {
        endpoint.gw_priority = 0;
    }
    if request.host_config.mounts.iter().any(|mount| mount.kind == "image") {
        return Err(VersionError(r#"Mount type "Image" needs API v1.48 or newer"#.to_owned()));
    }
    Ok(())
}

pub(super) fn container_summary(answer: &mut ContainerSummary) {
    answer.image_manifest_descriptor = None;
}

pub(super) fn container_inspect(answer: &mut ContainerInspect) {
    answer.image_manifest_descriptor = None;
}

pub(super) fn image_summary(answer: &mut ImageSummary) {
    answer.descriptor = None;
}

pub(super) fn image_inspect(answer: &mut ImageInspect) {
    answer.descriptor = None;
    answer.manifests = None;
}
