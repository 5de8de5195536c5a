//! Up to 1.46: `info` has the registries for non-distributable layers, images don't tell their manifests.

use crate::types::{ImageSummary, SystemInfo};
use serde_json::Value;

pub(super) fn image_summary(answer: &mut ImageSummary) {
    answer.manifests = None;
}

pub(super) fn info(answer: &mut SystemInfo) {
    answer.registry_config.allow_nondistributable_artifacts_cidrs = Some(Value::Null);
    answer.registry_config.allow_nondistributable_artifacts_hostnames = Some(Value::Null);
}
