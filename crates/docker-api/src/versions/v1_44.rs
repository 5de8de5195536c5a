//! Up to 1.44: an image tells the container that it was made from (never one, since the builder of today makes none).

use super::{v1_49, v1_51};
use crate::types::{ImageConfig, ImageInspect};

pub(super) fn image_inspect(answer: &mut ImageInspect) {
    answer.container = Some(String::new());
    let mut config = ImageConfig::default();
    v1_51::keep_empty(&mut config);
    v1_49::container_fields(&mut config);
    answer.container_config = Some(config);
}
