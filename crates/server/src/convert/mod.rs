//! Wire types ↔ engine types.

pub(crate) mod archive;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod usage;

use jiff::Timestamp;
use palan_docker_api::types;
use palan_engine::events::Event;
use palan_engine::image::{Auth, ImageRemoval};
use palan_engine::volume::{Pruned, Volume};

/// A count as Go's signed numbers; what is too big for them is the biggest.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn signed_size(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// RFC 3339 as Go writes it, with Go's zero time for none.
fn time(moment: Option<Timestamp>) -> String {
    moment.map_or_else(|| types::ZERO_TIME.to_owned(), |moment| moment.to_string())
}

pub(crate) fn auth(auth: types::AuthConfig) -> Auth {
    Auth {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    }
}

pub(crate) fn volume(volume: Volume) -> types::Volume {
    types::Volume {
        // Docker's volumes have whole seconds.
        created_at: volume.created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        driver: "local".to_owned(),
        labels: volume.labels,
        mountpoint: volume.mountpoint,
        name: volume.name,
        options: volume.options,
        scope: "local".to_owned(),
        status: None,
        usage_data: None,
    }
}

pub(crate) fn containers_pruned(pruned: Pruned) -> types::ContainersPruned {
    types::ContainersPruned { containers_deleted: pruned.deleted, space_reclaimed: pruned.space_reclaimed }
}

pub(crate) fn volumes_pruned(pruned: Pruned) -> types::VolumesPruned {
    types::VolumesPruned { volumes_deleted: pruned.deleted, space_reclaimed: pruned.space_reclaimed }
}

pub(crate) fn images_pruned((removed, space_reclaimed): (Vec<ImageRemoval>, u64)) -> types::ImagesPruned {
    types::ImagesPruned { images_deleted: removed.into_iter().map(image::removal).collect(), space_reclaimed }
}

pub(crate) fn event(event: Event) -> types::EventMessage {
    types::EventMessage {
        kind: event.kind.as_str().to_owned(),
        action: event.action,
        actor: types::EventActor { id: event.actor, attributes: event.attributes },
        scope: "local".to_owned(),
        time: event.time.as_second(),
        time_nano: i64::try_from(event.time.as_nanosecond()).unwrap_or_default(),
        ..types::EventMessage::default()
    }
}
