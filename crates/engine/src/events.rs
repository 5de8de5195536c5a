//! The event journal: what happened to which object. Events are rows of the database, written in the transaction of the
//! change they tell about, capped in number, and sent to subscribers after the commit.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::Filters;

/// What kind of object an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// The daemon itself.
    Daemon,
}

impl ObjectKind {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Daemon => "daemon",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Docker's word for what happened, such as `start` or `exec_create: sh`.
    pub action: String,
    /// Id of the object (name for volumes and images).
    pub actor: String,
    /// Facts: name, image, labels, exit code and so on.
    pub attributes: BTreeMap<String, String>,
}

/// Which events a subscription gives.
///
/// Filters: `container`, `daemon`, `event`, `image`, `label`, `network`, `scope`, `type`, `volume`.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Stored events from this time first.
    pub since: Option<Timestamp>,
    /// End at this time; a past time ends the stream after the stored events.
    pub until: Option<Timestamp>,
    /// Filters.
    pub filters: Filters,
}
