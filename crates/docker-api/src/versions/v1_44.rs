//! Up to 1.44: an image tells the container that it was made from (never one, since the
//! builder of today makes none), and no part of a volume can be mounted.

use super::{VersionError, v1_49, v1_51};
use crate::types::{CreateContainerRequest, ImageConfig, ImageInspect};

pub(super) fn create_container(request: &CreateContainerRequest) -> Result<(), VersionError> {
    let mut options = request.host_config.mounts.iter().filter_map(|mount| mount.volume_options.as_ref());
    if options.any(|options| !options.subpath.is_empty()) {
        return Err(VersionError("VolumeOptions.Subpath needs API v1.45 or newer".to_owned()));
    }
    Ok(())
}

pub(super) fn image_inspect(answer: &mut ImageInspect) {
    answer.container = Some(String::new());
    let mut config = ImageConfig::default();
    v1_51::keep_empty(&mut config);
    v1_49::container_fields(&mut config);
    answer.container_config = Some(config);
}
