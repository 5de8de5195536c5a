//! Up to 1.43: the virtual size of images, and runtimes without status.

use crate::types::{ImageInspect, ImageSummary, SystemInfo, ZERO_TIME};

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
