//! What older API versions answered, and what they meant by their requests.
//!
//! Handlers build the newest types. The functions here take an answer down to what the client speaks, newest step
//! first; each module below holds what its version (and every older one) had differently.

mod v1_27;
mod v1_39;
mod v1_41;
mod v1_42;
mod v1_43;
mod v1_44;
mod v1_45;
mod v1_46;
mod v1_47;
mod v1_48;
mod v1_49;
mod v1_51;

use crate::types::{
    ContainerInspect, ContainerSummary, CreateContainerRequest, EventMessage, ImageInspect, ImageSummary,
    Network, StatsResponse, SystemInfo, UpdateContainerRequest,
};
use crate::version::ApiVersion;

fn up_to(version: ApiVersion, minor: u16) -> bool {
    version <= ApiVersion::v1(minor)
}

/// A request that its version does not have, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VersionError(pub String);

/// `POST /containers/create`: makes the request of an older client say what it meant in the newest version.
pub fn create_container(
    request: &mut CreateContainerRequest,
    version: ApiVersion,
) -> Result<(), VersionError> {
    if up_to(version, 39) {
        v1_39::create_container(request);
    }
    if up_to(version, 41) {
        v1_41::create_container(request);
    }
    if up_to(version, 42) {
        request.host_config.annotations.clear();
    }
    if up_to(version, 43) {
        v1_43::create_container(request)?;
    }
    if up_to(version, 44) {
        v1_44::create_container(request)?;
    }
    if up_to(version, 47) {
        v1_47::create_container(request)?;
    }
    if up_to(version, 51) {
        v1_51::create_container(request);
    }
    Ok(())
}

/// Before 1.40 an update could not change the limit of processes.
pub fn update_container(request: &mut UpdateContainerRequest, version: ApiVersion) {
    if up_to(version, 39) {
        request.pids_limit = None;
    }
}

/// The `platform` of a create request, which was ignored before it existed.
pub fn create_platform(platform: Option<String>, version: ApiVersion) -> Option<String> {
    platform.filter(|_| !up_to(version, 40))
}

/// The `platform` of a push, which was ignored before it existed.
pub fn push_platform(platform: Option<String>, version: ApiVersion) -> Option<String> {
    platform.filter(|_| !up_to(version, 45))
}

/// `GET /containers/json`.
pub fn container_summary(answer: &mut ContainerSummary, version: ApiVersion) {
    if up_to(version, 51) {
        v1_51::container_summary(answer);
    }
    if up_to(version, 47) {
        v1_47::container_summary(answer);
    }
    if up_to(version, 45) {
        v1_45::container_summary(answer);
    }
}

/// `GET /containers/{id}/json`.
pub fn container_inspect(answer: &mut ContainerInspect, version: ApiVersion) {
    if up_to(version, 51) {
        v1_51::container_inspect(answer);
    }
    if up_to(version, 47) {
        v1_47::container_inspect(answer);
    }
}

/// `GET /images/json`.
pub fn image_summary(answer: &mut ImageSummary, version: ApiVersion) {
    if !counts_containers(version) {
        answer.containers = -1;
    }
    if up_to(version, 47) {
        v1_47::image_summary(answer);
    }
    if up_to(version, 46) {
        v1_46::image_summary(answer);
    }
    if up_to(version, 43) {
        v1_43::image_summary(answer);
    }
    if up_to(version, 42) {
        v1_42::image_summary(answer);
    }
}

/// `GET /images/{name}/json`.
pub fn image_inspect(answer: &mut ImageInspect, version: ApiVersion) {
    if up_to(version, 51) {
        v1_51::image_inspect(answer);
    }
    if up_to(version, 49) {
        v1_49::image_inspect(answer);
    }
    if up_to(version, 47) {
        v1_47::image_inspect(answer);
    }
    if up_to(version, 44) {
        v1_44::image_inspect(answer);
    }
    if up_to(version, 43) {
        v1_43::image_inspect(answer);
    }
}

/// One message of `GET /events`; false when the version doesn't have it at all.
pub fn event(message: &mut EventMessage, version: ApiVersion) -> bool {
    if up_to(version, 51) {
        v1_51::event(message);
    }
    !up_to(version, 45) || v1_45::has_event(message)
}

/// `GET /info`.
pub fn info(answer: &mut SystemInfo, version: ApiVersion) {
    if up_to(version, 49) {
        v1_49::info(answer);
    }
    if up_to(version, 48) {
        v1_48::info(answer);
    }
    if up_to(version, 46) {
        v1_46::info(answer);
    }
    if up_to(version, 43) {
        v1_43::info(answer);
    }
}

/// `GET /networks`.
pub fn networks(answer: &mut [Network], version: ApiVersion) {
    if up_to(version, 27) {
        v1_27::networks(answer);
    }
}

/// `GET /networks/{id}`.
pub fn network(answer: &mut Network, version: ApiVersion) {
    if up_to(version, 51) {
        answer.status = None;
    }
}

/// Whether `POST /containers/{id}/wait` waits for more than the end of the process and answers its head at once.
pub fn has_wait_conditions(version: ApiVersion) -> bool {
    !up_to(version, 29)
}

/// One sample of `GET /containers/{id}/stats`.
pub fn stats(answer: &mut StatsResponse, version: ApiVersion) {
    if up_to(version, 51) {
        answer.os_type.clear();
    }
}

/// Whether `GET /system/df` lists objects instead of adding them up.
pub fn lists_disk_usage(version: ApiVersion) -> bool {
    up_to(version, 51)
}

/// Whether `GET /system/df` can be asked for some kinds of objects only.
pub fn has_disk_usage_types(version: ApiVersion) -> bool {
    !up_to(version, 41)
}

/// Whether stop and restart take a signal.
pub fn has_stop_signal(version: ApiVersion) -> bool {
    !up_to(version, 41)
}

/// Whether an exec session can be given the size of its terminal at once.
pub fn has_exec_console_size(version: ApiVersion) -> bool {
    !up_to(version, 41)
}

/// Whether the list of images says how many containers use each.
pub fn counts_containers(version: ApiVersion) -> bool {
    !up_to(version, 50)
}

/// Whether the media type of the event stream tells that it is a stream.
pub fn has_json_lines(version: ApiVersion) -> bool {
    !up_to(version, 51)
}

/// Whether streams of attach, exec and logs tell their framing by their media type.
pub fn has_multiplexed_media_type(version: ApiVersion) -> bool {
    !up_to(version, 41)
}

#[cfg(test)]
mod tests;
