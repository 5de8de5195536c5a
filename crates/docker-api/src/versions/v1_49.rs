//! Up to 1.49: an image's configuration has the fields of a container's, and `info` those of bridge-nf-call, but no devices.

use crate::types::{ImageConfig, ImageInspect, SystemInfo};

pub(super) fn image_inspect(answer: &mut ImageInspect) {
    container_fields(&mut answer.config);
}

/// The fields that make no sense for an image.
pub(super) fn container_fields(config: &mut ImageConfig) {
    config.hostname.get_or_insert_default();
    config.domainname.get_or_insert_default();
    config.attach_stdin.get_or_insert_default();
    config.attach_stdout.get_or_insert_default();
    config.attach_stderr.get_or_insert_default();
    config.tty.get_or_insert_default();
    config.open_stdin.get_or_insert_default();
    config.stdin_once.get_or_insert_default();
    config.image.get_or_insert_default();
}

pub(super) fn info(answer: &mut SystemInfo) {
    answer.discovered_devices.clear();
    answer.bridge_nf_iptables = Some(false);
    answer.bridge_nf_ip6tables = Some(false);
}
