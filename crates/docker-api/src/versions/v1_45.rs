//! Up to 1.45: no annotations in lists, and no event when an image is created.

use crate::types::{ContainerSummary, EventMessage};

pub(super) fn container_summary(answer: &mut ContainerSummary) {
    answer.host_config.annotations.clear();
}

pub(super) fn has_event(message: &EventMessage) -> bool {
    message.kind != "image" || message.action != "create"
}
