//! Up to 1.47: no descriptors of manifests.

use crate::types::{ContainerInspect, ContainerSummary, ImageInspect, ImageSummary};

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
}
