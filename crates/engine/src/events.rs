//! The event journal: what happened to which object. Events are rows of the database, written in the transaction of the
//! change they tell about, capped in number, and sent to subscribers after the commit.

use std::collections::BTreeMap;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use crate::db::{Numbered, nanoseconds};
use crate::engine::Engine;
use crate::spec::Filters;
use crate::stream::Items;
use crate::{Error, Result};

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

const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

impl Engine {
    /// A stream of events.
    pub async fn events(&self, query: EventQuery) -> Result<Items<Event>> {
        const BACKLOG: usize = 16;
        query.filters.check(&FILTERS)?;
        let is_past = query.until.is_some_and(|until| until <= Timestamp::now());
        // Subscribed before the stored ones are read, so that none is missed between.
        let live = self.db.subscribe();
        let stored = match query.since {
            Some(since) => {
                let until = query.until.map_or(i64::MAX, nanoseconds);
                self.db.read_events(nanoseconds(since), until).await?
            }
            None => Vec::new(),
        };
        let (sender, items) = Items::channel(BACKLOG);
        let subscription = Subscription { query, sender };
        tokio::spawn(subscription.run(stored, (!is_past).then_some(live)));
        Ok(items)
    }
}

struct Subscription {
    query: EventQuery,
    sender: mpsc::Sender<Result<Event>>,
}

impl Subscription {
    async fn run(self, stored: Vec<Numbered>, live: Option<broadcast::Receiver<Numbered>>) {
        let last = stored.last().map_or(0, |(number, _)| *number);
        for (_, event) in stored {
            if !self.send(&event).await {
                return;
            }
        }
        let Some(mut live) = live else { return };
        let until = self.query.until;
        let end = async {
            match until {
                Some(until) => {
                    let left = until.duration_since(Timestamp::now());
                    tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            let received = tokio::select! {
                received = live.recv() => received,
                () = &mut end => return,
                () = self.sender.closed() => return,
            };
            match received {
                Ok((number, _)) if number <= last => {}
                Ok((_, event)) => {
                    if !self.send(&event).await {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    let text =
                        format!("the client is too slow for the events: {count} were dropped; use --since");
                    // The client may have gone.
                    let _ = self.sender.send(Err(Error::new(crate::Class::Unavailable, text))).await;
                    return;
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn send(&self, event: &Arc<Event>) -> bool {
        !fits(&self.query.filters, event) || self.sender.send(Ok((**event).clone())).await.is_ok()
    }
}

fn fits(filters: &Filters, event: &Event) -> bool {
    let object = |kind: ObjectKind| {
        let key = kind.as_str();
        if !filters.has(key) {
            return true;
        }
        // A network event is also one about the container that is connected, for `--filter container=`.
        let attribute = event.attributes.get("name").map(String::as_str).unwrap_or_default();
        let container = event.attributes.get("container").map(String::as_str).unwrap_or_default();
        filters.values(key).any(|wanted| {
            if event.kind != kind {
                return kind == ObjectKind::Container && !wanted.is_empty() && container.starts_with(wanted);
            }
            let by_image = kind == ObjectKind::Image && event.actor.split(':').next() == Some(wanted);
            wanted == event.actor || wanted == attribute || by_image || is_id_prefix(wanted, &event.actor)
        })
    };
    let image = || {
        if !filters.has("image") || event.kind == ObjectKind::Image {
            return object(ObjectKind::Image);
        }
        let image = event.attributes.get("image").map(String::as_str).unwrap_or_default();
        filters.values("image").any(|wanted| wanted == image || image.split(':').next() == Some(wanted))
    };
    let action = || {
        !filters.has("event")
            || filters.values("event").any(|wanted| {
                // `exec_start` stands for `exec_start: sh`.
                event.action == wanted || event.action.split(':').next() == Some(wanted)
            })
    };
    action()
        && image()
        && filters.exact("type", event.kind.as_str())
        && filters.exact("scope", "local")
        && [ObjectKind::Container, ObjectKind::Network, ObjectKind::Volume, ObjectKind::Daemon]
            .into_iter()
            .all(object)
        && filters.labels("label", &event.attributes)
        && ["config", "node", "plugin", "secret", "service"].iter().all(|key| !filters.has(key))
}

fn is_id_prefix(prefix: &str, id: &str) -> bool {
    prefix.len() >= 3 && id.len() == 64 && id.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: ObjectKind, action: &str) -> Event {
        let attributes = [("name", "web"), ("image", "debian:12"), ("tier", "front")];
        Event {
            time: Timestamp::now(),
            kind,
            action: action.into(),
            actor: "a".repeat(64),
            attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    fn filters(list: &[(&str, &str)]) -> Filters {
        let mut filters = Filters::default();
        for (key, value) in list {
            filters.0.entry((*key).into()).or_default().insert((*value).into());
        }
        filters
    }

    #[test]
    fn filtering() {
        let start = event(ObjectKind::Container, "start");
        for fitting in [
            &[][..],
            &[("container", "web")],
            &[("container", "aaaa")],
            &[("image", "debian")],
            &[("image", "debian:12"), ("event", "start"), ("event", "stop")],
            &[("label", "tier=front"), ("type", "container")],
        ] {
            assert!(fits(&filters(fitting), &start), "{fitting:?}");
        }
        for other in [&[("container", "db")], &[("event", "die")], &[("type", "network")], &[("label", "x")]]
        {
            assert!(!fits(&filters(other), &start), "{other:?}");
        }
        assert!(fits(
            &filters(&[("event", "exec_start")]),
            &event(ObjectKind::Container, "exec_start: sh -c ls")
        ));
        assert!(!fits(&filters(&[("network", "x")]), &start));
    }
}
